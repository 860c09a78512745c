"""Base models that are incomplete, damaged, unsafe or unreachable: each is one message that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from models import load_sd15
from refusals import refused_by
from safetensors.torch import load_file, save_file

from tuner.errors import DataError

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(sd15_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd15_folder, tmp_path / "copy"))


refused = partial(refused_by, load_sd15)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        UNET,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    part = name.rpartition("/")[0] if name.endswith("safetensors") else name.rpartition("/")[2]
    refused(folder, part)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(folder, name):
    shutil.rmtree(folder / name)
    refused(folder, name)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_a_truncated_file_is_named(folder, keep):
    path = folder / UNET
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    refused(folder, UNET, "damaged")


@pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_damaged_json(folder, name, content):
    (folder / name).write_bytes(content)
    refused(folder, name)


def test_pickles_alone_are_refused_and_not_opened(folder, monkeypatch):
    (folder / UNET).rename(folder / "unet/diffusion_pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("opened a pickle"))
    refused(folder, "diffusion_pytorch_model.bin", "can run code", "safe_serialization=True")


def test_the_sixteen_bit_variant_stands_in_and_is_told(folder):
    tensors = {key: value.half() for key, value in load_file(folder / UNET).items()}
    (folder / UNET).unlink()
    save_file(tensors, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    model = load_sd15(folder)
    assert model.denoiser.conv_in.weight.dtype == torch.float32
    assert torch.equal(model.denoiser.conv_in.weight, tensors["conv_in.weight"].float())
    assert any("unet" in note and "fp16" in note for note in model.notes)
    assert load_sd15("toybox").notes == ()


def test_shards_are_put_together_and_a_lost_one_is_named(folder):
    tensors = load_file(folder / UNET)
    (folder / UNET).unlink()
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    keys = sorted(tensors)
    half = len(keys) // 2
    weights = {}
    for name, mine in zip(names, (keys[:half], keys[half:]), strict=True):
        save_file({key: tensors[key] for key in mine}, folder / "unet" / name)
        weights |= dict.fromkeys(mine, name)
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weights}))
    found = load_sd15(folder).denoiser.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in tensors.items())
    (folder / "unet" / names[1]).unlink()
    refused(folder, names[1])
    index.write_text(json.dumps({"weight_map": {"x": "../../../etc/passwd"}}))
    refused(folder, "unet/passwd")
    index.write_text("{}")
    refused(folder, "weight_map")


def edit(folder: Path, change) -> None:
    tensors = load_file(folder / UNET)
    change(tensors)
    save_file(tensors, folder / UNET)


def test_missing_extra_and_misshapen_weights_are_counted_and_never_random(folder):
    edit(folder, lambda t: (t.pop("conv_in.weight"), t.pop("conv_in.bias")))
    refused(folder, "unet", "2 of", "missing", "conv_in.bias")
    edit(folder, lambda t: t.update({"conv_in.weight": torch.zeros(48, 4, 3, 3), "conv_in.bias": torch.zeros(48)}))
    load_sd15(folder)
    edit(folder, lambda t: t.update({"conv_in.weight": torch.zeros(48, 5, 3, 3)}))
    refused(folder, "1 weights have another shape", "conv_in.weight", "(48, 5, 3, 3)", "(48, 4, 3, 3)")
    edit(folder, lambda t: t.update({"conv_in.weight": torch.zeros(48, 4, 3, 3), "stranger.weight": torch.zeros(1)}))
    refused(folder, "1 weights are unknown", "stranger.weight")


def test_components_of_two_models(folder):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"cross_attention_dim": 768}))
    refused(folder, "96 wide", "takes 768")
    (folder / "unet/config.json").write_text(json.dumps(config | {"in_channels": 9}))
    refused(folder, "9 channels", "inpainting")
    (folder / "unet/config.json").write_text(json.dumps(config | {"down_block_types": ["Nonsense"] * 3}))
    refused(folder, "does not describe")


def with_attention(folder):
    """Give a model's VAE the attention of SD1.5's, which the toybox's does without; its weights."""
    from diffusers import AutoencoderKL

    config = json.loads((folder / "vae/config.json").read_text()) | {"mid_block_add_attention": True}
    (folder / "vae/config.json").write_text(json.dumps(config))
    weights = AutoencoderKL.from_config(config).state_dict()
    save_file(weights, folder / "vae/diffusion_pytorch_model.safetensors")
    return weights


