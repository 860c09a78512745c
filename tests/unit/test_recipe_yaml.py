"""What the YAML reader makes of a text, and what it refuses and where."""

from __future__ import annotations

import pytest

from tuner.yaml_text import MAX_DEPTH, decode, parse, plain_value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-4", 1e-4), ("5E+3", 5000.0), (".5", 0.5), ("1.", 1.0), ("-3", -3), ("+3", 3), ("0", 0), ("-0.0", -0.0), ("0.0001", 0.0001), ("true", True), ("FALSE", False), ("null", None),
        ("~", None), ("", None), ("no", "no"), ("yes", "yes"), ("off", "off"), ("on", "on"), ("y", "y"), ("010", "010"), ("0o17", "0o17"), ("0x1F", "0x1F"), ("1_000", "1_000"),
        ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ("1e", "1e"), ("e1", "e1"), (".", "."), ("-", "-"), ("1.2.3", "1.2.3"), ("Infinity", "Infinity"), ("tRue", "tRue"), ("١", "١"),
    ],
)  # fmt: skip
def test_words_of_yaml_1_2(word, value):
    found = plain_value(word)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", [".inf", "-.INF", ".NaN", "1e999", "-1e400", "1" * 41, "0." + "1" * 60])
def test_numbers_that_mean_nothing_here(word):
    with pytest.raises(ValueError, match="number"):
        plain_value(word)


def test_every_key_and_value_has_its_place():
    document = parse("a: 1\nb:\n  - c: 'two'\n    d: [3, 4]\n")
    assert document.value == {"a": 1, "b": [{"c": "two", "d": [3, 4]}]}
    assert {path: str(place) for path, place in document.keys.items()} == {
        (): "1:1",
        ("a",): "1:1",
        ("b",): "2:1",
        ("b", 0): "3:5",
        ("b", 0, "c"): "3:5",
        ("b", 0, "d"): "4:5",
        ("b", 0, "d", 0): "4:9",
        ("b", 0, "d", 1): "4:12",
    }
    assert str(document.values["b", 0, "c"]) == "3:8"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1", "given twice, first on line 1"),
        ("a: {b: 1, b: 2}", "1:11", "given twice"),
        ("a: &x 1", "1:4", "anchor '&x' is refused"),
        ("a: *x", "1:4", "alias '*x' is refused"),
        ("a: !!int 1", "1:4", "tag '!!int' is refused"),
        ("a: !own 1", "1:4", "tag '!own' is refused"),
        ("b:\n  <<: {a: 1}", "2:3", "merge keys"),
        ("a: .nan", "1:4", "not a finite number"),
        ("1: a", "1:1", "the key 1 is not text"),
        ("true: a", "1:1", "the key true is not text"),
        ("{[a]: 1}", "1:2", "a key must be one word"),
        (": 1", "1:1", "a key is missing"),
        ("a: 1\n---\nb: 1", "2:1", "more than one document"),
        ("%YAML 1.1\n---\na: 1", "2:1", "% directive"),
        ("a: b: c", "1:5", "second colon"),
        ("a: 'open\nb: 1\n", "1:4", "never closed"),
        ("a: [1, 2\nb: 3", "2:2", "closing ]"),
        ("a: 1\n\tb: 2", "2:1", "tab"),
        ("a: 1\n b: 2", "2:3", "colon"),
        ("a: 1\nb: x\0y", "2:5", "binary"),
        ("a: x\x07", "1:5", "U+0007"),
        ('a: "\\u0007"', "1:4", "U+0007"),
        ('a: "\\ud800"', "1:4", "U+D800"),
        ("a: @x", "1:4", "in quotes"),
        ("[" * 5000, f"1:{MAX_DEPTH + 1}", "nested deeper"),
    ],
)
def test_faults_are_placed(text, place, words):
    fault = parse(text).faults[0]
    assert words in fault.text
    assert str(fault.place) == place
    assert "\n" not in fault.text


def test_all_faults_of_a_text_are_found_in_one_pass():
    document = parse("a: *x\nb: !t 1\nc: .inf\nd: 1\nd: 2\n")
    assert [str(fault.place) for fault in document.faults] == ["1:4", "2:4", "3:4", "5:1"]
    assert document.value["d"] == 1


def test_depth_32_is_read_and_33_is_not():
    inner = MAX_DEPTH - 1  # the root mapping is one level
    assert not parse("a: " + "[" * inner + "]" * inner).faults
    assert "deeper" in parse("a: " + "[" * (inner + 1) + "]" * (inner + 1)).faults[0].text


@pytest.mark.parametrize("text", ["", " ", "# nothing\n", "\n\n", "---\n"])
def test_nothing_is_none(text):
    document = parse(text)
    assert document.value is None
    assert not document.faults


@pytest.mark.parametrize("text", ["3 # three", "#", "# 3", "a #b", "[1] # c", "---", "--- 3", "3\n...\n4"])
def test_an_override_value_is_one_value_and_nothing_else(text):
    assert parse(text, one_value=True).faults


def test_decode_says_where():
    assert decode("\ufeffa: ü".encode()) == "a: ü"
    with pytest.raises(ValueError, match=r"^2:4: byte 8 is not UTF-8"):
        decode(b"a: 1\nb: \xff\xfe")
    with pytest.raises(ValueError, match="larger than 256 KB"):
        decode(b"#" * (256 * 1024 + 1))
