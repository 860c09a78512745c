"""A state comes back as it was saved, to the bit, whatever its dtypes, shapes and facts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner import checkpoint
from tuner.tensor_files import same_bits

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    count = int(torch.Size(shape).numel())
    raw = torch.tensor(list(draw(st.binary(min_size=count * 8, max_size=count * 8))), dtype=torch.uint8)
    if dtype is torch.bool:
        return (raw[:count] % 2).bool().reshape(shape)
    bits = raw[: count * dtype.itemsize]  # any bits at all: NaN payloads, -0, denormals
    return (bits.view(dtype) if count else torch.empty(0, dtype=dtype)).reshape(shape)


names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda n: n != "__metadata__"
)
groups = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_.]{0,6}", fullmatch=True), st.dictionaries(names, tensors(), max_size=3), max_size=3
)
facts = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(groups=groups, facts=facts, step=st.integers(0, 10**9))
def test_a_state_comes_back_bitwise(groups, facts, step):
    with tempfile.TemporaryDirectory() as place:
        checkpoint.save(Path(place), checkpoint.State(step, groups, facts), keep=1)
        state, rejected = checkpoint.newest(Path(place))
        assert not rejected
        assert state is not None
        assert (state.step, state.facts) == (step, facts)
        assert state.tensors.keys() == groups.keys()
        assert all(same_bits(state.tensors[group], groups[group]) for group in groups)


def test_layouts_that_the_format_does_not_know_are_saved_all_the_same(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    views = {
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "whole": base,
        "again": base,
        "expanded": torch.tensor(3.0).expand(2, 2),
        "parameter": torch.nn.Parameter(base[0]),
    }
    checkpoint.save(tmp_path, checkpoint.State(1, {"g": views}), keep=1)
    state, _ = checkpoint.newest(tmp_path)
    assert state is not None
    assert all(torch.equal(state.tensors["g"][name], views[name]) for name in views)


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path):
    checkpoint.save(tmp_path, checkpoint.State(1, {"g": {"w": torch.ones(1000)}}), keep=1)
    state, _ = checkpoint.newest(tmp_path)
    assert state is not None
    file = tmp_path / "1" / "g.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as handle:
        handle.seek(size - 400)
        handle.write(b"\xff" * 400)
    assert torch.equal(state.tensors["g"]["w"], torch.ones(1000))


@pytest.mark.parametrize("facts", [{"a": (1, 2)}, {1: "x"}, {"a": float("nan")}, {"a": float("inf")}, {"a": {1, 2}}])
def test_facts_that_json_would_change_are_refused(tmp_path, facts):
    with pytest.raises((TypeError, ValueError)):
        checkpoint.save(tmp_path, checkpoint.State(1, {}, facts), keep=1)
    assert checkpoint.steps(tmp_path) == []


@pytest.mark.parametrize("group", ["", "../x", "a/b", ".hidden", "a" * 200, "con:x"])
def test_group_names_that_are_no_file_names_are_refused(tmp_path, group):
    with pytest.raises(ValueError, match="cannot name a group"):
        checkpoint.save(tmp_path, checkpoint.State(1, {group: {}}), keep=1)


def test_group_names_that_differ_in_case_only_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot name a group"):
        checkpoint.save(tmp_path, checkpoint.State(1, {"ema": {}, "EMA": {}}), keep=1)


def state(step, value=None, **facts):
    return checkpoint.State(
        step, {"adapter.0": {"w": torch.full((3,), float(step if value is None else value))}}, facts
    )


@settings(max_examples=20, deadline=None)
@given(keep=st.integers(1, 4), count=st.integers(1, 7), adapters=st.booleans())
def test_rotation_keeps_the_newest_states_and_every_adapter(keep, count, adapters):
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for step in range(0, count * 10, 10):
            checkpoint.save(place, state(step), keep=keep)
            if adapters:
                with checkpoint.add_folder(place, step, "adapter") as folder:
                    (folder / "a.safetensors").write_text(str(step))
        every = list(range(0, count * 10, 10))
        assert checkpoint.steps(place) == every[-keep:]
        kept = [step for step in every if (place / str(step) / "adapter" / "a.safetensors").is_file()]
        assert kept == (every if adapters else [])
        assert sorted(p.name for p in place.iterdir()) == sorted(map(str, every if adapters else every[-keep:]))


def test_large_outputs_rotate_with_their_state(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state(step), keep=1, outputs=("adapter",))
        with checkpoint.add_folder(tmp_path, step, "adapter") as folder:
            (folder / "model").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["3"]


def test_saving_the_same_state_again_changes_nothing(tmp_path):
    checkpoint.save(tmp_path, state(5, note="a"), keep=2)
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")}
    checkpoint.save(tmp_path, state(5, note="a"), keep=2)
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")} == before


def test_saving_another_state_of_the_same_step_replaces_it(tmp_path):
    checkpoint.save(tmp_path, state(5, value=1), keep=2)
    with checkpoint.add_folder(tmp_path, 5, "adapter") as folder:
        (folder / "of the first state").write_text("")
    checkpoint.save(tmp_path, state(5, value=2), keep=2)
    loaded, rejected = checkpoint.newest(tmp_path)
    assert not rejected
    assert loaded is not None
    assert loaded.tensors["adapter.0"]["w"].tolist() == [2.0] * 3
    assert not (tmp_path / "5" / "adapter").exists()  # it belonged to the state that is gone


def test_a_rotated_step_that_is_reached_again_keeps_its_adapter(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step), keep=1)
        with checkpoint.add_folder(tmp_path, step, "adapter") as folder:
            (folder / "a").write_text(str(step))
    assert checkpoint.steps(tmp_path) == [2]
    checkpoint.save(tmp_path, state(1), keep=1)
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert (tmp_path / "1" / "adapter" / "a").read_text() == "1"
