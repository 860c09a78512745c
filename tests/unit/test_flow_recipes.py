"""What a recipe may say of a flow, and what it is told where it says something that has no meaning there."""

from __future__ import annotations

import pytest
import torch

from tuner.errors import RecipeError
from tuner.objectives import Objective
from tuner.objectives.flow_levels import ConstantShift, LogitNormal, Mode, ResolutionShift
from tuner.objectives.flow_weights import CosMapWeighting, NoWeighting
from tuner.recipe_file import read_recipe
from tuner.resolved import resolved_yaml

CPU = torch.device("cpu")
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
DIFFUSION = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
TEXT = """\
backbone: {name: %s, model: some/model}
adapters: lora
task: finetune
objective: %s
data: {images: {path: x}}
train: {steps: 8}
sample: {scheduler: %s, prompts: a}
"""


def recipe(objective, scheduler="auto", backbone="sd35"):
    return read_recipe(TEXT % (backbone, objective, scheduler), "r.yaml")


def problems(*said):
    with pytest.raises(RecipeError) as caught:
        recipe(*said)
    return list(caught.value.problems)


def test_the_defaults_are_said():
    flow = Objective.read("rectified_flow")
    assert flow.levels == LogitNormal(mean=0, std=1)
    assert flow.shift == ConstantShift(value=3.0)
    assert flow.weighting == NoWeighting()


def test_parts_are_read_by_name_or_with_their_keys():
    flow = recipe(
        "{name: rectified_flow, levels: {name: mode, scale: 0.8}, shift: resolution, weighting: cosmap}"
    ).objective
    assert flow.levels == Mode(scale=0.8)
    assert flow.shift == ResolutionShift(base_tokens=256)
    assert flow.weighting == CosMapWeighting()
    assert recipe("{name: rectified_flow, weighting: none}").objective == recipe("rectified_flow").objective


def test_the_resolved_recipe_says_it_all_and_reads_back():
    made = recipe("{name: rectified_flow, levels: mode, shift: dynamic, weighting: x0}", "flow_euler")
    text = resolved_yaml(made)
    assert "scale: 1.29" in text
    assert "max_tokens: 4096" in text
    assert read_recipe(text, "again.yaml") == made


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("min_snr_gamma", "5", "here `levels` says which noise levels count, and `weighting` what each weighs"),
        ("prediction", "v", "rectified flow predicts the velocity and nothing else"),
        ("zero_terminal_snr", "true", "a flow ends in pure noise as it is"),
        ("noise_offset", "0.1", "a larger `shift` trains it more"),
        ("input_perturbation", "0.1", "rectified flow has nothing like it"),
    ],
)
def test_options_of_diffusion_are_refused_by_name(key, value, said):
    """Trap 27: none of them is passed over in silence."""
    (line,) = problems(f"{{name: rectified_flow, {key}: {value}}}")
    assert line.startswith(f"r.yaml:4:35: objective.{key}: is of ddpm; ")
    assert line.endswith(said)


def test_every_option_of_diffusion_is_known_by_name():
    ddpm, flow = Objective.family["ddpm"], Objective.family["rectified_flow"]
    assert set(flow.elsewhere) == set(ddpm.model_fields)
    assert set(ddpm.elsewhere) == set(flow.model_fields)


@pytest.mark.parametrize("key", ["levels", "shift", "weighting"])
def test_options_of_flows_are_refused_by_name(key):
    (line,) = problems(f"{{name: ddpm, {key}: none}}", "auto", "sd15")
    assert line.startswith(f"r.yaml:4:25: objective.{key}: is of rectified_flow; ")


def test_sigma_sqrt_is_refused_with_logit_normal_levels():
    """Trap 28."""
    for levels in ("", ", levels: {name: logit_normal, std: 2}"):
        (line,) = problems(f"{{name: rectified_flow, weighting: sigma_sqrt{levels}}}")
        assert line.startswith("r.yaml:4:46: objective.weighting: sigma_sqrt is for levels that are drawn alike")
    for levels in ("uniform", "mode", "cosmap"):
        recipe(f"{{name: rectified_flow, weighting: sigma_sqrt, levels: {levels}}}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{name: rectified_flow, levels: lognormal}", "levels: unknown density 'lognormal'; did you mean 'logit_normal'?"),
        ("{name: rectified_flow, levels: {name: mode, scale: 2}}", "levels.scale: must be at most 1.75, not 2"),
        ("{name: rectified_flow, levels: {name: logit_normal, std: 0}}", "levels.std: must be at least 0.01, not 0"),
        ("{name: rectified_flow, shift: {name: constant, value: 0}}", "shift.value: must be more than 0, not 0"),
        ("{name: rectified_flow, shift: 3}", "shift: must be a mapping with a `name`, or a bare name, not 3; there is constant, dynamic, resolution"),
        ("{name: rectified_flow, shift: {name: dynamic, base_tokens: 9, max_tokens: 9}}", "shift: base_tokens and max_tokens are equal, so they give no line"),
        ("{name: rectified_flow, weighting: ~}", "weighting: must be a mapping with a `name`, or a bare name, not null; there is cosmap, none, sigma_sqrt, x0"),
    ],
)  # fmt: skip
def test_mistakes_are_named(text, line):
    (said,) = problems(text)
    assert said.split(": ", 1)[1] == f"objective.{line}"


def test_a_base_keeps_the_objective_and_the_samplers_of_its_kind():
    assert problems("rectified_flow", "auto", "sd15") == [
        "r.yaml:4:12: objective: sd15 was pretrained with ddpm, so rectified_flow does not fit it; take ddpm"
    ]
    assert problems("ddpm", "auto", "sd35") == [
        "r.yaml:4:12: objective: sd35 was pretrained with rectified_flow, so ddpm does not fit it; take rectified_flow"
    ]
    assert problems("ddpm", "flow_euler", "sd15") == [
        "r.yaml:7:21: sample.scheduler: flow_euler draws no ddpm base such as sd15; there is dpm++, ddim, euler"
    ]
    assert problems("rectified_flow", "dpm++", "sd35") == [
        "r.yaml:7:21: sample.scheduler: dpm++ draws no rectified_flow base such as sd35; there is flow_euler"
    ]


def test_a_base_of_the_other_kind_is_refused_when_it_is_bound():
    with pytest.raises(RecipeError, match="its scheduler is PNDMScheduler, so it is no flow"):
        Objective.read("rectified_flow").bind(DIFFUSION, CPU)
    with pytest.raises(RecipeError, match="its scheduler is not named, so it is no flow"):
        Objective.read("rectified_flow").bind({}, CPU)
    with pytest.raises(RecipeError, match="its scheduler is FlowMatchEulerDiscreteScheduler, so it predicts a flow's"):
        Objective.read("ddpm").bind(FLOW, CPU)
    with pytest.raises(RecipeError, match="its timesteps end at 500"):
        Objective.read("rectified_flow").bind(FLOW | {"num_train_timesteps": 500}, CPU)
    assert Objective.read("rectified_flow").bind(FLOW, CPU).prediction == "velocity"
