"""Which step is the best, what survives a stop, and which pictures are held out."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.best import Best, History, Measured
from tuner.data.held_out import ROLE, draw, refuse_trained
from tuner.data.scan import Example
from tuner.errors import DataError
from tuner.status import Status, read_status

FACTS = {"pictures": 2, "seed": 0}


def value(loss: float) -> Measured:
    return Measured(loss, tuple(loss + k for k in range(8)))


def history(path, losses: dict[int, float]) -> History:
    made = History(path / "validation.json", FACTS)
    for step, loss in losses.items():
        made.add(step, value(loss))
    return made


@pytest.mark.parametrize(
    ("losses", "saved", "best"),
    [
        ({0: 0.1, 2: 0.3, 4: 0.2, 6: 0.4}, {2, 4, 6}, 4),
        ({2: 0.2, 4: 0.2, 6: 0.2}, {2, 4, 6}, 2),
        ({6: 0.2, 2: 0.2}, {2, 6}, 2),
        ({2: math.nan, 4: 0.5, 6: math.inf, 8: -math.inf}, {2, 4, 6, 8}, 4),
        ({2: 0.1, 4: 0.5}, {3, 4}, 4),
        ({2: math.nan}, {2}, None),
        ({2: 0.1}, set(), None),
        ({}, {2}, None),
    ],
    ids=["lowest", "tie", "tie out of order", "not finite", "not saved", "none finite", "none saved", "none measured"],
)
def test_the_best_is_the_lowest_of_those_saved(losses, saved, best, tmp_path):
    found = history(tmp_path, losses).best(saved)
    assert found == (None if best is None else Best(best, losses[best]))


@given(st.dictionaries(st.integers(0, 50), st.floats(allow_nan=True, allow_infinity=True)), st.sets(st.integers(0, 50)))
def test_no_saved_step_is_better_than_the_best(losses, saved):
    made = History(None, FACTS)  # type: ignore[arg-type]  # writes nothing
    made.values = {step: value(loss) for step, loss in losses.items()}
    best = made.best(saved)
    rivals = {step: loss for step, loss in losses.items() if step in saved and math.isfinite(loss)}
    assert (best is None) == (not rivals)
    if best is not None:
        assert rivals[best.step] == best.validation_loss
        assert all((best.validation_loss, best.step) <= (loss, step) for step, loss in rivals.items())


def test_going_on_takes_up_what_belongs_to_the_weights(tmp_path):
    before = history(tmp_path, {0: 0.4, 2: 0.1 + 0.2, 4: math.nan, 6: 0.1})
    after = History(before.path, FACTS)
    assert after.resume(4) == []
    assert {step: v.loss for step, v in after.values.items() if step < 4} == {0: 0.4, 2: 0.1 + 0.2}
    assert math.isnan(after.values[4].loss)
    assert after.values.keys() == {0, 2, 4}
    assert after.values[2] == before.values[2]
    assert after.best({2, 4, 6}) == Best(2, 0.1 + 0.2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text, ""),
        (lambda text: text.replace('"pictures": 2', '"pictures": 3'), "another one"),
        (lambda text: text[:-20], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: text.replace('"levels"', '"Levels"'), "damaged"),
        (lambda text: json.dumps(json.loads(text) | {"schema": 2}), "layout version 2"),
    ],
    ids=["same", "other pictures", "cut", "no mapping", "other keys", "later version"],
)
def test_values_that_cannot_be_compared_are_told(change, told, tmp_path):
    path = history(tmp_path, {2: 0.1}).path
    path.write_text(change(path.read_text()))
    after = History(path, FACTS)
    notes = after.resume(2)
    assert (told in notes[0]) if told else not notes
    assert after.values.keys() == (set() if told else {2})


def test_a_fresh_start_compares_nothing(tmp_path):
    after = History(history(tmp_path, {0: 0.1, 2: 0.1}).path, FACTS)
    assert after.resume(0) == []
    assert not after.values


def test_the_status_tells_the_best(tmp_path):
    path = tmp_path / "status.json"
    path.write_text(Status("dog", state="done", best=Best(400, 0.125)).to_json())
    found = read_status(path)
    assert found is not None
    assert found.best == Best(400, 0.125)
    assert str(found.best) == "step 400 (validation 0.1250)"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "best"}))
    found = read_status(path)
    assert found is not None
    assert found.best is None


# Which pictures


def example(name: str, digest: str, role: str = "images") -> Example:
    return Example(digest[:16], digest, name, role, (64, 64), ("a dog",), 3, 2.0, bytes, "recipe")


def pictures(count: int) -> list[Example]:
    return [example(f"{n}.png", f"{n:064x}") for n in range(count)]


@given(st.integers(2, 40), st.floats(0.01, 0.9), st.integers(0, 5))
def test_a_share_is_a_function_of_seed_and_content(count, share, seed):
    found = {"images": pictures(count)}
    if max(1, round(share * count)) >= count:
        with pytest.raises(DataError, match="leaves none to learn from"):
            draw(found, "images", share, seed)
        return
    draw(found, "images", share, seed)
    held, rest = ({e.digest for e in found[role]} for role in (ROLE, "images"))
    assert len(held) == max(1, round(share * count))
    assert not held & rest
    assert held | rest == {e.digest for e in pictures(count)}
    shuffled = {"images": [replace(e, name="x" + e.name) for e in reversed(pictures(count))]}
    draw(shuffled, "images", share, seed)
    assert {e.digest for e in shuffled[ROLE]} == held
    more = {"images": pictures(count)}
    if max(1, round(min(0.95, share * 1.5) * count)) < count:
        draw(more, "images", min(0.95, share * 1.5), seed)
        assert held <= {e.digest for e in more[ROLE]}


def test_another_seed_holds_out_others():
    def held(seed):
        found = {"images": pictures(40)}
        draw(found, "images", 0.25, seed)
        return {e.digest for e in found[ROLE]}

    assert len({frozenset(held(seed)) for seed in range(5)}) == 5


def test_exact_copies_go_together():
    copies = [replace(e, uid=f"{e.uid}-1", name=f"copy of {e.name}") for e in pictures(4)]
    found = {"images": [*pictures(4), *copies]}
    note = draw(found, "images", 0.5, 0)
    assert len(found[ROLE]) == 4
    assert len({e.digest for e in found[ROLE]}) == 2
    assert all(e.name in note for e in found[ROLE])
    assert not refuse_trained(found)


def test_a_picture_that_is_trained_on_is_refused_by_name():
    found = {
        "instance": [example("dog/1.png", "a" * 64, "instance")],
        "prior": [example("own/7.png", "b" * 64, "prior")],
        ROLE: [example("held/x.png", "a" * 64), example("held/y.png", "c" * 64), example("held/z.png", "b" * 64)],
    }
    refused = refuse_trained(found)
    assert [e.name for e in found[ROLE]] == ["held/y.png"]
    assert [r.name for r in refused] == ["held/x.png", "held/z.png"]
    assert "dog/1.png of data.instance" in refused[0].reason
    assert "own/7.png of data.prior" in refused[1].reason
    found[ROLE] = [example("held/x.png", "a" * 64)]
    with pytest.raises(DataError, match=r"none is held out\nheld/x\.png: it is dog/1\.png"):
        refuse_trained(found)
