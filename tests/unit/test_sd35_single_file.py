"""One .safetensors file for the transformer in its original layout, the rest from a folder."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sd35 import load_sd35, write_sd35

from tuner.backbones import Backbone
from tuner.backbones.mmdit_layout import configs
from tuner.backbones.sd35_single_file import PREFIX, default_components
from tuner.errors import DataError

PAIRS = {
    "pos_embed.proj.": "x_embedder.proj.",
    "time_text_embed.timestep_embedder.linear_1.": "t_embedder.mlp.0.",
    "time_text_embed.timestep_embedder.linear_2.": "t_embedder.mlp.2.",
    "time_text_embed.text_embedder.linear_1.": "y_embedder.mlp.0.",
    "time_text_embed.text_embedder.linear_2.": "y_embedder.mlp.2.",
    "context_embedder.": "context_embedder.",
    "proj_out.": "final_layer.linear.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
}
BLOCK = {
    "norm1.linear.": "x_block.adaLN_modulation.1.",
    "norm1_context.linear.": "context_block.adaLN_modulation.1.",
    "attn.to_out.0.": "x_block.attn.proj.",
    "attn.to_add_out.": "context_block.attn.proj.",
    "attn.norm_q.": "x_block.attn.ln_q.",
    "attn.norm_k.": "x_block.attn.ln_k.",
    "attn.norm_added_q.": "context_block.attn.ln_q.",
    "attn.norm_added_k.": "context_block.attn.ln_k.",
    "attn2.to_out.0.": "x_block.attn2.proj.",
    "attn2.norm_q.": "x_block.attn2.ln_q.",
    "attn2.norm_k.": "x_block.attn2.ln_k.",
    "ff.net.0.proj.": "x_block.mlp.fc1.",
    "ff.net.2.": "x_block.mlp.fc2.",
    "ff_context.net.0.proj.": "context_block.mlp.fc1.",
    "ff_context.net.2.": "context_block.mlp.fc2.",
}
QKV = {
    "x_block.attn": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "context_block.attn": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn2": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
}


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    """The original keeps shift before scale where diffusers keeps scale before shift."""
    return torch.cat(tensor.chunk(2)[::-1])


def original(tensors: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """A transformer's weights under the names of the original code."""
    found = {"pos_embed": tensors["pos_embed.pos_embed"]}
    for leaf in ("weight", "bias"):
        for theirs, own in PAIRS.items():
            found[own + leaf] = tensors[theirs + leaf]
        found[f"final_layer.adaLN_modulation.1.{leaf}"] = swapped(tensors[f"norm_out.linear.{leaf}"])
    for index in range(blocks):
        here, there = f"transformer_blocks.{index}.", f"joint_blocks.{index}."
        for leaf in ("weight", "bias"):
            for theirs, own in BLOCK.items():
                if here + theirs + leaf in tensors:
                    found[there + own + leaf] = tensors[here + theirs + leaf]
            for own, parts in QKV.items():
                if f"{here}{parts[0]}.{leaf}" in tensors:
                    found[f"{there}{own}.qkv.{leaf}"] = torch.cat([tensors[f"{here}{p}.{leaf}"] for p in parts])
        if index == blocks - 1:
            for leaf in ("weight", "bias"):
                key = f"{there}context_block.adaLN_modulation.1.{leaf}"
                found[key] = swapped(found[key])
    return {key: value.contiguous() for key, value in found.items()}


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory):
    """Heads of 64, as every published model has: without their norms a file does not tell."""
    shape = {"attention_head_dim": 64, "num_attention_heads": 1, "caption_projection_dim": 64}
    return {
        norm: write_sd35(tmp_path_factory.mktemp("wide") / str(norm), qk_norm=norm, num_layers=2, **shape)
        for norm in ("rms_norm", None)
    }


def single(folder, path, *, prefix=PREFIX, change=lambda tensors: None):
    tensors = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    found = original(
        tensors, 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("transformer_blocks."))
    )
    change(found)
    save_file({prefix + key: value for key, value in found.items()}, path)
    return path


def refused(path, *words, **keys):
    with pytest.raises(DataError) as caught:
        load_sd35(path, **keys)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("prefix", [PREFIX, ""])
