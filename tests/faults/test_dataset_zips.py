"""Zips made to do harm, and zips that are merely broken."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import warnings
import zipfile

import pytest
from dropped import encoded, said, sound, zipped

from tuner.dataset import Dataset, Limits, intake


@pytest.fixture
def dataset(tmp_path):
    return Dataset.new(tmp_path / "w" / "d", "d")


def reasons(verdicts):
    return {verdict.name: verdict.reason for verdict in verdicts if not verdict.accepted}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_names_that_lead_out_lead_nowhere(dataset, tmp_path):
    bad = ["../../evil.png", "/etc/evil2.png", "C:\\evil3.png", "..\\..\\evil4.png", "a/../../../evil5.png"]
    verdicts = intake(dataset, "a.zip", zipped([(name, encoded(n)) for n, name in enumerate(bad)]))
    assert said(verdicts)[1:] == [(f"evil{n or ''}.png", True) for n in ("", 2, 3, 4, 5)]
    assert all(path.startswith("w/d/") for path in everything(tmp_path))
    sound(dataset)


def test_links_are_refused(dataset):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    pipe = zipfile.ZipInfo("pipe.png")
    pipe.external_attr = (stat.S_IFIFO | 0o777) << 16
    verdicts = intake(dataset, "a.zip", zipped([(link, b"/etc/passwd"), (pipe, b""), ("a.png", encoded(1))]))
    assert reasons(verdicts) == {"link.png": "a link, and not a file", "pipe.png": "neither a file nor a folder"}
    sound(dataset)


def test_a_bomb_is_refused_before_it_opens(dataset):
    bomb = zipped([("a.png", bytes(20 * 2**20)), ("b.png", encoded(1))])
    assert len(bomb) < 100_000
    tracemalloc.start()
    verdicts = intake(dataset, "a.zip", bomb)
    assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    tracemalloc.stop()
    assert "100 times its size" in reasons(verdicts)["a.png"]
    assert ("b.png", True) in said(verdicts)


def test_all_files_together_have_a_limit(dataset):
    data = zipped([(f"{n}.png", bytes(2**20)) for n in range(5)], zipfile.ZIP_STORED)
    verdicts = intake(dataset, "a.zip", data, Limits(expanded_bytes=4 * 2**20))
    assert said(verdicts) == [("a.zip", False)]
    assert "unpacks to 5 MiB; the limit is 4 MiB" in verdicts[0].reason
    assert dataset.contents().refused[0].name == "a.zip"


def test_a_zip_of_zips_stays_shut(dataset):
    inner = zipped([("a.png", encoded(1))])
    verdicts = intake(dataset, "a.zip", zipped([("inner.zip", inner), ("named.png", inner)]))
    assert reasons(verdicts) == {
        "a.zip": "no picture in it can be used",
        "inner.zip": "a zip within a zip; unpack it first",
        "named.png": "a zip archive, not a picture; unpack it",
    }
    assert not dataset.contents().pictures


def test_too_many_files(dataset):
    verdicts = intake(dataset, "a.zip", zipped([(f"{n}.png", b"") for n in range(11)]), Limits(zip_files=10))
    assert "holds 11 files; the limit is 10" in verdicts[0].reason
    assert len(verdicts) == 1


def test_a_list_of_files_without_end_is_not_read(dataset):
    data = zipped([(f"{'x' * 60_000}{n}.png", b"") for n in range(80)], zipfile.ZIP_STORED)
    assert "list of files is longer" in intake(dataset, "a.zip", data)[0].reason


def test_a_forged_size_is_found_out(dataset):
    """Less than there is: the checksum fails. More than there is: the end comes too early."""
    picture = encoded(1)
    whole = zipped([("a.png", picture), ("b.png", encoded(2))], zipfile.ZIP_STORED)
    for wrong in (10, len(picture) - 1, len(picture) + 50, 2**31 - 2):
        central = whole.index(b"PK\x01\x02")
        forged = bytearray(whole)
        forged[central + 24 : central + 28] = struct.pack("<I", wrong)
        forged[central + 20 : central + 24] = struct.pack("<I", min(wrong, len(whole) - 200))
        verdicts = intake(dataset, "a.zip", bytes(forged))
        assert not any(verdict.accepted and verdict.name == "a.png" for verdict in verdicts), wrong
    sound(dataset)


def test_files_that_overlap_are_refused(dataset):
    """Many entries over one and the same data (Fifield 2019)."""
    whole = zipped([("a.png", encoded(1, size=(200, 200)))], zipfile.ZIP_STORED)
    central, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    entry = whole[central:end]
    many = 20
    tail = bytearray(whole[end:])
    tail[8:10] = tail[10:12] = struct.pack("<H", many)
    tail[12:16] = struct.pack("<I", many * len(entry))
    names = b"".join(entry.replace(b"a.png", b"%c.png" % (97 + n)) for n in range(many))
    verdicts = intake(dataset, "a.zip", whole[:central] + names + bytes(tail))
    assert not any(verdict.accepted for verdict in verdicts)
    assert "overlap" in verdicts[0].reason


def test_a_password_is_told(dataset):
    whole = bytearray(zipped([("a.png", encoded(1))]))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(mark) + place] |= 1
    assert "encrypted" in reasons(intake(dataset, "a.zip", bytes(whole)))["a.png"]


def test_unusual_packing_is_told(dataset):
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        verdicts = intake(dataset, "a.zip", zipped([("a.png", encoded(1))], kind))
        assert "pack it again as an ordinary zip" in reasons(verdicts)["a.png"]


def test_the_first_of_two_files_of_one_name_counts(dataset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = zipped([("a.png", encoded(1)), ("a.png", encoded(2)), ("b/a.png", encoded(3))])
    verdicts = intake(dataset, "a.zip", data)
    assert [verdict.accepted for verdict in verdicts] == [True, True, False, True]
    assert "a second file of that name" in verdicts[2].reason


@pytest.mark.parametrize(
    "data",
    [b"", b"PK", b"PK\x05\x06" + bytes(18), zipped([("a.png", encoded(1))])[:-30], b"x" * 1000],
    ids=["empty", "two bytes", "no files", "cut", "none"],
)
def test_what_is_no_zip_is_told(dataset, data):
    (verdict,) = intake(dataset, "a.zip", data)
    assert not verdict.accepted
    assert verdict.reason
    assert [refused.name for refused in dataset.contents().refused] == ["a.zip"]


def test_damage_within_costs_one_file(dataset):
    whole = bytearray(zipped([("a.png", encoded(1)), ("b.png", encoded(2))], zipfile.ZIP_STORED))
    whole[100] ^= 255
    verdicts = intake(dataset, "a.zip", bytes(whole))
    assert "damaged in the zip" in reasons(verdicts)["a.png"]
    assert ("b.png", True) in said(verdicts)


def test_a_large_zip_is_refused_by_its_size(dataset):
    assert (
        "more than the limit"
        in intake(dataset, "a.zip", zipped([("a.png", encoded(1))]), Limits(zip_bytes=100))[0].reason
    )


def test_folders_alone_are_no_files(dataset):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("folder/"), b"")
    assert intake(dataset, "a.zip", out.getvalue())[0].reason == "holds no files"


def test_a_file_without_a_name_costs_the_others_nothing(dataset):
    """zipfile of Python 3.11 asks such a name for its last letter."""
    verdicts = intake(dataset, "a.zip", zipped([("\0", encoded(1)), ("b.png", encoded(2))]))
    assert said(verdicts) == [("a.zip", True), ("a file without a name", True), ("b.png", True)]
