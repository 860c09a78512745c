"""What captions may hold, and the rows of metadata.jsonl and metadata.csv, each fault with its line."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.data import captions, metadata
from tuner.errors import DataError


@given(st.text(max_size=200))
def test_a_clean_caption_is_one_printable_line_and_stays_as_it_is(text):
    once, _ = captions.clean(text, "x")
    assert captions.clean(once, "x") == (once, ())
    assert once == " ".join(once.split()) == unicodedata.normalize("NFC", once)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") or c in "\u202e\u2066\ufeff\u200b" for c in once)
    once.encode("utf-8")


@pytest.mark.parametrize(
    ("given", "expected", "change"),
    [
        ("a dog\n", "a dog", None),
        ("  a\tphoto  of\u00a0a dog ", "a photo of a dog", None),
        ("e\u0301", "é", None),
        ("👩\u200d🚀 in space", "👩\u200d🚀 in space", None),
        ("a\n\nb\r\nc", "a b c", "3 lines joined"),
        ("a\0b\x1b[31m", "ab[31m", "2 control characters taken out"),
        ("dog\u202egod", "doggod", "1 text direction marks taken out"),
        ("a\ufeffb\u200b", "ab", "2 invisible characters taken out"),
        ("a\ud800b", "ab", "1 broken characters taken out"),
    ],
)
def test_what_is_cleaned_and_said(given, expected, change):
    text, changes = captions.clean(given, "x")
    assert text == expected
    assert [c for c in changes if change and change in c] if change else changes == ()


def test_text_files_are_utf8_with_the_offset_of_what_is_not():
    assert captions.read("\ufeffein Hündchen\n".encode(), "a.txt") == ("ein Hündchen", ())
    with pytest.raises(DataError, match=r"a.txt: byte 5 \(0xfc\) is not UTF-8"):
        captions.read("ein Hündchen".encode("latin-1"), "a.txt")
    with pytest.raises(DataError, match=r"a.txt: byte 4 \(0xff\)"):
        captions.read(b"\xef\xbb\xbfa\xff", "a.txt")
    with pytest.raises(DataError, match="UTF-16"):
        captions.read("a dog".encode("utf-16"), "a.txt")


def test_4_kb_and_not_a_byte_more():
    assert captions.read(b"a" * 4096, "a.txt")[0] == "a" * 4096
    for call in (captions.read, lambda data, name: captions.clean(data.decode(), name)):
        with pytest.raises(DataError, match=r"a.txt: a caption of 4,097 bytes; the limit is 4,096"):
            call(b"a" * 4097, "a.txt")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a photo of a dog", "sks, a photo of a dog"),
        ("a photo of sks dog", "a photo of sks dog"),
        ("SKS at the beach", "SKS at the beach"),
        ("a flasks shelf", "sks, a flasks shelf"),
        ("sks_2 dog", "sks, sks_2 dog"),
        ("(sks), dog", "(sks), dog"),
        ("", "sks"),
    ],
)
def test_the_trigger_goes_in_front_where_it_is_not_a_word_already(caption, expected):
    assert captions.with_trigger(caption, "sks") == expected
    assert captions.with_trigger(expected, "sks") == expected
    assert captions.with_trigger(caption, None) == caption


def test_a_trigger_of_signs_is_no_pattern():
    assert captions.with_trigger("a dog", "<sks>.*") == "<sks>.*, a dog"
    assert captions.with_trigger("a <sks>.* dog", "<sks>.*") == "a <sks>.* dog"


def rows(*lines, column="text"):
    return metadata.read(b"\n".join(lines), "metadata.jsonl", column)


def test_rows_of_a_jsonl_file():
    table = rows(
        b'\xef\xbb\xbf{"file_name": "a.jpg", "text": "a dog"}',
        b"",
        b'{"file_name": "sub/b.jpg", "text": ["one", "two"], "x": 1}',
        '{"file_name": "e\u0301.jpg", "text": "with \u2028 inside"}'.encode(),
        b'{"file_name": "c.jpg", "text": null}',
    )
    assert table.problems == []
    assert {name: row.captions for name, row in table.rows.items()} == {
        "a.jpg": ("a dog",), "sub/b.jpg": ("one", "two"), "é.jpg": ("with \u2028 inside",), "c.jpg": ()
    }  # fmt: skip
    assert [row.line for row in table.rows.values()] == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"{not json", "not JSON"),
        (b'["a.jpg", "a dog"]', "not a JSON object"),
        (b'{"text": "a dog"}', "no file_name; there is 'text'"),
        (b'{"file_name": 3}', "no file_name"),
        (b'{"file_name": "../a.jpg"}', "leads out of the folder"),
        (b'{"file_name": "/etc/passwd"}', "leads out of the folder"),
        (b'{"file_name": "C:\\\\a.jpg"}', "leads out of the folder"),
        (b'{"file_name": "\\\\\\\\host\\\\a.jpg"}', "leads out of the folder"),
        (b'{"file_name": "b.jpg", "text": 7}', "'text' is a int"),
        (b'{"file_name": "b.jpg", "text": ["a", 7]}', "'text' is a list"),
        (b'{"file_name": "b.jpg", "text": "a", "text": "b"}', "'text' is there twice"),
        (b'{"file_name": "b.jpg", "text": "\xfc"}', "byte 32 (0xfc) is not UTF-8"),
        (b'{"file_name": "a.jpg"}', "a second row for a.jpg (the first is line 1)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"file_name": "b.jpg", "n": ' + b"1" * 5000 + b"}", "limit"),
        (b'{"file_name": "' + b"b" * (1 << 20) + b'"}', "the limit of a row"),
        (json.dumps({"file_name": "b.jpg", "text": ["x"] * 101}).encode(), "101 captions"),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_the_rest_is_used(line, word):
    table = rows(b'{"file_name": "a.jpg", "text": "a dog"}', line, b'{"file_name": "z.jpg", "text": "a cat"}')
    assert [number for number, _ in table.problems] == [2]
    assert word in table.problems[0][1]
    assert list(table.rows) == ["a.jpg", "z.jpg"]


def test_csv_lines_are_counted_through_quoted_breaks():
    text = 'file_name,text\na.jpg,"a dog,\nrunning"\nb.jpg\nc.jpg,"a ""cat"""\nd.jpg,\n../e.jpg,x\n\nc.jpg,again\n'
    table = metadata.read(text.encode("utf-8-sig"), "metadata.csv", "text")
    assert {name: row.captions for name, row in table.rows.items()} == {
        "a.jpg": ("a dog,\nrunning",), "c.jpg": ('a "cat"',), "d.jpg": ()
    }  # fmt: skip
    assert [line for line, _ in table.problems] == [4, 7, 9]
    for word, (_, reason) in zip(("1 values for 2", "leads out", "second row"), table.problems, strict=True):
        assert word in reason


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"name;text\na;b", "must name the columns"),
        (b"file_name,file_name\n", "each once"),
        (b"file_name,text\na,\xfc", "byte 17"),
    ],
)
def test_a_csv_that_is_none(data, word):
    with pytest.raises(DataError, match=word) as caught:
        metadata.read(data, "photos/metadata.csv", "text")
    assert caught.value.message.startswith("photos/metadata.csv")


def test_a_broken_csv_row_is_reported():
    table = metadata.read(b'file_name,text\na.jpg,"x"y\nb.jpg,z\n', "metadata.csv", "text")
    assert table.problems[0][0] == 2
    assert "b.jpg" in table.rows
    assert metadata.read(b'file_name,text\na.jpg,"never closed\n', "metadata.csv", "text").problems


@given(st.binary(max_size=300))
def test_random_bytes_give_a_table_or_a_data_error(data):
    for name in ("metadata.jsonl", "metadata.csv"):
        for prefix in (b"", b"file_name,text\n", b'{"file_name": "a", "text": '):
            try:
                metadata.read(prefix + data, name, "text")
            except DataError as error:
                assert error.message.startswith(name)


ROW = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["file_name", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.lists(ROW, max_size=5))
def test_any_json_is_a_row_or_a_problem(values):
    data = "\n".join(json.dumps(value) for value in values).encode()
    table = metadata.read(data, "metadata.jsonl", "text")
    assert len(table.rows) + len(table.problems) == len(values)
