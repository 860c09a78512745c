"""Which layer of a LoRA has which rank and scale, which keys do nothing, and at which rate B learns."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_run import TinyRun

from tuner.adapters.lora import LoRA
from tuner.backbones import Backbone
from tuner.errors import RecipeError
from tuner.lora_sizes import LayerRank, Size, Sizes
from tuner.optim.optimizers import Optimizer
from tuner.planning.load import load_of
from tuner.recipe import Recipe
from tuner.recipe_file import load_recipe

SD15 = Backbone.read({"name": "sd15", "model": "toybox"})
SD35 = Backbone.read({"name": "sd35", "model": "nobody/nothing-like-this"})
NAME = ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k")


def size(name=NAME, *, wide=False, **keys) -> Size:
    return LoRA(**keys).sizes.of(name, wide=wide)


def test_a_layer_takes_its_size_from_the_first_entry_that_names_it():
    ranks = [{"layers": "attn2", "rank": 8}, {"layers": "down_blocks.1", "rank": 2, "alpha": 1}]
    assert size(rank=4, ranks=ranks) == (8, 1.0)
    assert size(rank=4, ranks=ranks[::-1]) == (2, 0.5)
    assert size(("unet", "down_blocks.10.attn1.to_k"), rank=4, ranks=ranks) == (4, 1.0), "names end at dots"
    assert size(("text_encoder", "x"), rank=4, ranks=[{"layers": "text_encoder", "rank": 1}]) == (1, 1.0)


def test_convolutions_have_a_rank_and_alpha_of_their_own():
    keys = {"rank": 8, "alpha": 4, "conv_rank": 2}
    assert size(wide=True, **keys) == (2, 0.5)
    assert size(wide=True, **keys, conv_alpha=3) == (2, 1.5)
    assert size(wide=False, **keys, conv_alpha=3) == (8, 0.5)


@given(
    rank=st.integers(1, 1024),
    other=st.integers(1, 1024),
    alpha=st.floats(0.1, 4096),
    own=st.none() | st.floats(0.1, 4096),
)
def test_the_scale_is_the_published_one(rank, other, alpha, own):
    ranks = [LayerRank(layers="attn2", rank=other, alpha=own)]
    plain, stable = (Sizes(rank, alpha, rslora, None, None, ranks).of(NAME, wide=False) for rslora in (False, True))
    assert plain.rank == stable.rank == other
    assert plain.scale == pytest.approx(own / other if own else alpha / rank)
    assert stable.scale == pytest.approx((own or alpha) / math.sqrt(other))


@pytest.mark.parametrize(
    ("keys", "key", "reason"),
    [
        ({"conv_alpha": 1}, "conv_alpha", "has no effect without conv_rank"),
        ({"rslora": True}, "rslora", "needs alpha"),
        ({"dora": "outputs"}, "dora", "did you mean 'output'"),
        ({"ranks": [{"layers": "attn2"}]}, "ranks.0.rank", "is missing"),
        ({"lora_plus": 0}, "lora_plus", "must be more than 0"),
        ({"ranks": [{"layers": "x", "rank": 0}]}, "ranks.0.rank", "must be at least 1"),
    ],
)
def test_a_key_that_does_nothing_or_is_wrong_is_refused(keys, key, reason):
    with pytest.raises(ValidationError) as caught:
        LoRA(**keys)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == key
    assert reason in error["msg"]


def test_convolutions_are_refused_where_there_are_none():
    with pytest.raises(RecipeError, match=r"adapters.0.conv_rank: has no effect on sd35.*convolves nothing"):
        load_recipe("lora_sd35_medium", ["adapters.0.conv_rank=4"])


def test_an_entry_about_no_layer_is_refused_with_what_was_meant():
    def told(*ranks: str, **keys) -> str:
        lora = LoRA(ranks=[{"layers": name, "rank": 2} for name in ranks], **keys)
        return "\n".join(lora.layer_problems(SD15, SD15.layout()))

    assert told("attn2", "mid_block", "down_blocks.0.attentions") == ""
    assert "did you mean 'down_blocks'" in told("down_block")
    assert "is no part of the name of a layer that trains" in told("conv1")
    assert told("conv1", conv_rank=2) == ""
    assert "is no part" in told("text_encoder")
    assert told("text_encoder", text_encoder_lr=1e-4) == ""
    assert "ranks.1: 'attn2.to_k' has no effect: an entry before it has taken" in told("attn2", "attn2.to_k")
    lora = LoRA(ranks=[{"layers": "attn3", "rank": 2}])
    model = SD15.load(device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(RecipeError, match="did you mean 'attn"):
        lora.attach(model, keep_base=False, draws=None)  # type: ignore[arg-type]


def test_the_plan_refuses_what_attaching_would(tmp_path):
    code = (
        "import sys; from tuner.recipe_file import load_recipe; from tuner.planning.plan import plan\n"
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "recipe = load_recipe('lora', ['adapters.0.ranks=[{layers: attn9, rank: 2}]'], rehearse=True)\n"
        "print([line for line in plan(recipe).refusals if 'ranks.0' in line]); assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "did you mean 'attn" in done.stdout, done.stderr


@pytest.mark.parametrize("backbone", [SD15, SD35], ids=["sd15", "sd35"])
def test_a_dora_and_convolutions_need_more_memory_and_are_counted(backbone):
    """Of the true shapes; that the coefficients are right is measured elsewhere."""
    layout = backbone.layout()
    area = 512 * 512

    def activations(**keys) -> float:
        lora = LoRA(**keys)
        beside = lora.kept_beside(backbone, layout, 2)
        return layout.activations.training(area, 2, frozenset(lora.layers(backbone, layout)), beside=beside)

    plain = activations()
    assert plain < activations(dora="input") < activations(dora="output")
    if backbone is SD15:
        assert plain < activations(conv_rank=4) < activations(conv_rank=4, dora="output")
    counts = {c.part: c.parameters for c in LoRA(rank=2, dora="output").count(backbone, layout)}
    layers = LoRA().layers(backbone, layout)
    (component,) = (name for name in layout.linears if name not in backbone.text_components)
    own = layout.linears[component]
    assert counts[f"{component} attention"] == sum(2 * sum(own[name]) + own[name][1] for name in layers)


def test_what_layers_keep_reaches_the_plan_of_a_recipe():
    recipe = load_recipe("lora", ["adapters.0.dora=output"], rehearse=True)
    assert isinstance(recipe, Recipe)
    load = load_of(recipe, recipe.backbone.layout(), [], 1, 0, generates=False)
    assert set(load.beside) == {2, 4}
    assert set(load.beside[2]) == load.layers


# ---- LoRA+


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_b_learns_at_a_multiple_of_a_s_rate_through_the_schedule(sd35_folder, name):
    run = TinyRun(sd35_folder, batch=1, accumulate=1, lora_plus=16.0, text_encoder_lr=1e-4, dora="output")
    groups = run.training.groups
    built = Optimizer.read(name).build(groups, 1e-3)
    assert [group["lr"] for group in built.param_groups] == [group.peak(1e-3) for group in groups]
    rates = {group.name: peak for group, peak in zip(groups, run.training.peaks, strict=True)}
    assert rates["transformer"] == rates["transformer magnitudes"] == pytest.approx(1e-3)
    assert rates["transformer B"] == pytest.approx(16e-3)
    assert rates["text_encoder_2 B"] == pytest.approx(16e-4)
    assert [g.weight_decay for g in groups if "magnitudes" in g.name] == [0.0] * 3
    assert all(name.endswith("lora_B.weight") for group in groups if group.name.endswith(" B") for name in group.params)


def test_the_first_step_moves_b_by_its_own_rate(sd35_folder):
    """Adam's first step is the rate, in the gradient's sign."""
    run = TinyRun(sd35_folder, batch=1, accumulate=1, lora_plus=8.0)
    run.go(1)
    moved = [
        t.abs().max() for name, t in run.training.attachments[0].state_dict().items() if name.endswith("lora_B.weight")
    ]
    assert float(max(moved)) == pytest.approx(8e-3, rel=1e-3)


@pytest.mark.parametrize(
    "keys",
    [
        {"dora": "output", "lora_plus": 4.0, "ranks": [{"layers": "to_q", "rank": 3}], "dropout": 0.2},
        {"dora": "input", "rslora": True, "alpha": 3.0, "dropout": 0.2},
    ],
    ids=["output", "input"],
)
def test_a_run_goes_on_bit_for_bit(sd35_folder, keys):
    straight, first, second = (TinyRun(sd35_folder, batch=1, accumulate=1, **keys) for _ in range(3))
    straight.go(4)
    first.go(2)
    kept = {group: {name: t.clone() for name, t in own.items()} for group, own in first.training.tensors().items()}
    second.training.restore(kept)
    second.go(4, start=2)
    want, got = straight.training.tensors(), second.training.tensors()
    for group, own in want.items():
        for name, tensor in own.items():
            assert torch.equal(tensor, got[group][name]), name
    began = TinyRun(sd35_folder, batch=1, accumulate=1, **keys).training.attachments[0].state_dict()
    assert all(not torch.equal(tensor, began[name]) for name, tensor in got["adapter.0"].items() if "add_q" not in name)


def test_the_keys_are_told_where_people_look():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    for key in ("conv_rank", "rslora", "dora", "ranks", "lora_plus"):
        assert f"`{key}" in page, key
