"""Full fine-tuning: which layers, in what type, what the base is meanwhile, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import load_sd15
from pydantic import ValidationError
from tiny_sd35 import load_sd35

from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.backbones.naming import fits, layers_at
from tuner.backbones.sd35_positions import extend
from tuner.draws import Draws
from tuner.errors import DataError, RecipeError
from tuner.planning import Machine, plan
from tuner.recipe import Recipe

NOWHERE = Machine("cpu", "CPU", None, 4)


def recipe(backbone: str = "sd15", model: str = "toybox", adapters: Any = ("full",), **keys: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": backbone, "model": model},
            "adapters": list(adapters),
            "task": "finetune",
            "data": {"resolution": 64, "images": {"path": "x", "caption": "a dog"}},
            "train": {"steps": 4, "device": "cpu", **keys.pop("train", {})},
            **keys,
        }
    )


def attached(model, **keys):
    keep = keys.pop("keep_base", False)
    return Adapter.read({"name": "full", **keys}).attach(model, keep_base=keep, draws=Draws(0))


def trained(model) -> set[str]:
    return {name for name, p in model.denoiser.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("name", "pattern", "want"),
    [
        ("up_blocks.1.attn2.to_k", "attn2", True),
        ("up_blocks.1.attn2.to_k", "up_blocks.1", True),
        ("up_blocks.1.attn2.to_k", "up_blocks.[02]", False),
        ("up_blocks.1.attn2.to_k", "attn", False),
        ("up_blocks.1.attn2.to_k", "attn*", True),
        ("up_blocks.1.attn2.to_k", "up_blocks.1.attn2.to_k.weight", False),
        ("conv_in", "conv_in", True),
    ],
)
def test_a_pattern_stands_anywhere_between_dots(name, pattern, want):
    assert fits(name, pattern) == want


def test_the_two_streams_and_the_shared_embedding_are_the_whole_transformer(sd35_model):
    """No layer is in both, and what is in neither belongs to both."""
    backbone = sd35_model.backbone
    layers = backbone.layout().layers["transformer"]
    image, text = (layers_at(backbone, name, layers, ())[name] for name in ("image_stream", "text_stream"))
    assert not set(image) & set(text)
    rest = set(layers) - set(image) - set(text)
    assert rest
    assert all(name.startswith("time_text_embed.") for name in rest)
    assert "transformer_blocks.0.attn2.to_q" in image
    assert "transformer_blocks.1.attn.norm_added_k" in text


def test_the_stretches_of_the_unet_leave_its_ends(sd15_model):
    backbone = sd15_model.backbone
    layers = backbone.layout().layers["unet"]
    found = [set(layers_at(backbone, name, layers, ())[name]) for name in ("down", "middle", "up")]
    assert set(layers) - set.union(*found) == {
        "conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out",
    }  # fmt: skip
    assert sum(map(len, found)) == len(set.union(*found))


ANYWHERE = ("all", "cross_attention", "all_linear", ["attn2", "ff"])
PLACES = [("sd15", "up"), ("sd35", "text_stream"), *((name, w) for name in ("sd15", "sd35") for w in ANYWHERE)]


@pytest.mark.parametrize(("family", "where"), PLACES, ids=str)
def test_the_layout_names_what_the_model_has(family, where, sd35_folder):
    model = load_sd15("toybox") if family == "sd15" else load_sd35(sd35_folder)
    attachment = attached(model, where=where)
    counts = attachment.adapter.count(model.backbone, model.backbone.layout())
    assert [f"{c.part}: {c.modules} layers, {c.parameters:,} parameters" for c in counts] == list(attachment.summary())
    assert trained(model) == {name.partition(".")[2] for name in attachment.state_dict()}
    assert sum(c.parameters for c in counts) == sum(t.numel() for t in attachment.state_dict().values())
    assert all(count.modules for count in counts)


@pytest.mark.parametrize(("family", "where"), PLACES, ids=str)
def test_the_plan_knows_the_linear_layers_that_train(family, where, sd35_folder):
    model = load_sd15("toybox") if family == "sd15" else load_sd35(sd35_folder)
    attachment = attached(model, where=where)
    found = attachment.adapter.layers(model.backbone, model.backbone.layout())
    if where == "all":
        assert found is None
        return
    modules = model.denoiser.named_modules()
    linears = {name for name, m in modules if isinstance(m, torch.nn.Linear) and m.weight.requires_grad}
    assert found == linears
    assert linears


def test_a_pattern_that_matches_nothing_is_named(sd15_model):
    with pytest.raises(RecipeError, match="'atn2' matches no layer of the unet"):
        attached(sd15_model, where=["attn1", "atn2"])


def test_while_disabled_autocast_sees_the_base_and_not_what_it_remembers(sd15_model):
    """Autocast keeps its narrow copy of each trained parameter as long as it lasts."""
    model = sd15_model
    x, t = torch.randn(1, model.channels, 8, 8, generator=torch.manual_seed(0)), torch.tensor([500.0])
    cond = model.encode_text(model.tokenize(["a dog"]))
    attachment = attached(model, keep_base=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base = model.denoise(x, t, cond).detach()
        with torch.no_grad():
            for tensor in attachment.state_dict().values():
                tensor.add_(torch.randn(tensor.shape, generator=torch.manual_seed(1)) * 0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learned = model.denoise(x, t, cond)
        with attachment.disabled(), torch.no_grad():
            assert torch.equal(model.denoise(x, t, cond), base)
        assert torch.equal(model.denoise(x, t, cond), learned)
        assert not torch.equal(learned, base)
        learned.float().sum().backward()
    assert all(p.grad is not None for group in attachment.param_groups() for p in group.params.values())


def test_weights_that_were_loaded_narrow_are_read_anew(sd15_folder):
    """bf16 and back would have lost 16 bits of each."""
    wide = load_sd15("toybox")
    narrow = Backbone.read({"name": "sd15", "model": "toybox"}).load(device=torch.device("cpu"), dtype=torch.bfloat16)
    attached(narrow)
    theirs = wide.denoiser.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in narrow.denoiser.state_dict().items())
    assert narrow.compute == torch.bfloat16
    assert next(narrow.text_encoders["text_encoder"].parameters()).dtype == torch.bfloat16, "frozen ones stay"


def test_the_base_is_kept_in_what_it_computes_in():
    model = Backbone.read({"name": "sd15", "model": "toybox"}).load(device=torch.device("cpu"), dtype=torch.bfloat16)
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    attachment = attached(model, keep_base=True)
    with attachment.disabled():
        here = model.denoiser.state_dict()
        assert all(torch.equal(here[name], value) and here[name].dtype == value.dtype for name, value in before.items())
    assert all(value.dtype == torch.float32 for value in model.denoiser.state_dict().values())


def test_bfloat16_weights_are_half_as_large(sd15_model):
    attachment = attached(sd15_model, weights="bf16")
    assert {tensor.dtype for tensor in attachment.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize("size", [17, 18, 30])
def test_longer_tables_place_what_was_there_as_before(sd35_folder, size):
    model, plain = load_sd35(sd35_folder), load_sd35(sd35_folder)
    extend(model.denoiser, size)
    embed, old = model.denoiser.pos_embed, plain.denoiser.pos_embed
    assert embed.pos_embed_max_size == model.denoiser.config.pos_embed_max_size >= size
    for height, width in ((32, 32), (2, 30), (24, 6)):
        assert torch.equal(embed.cropped_pos_embed(height, width), old.cropped_pos_embed(height, width))
    far = torch.randn(1, 16, 2 * size, 4, generator=torch.manual_seed(0))
    with pytest.raises(ValueError, match="Height"):
        old(far)
    assert embed(far).shape == (1, 2 * size, 24)


def test_new_places_go_on_in_the_old_distance(sd35_folder):
    """A table of half the size, extended to the whole, is the whole: diffusers' spacing depends on the size."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    model = load_sd35(sd35_folder)
    embed = model.denoiser.pos_embed
    whole = get_2d_sincos_pos_embed(24, 32, base_size=8, output_type="pt").float().reshape(32, 32, 24)
    embed.pos_embed = whole[8:24, 8:24].reshape(1, -1, 24)
    extend(model.denoiser, 32)
    assert torch.allclose(embed.pos_embed.reshape(32, 32, 24), whole, atol=1e-4)


