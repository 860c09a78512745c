"""Single checkpoints in the original layout, against weights that were put into it by the published naming rules."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
import torch
from models import load_sd15

from tuner import toybox
from tuner.backbones import Backbone, bundled, single_file
from tuner.errors import DataError
from tuner.sampling import sampler

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def ldm_unet(key: str, depth: int, kinds: list[str]) -> str:
    layer, _, leaf = key.rpartition(".")
    if layer in OUTER:
        return f"{OUTER[layer]}.{leaf}"
    kind, *rest = layer.split(".")
    if kind == "mid_block":
        part, index, *rest = rest
        place = "middle_block.1" if part == "attentions" else f"middle_block.{2 * int(index)}"
        return ".".join([place, *_inner(part, rest), leaf])
    level, part, index, *rest = rest
    up = kind == "up_blocks"
    if part in ("downsamplers", "upsamplers"):
        number = int(level) * (depth + 1) + depth + (0 if up else 1)
        inner = "0.op" if not up else f"{2 if kinds[int(level)].startswith('CrossAttn') else 1}.conv"
        return f"{'output' if up else 'input'}_blocks.{number}.{inner}.{leaf}"
    number = int(level) * (depth + 1) + int(index) + (0 if up else 1)
    place = f"{'output' if up else 'input'}_blocks.{number}.{1 if part == 'attentions' else 0}"
    return ".".join([place, *_inner(part, rest), leaf])


def _inner(part: str, rest: list[str]) -> list[str]:
    return rest if part == "attentions" else [RESNET[rest[0]]]


def ldm_vae(key: str, levels: int) -> str:
    key = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", key)
    key = re.sub(r"encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
    for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    return key.replace("conv_norm_out", "norm_out")


def checkpoint(configs, modules) -> dict[str, torch.Tensor]:
    """Every weight in the original layout, as published files hold them."""
    unet, vae = configs["unet"], configs["vae"]
    found = {}
    for key, value in modules["unet"].state_dict().items():
        found["model.diffusion_model." + ldm_unet(key, unet["layers_per_block"], unet["up_block_types"])] = value
    for key, value in modules["vae"].state_dict().items():
        square = re.search(r"attentions\.0\.to_.*weight", key) is not None  # a 1x1 convolution there
        found["first_stage_model." + ldm_vae(key, len(vae["block_out_channels"]))] = (
            value[:, :, None, None] if square else value
        )
    for key, value in modules["text_encoder"].state_dict().items():
        found["cond_stage_model.transformer.text_model." + key.removeprefix("text_model.")] = value
    length = configs["text_encoder"]["max_position_embeddings"]
    found["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(length)[None]
    return {key: value.contiguous() for key, value in found.items()}


@pytest.fixture
def small(sd15_model):
    """The toybox's weights in the original layout, and the model they came from."""
    return checkpoint(toybox.configs("sd15"), sd15_model.components), sd15_model


def write(path: Path, tensors) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, path)
    return path


def load(path: Path, **keys):
    backbone = Backbone.read({"name": "sd15", "model": str(path), **keys})
    configs = toybox.configs("sd15")
    return single_file.load_file(backbone, path, device=torch.device("cpu"), dtype=torch.float32, configs=configs)


