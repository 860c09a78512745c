"""The toybox model: genuine files, the same everywhere, safe to build twice at once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tuner import toybox
from tuner.toybox import words

if TYPE_CHECKING:
    from pathlib import Path


def tree_digest(folder: Path) -> str:
    rows = [
        f"{p.relative_to(folder).as_posix()} {hashlib.sha256(p.read_bytes()).hexdigest()}"
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def test_builds_the_same_bytes_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "a"))
    first = toybox.folder("sd15")
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "b"))
    second = toybox.folder("sd15")
    assert first != second
    assert tree_digest(first) == tree_digest(second)
    assert sorted(p.name for p in first.parent.iterdir()) == [first.name]  # nothing half-built is left


def test_a_second_call_builds_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path))
    folder = toybox.folder("sd15")
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert toybox.folder("sd15") == folder
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_losing_the_race_takes_the_winners_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path))
    winner = toybox.pictures()
    target, drawn = winner, toybox.drawings.write

    def slow(folder):
        drawn(folder)
        (tmp_path / "moved").rename(target)  # the other process finishes first

    target.rename(tmp_path / "moved")
    monkeypatch.setattr(toybox.drawings, "write", slow)
    assert toybox.pictures() == target
    assert sorted(p.name for p in target.iterdir()) == [f"{i}.png" for i in range(5)]
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_loads_in_plain_diffusers_and_is_small(sd15_folder):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd15_folder, local_files_only=True)
    modules = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert sum(p.numel() for m in modules for p in m.parameters()) <= 2_000_000
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings == 77
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64
    found = pipeline.tokenizer("a photo of sks dog").input_ids
    names = pipeline.tokenizer.convert_ids_to_tokens(found)
    assert names == ["<|startoftext|>", "a</w>", "photo</w>", "of</w>", "s", "k", "s</w>", "dog</w>", "<|endoftext|>"]


def test_every_byte_is_in_the_vocabulary(sd15_folder):
    from tuner.backbones.clip_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(sd15_folder / "tokenizer", 77)
    text = "naïve 犬 🐕 \x7f sks's"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert len(words.byte_characters()) == len(set(words.byte_characters())) == 256


def test_configs_are_those_of_the_files(sd15_folder):
    for name, config in toybox.configs("sd15").items():
        path = sd15_folder / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        assert json.loads(path.read_text()) == config


def test_pictures_are_of_one_subject_in_different_shapes():
    from PIL import Image

    sizes = []
    for path in sorted(toybox.pictures().iterdir()):
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert len(sizes) == 5
    assert len({w / h for w, h in sizes}) >= 4


@pytest.mark.parametrize(
    "module",
    [
        "tuner.toybox",
        "tuner.sampling",
        "tuner.data.prior",
        "tuner.backbones.sd15",
        "tuner.backbones.sd15_model",
        "tuner.backbones.single_file",
        "tuner.backbones.loading",
        "tuner.backbones.download",
        "tuner.backbones.unet_layout",
    ],
)
def test_imports_nothing_heavy(module):
    code = (
        f"import sys, {module} as m\n"
        "from tuner.backbones import Backbone\n"
        "Backbone.read({'name': 'sd15', 'model': 'toybox'}).layout()\n"
        "Backbone.read({'name': 'sd15', 'model': 'a/b'}).layout()\n"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'peft', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
