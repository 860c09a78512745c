"""Adapters out of pickles: what other tools save becomes a file that loads, and whatever else is refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import foreign_loras
import pytest
import torch
from safetensors.torch import load_file

from tuner.cli import call
from tuner.errors import DataError, UsageError
from tuner.formats.find import find_files
from tuner.formats.fusing import Update
from tuner.formats.importing import import_file
from tuner.formats.inspect import inspect_file

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
VECTORS = torch.arange(2 * 768.0).reshape(2, 768) / 1000


def saved(path: Path, tree: object, **how: Any) -> Path:
    torch.save(tree, path, **how)
    return path


def embedding(**more: object) -> dict[str, object]:
    """As A1111's trainer saves one."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": VECTORS.clone().requires_grad_()},
        "name": "anything",
        "step": 1200,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "v1-5",
        **more,
    }


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "old"])
def test_an_embedding_of_a1111(tmp_path, monkeypatch, how):
    """Its word is what the file is called, there as here."""
    monkeypatch.chdir(tmp_path)
    made = import_file(saved(tmp_path / "bad-hands-5.pt", embedding(), **how), None)
    assert made.file == Path("bad-hands-5.safetensors")
    assert torch.equal(load_file(made.file)["emb_params"], VECTORS)
    told = inspect_file(made.file)
    assert (told["kind"], told["token"], told["vectors"], told["steps"]) == (
        "textual_inversion",
        "bad-hands-5",
        2,
        1200,
    )
    assert told["problem"] is None


def test_a_concept_of_diffusers(tmp_path):
    made = import_file(saved(tmp_path / "learned_embeds.bin", {"<cat>": VECTORS[0]}), tmp_path / "cat.safetensors")
    assert inspect_file(made.file)["token"] == "<cat>"
    assert "the word <cat>, 1 vectors" in made.said


@pytest.mark.parametrize("spelling", ["kohya", "diffusers", "attention processors", "lycoris"])
@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "dog.pt", "dog.ckpt"])
def test_a_lora_keeps_its_keys_and_numbers(tmp_path, spelling, name):
    draws = torch.arange(12.0)
    own = foreign_loras.write(
        tmp_path / "own.safetensors",
        spelling,
        "sd15",
        [Update("unet", LAYER, draws.reshape(2, 6).half(), draws.reshape(6, 2).half())],
    )
    tensors = load_file(own)
    tree = {"state_dict": tensors} if name.endswith("ckpt") else tensors
    made = import_file(saved(tmp_path / name, tree), tmp_path / "made.safetensors")
    back = load_file(made.file)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) and back[key].dtype == tensors[key].dtype for key in tensors)
    assert (made.kind, inspect_file(made.file)["format"]) == ("lora", spelling)


class Boom:
    """What a pickle runs when it is loaded as pickles are."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


KOHYA = f"lora_unet_{LAYER.replace('.', '_')}"
FACTORS = {f"{KOHYA}.lora_down.weight": torch.ones(2, 6), f"{KOHYA}.lora_up.weight": torch.ones(6, 2)}
REFUSED = {
    "a list": ([torch.ones(2), torch.ones(2)], "a list without names"),
    "a number": (3, "no table of tensors"),
    "nothing": ({}, "no table of tensors"),
    "a tensor": (torch.ones(3), "no table of tensors"),
    "two words": (embedding(string_to_param={"*": VECTORS, "+": VECTORS}), "2 words"),
    "no words": (embedding(string_to_param=[]), "no words"),
    "of SD 2": (embedding(string_to_param={"*": torch.ones(2, 1024)}), "Stable Diffusion 2"),
    "of SDXL": ({"<x>": torch.ones(2, 2048)}, "SDXL"),
    "not finite": (embedding(string_to_param={"*": VECTORS * float("nan")}), "not finite"),
    "whole numbers": ({"<x>": torch.ones(2, 768, dtype=torch.int64)}, "16 or 32 bit floats"),
    "half a LoRA": (dict(list(FACTORS.items())[:1]), "only one of its two factors"),
    "no layers": ({"a": torch.ones(2), "b": torch.ones(2)}, "no LoRA with the keys"),
    "a table in a table": ({"a": {"b": torch.ones(2)}}, "no tensor"),
    "a checkpoint": ({"state_dict": {"model.diffusion_model.out.2.weight": torch.ones(2)}}, "a whole checkpoint"),
    "T5 of OneTrainer": (
        {f"lora_te3_encoder_block_0_layer_0_SelfAttention_q.{s}.weight": torch.ones(2, 2) for s in ("lora_up", "lora_down")},
        "trained on T5",
    ),
    "sparse": ({"<x>": torch.ones(2, 768).to_sparse()}, "floats are expected"),
    "claims more": ({"<x>": torch.ones(1).expand(2, 768)}, "claims more numbers than the file holds"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_is_refused_by_name(tmp_path, case):
    tree, said = REFUSED[case]
    path, out = saved(tmp_path / "x.pt", tree), tmp_path / "out.safetensors"
    with pytest.raises(DataError, match=said) as caught:
        import_file(path, out)
    assert caught.value.message.startswith(str(path))
    assert not out.exists()


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.ckpt"])
def test_no_code_of_a_pickle_runs(tmp_path, name):
    ran, path = tmp_path / "ran", tmp_path / name
    path.write_bytes(pickle.dumps({"string_to_param": Boom(ran)}))
    for step in (lambda: import_file(path, tmp_path / "out.safetensors"), lambda: find_files(path)):
        with pytest.raises(DataError, match=name):
            step()
    saved(path, {"a": Boom(ran)})
    with pytest.raises(DataError, match="without running"):
        import_file(path, tmp_path / "out.safetensors")
    assert not ran.exists()


def test_an_output_that_is_there_stays(tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        import_file(saved(tmp_path / "x.pt", embedding()), out)
    assert out.read_text() == "mine"


def test_the_command_says_what_it_made(tmp_path, capsys):
    path, out = saved(tmp_path / "x.pt", FACTORS), tmp_path / "out.safetensors"
    assert call(["import", str(path), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["format"], told["warnings"]) == ("lora", "kohya", [])


def test_words_of_onetrainer(tmp_path):
    """It spells the key of SD1.5's as here; vectors for a text encoder's output have no place anywhere else."""
    from safetensors.torch import save_file

    save_file({"emp_params": VECTORS}, tmp_path / "toy.safetensors")
    told = inspect_file(tmp_path / "toy.safetensors")
    assert (told["token"], told["backbone"], told["problem"]) == ("toy", "sd15", None)
    save_file({"emp_params": VECTORS, "emp_params_out": VECTORS.clone()}, tmp_path / "out.safetensors")
    assert "text encoder's output" in inspect_file(tmp_path / "out.safetensors")["problem"]
    save_file({"clip_l": VECTORS, "clip_g": torch.ones(2, 1280), "t5": torch.ones(2, 4096)}, tmp_path / "j.safetensors")
    assert inspect_file(tmp_path / "j.safetensors")["family"] == "Stable Diffusion 3"
    save_file({"clip_l": VECTORS, "clip_g": torch.ones(2, 1280)}, tmp_path / "xl.safetensors")
    assert inspect_file(tmp_path / "xl.safetensors")["family"] == "Stable Diffusion 3, or SDXL"