def test_names_of_old_files(folder):
    """The VAE of SD1.5 as published has the attention names of its time, and CLIP a buffer of positions."""
    vae = with_attention(folder)
    plain = load_sd15(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in vae.items():
        for new, before in old.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[key] = value
    assert renamed.keys() != vae.keys()
    save_file(renamed, folder / "vae/diffusion_pytorch_model.safetensors")
    path = folder / "text_encoder/model.safetensors"
    text = load_file(path)
    assert all(key.startswith("text_model.") for key in text)
    save_file(text | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)
    found = load_sd15(folder)
    for name, module in plain.components.items():
        own = found.components[name].state_dict()
        assert all(torch.equal(value, own[key]) for key, value in module.state_dict().items())
    save_file({key.removeprefix("text_model."): value for key, value in text.items()}, path)
    assert torch.equal(
        load_sd15(folder).text_encoders["text_encoder"].final_layer_norm.weight,
        plain.text_encoders["text_encoder"].final_layer_norm.weight,
    )


def test_what_diffusers_saves_loads_again(sd15_model, tmp_path):
    """transformers 5 writes tokenizer.json alone."""
    sd15_model.tokenizers["text_encoder"].add_tokens(["<subject>"])
    sd15_model.pipeline().save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved/tokenizer/vocab.json").exists()
    again = load_sd15(tmp_path / "saved")
    prompts = ["a photo of sks dog", "a <subject> on grass", ""]
    assert torch.equal(again.tokenize(prompts).ids["text_encoder"], sd15_model.tokenize(prompts).ids["text_encoder"])
    assert again.identity("unet") != ""


def test_identity_is_that_of_the_content(folder, sd15_folder, tmp_path):
    """The same wherever it lies and whatever wrote its config; another when a weight, a word or a setting differs."""
    there, here = load_sd15(sd15_folder), load_sd15(folder)
    assert {n: there.identity(n) for n in there.components} == {n: here.identity(n) for n in here.components}
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"_diffusers_version": "9", "_name_or_path": "x"}))
    assert load_sd15(folder).identity("unet") == there.identity("unet")
    (folder / "unet/config.json").write_text(json.dumps(config | {"flip_sin_to_cos": False}))
    assert load_sd15(folder).identity("unet") != there.identity("unet")
    edit(folder, lambda t: t["conv_in.bias"].add_(1))
    (folder / "unet/config.json").write_text(json.dumps(config))
    changed = load_sd15(folder)
    assert changed.identity("unet") != there.identity("unet")
    assert changed.identity("text_encoder") == there.identity("text_encoder")
    vocabulary = json.loads((folder / "tokenizer/vocab.json").read_text())
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (folder / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    assert load_sd15(folder).identity("text_encoder") != there.identity("text_encoder")


def test_weights_are_copied_from_the_file(folder):
    """A file that is written over after loading must not move a weight."""
    model = load_sd15(folder)
    before = model.denoiser.conv_in.weight.clone()
    with (folder / UNET).open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\x7f" * 4096)
    assert torch.equal(before, model.denoiser.conv_in.weight)
    assert all(p.isfinite().all() for p in model.denoiser.parameters())


def test_clip_skip_beyond_the_text_encoder(folder):
    refused(folder, "clip_skip: 5", "3 layers", clip_skip=5)


@pytest.mark.parametrize(
    "model", ["./nothing/here", "/nothing/here", "nothing", "a/b/c", "a/b.safetensors", "~/nothing/x"]
)
def test_a_path_that_is_not_there(model):
    refused(model, model, "no such file or folder", "--rehearse")


def test_revision_has_no_effect_on_a_path(folder):
    refused(folder, "revision", "no effect", revision="main")
    with pytest.raises(ValueError, match="has no effect"):
        load_sd15("toybox", revision="main")


def response(status: int, **headers):
    import httpx2

    return httpx2.Response(status, headers=headers, request=httpx2.Request("GET", "https://huggingface.co/a/b"))


def hub_errors():
    import httpx2
    from huggingface_hub import errors

    return {
        "gated": (
            errors.GatedRepoError("no", response=response(403)),
            ["gated", "https://huggingface.co/a/b", "hf auth login"],
        ),
        "forbidden": (errors.HfHubHTTPError("no", response=response(403)), ["gated", "hf auth login"]),
        "unknown": (
            errors.RepositoryNotFoundError("no", response=response(401)),
            ["the Hub has no a/b", "hf auth login"],
        ),
        "revision": (errors.RevisionNotFoundError("no", response=response(404)), ["has no revision 'r1'"]),
        "busy": (errors.HfHubHTTPError("no", response=response(503)), ["answered 503", "--rehearse"]),
        "away": (errors.LocalEntryNotFoundError("no"), ["cannot be reached", "--rehearse"]),
        "broken": (httpx2.ConnectError("no"), ["cannot be reached", "--rehearse"]),
        "slow": (httpx2.ReadTimeout("no"), ["cannot be reached", "--rehearse"]),
    }


@pytest.mark.parametrize("name", ["gated", "forbidden", "unknown", "revision", "busy", "away", "broken", "slow"])
def test_a_failed_download_says_what_to_do(monkeypatch, name):
    import huggingface_hub

    error, words = hub_errors()[name]

    def fail(*_a, **_k):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refused("a/b", *words, revision="r1")


def test_a_full_disk_while_downloading(monkeypatch):
    import huggingface_hub

    from tuner.errors import StorageError

    def fail(*_a, **_k):
        raise OSError(28, "No space left on device", "/hub/blob")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(StorageError, match="/hub/blob"):
        load_sd15("a/b")


def test_the_download_fetches_nothing_that_runs_code(monkeypatch, sd15_folder):
    """And asks for the 16-bit variant only where the plain files are not enough."""
    import huggingface_hub

    from tuner.backbones import download
    from tuner.backbones.sd15_model import FILES

    calls = []

    def fetch(model, **keys):
        calls.append(keys)
        return str(sd15_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load_sd15("a/b", revision="r1")
    assert len(calls) == 1
    assert calls[0]["revision"] == "r1"
    assert all(pattern.endswith((".json", ".safetensors", ".txt")) for pattern in calls[0]["allow_patterns"])
    assert "*.fp16.*" in calls[0]["ignore_patterns"]
    download.locate("a/b", None, FILES, complete=lambda _: False)
    assert "*.fp16.*" not in calls[2]["ignore_patterns"]


def test_the_offline_flag_uses_the_cache_and_nothing_else(sd15_folder, tmp_path):
    """In a process of its own, since the flag is read when huggingface_hub is imported; a socket there is an error."""
    snapshot = tmp_path / "hub/models--some--model/snapshots/0123456789012345678901234567890123456789"
    shutil.copytree(sd15_folder, snapshot)
    (tmp_path / "hub/models--some--model/refs").mkdir()
    (tmp_path / "hub/models--some--model/refs/main").write_text(snapshot.name)
    code = (
        "import socket, sys\n"
        "def none(*a, **k): raise SystemExit('opened a socket')\n"
        "socket.socket.connect = none; socket.getaddrinfo = none\n"
        "import torch\n"
        "from tuner.backbones import Backbone\n"
        "from tuner.errors import DataError\n"
        "keys = dict(device=torch.device('cpu'), dtype=torch.float32)\n"
        "there = Backbone.read({'name': 'sd15', 'model': 'some/model'})\n"
        "assert there.layout().factor == 4\n"
        "print(there.load(**keys).factor)\n"
        "try: Backbone.read({'name': 'sd15', 'model': 'some/other'}).load(**keys)\n"
        "except DataError as error: print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "4"
    assert "some/other is not in the Hub's cache" in lines[1]
    assert "HF_HUB_OFFLINE" in lines[1]
    assert "--rehearse" in lines[2]


def test_layout_of_a_foreign_folder_is_a_message(folder):
    from tuner.backbones import Backbone

    (folder / "unet/config.json").write_text('{"sample_size": 1}')
    with pytest.raises(DataError, match="do not describe an SD1.5 model"):
        Backbone.read({"name": "sd15", "model": str(folder)}).layout()
    refused(folder, "")
