"""Datasets: local parquet files for real, the Hub's refusals by what the library raises."""

import builtins
import io
import socket

import numpy as np
import pytest
from PIL import Image

from tuner.data.scan import scan
from tuner.errors import DataError, TunerError
from tuner.recipe import Recipe
from tuner.watch import Watcher

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def picture(seed=0, size=(64, 48)):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


PICTURES = [picture(i) for i in range(3)]
STRUCTS = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(PICTURES)]


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def look(dataset, *, decode=False, **source):
    data = {"resolution": 64, "bucket_step": 8, "images": {"dataset": str(dataset), **source}}
    recipe = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": ["lora"],
        "task": "finetune",
        "train": {"steps": 1},
    }
    return scan(Recipe.model_validate({**recipe, "data": data}), decode=decode, watcher=Watcher())


@pytest.mark.parametrize("column", [STRUCTS, PICTURES], ids=["struct", "bytes"])
def test_rows_become_examples_with_the_files_own_bytes(tmp_path, column, capfd):
    file = write(tmp_path / "t.parquet", image=column, text=["a dog", "a cat", None])
    result = look(file, caption="a thing", decode=True)
    assert [e.read() for e in result.examples["images"]] == PICTURES
    assert [(e.captions, e.caption_from) for e in result.examples["images"]] == [
        (("a dog",), "column"), (("a cat",), "column"), (("a thing",), "recipe")
    ]  # fmt: skip
    assert [e.size for e in result.examples["images"]] == [(64, 48)] * 3
    assert "t.parquet[train] row 2" in result.examples["images"][2].name
    assert capfd.readouterr() == ("", "")


def test_lists_of_captions_and_other_columns(tmp_path):
    file = write(tmp_path / "t.parquet", photo=STRUCTS[:2], words=[["one", "two"], []], n=[1, 2])
    result = look(file, image_column="photo", caption_column="words", caption="x")
    assert [e.captions for e in result.examples["images"]] == [("one", "two"), ("x",)]


def test_a_folder_of_parquet_files_in_natural_order(tmp_path):
    for i, number in enumerate((2, 10, 1)):
        write(tmp_path / f"part-{number}.parquet", image=STRUCTS[i : i + 1], text=[str(number)])
    assert [e.captions for e in look(tmp_path).examples["images"]] == [("1",), ("2",), ("10",)]


def test_rows_that_cannot_be_used_are_refused_by_name(tmp_path):
    bad = [
        *STRUCTS[:1],
        {"bytes": b"junk", "path": "x"},
        None,
        {"bytes": None, "path": "/etc/hostname"},
        {"bytes": None, "path": None},
    ]
    result = look(write(tmp_path / "t.parquet", image=bad, text=["a", "b", "c", "d", "e"]))
    assert len(result.examples["images"]) == 1
    reasons = [item.reason for item in result.refused]
    assert [item.name.rsplit(" ", 1)[1] for item in result.refused] == ["1", "2", "3", "4"]
    for word, reason in zip(
        ("not a picture", "no picture", "the path of a picture and not", "no picture"), reasons, strict=True
    ):
        assert word in reason


def test_columns_that_are_not_there_are_answered_with_those_that_are(tmp_path):
    file = write(tmp_path / "t.parquet", photo=STRUCTS, words=["a", "b", "c"])
    with pytest.raises(DataError, match=r"image_column: the dataset has no column 'image'; there is photo, words"):
        look(file)
    with pytest.raises(
        DataError, match=r"caption_column: the dataset has no column 'text'; there is photo, words"
    ) as caught:
        look(file, image_column="photo")
    assert "data.images.caption_column" in caught.value.hint
    result = look(file, image_column="photo", caption="x")
    assert [e.caption_from for e in result.examples["images"]] == ["recipe"] * 3
    assert any("no column 'text'" in note for note in result.notes)
    with pytest.raises(DataError, match="holds no pictures"):
        look(write(tmp_path / "n.parquet", image=[1.5, 2.5], text=["a", "b"]))


def test_captions_of_another_type_are_refused_by_row(tmp_path):
    file = write(tmp_path / "t.parquet", image=STRUCTS, text=[1, 2, 3])
    with pytest.raises(DataError, match=r"row 0: 'text' holds a int"):
        look(file)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("gone.parquet", "there is no gone.parquet"),
        ("broken.parquet", "cannot be loaded"),
        ("../up/x y", "is no dataset id"),
        ("bare", "no .parquet file"),
    ],
)
def test_local_places_that_are_none(tmp_path, monkeypatch, name, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=word) as caught:
        look(name)
    assert "data.images.dataset" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("raised", "hint"),
    [
        (ConnectionError("Couldn't reach the Hub"), "check the network"),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."),
            "check the id",
        ),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "hf auth login"),
        (ValueError("Unknown split \"train\". Should be one of ['test']."), "data.images.split"),
        (RuntimeError("Dataset scripts are no longer supported"), ""),
        (OSError("[Errno 101] Network is unreachable"), "check the network"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(monkeypatch, raised, hint):
    def load(*_, **__):
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError) as caught:
        look("owner/name")
    assert caught.value.message.startswith("data.images.dataset: owner/name cannot be loaded")
    assert hint in caught.value.hint


def test_revision_and_split_reach_the_library_and_its_bars_come_back(monkeypatch):
    calls = []

    def load(*args, **kwargs):
        calls.append((args, kwargs, datasets.is_progress_bar_enabled()))
        return datasets.Dataset.from_dict({"image": STRUCTS, "text": ["a"] * 3})

    monkeypatch.setattr(datasets, "load_dataset", load)
    before = datasets.is_progress_bar_enabled()
    look("owner/name", split="test", revision="v1")
    assert calls == [(("owner/name",), {"split": "test", "revision": "v1"}, False)]
    assert datasets.is_progress_bar_enabled() == before


def test_without_a_network_nothing_hangs(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("went to the network"))
    with pytest.raises(DataError, match="data.images.dataset: owner/name cannot be loaded"):
        look("owner/name", revision="main")


def test_without_the_extra_it_is_named(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "datasets":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(TunerError) as caught:
        look("owner/name")
    assert "pip install 'diffusion-tuner[data]'" in str(caught.value)