def test_a_learned_table_is_not_continued(sd35_folder):
    model = load_sd35(sd35_folder)
    model.denoiser.pos_embed.pos_embed = torch.randn(model.denoiser.pos_embed.pos_embed.shape)
    with pytest.raises(DataError, match="not one of sinusoids"):
        extend(model.denoiser, 20)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"adapters": [{"name": "full", "where": "texts"}]}, "sd15 has no part named 'texts'; there is all, "),
        ({"adapters": [{"name": "full", "where": "text_stream"}]}, "there is .*down, middle, up"),
        ({"adapters": ["full", "lora"]}, "full trains the model that lora would sit on"),
        ({"adapters": ["full", "full"]}, "full trains the model that full would sit on"),
        ({"adapters": [{"name": "full", "max_side_px": 2048}]}, "has no effect on sd15"),
        ({"adapters": [{"name": "full", "weights": "bf16"}], "train": {"precision": "fp16"}}, "take bf16 for both"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_reason(keys, reason):
    with pytest.raises(ValidationError, match=reason):
        recipe(**keys)


def planned(tmp_path, **keys):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    made = recipe(**{"data": {"resolution": 512, "images": {"path": str(tmp_path), "caption": "x"}}, **keys})
    return plan(made, machine=NOWHERE)


def training_bytes(tmp_path, **keys) -> dict[str, int]:
    phases = {phase.name: phase for phase in planned(tmp_path, **keys).memory["gpu"].phases}
    return dict(phases["training"].parts)


def test_the_plan_counts_weights_gradients_moments_copies_and_average(tmp_path):
    """Of the true SD1.5, whose UNet has 859,520,964 parameters."""
    count = 859_520_964
    parts = training_bytes(tmp_path, model="some/model", train={"ema": {}})
    assert parts["denoiser"] == 4 * count
    assert parts["gradients, optimizer"] == 12 * count
    assert parts["16-bit copies while computing"] == 2 * count
    assert parts["average of the weights"] == 4 * count
    adapters = [{"name": "full", "weights": "bf16"}]
    small = training_bytes(tmp_path, model="some/model", adapters=adapters, train={"optimizer": "adafactor"})
    assert small["denoiser"] == 2 * count
    assert small["gradients, optimizer"] == pytest.approx(2.05 * count)
    assert "16-bit copies while computing" not in small
    least = {"optimizer": "adafactor", "optimizer_in_backward": True, "max_grad_norm": None}
    least_parts = training_bytes(tmp_path, model="some/model", adapters=adapters, train=least)
    assert least_parts["gradients, optimizer"] == pytest.approx(0.05 * count)


def test_of_whole_models_the_disk_holds_as_many_as_of_states(tmp_path):
    save = {"every": 1, "keep": 2}
    whole = planned(tmp_path, save=save, train={"steps": 100})
    adapters = planned(tmp_path, save=save, train={"steps": 100}, adapters=[{"name": "lora"}])
    models, files = (p.places[0].parts for p in (whole, adapters))
    assert models["models"] == 4 * 2 * whole.adapter_bytes["fp32"]  # two, one being written, one at the end
    assert files["adapter files"] == 102 * 2 * adapters.adapter_bytes["fp32"]


def test_pictures_beyond_the_table_want_max_side_px(sd35_folder, tmp_path):
    data = {"resolution": 512, "images": {"path": str(tmp_path), "caption": "x"}}
    keys = {"backbone": "sd35", "model": str(sd35_folder), "data": data}
    refused = planned(tmp_path, **keys)
    assert any("max_side_px: 512 of the adapter" in line for line in refused.refusals)
    adapters = [{"name": "full", "max_side_px": 512}]
    assert not any("positions" in line for line in planned(tmp_path, **keys, adapters=adapters).refusals)
    lora = planned(tmp_path, **keys, adapters=["lora"])
    assert any("an adapter cannot" in line for line in lora.refusals)


def test_what_the_plan_advises_for_a_card_is_a_recipe_that_fits_it(tmp_path):
    from tuner.planning.cards import SIZES_GB, written

    keys = {"model": "some/model", "train": {"batch": 4, "ema": {}}}
    cards = planned(tmp_path, **keys).cards
    assert [card.gigabytes for card in cards] == list(SIZES_GB)
    assert [card.changes == {} for card in cards] == [False, False, False, True]
    assert cards[0].changes is not None
    for card in cards:
        assert card.changes is not None
        train = {key.partition(".")[2]: v for key, v in card.changes.items() if key.startswith("train.")}
        adapter = {key.split(".")[2]: v for key, v in card.changes.items() if key.startswith("adapters.")}
        made = planned(
            tmp_path, model="some/model", train={**keys["train"], **train}, adapters=[{"name": "full", **adapter}]
        )
        assert made.memory["gpu"].peak.total == card.bytes <= card.gigabytes * 2**30
        said = str(card)
        assert all(f"{key}={written(value)}" in said for key, value in card.changes.items())
    assert planned(tmp_path, adapters=["lora"]).cards == ()


def test_a_model_that_fits_no_small_card_is_told_so(tmp_path):
    from tuner.planning.cards import Card

    assert "does not fit" in str(Card(11, None, 12 * 10**9))
    large = {"backbone": "sd35", "model": "stabilityai/stable-diffusion-3.5-large"}
    cards = planned(tmp_path, **large).cards
    assert [card.changes is None for card in cards][:2] == [True, True]
    assert cards[-1].changes


def test_several_processes_cannot_use_gradients_up(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    made = recipe(
        train={"optimizer_in_backward": True, "max_grad_norm": None},
        data={"resolution": 64, "images": {"path": str(tmp_path), "caption": "x"}},
    )
    refused = plan(made, machine=NOWHERE, processes=2).refusals
    assert any("gradients of 2 processes" in line for line in refused)
    assert not plan(made, machine=NOWHERE).refusals


@pytest.mark.parametrize(
    "keys",
    [
        {"ema": {"decay": 0.9}},
        {"optimizer": "adafactor", "optimizer_in_backward": True, "max_grad_norm": None},
    ],
    ids=["adamw", "adafactor in backward"],
)
def test_in_bfloat16_going_on_is_exact(keys, sd35_folder):
    """Rounding draws the same at a step, whether or not the run was stopped before it."""
    from tuner.data.sources import Source
    from tuner.loop import accumulate, update
    from tuner.processes import Processes
    from tuner.sections import Train
    from tuner.student import Student
    from tuner.tasks import Task
    from tuner.training import Training
    from tuner.types import Batch

    task, train = Task.read("finetune"), Train.model_validate({"steps": 4, "lr": 1e-3, **keys})

    def start() -> tuple[Student, Training, Batch]:
        model = load_sd35(sd35_folder)
        attachment = attached(model, weights="bf16")
        objective = model.backbone.objective()
        roles = task.roles({"images": (Source(path="x"),)})
        student = Student(model, [attachment], objective.bind(model.scheduler, torch.device("cpu")))
        training = Training.of([attachment], train, torch.device("cpu"), task.logged(roles), scaled=False)
        g = torch.Generator().manual_seed(7)
        shapes = {"latent": (2, 16, 8, 8), "channel": (2, 16, 1, 1), "scalar": (2,)}
        draws = {name: torch.rand(shapes[draw.shape], generator=g) for name, draw in objective.needs().items()}
        latents = torch.randn(2, 16, 8, 8, generator=g)
        return student, training, Batch(latents, draws, model.tokenize(["a dog"] * 2), torch.full((2,), 0.5), roles)

    def go(student: Student, training: Training, batch: Batch, steps: range) -> None:
        for step in steps:
            sums = accumulate(student, task, training, [batch], step=step, draws=Draws(0), processes=Processes())
            update(training, sums, step=step, max_grad_norm=train.max_grad_norm)

    student, whole, batch = start()
    go(student, whole, batch, range(2))
    saved = {group: {k: v.clone() for k, v in own.items()} for group, own in whole.tensors().items()}
    go(student, whole, batch, range(2, 4))
    student, second, batch = start()
    second.restore(saved)
    go(student, second, batch, range(2, 4))
    want, found = whole.tensors(), second.tensors()
    assert {p.dtype for p in want["adapter.0"].values()} == {torch.bfloat16}
    assert any(not torch.equal(p, saved["adapter.0"][name]) for name, p in want["adapter.0"].items())
    for group, own in want.items():
        assert found[group].keys() == own.keys()
        assert all(torch.equal(found[group][name], value) for name, value in own.items()), group
    assert float(want["counters"]["tally.grad_norm"]) > 0
