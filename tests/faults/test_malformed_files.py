"""A thousand broken weight files: refused by name, without a traceback, code run, hang or flood."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import foreign_loras
import malformed
import pytest
import torch
from malformed import Case, odd_places, safetensors_cases
from malformed_pickles import pickle_cases
from safetensors.torch import load_file, save_file

from tuner import toybox
from tuner.cli import call
from tuner.draws import Draws
from tuner.errors import TunerError
from tuner.formats.container import pack
from tuner.formats.convert import convert
from tuner.formats.find import find_file, find_files
from tuner.formats.fusing import Update
from tuner.formats.importing import import_file
from tuner.formats.inspect import inspect_file
from tuner.formats.load import load_adapter
from tuner.formats.start import start_file, start_problems
from tuner.lora_sizes import Sizes

KINDS = len(malformed.HEADERS) + len(malformed.ENTRIES) + len(malformed.TENSORS) + len(malformed.CONTENTS)
"""Ways in which a safetensors file is broken here."""
SECONDS = 5.0
"""Of one file, through every reader."""
MEGABYTES = 400
"""By which the process may grow over all of them."""


@pytest.fixture(scope="module")
def pipe():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(str(toybox.folder("sd15")), local_files_only=True)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A good file of each spelling, and a word."""
    folder = tmp_path_factory.mktemp("sources")
    places = [
        ("unet", f"mid_block.attentions.0.transformer_blocks.0.attn{n}.to_{x}", 96, 96) for n in (1, 2) for x in "qv"
    ]
    joint = [("transformer", f"transformer_blocks.0.attn.to_{x}", 24, 24) for x in "qkv"]
    found = {}
    for family, own in (("sd15", places), ("sd35", joint)):
        updates = [
            Update(part, layer, _normal(1, 4, columns), _normal(2, rows, 4)) for part, layer, rows, columns in own
        ]
        for spelling in foreign_loras.SPELLINGS[family]:
            name = f"{family}_{spelling.replace(' ', '_')}"
            found[name] = foreign_loras.write(folder / name / f"{name}.safetensors", spelling, family, updates)
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, folder / "word.safetensors")
    return found


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(Draws(seed).normal(shape, "malformed"))


def refused(case: Case, step: Callable[[], object], what: str) -> None:
    """The step ends in a fault of ours that names the file."""
    try:
        step()
    except TunerError as error:
        text = f"{error.message} {error.hint}"
        assert str(case.path) in error.message, f"{case.name}: {what} does not name the file: {error.message}"
        assert len(text) < 3000, f"{case.name}: {what} says {len(text)} letters"
        assert text.isprintable() or not str(case.path).isprintable(), f"{case.name}: {what} says {text!r}"
        text.encode("utf-8")
    except Exception as error:
        pytest.fail(f"{case.name}: {what} ended in {error!r}")
    else:
        pytest.fail(f"{case.name}: {what} took it")


def check(case: Case, pipe, out: Path) -> None:
    """Every reader of weight files refuses it."""
    if case.header_tells:

        def told() -> None:
            facts = inspect_file(case.path)
            if facts["problem"] is None:
                return
            raise TunerError(f"{case.path}: {facts['problem']}")

        refused(case, told, "inspect")
        sizes = Sizes(4, 4.0)
        refused(case, lambda: start_problems(start_file(str(case.path)), family="sd15", sizes=sizes, dora=None), "init")
    for to in ("kohya", "diffusers"):
        refused(case, lambda to=to: convert(find_file(case.path), to, out), f"export to {to}")
    refused(case, lambda: load_adapter(pipe, case.path, name="broken"), "load_adapter")
    assert not out.exists(), case.name


def run(cases: Iterable[Case], one: Callable[[Case], None]) -> Counter[str]:
    """Each within its time, all within their memory. Gives how many there were of each kind."""
    counted: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in cases:
        begun = time.process_time()
        one(case)
        spent = time.process_time() - begun
        assert spent < SECONDS, f"{case.name}: {spent:.1f} s"
        counted[case.name.partition(" ")[2] or case.name] += 1
        if case.path.is_file() and not case.path.is_symlink():
            case.path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES, f"grew by {grown:.0f} MB"
    return counted


