"""Published sizes of SD3.5's parts, and what the plan says of a LoRA at 1024 px in bf16."""

from __future__ import annotations

import pytest

from tuner.adapters.lora import LoRA
from tuner.backbones import mmdit_layout as ml
from tuner.backbones.sd35 import SD35
from tuner.planning.memory import Load, memory

PUBLISHED = {
    # Model cards of SD3.5: 2.5 (MMDiT-X, its table of positions counted) and 8.1 billion.
    "medium": {"transformer": (2.2e9, 2.5e9)},
    "large": {"transformer": (8.0e9, 8.1e9)},
}
ENCODERS = {"text_encoder": (0.12e9, 0.13e9), "text_encoder_2": (0.69e9, 0.70e9), "text_encoder_3": (4.7e9, 4.8e9)}
"""CLIP-L, CLIP-G (both with their projection), and the encoder of T5-XXL."""
PLANNED_GB = {
    ("medium", False): 15.3, ("medium", True): 6.5, ("large", False): 35.8, ("large", True): 19.0,
}  # fmt: skip
"""Our own arithmetic, not a measurement: weights at 2 bytes, 16 bytes a trained parameter, the activations that
tests/parity/test_activation_bytes.py holds against diffusers' modules, and 1 GB for the framework. Public reports agree
as far as they go: a LoRA of large with checkpointing fits 24 GB, one of medium 12 GB."""


def layout(size: str):
    return ml.layout(ml.configs(size), t5_length=256)


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    found = layout(size).parameters
    for name, (least, most) in {**PUBLISHED[size], **ENCODERS}.items():
        assert least <= found[name] <= most, name


@pytest.mark.parametrize("size", ["medium", "large", "sd3_medium"])
def test_the_layers_follow_the_papers_rule(size):
    """Esser et al. 2024, sec. 5.3: hidden size 64 x depth, heads = depth; seen in the layers, not only the numbers."""
    found, linears = ml.configs(size)["transformer"], layout(size).linears["transformer"]
    depth = 1 + max(int(name.split(".")[1]) for name in linears if name.startswith("transformer_blocks."))
    assert (found["num_layers"], found["num_attention_heads"], found["attention_head_dim"]) == (depth, depth, 64)
    assert linears["transformer_blocks.0.attn.to_q"] == (64 * depth, 64 * depth)
    assert linears["transformer_blocks.0.ff.net.0.proj"] == (64 * depth, 4 * 64 * depth)


@pytest.mark.parametrize(("size", "checkpointing"), PLANNED_GB)
def test_planned_memory_of_a_lora_at_1024_px(size, checkpointing):
    shape, part = layout(size), SD35(model="nobody/nothing-like-this")
    adapter = LoRA(rank=16)
    trained = sum(count.parameters for count in adapter.count(part, shape))
    load = Load(
        layout=shape, text_components=tuple(part.text_components), examples=1, area=1024**2, sample_area=0,
        trainable=trained, state=16 * trained,
        layers=frozenset(adapter.layers(part, shape)), ema=False, checkpointing=checkpointing, trained_text=(),
        teacher=False, cached=True, generates=False,
    )  # fmt: skip
    phases = {phase.name: phase for phase in memory(load, 2, shared=False).phases}
    assert phases["training"].total / 1e9 == pytest.approx(PLANNED_GB[size, checkpointing], abs=0.1)
    assert phases["training"].parts["denoiser"] == 2 * shape.parameters["transformer"]
    captions = phases["reading captions"]
    assert captions.total / 1e9 == pytest.approx(12.2, abs=0.1), "5.58 billion of text encoders at 2 bytes"


def test_large_in_bf16_fits_24_gb_only_with_checkpointing():
    assert PLANNED_GB["large", True] < 24 < PLANNED_GB["large", False]


def test_what_trains_keeps_its_input():
    activations = layout("medium").activations
    names = layout("medium").linears["transformer"]
    sets = [(), ["transformer_blocks.0.attn.to_q"], [n for n in names if ".attn." in n], list(names), None]
    sizes = [activations.training(1024**2, 2, layers) for layers in sets]
    assert sizes == sorted(set(sizes))


def test_text_that_t5_alone_would_read_costs_nothing_to_train():
    """T5 saves nothing for a gradient, and each CLIP reads 77 tokens, whatever T5 reads."""
    from tuner.planning.memory import text_activations

    def bytes_of(t5_length: int, *trained: str) -> int:
        shape = ml.layout(ml.configs("medium"), t5_length=t5_length)
        load = Load(
            layout=shape, text_components=SD35.text_components, examples=2, area=1, sample_area=0, trainable=1, state=16,
            layers=frozenset(), ema=False, checkpointing=False, trained_text=trained, teacher=False, cached=True,
            generates=False,
        )  # fmt: skip
        return text_activations(load)

    both = bytes_of(256, "text_encoder", "text_encoder_2")
    assert both == bytes_of(77, "text_encoder", "text_encoder_2")
    inputs = sum(
        width for name in ("text_encoder", "text_encoder_2") for width, _ in layout("medium").linears[name].values()
    )
    assert both == 2 * 77 * inputs * 4 * 2
    assert bytes_of(256) == 0
