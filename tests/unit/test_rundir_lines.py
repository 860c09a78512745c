"""Append-only files survive a kill in the middle of a line, and hold no token."""

from __future__ import annotations

import json

import pytest

from tuner.errors import StorageError
from tuner.lines import LineWriter, metric_rows, read_json_lines, read_metrics

TOKEN = "hf_" + "aB3" * 8


def test_a_partial_line_spoils_only_itself(tmp_path):
    path = tmp_path / "metrics.jsonl"
    LineWriter(path).append_json(metric_rows(1, {"loss": 0.5}) + metric_rows(2, {"loss": 0.25}))
    whole = path.read_bytes()
    for cut in range(len(whole)):  # a kill at any byte
        path.write_bytes(whole[:cut])
        writer = LineWriter(path)
        writer.append_json(metric_rows(3, {"loss": 0.125}))
        writer.append_json(metric_rows(4, {"loss": 0.0625}))
        table = read_metrics(path)
        assert {step: row["loss"] for step, row in table.items() if step > 2} == {3: 0.125, 4: 0.0625}
        assert all(row["loss"] == {1: 0.5, 2: 0.25}[step] for step, row in table.items() if step < 3)


def test_the_last_value_of_a_step_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = LineWriter(path)
    for step, loss in [(10, 1.0), (20, 2.0), (30, 3.0), (20, 2.5)]:  # resumed at 10
        writer.append_json(metric_rows(step, {"loss": loss, "lr": 0.1}))
    assert {step: row["loss"] for step, row in read_metrics(path).items()} == {10: 1.0, 20: 2.5, 30: 3.0}
    assert list(read_metrics(path)) == [10, 20, 30]


def test_each_line_is_an_object_with_the_published_keys(tmp_path):
    path = tmp_path / "metrics.jsonl"
    LineWriter(path).append_json(metric_rows(7, {"loss": float("nan"), "lr": 1e-4}))
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(row["step"], row["name"], row["value"]) for row in rows] == [(7, "loss", None), (7, "lr", 1e-4)]
    assert all(isinstance(row["time"], float) for row in rows)


def test_lines_are_visible_at_once(tmp_path):
    writer = LineWriter(tmp_path / "x")
    writer.append(["one"])
    assert (tmp_path / "x").read_text() == "one\n"
    writer.append([])
    writer.append(["two\nthree\r\nfour\u2028five"])
    assert (tmp_path / "x").read_text().splitlines() == ["one", "two three four five"]


def test_tokens_and_broken_text(tmp_path):
    writer = LineWriter(tmp_path / "x")
    writer.append([f"login with {TOKEN}!", "lone \ud800 surrogate"])
    writer.append_json([{"a": f"x{TOKEN}"}])
    text = (tmp_path / "x").read_text()
    assert TOKEN not in text
    assert text.count("hf_***") == 2


def test_garbage_is_passed_over(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(
        b'\xff\xfe\n[1]\nnull\n{"step": "x", "name": "loss", "value": 1}\n{"step": 1}\n'
        b'{"step": 1, "name": "loss", "value": "x"}\n' + b"[" * 100_000 + b'\n{"step": 2, "name": "loss", "value": 1}'
    )
    assert read_metrics(path) == {2: {"loss": 1}}
    assert read_metrics(tmp_path / "nowhere") == {}


def test_the_tail_starts_at_a_whole_line(tmp_path):
    path = tmp_path / "m"
    LineWriter(path).append_json([{"n": n} for n in range(1000)])
    tail = [row["n"] for row in read_json_lines(path, 200)]
    assert tail == list(range(tail[0], 1000))
    assert 5 < len(tail) < 40


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        LineWriter(tmp_path).append(["x"])