def check_pickle(case: Case, pipe, out: Path) -> None:
    """The import refuses it for what it is; everything else refuses it unread, and says what would read it."""
    refused(case, lambda: import_file(case.path, out), "import")
    for step, what in (
        (lambda: find_files(case.path), "find_files"),
        (lambda: inspect_file(case.path), "inspect"),
        (lambda: load_adapter(pipe, case.path, name="broken"), "load_adapter"),
        (lambda: start_file(str(case.path)), "init_from"),
    ):
        refused(case, step, what)
    assert not out.exists(), case.name
    assert not Path("ran").exists(), case.name


def everything(pipe, sources, folder: Path, safetensors: int, pickles: int) -> tuple[Counter[str], Counter[str]]:
    out = folder / "out.safetensors"
    files, packed = folder / "files", folder / "pickles"
    files.mkdir()
    packed.mkdir()
    first = run(safetensors_cases(files, sources, safetensors), lambda case: check(case, pipe, out))
    second = run(pickle_cases(packed, pickles), lambda case: check_pickle(case, pipe, out))
    assert not pipe.get_list_adapters()
    return first, second


def test_broken_files_are_refused_by_name(pipe, sources, tmp_path, monkeypatch):
    """One of each way to be broken, and every call that a pickle could make."""
    monkeypatch.chdir(tmp_path)
    first, second = everything(pipe, sources, tmp_path, KINDS, 130)
    assert (first.total(), second.total()) == (KINDS, 130)


@pytest.mark.slow
def test_a_thousand_broken_files_are_refused_by_name(pipe, sources, tmp_path, monkeypatch):
    """Every way to be broken in every tool's spelling; `docs/proofs/malformed_files.txt` keeps the counts."""
    monkeypatch.chdir(tmp_path)
    first, second = everything(pipe, sources, tmp_path, KINDS * len(sources), 300)
    assert first.total() + second.total() >= 1200
    if path := os.environ.get("MALFORMED_PROOF"):
        lines = [f"{count:5} {name}" for counts in (first, second) for name, count in sorted(counts.items())]
        Path(path).write_text("\n".join([f"{first.total()} files, {second.total()} pickles", *lines]) + "\n")


def test_what_is_no_file_is_refused_by_name(pipe, sources, tmp_path):
    """A pipe that nobody writes to would be waited on for ever."""
    out = tmp_path / "out.safetensors"
    for case in odd_places(tmp_path, next(iter(sources.values()))):
        check(case, pipe, out)


@pytest.mark.parametrize("name", ["pipe", "loop", "dangling", "dir"])
def test_a_folder_that_holds_such_a_thing_is_refused_by_name(pipe, sources, tmp_path, name):
    (tmp_path / "odd").mkdir()
    (tmp_path / "adapter").mkdir()
    case = next(case for case in odd_places(tmp_path / "odd", next(iter(sources.values()))) if case.name == name)
    held = tmp_path / "adapter" / "x.safetensors"
    case.path.rename(held)
    for step in (inspect_file, find_files, lambda path: load_adapter(pipe, path, name="broken")):
        with pytest.raises(TunerError, match=str(held)):
            step(tmp_path / "adapter")


def test_the_good_ones_are_taken(pipe, sources):
    """What the broken ones are made of is not refused itself."""
    for name, path in sources.items():
        assert inspect_file(path)["problem"] is None, name
        if name.startswith("sd15") and "comfyui" not in name and "original" not in name:
            load_adapter(pipe, path, name="good")
            pipe.delete_adapters("good")


def test_a_terminal_obeys_nothing_of_a_file(sources, tmp_path, capsys):
    """A title may hold what clears a screen or names a window."""
    path = tmp_path / "x.safetensors"
    good = sources["sd15_kohya"]
    path.write_bytes(
        pack(load_file(good), {"modelspec.title": "a\x1b[2Jb", "modelspec.trigger_phrase": "\x1b]0;c\x07"})
    )
    assert call(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "a?[2Jb" in said
    assert not set(said) & {"\x1b", "\x07"}
