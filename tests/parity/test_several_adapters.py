"""Adapters of different tools on one model at once: together they do what each does alone, added up."""

from __future__ import annotations

import json

import odd_loras
import torch
from models import load_sd15
from peft.tuners.lora.layer import LoraLayer

from tuner.cli import call
from tuner.drawing import Drawing, parse_adapter, put_on
from tuner.files.merge import Weighted, add
from tuner.formats.container import read_header
from tuner.formats.find import kind_of
from tuner.watch import Watcher

WORD = torch.from_numpy(__import__("numpy").linspace(-1, 1, 192, dtype="f4")).reshape(2, 96)


def files(folder) -> list[str]:
    """A LoRA with kohya's keys and an alpha, one with diffusers' keys, and a word of two vectors."""
    first, second = odd_loras.factors("sd15", 1), odd_loras.factors("sd15", 2, rank=2)
    odd_loras.save(folder / "kohya.safetensors", odd_loras.kohya(first, alpha=2.0), tuner_base="toybox")
    odd_loras.save(folder / "diffusers.safetensors", odd_loras.diffusers(second), tuner_base="toybox")
    odd_loras.save(folder / "toy.safetensors", {"<toy>": WORD}, tuner_base="toybox", tuner_backbone="sd15")
    return [f"{folder}/kohya.safetensors:0.8", f"{folder}/diffusers.safetensors:-0.5", f"{folder}/toy.safetensors"]


def effects(path) -> dict[tuple[str, str], torch.Tensor]:
    header = read_header(path)
    found = kind_of(header).deltas(path, header)
    return {(u.component, u.layer): u.scale * u.up @ u.down for u in found}


def predict(model) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    with torch.no_grad():
        return model.denoise(x, torch.tensor([500.0]), model.encode_text(model.tokenize(["a red circle"])))


def test_together_they_are_the_sum_of_each_alone(tmp_path):
    adapters = [parse_adapter(text) for text in files(tmp_path)]
    drawing = Drawing.plan(adapters, None, "cpu")
    assert drawing.base == "toybox"
    model = load_sd15("toybox")
    put_on(drawing, model)
    one, two = effects(adapters[0].path), effects(adapters[1].path)
    seen = 0
    for component in ("unet", "text_encoder"):
        for name, layer in model.components[component].named_modules():
            if isinstance(layer, LoraLayer):
                place = component, f"text_model.{name}" if component == "text_encoder" else name
                found = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
                assert torch.allclose(found, 0.8 * one[place] - 0.5 * two[place], atol=1e-5), name
                seen += 1
    assert seen == len(one)
    ids = model.tokenizers["text_encoder"]("a photo of <toy>").input_ids
    table = next(
        module for module in model.text_encoders["text_encoder"].modules() if isinstance(module, torch.nn.Embedding)
    )
    assert torch.equal(table.weight[ids[-3]], WORD[0]) or torch.equal(table.weight[ids[-2]], WORD[0])


def test_the_prediction_is_that_of_the_base_with_the_sum_in_it(tmp_path):
    adapters = [parse_adapter(text) for text in files(tmp_path)[:2]]
    beside, within = load_sd15("toybox"), load_sd15("toybox")
    put_on(Drawing.plan(adapters, None, "cpu"), beside)
    deltas = []
    for adapter in adapters:
        header = read_header(adapter.path)
        found = kind_of(header).deltas(adapter.path, header)
        deltas += [Weighted(adapter.path, adapter.strength, delta) for delta in found]
    dtypes = dict.fromkeys(("unet", "text_encoder"), torch.float32)
    changed, _, _ = add(within, deltas, dtypes, Watcher())
    for component, tensors in changed.items():
        within.components[component].load_state_dict(tensors)
    want = predict(within)
    assert float((predict(beside) - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))


def test_on_the_command_line(tmp_path, capsys):
    words = [f"--adapter={text}" for text in files(tmp_path)]
    out = tmp_path / "picture.png"
    code = call(["generate", "a photo of <toy>", *words, "--steps=1", "--out", str(out), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0
    assert told["adapters"] == ["kohya.safetensors:0.8", "diffusers.safetensors:-0.5", "toy.safetensors:1"]
    assert out.is_file()
