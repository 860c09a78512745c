"""Whatever lies in a run directory: every view answers, says nothing that a page cannot hold, and runs nothing."""

from __future__ import annotations

import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from view_parts import PAYLOAD, judged, made_run, put_lora, put_save, texts, validate

from webui.views import adapter_files, words
from webui.views.compare import compare
from webui.views.monitor import Readers, monitor
from webui.views.recent import recent
from webui.views.results import results

FILES = [
    "status.json", "resolved.yaml", "recipe.yaml", "metrics.jsonl", "validation.json", "log.txt", "journal.jsonl",
    "samples/10/index.jsonl", "samples/10/0.png", "samples/0/index.jsonl", "adapter/README.md", "adapter/dog.safetensors",
    "adapter/pytorch_lora_weights.safetensors", "checkpoints/10/manifest.json", "checkpoints/10/adapter/dog.safetensors",
    "evaluation/report.json", "evaluation/10/report.json", "control/stop",
]  # fmt: skip
FOLDERS = ["samples", "samples/10", "checkpoints", "checkpoints/10/adapter", "adapter", "evaluation", "control"]
SCALARS = ["null", "true", "-1", "1e999", "NaN", "Infinity", "1" * 400, "[]", "{}", '""', '"\\ud800\\u0000"', "[" * 3000,
           '"' + "x" * 5000 + '"', '"<script>alert(1)</script>"', "\x00", "9007199254740993"]  # fmt: skip
JUNK = st.one_of(st.binary(max_size=300), st.sampled_from(SCALARS).map(str.encode))


@st.composite
def changed(draw, data: bytes) -> bytes:
    """A file's bytes, cut, overwritten, or with a value in another's place."""
    kind = draw(st.sampled_from(["cut", "overwrite", "value", "junk", "twice"]))
    if kind == "junk" or not data:
        return draw(JUNK)
    at = draw(st.integers(0, len(data)))
    if kind == "cut":
        return data[:at]
    if kind == "twice":
        return data[:at] + data
    if kind == "overwrite":
        junk = draw(JUNK)
        return data[:at] + junk + data[at + len(junk) :]
    values = list(re.finditer(rb'-?[\d.]+(?:e-?\d+)?|"[^"]*"|null|true|false', data))
    if not values:
        return draw(JUNK)
    hit = draw(st.sampled_from(values))
    return data[: hit.start()] + draw(st.sampled_from(SCALARS)).encode("utf-8", "surrogatepass") + data[hit.end() :]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run with one of everything."""
    run = made_run(tmp_path_factory.mktemp("sound") / "dog", state="done", step=40)
    put_save(run, 10)
    put_lora(run.adapter)
    validate(run, s10=0.5, s40=0.3)
    judged(run, None, 0.5)
    judged(run, 10, 0.4)
    (run.path / "control").mkdir()
    (run.path / "control" / "stop").write_text("")
    return run.path


def look_at_everything(run: Path) -> None:
    """Every view, and what each holds is fit for a page."""
    readers = Readers()
    view = monitor(run, None, readers)
    monitor(run, view.seen, readers)
    found = results(run)
    values = [view, found, recent(run.parent), compare([run, run.parent / "other"], readers)]
    for save in found.saves:
        values += [adapter_files.card(save.folder.path), adapter_files.code(save.folder.path)]
    for text in texts(values):
        text.encode("utf-8")
        assert "\0" not in text
        assert not words._UNFIT.search(text), text
    assert view.curves is not None
    for panel in view.curves.panels:
        for log in (False, True):
            figure = ET.fromstring(panel.svg(log=log))
            assert not any(element.tag.endswith("script") for element in figure.iter())


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@settings(PATIENT, max_examples=60)
@given(st.data())
def test_every_view_survives_damaged_files(sound, tmp_path_factory, data):
    damage(sound, tmp_path_factory, data)


@pytest.mark.slow
@settings(PATIENT, max_examples=600)
@given(st.data())
def test_every_view_survives_much_damage(sound, tmp_path_factory, data):
    damage(sound, tmp_path_factory, data)


def damage(sound, tmp_path_factory, data) -> None:
    """Change up to four files of a sound run, and look at everything."""
    place = tmp_path_factory.mktemp("damaged")
    run = place / "dog"
    shutil.copytree(sound, run)
    for name in data.draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=4, unique=True), label="files"):
        path = run / name
        path.write_bytes(data.draw(changed(path.read_bytes() if path.is_file() else b""), label=name))
    look_at_everything(run)
    shutil.rmtree(place)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS], ids=lambda name: name.replace("/", "-"))
@pytest.mark.parametrize("instead", ["nothing", "folder", "pipe", "loop", "file", "outside"])
def test_every_view_survives_something_else_in_a_files_place(sound, tmp_path, name, instead):
    run = tmp_path / "dog"
    shutil.copytree(sound, run)
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if instead == "folder":
        path.mkdir()
    elif instead == "pipe":
        os.mkfifo(path)
    elif instead == "loop":
        path.symlink_to(path)
    elif instead == "file":
        path.write_bytes(b"")
    elif instead == "outside":
        path.symlink_to("/etc/passwd")
    look_at_everything(run)
    if instead == "outside":
        found = [*texts(monitor(run, None, Readers())), *texts(results(run))]
        assert not any("root:" in text for text in found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from([*FILES, "samples/x/y", "samples/007/index.jsonl", "checkpoints/1e3/adapter/a.safetensors"]),
        JUNK,
        max_size=8,
    )
)
def test_every_view_survives_a_folder_of_junk(tmp_path_factory, contents):
    place = tmp_path_factory.mktemp("junk")
    run = place / "dog"
    run.mkdir()
    for name, content in contents.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    look_at_everything(run)
    shutil.rmtree(place)


@pytest.mark.parametrize(
    "name", [PAYLOAD.replace("/", "_"), "a b&c", "%2e%2e", "é" * 60], ids=["payload", "ampersand", "dots", "long"]
)
def test_a_name_with_markup_is_a_name(tmp_path, name):
    run = made_run(tmp_path / "runs" / name, prompts=[PAYLOAD, "two\nlines"], losses={1: 0.5})
    put_lora(run.adapter)
    look_at_everything(run.path)
    view = monitor(run.path, None, Readers())
    assert view.matrix is not None
    assert words.shown(PAYLOAD) in view.matrix.prompts
    for row in view.matrix.rows:
        assert all(re.fullmatch(r"/media/sample/[\w.~%-]+/\d+/\d+", cell.href) for cell in row.cells)
    assert recent(tmp_path / "runs")[0].id == name


def test_a_name_that_is_no_text_is_shown_as_best_it_can(tmp_path):
    run = tmp_path / os.fsdecode(b"bad\xff")
    made_run(tmp_path / "good").path.rename(run)
    look_at_everything(run)
    assert monitor(run, None, Readers()).run == "bad\ufffd"
    assert [(one.id, one.name) for one in recent(tmp_path)] == [("", "bad\ufffd")]  # no page could ask for it
