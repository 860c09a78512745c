"""What is extracted from a fine-tuned model is what was trained, to the last tensor: in the file, or named as left out."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from models import load_sd15
from tiny_sd35 import load_sd35

from tuner.adapters import Adapter
from tuner.cli import call
from tuner.draws import Draws
from tuner.errors import DataError, UsageError
from tuner.files.extract import extract
from tuner.files.low_rank import Wanted
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.load import load_adapter
from tuner.formats.lora_kind import LoRAKind
from tuner.watch import Watcher

RANK = 2
WATCHER = Watcher()


def load(family: str, place: str = "toybox"):
    return load_sd15(place) if family == "sd15" else load_sd35(place, t5_length=16)


def low_rank(shape: torch.Size, name: str) -> torch.Tensor:
    rows, columns = shape[0], math.prod(shape[1:])
    left, right = (
        torch.from_numpy(Draws(1).normal(size, name, side)).float()
        for side, size in (("left", (rows, RANK)), ("right", (RANK, columns)))
    )
    return (left @ right).reshape(shape) * 0.01


class Tuned:
    """A full fine-tune whose every matrix moved by one of rank 2, and every vector a little."""

    def __init__(self, family: str, folder: Path) -> None:
        self.family, self.model = family, load(family)
        text = {"text_encoder_lr": 1e-5} if family == "sd15" else {}
        adapter = Adapter.read({"name": "full", **text})
        attachment = adapter.attach(self.model, keep_base=False, draws=Draws(0))
        self.moves: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for name, tensor in attachment.state_dict().items():
                big = tensor.ndim in (2, 4)
                move = low_rank(tensor.shape, name) if big else torch.full_like(tensor, 1e-4)
                self.moves[name] = move * (0.01 if "embed" in name.split(".")[1] else 1)  # no LoRA holds these
                tensor.add_(self.moves[name])
        folder.mkdir()
        about = About("dog", family=family, base="toybox")
        self.files = attachment.export(folder, attachment.state_dict(), about)
        self.folder = folder / "model"

    def predict(self) -> torch.Tensor:
        return predict(self.model)


def predict(model) -> torch.Tensor:
    x = torch.randn(1, model.channels, 8, 8, generator=torch.manual_seed(0))
    with torch.no_grad():
        return model.denoise(x, torch.tensor([500.0]), model.encode_text(model.tokenize(["a red circle"])))


@pytest.fixture(scope="module", params=["sd15", "sd35"])
def tuned(request, tmp_path_factory) -> Tuned:
    return Tuned(request.param, tmp_path_factory.mktemp("tuned") / "run")


def in_file(path: Path) -> dict[str, torch.Tensor]:
    found = LoRAKind().deltas(path, read_header(path))
    return {
        f"{u.component}.{u.layer}": u.scale * (u.up.flatten(1) @ u.down.flatten(1)).reshape(u.up.shape[0], *u.down.shape[1:])
        for u in found
    }  # fmt: skip


def test_every_matrix_is_found_again_and_the_rest_is_told(tuned, tmp_path):
    out = tmp_path / "lora.safetensors"
    found = extract(
        str(tuned.folder), "toybox", out, Wanted(rank=RANK), WATCHER,
        convolutions=Wanted(rank=RANK), backbone=tuned.family,
    )  # fmt: skip
    held = in_file(out)
    energies: dict[str, float] = {}
    for name, move in tuned.moves.items():
        component, _, rest = name.partition(".")
        layer = rest.removesuffix(".weight")
        spelled = f"text_model.{layer}" if component == "text_encoder" and layer.startswith("encoder.") else layer
        if f"{component}.{spelled}" in held and name.endswith(".weight") and move.ndim > 1:
            own = held.pop(f"{component}.{spelled}")
            assert torch.allclose(own.reshape(move.shape), move, atol=2e-5), name
        else:
            energies[component] = energies.get(component, 0.0) + float((move**2).sum())
    assert not held
    for component, energy in energies.items():
        told = sum(left.share for left in found.left if left.component == component)
        total = sum(float((m**2).sum()) for n, m in tuned.moves.items() if n.startswith(f"{component}."))
        assert math.isclose(told, energy / total, rel_tol=1e-2)
        assert math.isclose(found.of_all[component] + told, 1.0, abs_tol=1e-3)
    assert found.made.kept > 0.9999
    assert found.made.style == ("kohya" if tuned.family == "sd15" else "diffusers")


def test_loaded_beside_the_base_it_predicts_what_the_model_does(tuned, tmp_path):
    out = tmp_path / "lora.safetensors"
    extract(
        str(tuned.folder), "toybox", out, Wanted(rank=RANK), WATCHER,
        convolutions=Wanted(energy=1.0) if tuned.family == "sd15" else None, backbone=tuned.family,
    )  # fmt: skip
    model = load(tuned.family)
    base, want = predict(model), tuned.predict()
    load_adapter(model.pipeline(), out)
    assert float((predict(model) - want).abs().max()) < 0.02 * float((base - want).abs().max())


def test_the_single_file_and_the_run_are_the_model_too(tuned, tmp_path):
    first = tmp_path / "a.safetensors"
    extract(str(tuned.files[1]), "toybox", first, Wanted(rank=1), WATCHER, backbone=tuned.family)
    second = tmp_path / "b.safetensors"
    extract(str(tuned.folder.parent), "toybox", second, Wanted(rank=1), WATCHER, backbone=tuned.family)
    assert first.read_bytes() == second.read_bytes()
    assert read_header(first).metadata["tuner_base"] == "toybox"


def test_the_same_model_and_another_kind(tuned, tmp_path):
    out = tmp_path / "lora.safetensors"
    with pytest.raises(UsageError, match="same weights in every layer"):
        extract("toybox", "toybox", out, Wanted(rank=1), WATCHER, backbone=tuned.family)
    with pytest.raises((UsageError, DataError)):
        extract(
            str(tuned.folder),
            "toybox",
            out,
            Wanted(rank=1),
            WATCHER,
            backbone={"sd15": "sd35", "sd35": "sd15"}[tuned.family],
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("extract {} --base toybox --rank 1 --out new.safetensors", 0),
        ("extract {} --base toybox --energy 0.5 --conv-rank 1 --json --out new.safetensors", 0),
        ("extract {} --base toybox --out new.safetensors", 2),
        ("extract {} --base toybox --conv-rank 1 --out new.safetensors", 2),
        ("extract {} --base absent/folder/here --rank 1 --out new.safetensors", 65),
        ("extract {}/unet/config.json --base toybox --rank 1 --out new.safetensors", 65),
        ("extract model.ckpt --base toybox --rank 1 --out new.safetensors", 65),
    ],
    ids=str,
)
def test_on_the_command_line(tuned, tmp_path, monkeypatch, capsys, words, code):
    if tuned.family != "sd15":
        pytest.skip("one family is enough for the words")
    monkeypatch.chdir(tmp_path)
    assert call(words.format(tuned.folder).split()) == code, capsys.readouterr()
    assert (tmp_path / "new.safetensors").exists() == (code == 0)
    if code == 0 and "--json" not in words:
        said = capsys.readouterr().out
        assert "convolutions left out" in said
        assert "warning: that may be much" in said
        assert "of its whole change" in said
