"""A run begins as a saved LoRA: bit for bit from every kind of file, or every reason why not; and it can be asked again."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import load_sd15
from safetensors.torch import load_file, save_file
from tiny_sd35 import load_sd35

from tuner import planning
from tuner.adapters.lora import LoRA
from tuner.data.sources import PairSource
from tuner.draws import Draws
from tuner.errors import DataError, RecipeError, UsageError
from tuner.formats.about import About
from tuner.formats.convert import convert
from tuner.formats.lora import DIFFUSERS_FILE
from tuner.identity import identity
from tuner.objectives import Objective
from tuner.recipe_file import open_recipe, read_recipe
from tuner.resolved import resolved_yaml, scrubbed_yaml
from tuner.student import Student
from tuner.tasks.dpo import DPO
from tuner.types import Batch, Noised

CPU = torch.device("cpu")
TEXT = """\
backbone: {name: %s, model: toybox}
adapters: {name: lora, %s}
task: finetune
data: {images: {path: photos, caption: a dog}}
train: {steps: 8}
"""


@pytest.fixture(scope="module")
def bases(sd35_folder):
    return {"sd15": load_sd15("toybox"), "sd35": load_sd35(sd35_folder)}


def attach(bases, family: str, *, keep_base: bool = False, **keys):
    model = copy.copy(bases[family])
    model.denoiser = copy.deepcopy(model.denoiser)
    model.text_encoders = {name: copy.deepcopy(encoder) for name, encoder in model.text_encoders.items()}
    return LoRA(**keys).attach(model, keep_base=keep_base, draws=Draws(0))


def learned(attachment) -> dict[str, torch.Tensor]:
    """Random values for everything that trains."""
    return {
        name: torch.from_numpy(Draws(1).normal(tuple(tensor.shape), name)) * 0.1
        for name, tensor in attachment.state_dict().items()
    }


@pytest.fixture(scope="module")
def saved(bases, tmp_path_factory):
    """Writes the files of a LoRA once: (family, keys) -> folder and state."""
    made: dict[tuple, tuple[Path, dict[str, torch.Tensor]]] = {}

    def save(family: str, metadata: str = "full", **keys) -> tuple[Path, dict[str, torch.Tensor]]:
        place = (family, metadata, *sorted(keys.items()))
        if place not in made:
            folder = tmp_path_factory.mktemp("saved")
            attachment = attach(bases, family, **keys)
            state = learned(attachment)
            attachment.export(folder, state, About("dog", family=family, metadata=metadata))  # type: ignore[arg-type]
            made[place] = folder, state
        return made[place]

    return save


@pytest.mark.parametrize("alpha", [None, 2.0, 16.0, 3.0])
@pytest.mark.parametrize("family", ["sd15", "sd35"])
@pytest.mark.parametrize("keys", ["diffusers", "kohya"])
def test_the_values_are_those_of_the_run_that_saved_them(bases, saved, tmp_path, family, keys, alpha):
    how = {"rank": 4, "alpha": alpha, "text_encoder_lr": 1e-4}
    folder, state = saved(family, **how)
    file = folder / DIFFUSERS_FILE
    if keys == "kohya":
        file = folder / "dog.safetensors"
        if family == "sd35":
            file = convert(folder / DIFFUSERS_FILE, "kohya", tmp_path / "k.safetensors").file
    began = attach(bases, family, init_from=str(file), **how).state_dict()
    assert began.keys() == state.keys()
    exact = alpha is None or math.log2(alpha / 4).is_integer() or (keys == "kohya" and family == "sd15")
    for name, tensor in began.items():
        if exact:
            assert torch.equal(tensor, state[name]), name
        else:
            assert torch.allclose(tensor, state[name], rtol=2**-22, atol=0), name


def test_a_run_its_adapter_folder_and_the_file_are_the_same_start(bases, saved, tmp_path):
    folder, state = saved("sd15", rank=4)
    shutil.copytree(folder, tmp_path / "run" / "adapter")
    for given in ("run", "run/adapter", f"run/adapter/{DIFFUSERS_FILE}", "run/adapter/dog.safetensors"):
        began = attach(bases, "sd15", rank=4, init_from=str(tmp_path / given)).state_dict()
        assert all(torch.equal(began[name], state[name]) for name in state)
    assert any("begins as" in line and "run" in line for line in attach_summary(bases, tmp_path / "run"))


def attach_summary(bases, given: Path) -> list[str]:
    return list(attach(bases, "sd15", rank=4, init_from=str(given)).summary())


def problems(bases, family: str, **keys) -> str:
    with pytest.raises((RecipeError, DataError)) as caught:
        attach(bases, family, **keys)
    assert "init_from" in str(caught.value)
    return str(caught.value)


def test_another_rank_is_refused_with_the_one_to_set(bases, saved):
    folder, _ = saved("sd15", rank=4)
    told = problems(bases, "sd15", rank=8, init_from=str(folder))
    assert "has rank 4 where this run has 8" in told
    assert "set adapters.lora.rank: 4" in told


@pytest.mark.parametrize("keys", ["diffusers", "kohya"])
def test_another_alpha_is_refused_with_what_it_would_do(bases, saved, keys):
    folder, _ = saved("sd15", rank=4, alpha=2.0, text_encoder_lr=1e-4)
    file = folder / (DIFFUSERS_FILE if keys == "diffusers" else "dog.safetensors")
    told = problems(bases, "sd15", rank=4, text_encoder_lr=1e-4, init_from=str(file))
    assert "alpha 2 for rank 4, and this run has 4" in told
    assert "2 times as fast; set adapters.lora.alpha: 2" in told


def test_a_file_that_says_nothing_of_alpha_counts_as_alpha_equal_to_rank(bases, saved):
    folder, state = saved("sd35", "none", rank=4, alpha=2.0)
    told = problems(bases, "sd35", rank=4, alpha=2.0, init_from=str(folder))
    assert "set adapters.lora.alpha: 4" in told
    began = attach(bases, "sd35", rank=4, init_from=str(folder)).state_dict()
    for name, tensor in began.items():
        assert torch.equal(tensor, state[name] * (0.5 if "lora_B" in name else 1)), "the same update"


def test_layers_that_do_not_meet_are_named(bases, saved):
    few, _ = saved("sd15", rank=4)
    many, _ = saved("sd15", rank=4, text_encoder_lr=1e-4)
    told = problems(bases, "sd15", rank=4, init_from=str(many))
    assert "trains layers that this run does not: text_encoder.text_model.encoder.layers.0.self_attn" in told
    told = problems(bases, "sd15", rank=4, text_encoder_lr=1e-4, init_from=str(few))
    assert "this run trains layers that" in told
    told = problems(bases, "sd15", rank=4, where="cross_attention", init_from=str(few))
    assert "attn1" in told
    assert "and " in told
    assert " more" in told


def test_layers_of_another_size_are_named(bases, saved, tmp_path):
    folder, state = saved("sd15", rank=4)
    tensors = load_file(folder / DIFFUSERS_FILE)
    key = next(key for key in tensors if key.endswith("attn1.to_q.lora_A.weight"))
    tensors[key] = torch.zeros(4, 7)
    save_file(tensors, tmp_path / "odd.safetensors")
    told = problems(bases, "sd15", rank=4, init_from=str(tmp_path / "odd.safetensors"))
    assert f"{key.removesuffix('.lora_A.weight')} maps 7 to" in told
    assert "another base model" in told


def test_another_family_is_refused(bases, saved):
    folder, _ = saved("sd15", rank=4)
    assert "is for Stable Diffusion 1, this run trains Stable Diffusion 3" in problems(
        bases, "sd35", rank=4, init_from=str(folder)
    )


def test_what_is_no_lora_or_broken_is_refused(bases, saved, tmp_path):
    assert "no such file or folder" in problems(bases, "sd15", init_from=str(tmp_path / "gone"))
    save_file({"emb_params": torch.zeros(2, 8)}, tmp_path / "word.safetensors")
    with pytest.raises(DataError, match="textual inversion"):
        attach(bases, "sd15", init_from=str(tmp_path / "word.safetensors"))
    (tmp_path / "x.ckpt").write_bytes(b"")
    assert "can run code" in problems(bases, "sd15", init_from=str(tmp_path / "x.ckpt"))
    folder, _ = saved("sd15", rank=4)
    tensors = load_file(folder / DIFFUSERS_FILE)
    key = next(iter(tensors))
    save_file(tensors | {key: tensors[key] * float("nan")}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="not finite"):
        attach(bases, "sd15", rank=4, init_from=str(tmp_path / "nan.safetensors"))
    (tmp_path / "run" / "checkpoints" / "4" / "adapter").mkdir(parents=True)
    shutil.copy(folder / DIFFUSERS_FILE, tmp_path / "run" / "checkpoints" / "4" / "adapter")
    assert "this run is not finished" in problems(bases, "sd15", rank=4, init_from=str(tmp_path / "run"))


# What it was at the start


def prediction(attachment, bases, family: str = "sd15") -> torch.Tensor:
    model = attachment.model
    with torch.no_grad():
        x = torch.from_numpy(Draws(3).normal((1, model.channels, 8, 8), "x"))
        return model.denoise(x, torch.tensor([500.0]), model.read(["a dog"], CPU))


@pytest.mark.parametrize("family", ["sd15", "sd35"])
def test_disabled_is_the_base_and_at_start_is_the_start(bases, saved, family):
    folder, state = saved(family, rank=4)
    attachment = attach(bases, family, rank=4, init_from=str(folder), keep_base=True, dropout=0.5)
    plain = attach(bases, family, rank=4)
    base = prediction(plain, bases, family)
    began = attach(bases, family, rank=4, init_from=str(folder))
    began.train(on=False)
    start = prediction(began, bases, family)
    assert not torch.equal(base, start)
    attachment.train(on=True)
    for tensor in attachment.state_dict().values():
        tensor.mul_(-2)
    moved = {name: tensor.clone() for name, tensor in attachment.state_dict().items()}
    with attachment.at_start():
        assert torch.equal(prediction(attachment, bases, family), start), "without dropout, too"
    with attachment.disabled():
        assert torch.equal(prediction(attachment, bases, family), base)
    assert all(torch.equal(t, moved[n]) for n, t in attachment.state_dict().items())
    layer = attachment.model.denoiser.get_submodule(next(iter(attachment.targets.values()))[1][0])
    assert layer.lora_dropout.training, "dropout acts again"
    with plain.at_start():
        assert torch.equal(prediction(plain, bases, family), base), "a new adapter began as the base"


def test_a_start_that_was_not_kept_is_no_other_start(bases, saved):
    folder, _ = saved("sd15", rank=4)
    attachment = attach(bases, "sd15", rank=4, init_from=str(folder), keep_base=False)
    with pytest.raises(ValueError, match="not kept"), attachment.at_start():
        pass


def test_asking_for_the_reference_leaves_the_gradient_alone(bases, saved):
    """A preference loss predicts, asks the reference, and differentiates after that."""
    folder, _ = saved("sd15", rank=4)
    attachment = attach(bases, "sd15", rank=4, init_from=str(folder), keep_base=True)
    for tensor in attachment.state_dict().values():
        tensor.mul_(-2)
    model = attachment.model
    student = Student(model, [attachment], Objective.read("ddpm").bind(model.scheduler, CPU))
    x = torch.from_numpy(Draws(3).normal((1, 4, 8, 8), "x"))
    noised = Noised(x, torch.tensor([500.0]), x, torch.ones(1))
    text = model.read(["a dog"], CPU)
    found = []
    for asks in (False, True):
        own = student.predict(noised, text)
        reference = torch.zeros_like(own)
        if asks:
            with student.reference():
                reference = student.predict(noised, text)
                assert not reference.requires_grad
            with student.teacher():
                assert not torch.equal(student.predict(noised, text), reference)
        (own - reference.detach() * 0).square().sum().backward()
        params = [p for group in attachment.param_groups() for p in group.params.values()]
        found.append([p.grad.clone() for p in params])
        for p in params:
            p.grad = None
    assert any(bool(g.any()) for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_preferences_are_measured_against_the_start(bases, saved):
    """Before the first step nothing has left it, whatever it had learned: no margin, and a loss of log 2."""
    folder, _ = saved("sd15", rank=4)
    attachment = attach(bases, "sd15", rank=4, dropout=0.5, init_from=str(folder), keep_base=True)
    attachment.train(on=False)
    model, task = attachment.model, DPO(beta=2000.0)
    objective = Objective.read("ddpm").bind(model.scheduler, CPU)
    student = Student(model, [attachment], objective)
    roles = task.roles({"pairs": (PairSource(path="x"),)})
    draws = {"noise": Draws(4).normal((1, 4, 8, 8), "noise"), "level": np.full(1, 0.5, np.float32)}
    both = {name: torch.from_numpy(np.concatenate([value, value])) for name, value in draws.items()}
    latents = torch.from_numpy(Draws(4).normal((2, 4, 8, 8), "latents"))
    batch = Batch(latents, both, model.tokenize(["a dog", "a dog"]), torch.ones(2), roles)
    assert float(task.loss(student, batch).total.detach()) == pytest.approx(math.log(2), rel=1e-6)
    with torch.no_grad():
        for tensor in attachment.state_dict().values():
            tensor.mul_(-2)
    assert float(task.loss(student, batch).total.detach()) != pytest.approx(math.log(2), rel=1e-3)


def test_of_a_folder_that_holds_a_word_as_well_it_takes_the_lora(bases, saved, tmp_path):
    folder, state = saved("sd15", rank=4)
    shutil.copytree(folder, tmp_path / "adapter")
    save_file({"emb_params": torch.ones(1, 32)}, tmp_path / "adapter" / "toy.safetensors")
    began = attach(bases, "sd15", rank=4, init_from=str(tmp_path)).state_dict()
    assert all(torch.equal(began[name], state[name]) for name in state)


# The recipe


def recipe(adapter: str, family: str = "sd15"):
    return read_recipe(TEXT % (family, adapter), "r.yaml")


def test_init_has_no_effect_beside_it_and_the_resolved_recipe_leaves_it_out():
    with pytest.raises(RecipeError, match="adapters.init: has no effect with init_from"):
        recipe("init_from: runs/first, init: kaiming")
    made = recipe("rank: 4, init_from: /home/me/runs/first")
    text = resolved_yaml(made)
    assert "init:" not in text
    assert read_recipe(text, "again.yaml") == made
    assert "/home/me" not in scrubbed_yaml(made)
    assert "first" in scrubbed_yaml(made)
    assert "runs" not in scrubbed_yaml(recipe("init_from: runs/first"))


def test_its_content_is_part_of_the_run_and_its_place_is_not(saved, tmp_path):
    folder, _ = saved("sd15", rank=4)
    other, _ = saved("sd15", rank=4, alpha=2.0)
    shutil.copytree(folder, tmp_path / "moved")

    def of(adapter: str):
        return identity(recipe(adapter), {}, {}, precision="fp32")

    here = of(f"rank: 4, init_from: {folder}")
    assert here == of(f"rank: 4, init_from: {tmp_path / 'moved'}")
    assert here != of(f"rank: 4, init_from: {other}")
    assert here != of("rank: 4")
    assert len(here["recipe"]["adapters"][0]["init_from"]) == 64
    assert "init_from" not in of("rank: 4")["recipe"]["adapters"][0]
    with pytest.raises(DataError, match="init_from.*no such file"):
        of(f"rank: 4, init_from: {tmp_path / 'gone'}")


def test_the_plan_refuses_what_a_header_tells(saved, tmp_path, monkeypatch):
    from tuner import toybox

    folder, _ = saved("sd15", rank=4)

    def planned(adapter: str, family: str = "sd15"):
        tree = TEXT.replace("photos", str(toybox.pictures())) % (family, adapter)
        return planning.plan(read_recipe(tree, "r.yaml"))

    assert planned(f"rank: 4, init_from: {folder}").refusals == []
    wrong = planned(f"rank: 8, init_from: {folder}")
    assert "has rank 4 where this run has 8" in wrong.refusals[0]
    with pytest.raises(UsageError, match="has rank 4"):
        planning.require(wrong)
    with pytest.raises(DataError, match="no such file"):
        planned(f"init_from: {tmp_path / 'gone'}")


def test_the_plan_imports_no_torch_for_it(saved, tmp_path):
    import subprocess
    import sys

    folder, _ = saved("sd15", rank=4)
    code = (
        "import sys; from tuner.adapters import Adapter; from tuner.backbones import Backbone\n"
        f"a = Adapter.read({{'name': 'lora', 'rank': 4, 'init_from': {str(folder)!r}}})\n"
        "assert not a.initial_problems(Backbone.read({'name': 'sd15', 'model': 'toybox'}))\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_rehearsal_scales_what_a_long_run_is_set_to(tmp_path):
    train = "train: {steps: 9000, schedule: {name: constant, warmup: 1000}, ema: {decay: 0.99, every: 100}}"
    (tmp_path / "r.yaml").write_text((TEXT % ("sd35", "rank: 4")).replace("train: {steps: 8}", train))
    train = open_recipe(tmp_path / "r.yaml", rehearse=True).recipe.train
    assert (train.schedule.warmup, train.ema.decay, train.ema.every) == (25, 0.95, 1)


def test_a_rehearsal_begins_anew_and_says_so(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT % ("sd15", "rank: 4, init_from: runs/first"))
    reading = open_recipe(tmp_path / "r.yaml", rehearse=True)
    assert reading.recipe.adapters[0].initial() is None
    assert any("runs/first" in note and "anew" in note for note in reading.notes)
    kept = open_recipe(tmp_path / "r.yaml", ["adapters.0.init_from=runs/small"], rehearse=True).recipe
    assert kept.model_dump()["adapters"][0]["init_from"] == "runs/small"
