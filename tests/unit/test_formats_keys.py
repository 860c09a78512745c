"""The names under which other tools look for a layer, derived here by their own rules and not by ours."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tuner import toybox
from tuner.formats import kohya
from tuner.formats.families import FAMILIES
from tuner.formats.lora import on_disk, pairs

NAMES = FAMILIES["sd15"].names
CLIP_PARTS = ("mlp_fc1", "mlp_fc2", "self_attn_k_proj", "self_attn_q_proj", "self_attn_v_proj", "self_attn_out_proj")


@pytest.fixture(scope="module", params=["toybox", "sd15"])
def unet(request):
    config = toybox.configs("sd15")["unet"]
    if request.param == "sd15":
        config = config | {
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "norm_num_groups": 32,
        }
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def linears(module):
    return [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]


def test_every_unet_layer_has_the_name_that_comfyui_and_a1111_map(unet):
    """Both map `lora_unet_` + the diffusers state dict's name without `.weight`, dots as underscores."""
    mapped = {
        "lora_unet_" + key[: -len(".weight")].replace(".", "_") for key in unet.state_dict() if key.endswith(".weight")
    }
    written = {NAMES.key("unet", layer) for layer in linears(unet)}
    assert written <= mapped
    assert len(written) == len(linears(unet))
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0" in written


def test_every_text_layer_has_the_name_that_all_of_them_map():
    """ComfyUI's and InvokeAI's list: lora_te_text_model_encoder_layers_<n>_<part>; CLIP-L has 12 layers."""
    config = CLIPTextConfig(
        num_hidden_layers=12, hidden_size=32, intermediate_size=64, num_attention_heads=4, vocab_size=64
    )
    with torch.device("meta"):
        encoder = CLIPTextModel(config)
    mapped = {f"lora_te_text_model_encoder_layers_{n}_{part}" for n in range(12) for part in CLIP_PARTS}
    assert {NAMES.key("text_encoder", on_disk("text_encoder", layer)) for layer in linears(encoder)} == mapped


def test_the_published_names_of_a_kohya_file():
    """As they stand in files on the Hub."""
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert NAMES.key("unet", layer) == "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    named = kohya.tensors({"lora_unet_x": (torch.ones(2, 3), torch.ones(4, 2))}, alpha=1.5)
    assert {key: tuple(t.shape) for key, t in named.items()} == {
        "lora_unet_x.lora_down.weight": (2, 3),
        "lora_unet_x.lora_up.weight": (4, 2),
        "lora_unet_x.alpha": (),
    }
    assert named["lora_unet_x.alpha"] == 1.5


@pytest.mark.parametrize(
    ("component", "layer", "want"),
    [
        ("text_encoder", "encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.self_attn.q_proj"),
        (
            "text_encoder",
            "text_model.encoder.layers.0.self_attn.q_proj",
            "text_model.encoder.layers.0.self_attn.q_proj",
        ),
        ("text_encoder_2", "encoder.layers.1.mlp.fc1", "text_model.encoder.layers.1.mlp.fc1"),
        ("text_encoder_3", "encoder.block.0.layer.0.SelfAttention.q", "encoder.block.0.layer.0.SelfAttention.q"),
        ("unet", "_orig_mod.mid_block.x", "mid_block.x"),
        ("unet", "module._orig_mod.mid_block._orig_mod.x", "mid_block.x"),
    ],
)
def test_names_on_disk(component, layer, want):
    assert on_disk(component, layer) == want


def test_a_state_that_is_no_lora_is_a_fault_of_ours():
    with pytest.raises(ValueError, match="not the name"):
        pairs({"unet.x.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=re.escape("one factor is missing")):
        pairs({"unet.x.lora_A.weight": torch.ones(2, 2)})
