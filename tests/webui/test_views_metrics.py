"""metrics.jsonl as curves: the same however it is read, thinned without losing a peak, smoothed as defined."""

from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from view_parts import made_run, measure

from tuner.lines import read_metrics
from webui.views import metrics
from webui.views.metrics import Curve, MetricsReader, decimate, smoothed
from webui.views.panels import panels

FINITE = st.floats(-1e6, 1e6)
NAMES = st.sampled_from(["loss", "lr", "validation_loss"])
ROWS = st.lists(st.tuples(st.integers(0, 50), NAMES, st.one_of(st.none(), FINITE)), max_size=40)


def rows_of(reader: MetricsReader) -> dict[str, list[tuple[float, str]]]:
    return {name: [(step, repr(value)) for step, value in curve.points()] for name, curve in reader.curves.items()}


def line(step, name, value) -> bytes:
    return json.dumps({"step": step, "name": name, "value": value, "time": 1.0}).encode() + b"\n"


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(st.integers(0, 4000), max_size=6))
def test_a_file_read_as_it_grows_gives_what_one_look_gives(tmp_path_factory, rows, cuts):
    data = b"".join(line(*row) for row in rows) + b'{"step": 9, "na'
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    growing = MetricsReader(path)
    for cut in sorted({*(min(cut, len(data)) for cut in cuts), len(data)}):
        path.write_bytes(data[:cut])  # the same inode: it grows in place
        growing.look()
    whole = MetricsReader(path)
    whole.look()
    assert rows_of(growing) == rows_of(whole)
    assert growing.oddities == whole.oddities


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 300), st.dictionaries(NAMES, st.one_of(st.none(), FINITE), min_size=1), max_size=30)
)
def test_a_run_without_interruption_reads_as_tuner_itself_reads_it(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    path.write_bytes(b"".join(line(s, n, v) for s in sorted(table) for n, v in table[s].items()))
    reader = MetricsReader(path)
    reader.look()
    found: dict[int, dict[str, float | None]] = {}
    for name, curve in reader.curves.items():
        for step, value in curve.points():
            found.setdefault(int(step), {})[name] = None if math.isnan(value) else value
    assert dict(sorted(found.items())) == read_metrics(path)


def test_going_on_from_an_earlier_step_replaces_what_came_after_it(tmp_path):
    run = made_run(tmp_path / "run", losses={10: 1.0, 20: 2.0, 30: 3.0})
    reader = MetricsReader(run.metrics_file)
    reader.look()
    measure(run, 20, loss=20.0)
    reader.look()
    assert reader.curves["loss"].points() == [(10, 1.0), (20, 20.0)]


@pytest.mark.parametrize("how", ["shorter", "longer", "another file", "gone and back"])
def test_a_run_that_started_anew_is_read_anew(tmp_path, how):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, "loss", 1.0) + line(2, "loss", 2.0))
    reader = MetricsReader(path)
    reader.look()
    anew = {"shorter": 1, "longer": 5, "another file": 2, "gone and back": 2}[how]
    data = b"".join(line(step, "loss", 7.0) for step in range(100, 100 + anew))
    if how in ("shorter", "longer"):
        path.write_bytes(data)
    else:
        (tmp_path / "new").write_bytes(data)
        if how == "gone and back":
            path.unlink()
            reader.look()
            assert not reader.curves
        os.replace(tmp_path / "new", path)
    reader.look()
    assert reader.curves["loss"].points() == [(100 + n, 7.0) for n in range(anew)]


def test_a_line_is_taken_once_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = line(1, "loss", 1.0)
    path.write_bytes(whole[:20])
    reader = MetricsReader(path)
    reader.look()
    assert not reader.curves
    assert not reader.oddities
    path.write_bytes(whole)
    reader.look()
    assert reader.curves["loss"].points() == [(1, 1.0)]


@pytest.mark.parametrize("extra", [0, 1, 100, 5000])
def test_a_line_longer_than_any_is_passed_over_and_counted(tmp_path, monkeypatch, extra):
    monkeypatch.setattr(metrics, "CHUNK", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1, "loss", 1.0) + b"x" * (1000 + extra) + b"\n" + line(2, "loss", 2.0))
    reader = MetricsReader(path)
    reader.look()
    assert reader.curves["loss"].points() == [(1, 1.0), (2, 2.0)]
    assert reader.oddities.lines == 1


def test_a_file_of_gigabytes_is_read_a_part_at_a_look(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "CHUNK", 500)
    monkeypatch.setattr(metrics, "BUDGET", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line(step, "loss", 1.0) for step in range(100)))
    reader = MetricsReader(path)
    reader.look()
    assert reader.behind
    assert 10 <= len(reader.curves["loss"]) < 40
    for _ in range(10):
        reader.look()
    assert not reader.behind
    assert len(reader.curves["loss"]) == 100


