"""kohya's names of every layer of the true models, and the laws of fusing layers into one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from original_sd3 import layers as original_layers

from tuner.backbones import Backbone
from tuner.backbones.bundled import configs as sd15_configs
from tuner.backbones.mmdit_layout import configs
from tuner.backbones.unet_layout import layout as unet_layout
from tuner.draws import Draws
from tuner.formats.families import FAMILIES
from tuner.formats.fusing import Update, fuse, padded, scaled, split
from tuner.formats.lora import on_disk

SIZES = ("medium", "large", "sd3_medium")


def linears(size: str) -> dict[str, tuple[int, int]]:
    """(out, in) by name, of the true model on the meta device."""
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        model = SD3Transformer2DModel.from_config(configs(size)["transformer"])
    found = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    return {name: (part.out_features, part.in_features) for name, part in found.items()}


@pytest.mark.parametrize("size", SIZES)
def test_names_are_a_bijection_over_every_layer_of_the_true_models(size):
    """Last block and second attention included; what it maps to is the list of the original code's own layers."""
    names, here = FAMILIES["sd35"].names, linears(size)
    there = {
        f"lora_unet_{name.replace('.', '_')}": shape for name, shape in original_layers(configs(size)["transformer"])
    }
    stacked: dict[str, list[str]] = {}
    for layer in here:
        key = names.key("transformer", layer)
        assert key is not None, layer
        stacked.setdefault(key, []).append(layer)
    assert stacked.keys() == there.keys()
    for key, own in stacked.items():
        found = names.layers(key)
        assert found is not None
        assert (found[0], set(found[1])) == ("transformer", set(own))
        assert sum(here[layer][0] for layer in own) == there[key][0]
        assert {here[layer][1] for layer in own} == {there[key][1]}
    swapped = {layer for layer, shape in here.items() if names.swaps(layer, *shape)}
    last = configs(size)["transformer"]["num_layers"] - 1
    assert swapped == {"norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear"}


def test_names_of_clips_are_a_bijection():
    layout = Backbone.read({"name": "sd35", "model": "nobody/nothing-like-this"}).layout()
    names = FAMILIES["sd35"].names
    for component in ("text_encoder", "text_encoder_2"):
        own = [on_disk(component, layer) for layer in layout.linears[component]]
        keys = {names.key(component, layer) for layer in own}
        assert len(keys) == len(own)
        for layer in own:
            key = names.key(component, layer)
            assert key is not None
            assert names.layers(key) == (component, (layer,))
    assert names.key("text_encoder_2", "text_model.encoder.layers.31.self_attn.q_proj") == (
        "lora_te2_text_model_encoder_layers_31_self_attn_q_proj"
    )
    assert names.key("text_encoder_3", "encoder.block.0.layer.0.SelfAttention.q") is None


def test_names_of_the_true_unet_and_its_text_encoder_come_back():
    names, layout = FAMILIES["sd15"].names, unet_layout(sd15_configs())
    for component, own in layout.linears.items():
        for layer in (on_disk(component, layer) for layer in own):
            key = names.key(component, layer)
            assert key is not None
            assert names.layers(key) == (component, (layer,))


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_joint_blocks_0_x_block_attn_q",
        "lora_unet_joint_blocks_0_final_layer_linear",
        "lora_unet_x_block_attn_qkv",
        "lora_unet_double_blocks_0_img_attn_qkv",
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "lora_unet_",
    ],
)
def test_other_names_are_no_layers_of_sd3(key):
    assert FAMILIES["sd35"].names.layers(key) is None


@pytest.mark.parametrize(
    "layer", ["transformer_blocks.0.proj_out", "attn.to_q", "transformer_blocks.0.attn.to_qq", "single.0.to_q", ""]
)
def test_other_layers_have_no_name(layer):
    assert FAMILIES["sd35"].names.key("transformer", layer) is None


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(Draws(seed).normal(shape, "fusing", *map(str, shape)))


@st.composite
def stacks(draw) -> list[Update | None]:
    """Three layers of one size, some not trained, of ranks and scales of their own."""
    width, rows, seed = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 99))
    trained = draw(st.lists(st.booleans(), min_size=3, max_size=3).filter(any))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    parts: list[Update | None] = []
    for number, there in enumerate(trained):
        rank, scale = draw(st.integers(1, 4)), draw(st.sampled_from([1.0, 0.5, 1 / 3, 2.7]))
        down, up = normal(seed + number, rank, width).to(dtype), normal(seed + 7 + number, rows, rank).to(dtype)
        parts.append(Update("transformer", f"part{number}", down, up, scale) if there else None)
    return parts


@settings(max_examples=60, deadline=None)
@given(stacks())
def test_fused_layers_update_as_the_parts_stacked_and_come_apart_again(parts):
    known = [part for part in parts if part is not None]
    rows, width = known[0].up.shape[0], known[0].down.shape[1]
    down, up, scale = fuse(parts)
    want = torch.cat([
        torch.zeros(rows, width) if part is None else part.scale * part.up.float() @ part.down.float() for part in parts
    ])  # fmt: skip
    assert torch.allclose(scale * up.float() @ down.float(), want, rtol=1e-6, atol=1e-6)
    assert down.shape[0] == up.shape[1] == 3 * max(part.down.shape[0] for part in known)
    assert not up[:rows, down.shape[0] // 3 :].any()
    for part, back in zip(parts, split(down, up, 3), strict=True):
        assert (part is None) == (back is None)
        if part is not None and back is not None:
            own = part.down.shape[0]
            assert torch.equal(back[0][:own], part.down)
            assert not back[0][own:].any()
            found = Update("transformer", part.layer, *back, scale)
            assert part.differs(found, 1e-6) is None


def test_a_shared_down_comes_apart_exactly():
    """As sd-scripts trains it unless it is told to split: one down for all three."""
    down, up = normal(1, 4, 6), normal(2, 15, 4)
    parts = split(down, up, 3)
    assert torch.equal(torch.cat([b @ a for a, b in parts]), torch.cat([up[n : n + 5] @ down for n in (0, 5, 10)]))  # type: ignore[misc]
    with pytest.raises(ValueError, match="not 3 layers"):
        split(down, normal(2, 14, 4), 3)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 100), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 9))
def test_scaling_rounds_nothing_that_the_file_had(scale, dtype, seed):
    up = normal(seed, 3, 2).to(dtype)
    assert torch.equal(scaled(up, scale).float(), up.float() * scale)
    assert scaled(up, 2.0).dtype == dtype


def test_padding_changes_nothing():
    down, up = normal(1, 2, 5), normal(2, 3, 2)
    wide = padded(down, up, 6)
    assert (wide[0].shape, wide[1].shape) == ((6, 5), (3, 6))
    assert torch.equal(wide[1] @ wide[0], up @ down)
