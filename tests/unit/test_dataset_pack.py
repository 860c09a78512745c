"""A dataset as a zip that is made while it is read is the zip that a file would be."""

from __future__ import annotations

import io
import zipfile

import pytest
from dropped import encoded

from tuner.dataset import Dataset, editing, intake
from tuner.dataset import export as module
from tuner.dataset.export import export, pack
from tuner.errors import StorageError

NAMES = ("a.png", "a.jpg", "Hund ä.png", "con.png", "日本.webp", "x" * 200 + ".png")


@pytest.fixture
def dataset(tmp_path):
    made = Dataset.new(tmp_path / "d", "my: dog")
    for number, name in enumerate(NAMES):
        assert intake(made, name, encoded(number, size=(40, 30)))[0].accepted
    intake(made, "a.txt", "a dog – ünd".encode())
    return made


@pytest.mark.parametrize("pictures", [0, 1, len(NAMES)])
def test_it_is_what_the_export_writes_and_as_long_as_announced(dataset, tmp_path, pictures):
    gone = [one.id for one in dataset.contents().pictures[pictures:]]
    editing.remove(dataset, gone)
    written = export(dataset, tmp_path / "out.zip")
    packed = pack(dataset)
    data = b"".join(packed.pieces)
    assert data == written.path.read_bytes()
    assert (packed.name, packed.bytes) == ("my: dog", len(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == pictures + 1


def test_a_picture_at_a_time_is_in_memory(dataset):
    pieces = list(pack(dataset).pieces)
    assert len(pieces) == len(NAMES) + 2
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 2


def test_a_picture_that_is_taken_out_on_the_way_is_still_in_it(dataset):
    packed = pack(dataset)
    begun = next(packed.pieces)
    editing.remove(dataset, [one.id for one in dataset.contents().pictures])
    data = begun + b"".join(packed.pieces)
    assert len(data) == packed.bytes
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) == len(NAMES) + 1


def test_a_dataset_that_is_deleted_on_the_way_ends_it_with_a_fault(dataset):
    packed = pack(dataset)
    next(packed.pieces)
    dataset.delete()
    with pytest.raises(StorageError, match="cannot read"):
        list(packed.pieces)


def test_what_is_longer_than_the_plain_format_announces_no_length(dataset, monkeypatch):
    monkeypatch.setattr(module.zipfile, "ZIP64_LIMIT", 500)
    packed = pack(dataset)
    data = b"".join(packed.pieces)
    assert packed.bytes is None
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(NAMES) + 1
