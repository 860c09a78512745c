"""Settings that change how a run computes, each through the whole engine on the toybox: files verified, numbers as promised."""

from __future__ import annotations

import json

import pytest
import torch
from photos import shaped
from safetensors.torch import load_file

from tuner import engine
from tuner.recipe import Recipe


def recipe(**changes) -> Recipe:
    tree = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": [{"name": "lora", "rank": 4}],
        "task": "finetune",
        "data": {
            "resolution": 64,
            "bucket_step": 16,
            "images": {"path": str(shaped()), "caption": "a photo of sks dog"},
        },
        "train": {"steps": 4, "lr": 1e-3},
        "save": {"every": None},
        "log": {"every": 1},
    }
    if "data__crop" in changes:
        del tree["data"]["bucket_step"]
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = tree
        for key in parents:
            node = node[int(key)] if key.isdigit() else node.setdefault(key, {})
        node[leaf] = value
    return Recipe.model_validate(tree)


def run(tmp_path, name="run", **changes):
    result = engine.run(recipe(**changes), run_dir=tmp_path / name)
    weights = load_file(result.adapter / "pytorch_lora_weights.safetensors")
    rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    return weights, {(row["step"], row["name"]): row["value"] for row in rows}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_half_precision_trains_and_its_files_load_back(tmp_path, own_cache, precision, dtype):
    weights, metrics = run(tmp_path, train__precision=precision, save__dtype=dtype)
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert {t.dtype for t in weights.values()} == {wanted}
    state = load_file(tmp_path / "run" / "checkpoints" / "4" / "adapter.0.safetensors")
    assert {t.dtype for t in state.values()} == {torch.float32}, "what trains is float32 whatever the base is"
    assert ((1, "loss_scale") in metrics) == (precision == "fp16")


def test_gradient_checkpointing_changes_no_bit(tmp_path, own_cache):
    plain, one = run(tmp_path, "a", adapters__0__text_encoder_lr=1e-4)
    saved, two = run(tmp_path, "b", adapters__0__text_encoder_lr=1e-4, train__gradient_checkpointing=True)
    for name in plain:
        assert torch.allclose(plain[name], saved[name], atol=1e-6), name
    assert one[4, "loss"] == pytest.approx(two[4, "loss"], rel=1e-6)


def test_gradient_checkpointing_keeps_less(sd15_model):
    """Trap 43: a flag that acts in another mode than the one in force saves nothing."""
    model = sd15_model
    x, t = torch.randn(2, 4, 16, 16, requires_grad=True), torch.tensor([500.0, 100.0])
    cond = model.encode_text(model.tokenize(["a dog", "a cat"]))

    def kept() -> int:
        seen: dict[int, int] = {}

        def pack(tensor):
            seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.denoise(x, t, cond).sum()
        return sum(seen.values())

    before = kept()
    model.checkpoint_gradients()
    assert kept() < before / 2


def test_encoding_on_the_spot_trains_as_the_cache_does(tmp_path, own_cache):
    cached, one = run(tmp_path, "a")
    live, two = run(tmp_path, "b", data__cache="off")
    assert one[1, "loss"] == pytest.approx(two[1, "loss"], rel=1e-4)
    assert all(torch.allclose(cached[n], live[n], atol=1e-4) for n in cached)


def test_files_hold_the_average_and_say_so(tmp_path, own_cache):
    averaged, _ = run(tmp_path, "a", train__ema={"decay": 0.5})
    raw, _ = run(tmp_path, "b")
    assert any(not torch.equal(averaged[n], raw[n]) for n in raw)
    state = load_file(tmp_path / "a" / "checkpoints" / "4" / "adapter.0.safetensors")
    ema = load_file(tmp_path / "a" / "checkpoints" / "4" / "ema.safetensors")
    plain = load_file(tmp_path / "b" / "checkpoints" / "4" / "adapter.0.safetensors")
    assert all(torch.equal(state[n], plain[n]) for n in state), "averaging moves no raw weight"
    assert all(torch.equal(averaged[n], ema[n]) for n in averaged if n.startswith("unet"))
    assert "average" in (tmp_path / "a" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"objective": {"name": "ddpm", "noise_offset": 0.1}},
        {"objective": {"name": "ddpm", "input_perturbation": 0.1}},
        {"objective": {"name": "ddpm", "min_snr_gamma": 0.01}},
        {"data__flip": True},
        {"data__caption_dropout": 0.9},
        {"data__trigger": "zyx"},
        {"data__crop": "center"},
        {"data__background": "black"},
        {"data__images__repeats": 2},
        {"train__schedule": {"name": "constant", "warmup": 3}},
        {"train__schedule": "cosine"},
        {"train__schedule": "linear"},
        {"train__optimizer": {"name": "adamw", "eps": 1e-2}},
        {"train__optimizer": {"name": "adamw", "betas": [0.5, 0.9]}},
        {"train__optimizer": {"name": "adamw", "weight_decay": 10.0}},
        {"train__max_grad_norm": 1e-3, "train__optimizer": {"name": "adamw", "eps": 1e-2}},
        {"train__accumulate": 2},
        {"train__batch": 2},
        {"train__seed": 1},
        {"adapters__0__dropout": 0.5},
        {"adapters__0__init": "kaiming"},
        {"adapters__0__alpha": 1.0},
        {"backbone__clip_skip": 2},
    ],
    ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items())[:60],
)
def test_no_option_does_nothing(tmp_path, own_cache, change, plain_weights):
    """Two steps with and without: something must differ. Transparent pictures show the background's colour."""
    if "data__background" in change:
        from PIL import Image

        folder = tmp_path / "clear"
        folder.mkdir()
        Image.new("RGBA", (80, 80), (255, 0, 0, 0)).save(folder / "a.png")
        place = {"data__images": {"path": str(folder), "caption": "a dog"}}
        before, _ = run(tmp_path, "a", train__steps=2, **place)
        after, _ = run(tmp_path, "b", train__steps=2, **place, **change)
    else:
        before = plain_weights
        after, _ = run(tmp_path, "b", train__steps=2, **change)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[n], after[n]) for n in before)


@pytest.fixture(scope="module")
def plain_weights(tmp_path_factory, own_cache):
    return run(tmp_path_factory.mktemp("plain"), train__steps=2)[0]