@pytest.mark.parametrize("kind", ["tiny", "wide", "without norms"])
def test_it_is_the_folders_model(sd35_folder, wide_folder, tmp_path, prefix, kind):
    folder = {"tiny": sd35_folder, "wide": wide_folder["rms_norm"], "without norms": wide_folder[None]}[kind]
    path = single(folder, tmp_path / "model.safetensors", prefix=prefix)
    there, here = load_sd35(folder), load_sd35(path, components=str(folder))
    own = here.denoiser.state_dict()
    assert own.keys() == there.denoiser.state_dict().keys()
    assert all(torch.equal(value, own[key]) for key, value in there.denoiser.state_dict().items())
    x_t, t = torch.randn(1, 16, 8, 8, generator=torch.manual_seed(0)), torch.tensor([500.0])
    with torch.no_grad():
        answers = [m.denoise(x_t, t, m.encode_text(m.tokenize(["a dog"]))) for m in (there, here)]
    assert torch.equal(*answers)
    assert here.backbone.layout().parameters == there.backbone.layout().parameters
    assert any(path.name in note for note in here.notes)
    assert here.identity("vae") == there.identity("vae")
    assert here.identity("transformer") != there.identity("transformer")


def test_text_encoders_and_vae_of_a_full_file_are_left_out(sd35_folder, tmp_path):
    path = single(sd35_folder, tmp_path / "all.safetensors")
    tensors = load_file(path) | {"first_stage_model.x": torch.zeros(1), "text_encoders.clip_l.y": torch.zeros(1)}
    save_file(tensors, path)
    model = load_sd35(path, components=str(sd35_folder))
    assert any("VAE and text encoders come from" in note for note in model.notes)


def test_missing_and_surplus_weights(sd35_folder, tmp_path):
    path, keys = tmp_path / "model.safetensors", {"components": str(sd35_folder)}
    single(sd35_folder, path, change=lambda t: t.pop("joint_blocks.1.x_block.attn.qkv.weight"))
    refused(path, "model.safetensors", "is missing", "joint_blocks.1", **keys)
    single(sd35_folder, path, change=lambda t: t.pop("context_embedder.weight"))
    refused(path, "context_embedder.weight", **keys)
    single(sd35_folder, path, change=lambda t: t.update({"joint_blocks.0.stranger": torch.zeros(1)}))
    refused(path, "1 weights", "joint_blocks.0.stranger", **keys)
    single(sd35_folder, path, change=lambda t: t.update({"pos_embed": torch.zeros(3)}))
    refused(path, "misshapen", **keys)
    with pytest.raises(DataError, match="misshapen"):
        Backbone.read({"name": "sd35", "model": str(path), **keys}).layout()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_unet_x.lora_up.weight", ["a LoRA file"]),
        ("transformer_blocks.0.attn.to_q.weight", ["one component in diffusers' layout"]),
        ("double_blocks.0.x", ["FLUX"]),
        ("conditioner.embedders.0.x", ["SDXL"]),
        ("model.diffusion_model.input_blocks.0.weight", ["UNet", "sd15"]),
        ("anything", ["no joint blocks"]),
    ],
)
def test_other_files_are_told_apart(sd35_folder, tmp_path, key, words):
    save_file({key: torch.zeros(1)}, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", *words, components=str(sd35_folder))


def test_damaged_and_foreign_formats(sd35_folder, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no")
    refused(path, "x.safetensors", components=str(sd35_folder))
    with pytest.raises(DataError, match="cut off"):
        Backbone.read({"name": "sd35", "model": str(path)}).layout()
    pickle = tmp_path / "x.ckpt"
    pickle.write_bytes(b"no")
    refused(pickle, "can run code")


def test_components_that_are_not_there(sd35_folder, tmp_path):
    path = single(sd35_folder, tmp_path / "model.safetensors")
    refused(path, "backbone.components", "no such file or folder", components=str(tmp_path / "nothing"))
    refused(path, "backbone.components", "not a folder", components=str(path))
    refused(path, "model_index.json", components=str(tmp_path))
    refused(path, "3 blocks", "no published size")


def test_where_the_rest_comes_from():
    homes = {
        "large": "stabilityai/stable-diffusion-3.5-large",
        "medium": "stabilityai/stable-diffusion-3.5-medium",
        "sd3_medium": "stabilityai/stable-diffusion-3-medium-diffusers",
    }
    for size, home in homes.items():
        assert default_components("x", configs(size)["transformer"]) == home  # type: ignore[arg-type]
