"""SD3.5 models that are incomplete, damaged, unsafe or of another kind: each is one message that says what to do."""

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
from refusals import refused_by
from safetensors.torch import load_file, save_file
from tiny_sd35 import load_sd35, write_sd35

from tuner.backbones import Backbone
from tuner.errors import DataError

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
T5 = "text_encoder_3/model.safetensors"


@pytest.fixture
def folder(sd35_folder, tmp_path) -> Path:
    return Path(shutil.copytree(sd35_folder, tmp_path / "copy"))


refused = partial(refused_by, load_sd35)


def change(path: Path, **keys) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "text_encoder_2/config.json",
        "text_encoder_3/config.json",
        TRANSFORMER,
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        T5,
        "tokenizer/vocab.json",
        "tokenizer_2/merges.txt",
        "tokenizer_3/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    part = name.rpartition("/")[0] if name.endswith("safetensors") else name
    refused(folder, part)


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder", "text_encoder_3", "tokenizer_3", "scheduler"])
def test_a_missing_component_is_named(folder, name):
    """Listed but not there is a fault; what the model never had is not."""
    shutil.rmtree(folder / name)
    refused(folder, name)


def test_t5_that_is_not_wanted_is_not_looked_for(folder):
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")
    assert set(load_sd35(folder, t5=False).text_encoders) == {"text_encoder", "text_encoder_2"}
    assert "backbone.t5 to false" in refused(folder, "text_encoder_3").hint


def test_without_any_clip(folder):
    change(folder / "model_index.json", text_encoder=[None, None], text_encoder_2=[None, None])
    refused(folder, "no CLIP text encoder")


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
@pytest.mark.parametrize("name", [TRANSFORMER, T5])
def test_a_truncated_file_is_named(folder, name, keep):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    refused(folder, name, "damaged")


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "transformer/config.json",
        "text_encoder_2/config.json",
        "text_encoder_3/config.json",
        "tokenizer/vocab.json",
        "tokenizer_3/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
def test_damaged_json(folder, name, content):
    (folder / name).write_bytes(content)
    refused(folder)


@pytest.mark.parametrize("name", ["model_index", "transformer/config", "text_encoder_3/config", "vae/config"])
def test_a_file_that_says_nothing(folder, name):
    (folder / f"{name}.json").write_text("{}")
    refused(folder)


@pytest.mark.parametrize(
    "model",
    [
        {"type": "BPE", "vocab": {"a": 0}},
        {"type": "Unigram", "vocab": [["a", 0.0]]},
        {"type": "Unigram", "vocab": [["a"]]},
        {"type": "Unigram", "vocab": [[1, 2]]},
        [],
        None,
    ],
)
def test_a_tokenizer_that_is_not_t5s(folder, model):
    change(folder / "tokenizer_3/tokenizer.json", model=model)
    refused(folder, "tokenizer_3", "T5")


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline", None])
def test_another_kind_of_model(folder, kind):
    change(folder / "model_index.json", _class_name=kind)
    refused(folder, str(kind), "StableDiffusion3")


def test_the_sd15_toybox_is_another_kind(sd15_folder):
    refused(sd15_folder, "StableDiffusionPipeline")


def test_the_toybox_is_loaded_or_says_that_it_is_not_there():
    from tuner import toybox

    if toybox.folder("sd35").is_dir():
        assert load_sd35("toybox").text_encoders
    else:
        refused("toybox", "toybox", "sd35")
        with pytest.raises(DataError, match="no toybox model of sd35"):
            Backbone.read({"name": "sd35", "model": "toybox"}).layout()