def test_a_small_model_comes_back_bit_for_bit(small, tmp_path, monkeypatch):
    """Without network: a socket is an error."""
    tensors, source = small
    tensors["model_ema.decay"] = torch.zeros(1)
    tensors["first_stage_model.loss.logvar"] = torch.zeros(1)
    tensors["cond_stage_model.logit_scale"] = torch.zeros(1)
    monkeypatch.setattr(socket, "socket", lambda *_a, **_k: pytest.fail("opened a socket"))
    found = load(write(tmp_path / "model.safetensors", tensors))
    for name, module in source.components.items():
        theirs = found.components[name].state_dict()
        assert theirs.keys() == module.state_dict().keys()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())
    assert found.tokenizers["text_encoder"]("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    ids = source.tokenize(["a photo of a dog"])
    assert torch.equal(found.encode_text(ids)["text"], source.encode_text(ids)["text"])


def test_a_text_encoder_without_its_outer_level(small, tmp_path):
    """Some merged files lack `text_model.` (trap 1)."""
    tensors, source = small
    tensors = {key.replace("transformer.text_model.", "transformer."): value for key, value in tensors.items()}
    found = load(write(tmp_path / "model.safetensors", tensors))
    ids = source.tokenize(["a photo of a dog"])
    assert torch.equal(found.encode_text(ids)["text"], source.encode_text(ids)["text"])


def test_the_true_layout_by_names_and_shapes():
    """The bundled configuration against the keys of the published checkpoint: 686 + 248 + 197 of them."""
    from tuner.backbones.sd15_model import build

    configs = bundled.configs()
    modules = dict(zip(("unet", "vae", "text_encoder"), build(configs, Path("x")), strict=True))
    tensors = checkpoint(configs, modules)
    counts = [sum(key.startswith(prefix) for key in tensors) for prefix in single_file.PREFIXES.values()]
    assert counts == [686, 248, 197]
    shapes = {
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.middle_block.1.proj_in.weight": (1280, 1280, 1, 1),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight": (768, 3072),
    }
    assert {key: tuple(tensors[key].shape) for key in shapes} == shapes
    found = single_file.convert(Path("x"), tensors, configs)
    for name in ("unet", "vae"):
        expected = {key: tuple(value.shape) for key, value in modules[name].state_dict().items()}
        assert {key: tuple(value.shape) for key, value in found[name].items()} == expected


def test_clip_vocabulary():
    from tuner.backbones.clip_tokenizer import make_tokenizer

    vocabulary, merges = bundled.clip_vocabulary()
    assert len(vocabulary) == 49_408
    assert len(merges) == 48_894
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (49_406, 49_407)
    tokenizer = make_tokenizer(vocabulary, merges)
    assert tokenizer("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    assert tokenizer("a photo of an astronaut riding a horse on mars").input_ids == [
        49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407,
    ]  # fmt: skip
    assert tokenizer("a photo of sks dog").input_ids == [49406, 320, 1125, 539, 48136, 1929, 49407]


@pytest.mark.parametrize(
    ("marks", "config"),
    [
        ((), {}),
        (("v_pred",), {"prediction_type": "v_prediction"}),
        (
            ("v_pred", "ztsnr"),
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        ),
    ],
)
def test_v_prediction_and_zero_terminal_snr_are_read_off_the_keys(small, tmp_path, marks, config):
    from tuner.objectives import Objective

    tensors, _ = small
    found = load(write(tmp_path / "m.safetensors", tensors | {mark: torch.zeros(0) for mark in marks}))
    assert {key: found.scheduler[key] for key in config} == config
    assert len(found.notes) == max(len(marks), 1)
    bound = Objective.read("ddpm").bind(found.scheduler, torch.device("cpu"))
    assert bound.sampling()["prediction_type"] == config.get("prediction_type", "epsilon")
    assert sampler(found.scheduler, "dpm++", bound.sampling()).config["rescale_betas_zero_snr"] == ("ztsnr" in marks)


def test_identity_is_that_of_the_content(small, tmp_path):
    tensors, _ = small
    (tmp_path / "elsewhere").mkdir()
    one = load(write(tmp_path / "a.safetensors", tensors))
    two = load(write(tmp_path / "elsewhere" / "b.safetensors", tensors))
    assert [one.identity(n) for n in one.components] == [two.identity(n) for n in two.components]
    assert len({one.identity(n) for n in one.components}) == 3
    tensors["first_stage_model.quant_conv.bias"] = tensors["first_stage_model.quant_conv.bias"] + 1
    assert load(write(tmp_path / "c.safetensors", tensors)).identity("vae") != one.identity("vae")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA file"),
        (["unet.down_blocks.0.attentions.0.to_k.lora_A.weight"], "a LoRA file"),
        (["conditioner.embedders.0.x", "model.diffusion_model.x", "first_stage_model.x"], "an SDXL checkpoint"),
        (["cond_stage_model.model.x", "model.diffusion_model.x", "first_stage_model.x"], "a Stable Diffusion 2"),
        (["model.diffusion_model.joint_blocks.0.x"], "a Stable Diffusion 3"),
        (["down_blocks.0.resnets.0.conv1.weight"], "one component in diffusers' layout"),
        (["model.diffusion_model.x", "cond_stage_model.transformer.x"], "holds no vae"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, keys, what):
    path = write(tmp_path / "m.safetensors", {key: torch.zeros(1) for key in keys})
    with pytest.raises(DataError, match=f"m.safetensors.*{what}") as caught:
        load_sd15(path)
    assert caught.value.hint


def test_inpainting_unknown_missing_and_foreign_formats(small, tmp_path):
    tensors, _ = small
    first = "model.diffusion_model.input_blocks.0.0.weight"
    wide = tensors | {first: tensors[first].repeat(1, 3, 1, 1)[:, :9].contiguous()}
    with pytest.raises(DataError, match="9 channels: an inpainting"):
        load(write(tmp_path / "wide.safetensors", wide))
    extra = tensors | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}
    with pytest.raises(DataError, match="1 of 3.. weights of its unet have no place"):
        load(write(tmp_path / "extra.safetensors", extra))
    gone = {key: value for key, value in tensors.items() if key != first}
    with pytest.raises(DataError, match=r"gone.safetensors.*1 of \d+ weights are missing, such as conv_in.weight"):
        load(write(tmp_path / "gone.safetensors", gone))
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(DataError, match="not a .safetensors file"):
        load_sd15(tmp_path / "model.ckpt")