def test_foreign_lines_are_passed_over_and_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    odd = [b"[1]\n", b"\xff\xfe\n", b'{"step": true, "name": "loss", "value": 1}\n', b'{"step": -1, "name": "loss", "value": 1}\n',
           b'{"step": 1, "name": 3, "value": 1}\n', b'{"step": 1, "name": "loss", "value": "x"}\n', b"[" * 5000 + b"\n",
           b'{"step": 1e3, "name": "loss", "value": 1}\n']  # fmt: skip
    path.write_bytes(b"".join(odd) + b"\n  \n" + line(3, "loss", 1.0))
    reader = MetricsReader(path)
    reader.look()
    assert reader.oddities.lines == len(odd)
    assert reader.curves["loss"].points() == [(3, 1.0)]


def test_no_more_names_are_held_than_a_page_can_show(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "MOST_NAMES", 3)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line(1, f"n{i}", 1.0) for i in range(5)))
    reader = MetricsReader(path)
    reader.look()
    assert sorted(reader.curves) == ["n0", "n1", "n2"]
    assert reader.oddities.names == 2


def test_a_curve_without_end_is_kept_thin_with_its_peaks(monkeypatch):
    monkeypatch.setattr(metrics, "MOST_KEPT", 1000)
    made = Curve()
    for step in range(20_000):
        made.put(step, 9.0 if step == 777 else 1.0)
    points = made.points()
    assert 500 <= len(points) <= 1000
    assert (points[0][0], points[-1][0]) == (0, 19_999)
    assert (777, 9.0) in points
    made.put(100, 5.0)
    assert made.points()[-1] == (100, 5.0)


# Thinning

POINTS = st.lists(st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, -math.inf])), max_size=400).map(
    lambda values: [(float(step), value) for step, value in enumerate(values)]
)


@settings(max_examples=80, deadline=None)
@given(POINTS, st.integers(4, 60))
def test_thinning_keeps_ends_extremes_and_order(points, most):
    kept = decimate(points, most)
    assert len(kept) <= most or len(points) <= most
    assert all(point in points or math.isnan(point[1]) for point in kept)
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    if points:
        assert [kept[0][0], kept[-1][0]] == [points[0][0], points[-1][0]]
    finite = [value for _, value in points if math.isfinite(value)]
    if finite:
        shown = [value for _, value in kept if math.isfinite(value)]
        assert min(shown) == min(finite)
        assert max(shown) == max(finite)


def test_a_stretch_without_numbers_stays_a_gap():
    points = [(float(n), math.nan if 300 <= n < 700 else 1.0) for n in range(1000)]
    kept = decimate(points, 50)
    assert any(math.isnan(value) for step, value in kept if 300 <= step < 700)


# Smoothing


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(FINITE, st.just(math.nan)), min_size=1, max_size=60), st.floats(0, 0.99))
def test_smoothing_is_the_weighted_mean_of_what_was_there(values, weight):
    points = list(enumerate(map(float, values)))
    found = smoothed(points, weight)
    for n, (step, mean) in enumerate(found):
        assert step == n
        before = [value for value in values[: n + 1] if math.isfinite(value)]
        if math.isnan(values[n]):
            assert math.isnan(mean)
            continue
        shares = [weight ** (len(before) - 1 - i) for i in range(len(before))]
        expected = sum(s * v for s, v in zip(shares, before, strict=True)) / sum(shares)
        assert mean == pytest.approx(expected, rel=1e-6, abs=1e-6 * max(map(abs, before)) + 1e-12)


def test_smoothing_by_itself_looks_back_over_a_twenty_fifth():
    quiet = smoothed([(n, 0.0 if n < 500 else 1.0) for n in range(1000)])
    reached = next(step for step, value in quiet if value > 0.5)
    assert 515 < reached < 540


# Charts of a run


def curve(**points: float) -> Curve:
    made = Curve()
    for step, value in points.items():
        made.put(int(step[1:]), value)
    return made


def test_every_number_has_its_chart():
    one = curve(s1=1.0, s2=2.0)
    names = ["loss", "validation_loss", "validation_loss/level_0", "validation_loss/level_1", "lr", "lr_text_encoder",
             "loss_instance", "loss_prior", "loss_scale", "grad_norm", "epoch", "it_s", "loss_a\nb"]  # fmt: skip
    found = {panel.key: [line.name for line in panel.lines] for panel in panels(dict.fromkeys(names, one))}
    assert list(found)[:4] == ["loss", "lr", "parts", "levels"]
    assert found["loss"] == ["each interval", "smoothed", "validation"]
    assert found["lr"] == ["Learning rate", "text encoder"]
    assert found["parts"] == ["instance", "prior"]
    assert found["levels"] == ["level 0", "level 1"]
    assert {"metric:loss_scale", "metric:grad_norm", "metric:it_s"} <= set(found)
    assert not any("epoch" in key for key in found)
    shown = sum(len(lines) for lines in found.values())
    assert shown == len(names) - 1 + 1  # without the epoch, and the loss twice


def test_a_run_without_numbers_has_no_charts():
    assert panels({}) == ()