def test_pickles_alone_are_refused_and_not_opened(folder, monkeypatch):
    (folder / T5).rename(folder / "text_encoder_3/pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("opened a pickle"))
    refused(folder, "pytorch_model.bin", "can run code")


def test_components_of_two_models(folder):
    change(folder / "transformer/config.json", joint_attention_dim=64)
    refused(folder, "T5's width: 48", "takes 64")
    change(folder / "transformer/config.json", joint_attention_dim=48, pooled_projection_dim=64)
    refused(folder, "pooled width: 40", "takes 64")
    change(folder / "transformer/config.json", pooled_projection_dim=40, in_channels=4)
    refused(folder, "latent channels: 16", "takes 4")
    change(folder / "transformer/config.json", in_channels=16, qk_norm="nonsense")
    refused(folder, "does not describe")
    change(folder / "transformer/config.json", qk_norm="rms_norm", num_layers=4)
    refused(folder, "weights are missing")
    change(folder / "transformer/config.json", num_layers=3, dual_attention_layers=[0])
    refused(folder, "weights are unknown", "attn2")
    change(folder / "transformer/config.json", dual_attention_layers=[0, 1], patch_size=4)
    refused(folder, "32 px")


def test_missing_extra_and_misshapen_weights_are_counted_and_never_random(folder):
    tensors = load_file(folder / TRANSFORMER)
    lacking = {key: value for key, value in tensors.items() if not key.startswith("proj_out")}
    save_file(lacking, folder / TRANSFORMER)
    refused(folder, "transformer", "2 of", "missing", "proj_out.bias")
    save_file(tensors | {"proj_out.bias": torch.zeros(3)}, folder / TRANSFORMER)
    refused(folder, "1 weights have another shape", "proj_out.bias")
    save_file({key: value for key, value in tensors.items() if key != "pos_embed.pos_embed"}, folder / TRANSFORMER)
    refused(folder, "missing", "pos_embed")


def test_t5_files_hold_its_table_of_words_under_either_name(folder, sd35_folder):
    """Trap 7; a whole T5 also brings its decoder, which nothing here needs."""
    tensors = load_file(folder / T5)
    table = tensors.pop("shared.weight")
    want = load_sd35(sd35_folder)
    for extra in (
        {"encoder.embed_tokens.weight": table},
        {"shared.weight": table, "encoder.embed_tokens.weight": table.clone()},
        {"shared.weight": table, "decoder.final_layer_norm.weight": torch.zeros(3), "lm_head.weight": torch.zeros(3)},
    ):
        save_file(tensors | extra, folder / T5)
        found = load_sd35(folder)
        with torch.no_grad():
            tokens = want.tokenize(["a dog"])
            assert torch.equal(found.encode_text(tokens)["text"], want.encode_text(tokens)["text"])
    save_file(tensors, folder / T5)
    refused(folder, "text_encoder_3", "missing")


def test_shards_and_the_sixteen_bit_variant(folder, sd35_folder):
    tensors = load_file(folder / T5)
    (folder / T5).unlink()
    names = [f"model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    keys = sorted(tensors)
    weights = {}
    for name, mine in zip(names, (keys[:9], keys[9:]), strict=True):
        save_file({key: tensors[key].half() for key in mine}, folder / "text_encoder_3" / name)
        weights |= dict.fromkeys(mine, name)
    (folder / "text_encoder_3/model.safetensors.index.fp16.json").write_text(json.dumps({"weight_map": weights}))
    model = load_sd35(folder)
    assert torch.equal(model.text_encoders["text_encoder_3"].shared.weight, tensors["shared.weight"].half().float())
    assert sum("text_encoder_3" in note and "16-bit" in note for note in model.notes) == 2
    (folder / "text_encoder_3" / names[1]).unlink()
    refused(folder, names[1])


def test_qk_norm_is_stated_and_missed(tmp_path, sd35_folder):
    plain = write_sd35(tmp_path / "plain", qk_norm=None, dual_attention_layers=())
    low = Backbone.read({"name": "sd35", "model": str(plain)}).load(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert any("not normalised" in note for note in low.notes)
    (warning,) = low.warnings
    assert "fp32" in warning
    assert load_sd35(plain).warnings == ()
    normed = load_sd35(sd35_folder)
    assert any("RMSNorm" in note and "2 of them" in note for note in normed.notes)
    assert normed.warnings == ()


@pytest.mark.parametrize("model", ["./nothing/here", "nothing", "a/b/c", "a/b.safetensors"])
def test_a_path_that_is_not_there(model):
    refused(model, model, "no such file or folder", "--rehearse")


def test_the_download_fetches_nothing_that_runs_code_and_no_t5_that_is_not_wanted(monkeypatch, sd35_folder):
    import huggingface_hub

    calls = []

    def fetch(model, **keys):
        calls.append(keys)
        return str(sd35_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    load_sd35("a/b", revision="r1")
    load_sd35("a/b", t5=False)
    assert len(calls) == 2
    assert calls[0]["revision"] == "r1"
    for call in calls:
        assert all(pattern.endswith((".json", ".safetensors", ".txt")) for pattern in call["allow_patterns"])
        assert {"*.fp16.*", "*.fp16-*"} <= set(call["ignore_patterns"])
    assert "text_encoder_3/*.safetensors" in calls[0]["allow_patterns"]
    assert not any("_3/" in pattern for pattern in calls[1]["allow_patterns"])


def test_another_kind_of_repository_on_the_hub_is_a_message(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_a, **_k: str(tmp_path))
    refused("a/b", "model_index.json")


def test_the_offline_flag_uses_the_cache_and_nothing_else(sd35_folder, tmp_path):
    """In a process of its own, since the flag is read when huggingface_hub is imported; a socket there is an error."""
    snapshot = tmp_path / "hub/models--some--model/snapshots/0123456789012345678901234567890123456789"
    shutil.copytree(sd35_folder, snapshot)
    (tmp_path / "hub/models--some--model/refs").mkdir()
    (tmp_path / "hub/models--some--model/refs/main").write_text(snapshot.name)
    code = (
        "import socket\n"
        "def none(*a, **k): raise SystemExit('opened a socket')\n"
        "socket.socket.connect = none; socket.getaddrinfo = none\n"
        "import torch\n"
        "from tuner.backbones import Backbone\n"
        "from tuner.errors import DataError\n"
        "keys = dict(device=torch.device('cpu'), dtype=torch.float32)\n"
        "there = Backbone.read({'name': 'sd35', 'model': 'some/model'})\n"
        "print(there.layout().text_width, there.load(**keys).tokenize(['a dog']).ids['text_encoder_3'].shape)\n"
        "try: Backbone.read({'name': 'sd35', 'model': 'some/other'}).load(**keys)\n"
        "except DataError as error: print(error)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "48 torch.Size([1, 256])"
    assert "some/other is not in the Hub's cache" in lines[1]


def test_layout_of_a_foreign_folder_is_a_message(folder):
    (folder / "transformer/config.json").write_text('{"sample_size": 1}')
    with pytest.raises(DataError, match="do not describe an SD3 model"):
        Backbone.read({"name": "sd35", "model": str(folder)}).layout()
    refused(folder)
