"""Laws of the order: every unit once an epoch, pure in (seed, step), no step mixes what it must not."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.data.order import Entry, Order
from tuner.draws import Draws

BUCKETS = [(64, 64), (96, 48), (48, 96)]


@st.composite
def orders(draw):
    count = draw(st.integers(1, 25))
    first = [Entry(f"a{i}", draw(st.integers(1, 3)), draw(st.sampled_from(BUCKETS))) for i in range(count)]
    others = [Entry(f"b{i}", 1, (64, 64)) for i in range(draw(st.integers(1, 9)))]
    batch, accumulate = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**62))
    return Order(Draws(seed), {"instance": first, "prior": others}, batch=batch, unit_count=batch * accumulate)


def epoch_of(order, epoch):
    return [order.step(epoch * order.steps_per_epoch + i) for i in range(order.steps_per_epoch)]


@given(orders(), st.integers(0, 5))
@settings(deadline=None)
def test_every_unit_once_an_epoch(order, epoch):
    seen = Counter(
        (unit["instance"].index, unit["instance"].repeat)
        for step in epoch_of(order, epoch)
        for micro in step
        for unit in micro.units
    )
    assert set(seen) == {(i, r) for i, e in enumerate(order.roles["instance"]) for r in range(e.repeats)}
    assert set(seen.values()) == {1}


@given(orders())
@settings(deadline=None)
def test_only_one_step_of_an_epoch_is_short(order):
    sizes = [sum(len(micro.units) for micro in step) for step in epoch_of(order, 0)]
    assert sum(size < order.unit_count for size in sizes) <= 1
    assert all(0 < size <= order.unit_count for size in sizes)


@given(orders())
@settings(deadline=None)
def test_a_micro_batch_is_one_bucket_and_fits(order):
    for step in epoch_of(order, 1):
        for micro in step:
            assert 0 < len(micro.units) <= order.batch
            assert {order.roles["instance"][u["instance"].index].bucket for u in micro.units} == {micro.bucket}


@given(orders(), st.integers(1, 60))
@settings(deadline=None)
def test_the_other_role_cycles_evenly(order, steps):
    visits = [u["prior"] for s in range(steps) for micro in order.step(s) for u in micro.units]
    counts = Counter(v.index for v in visits)
    assert max(counts.values()) - min(counts[i] for i in range(len(order.roles["prior"]))) <= 1
    assert len(set(visits)) == len(visits), "one visit is one (example, cycle)"


@given(orders(), st.integers(0, 40))
@settings(deadline=None)
def test_a_step_is_a_pure_function(order, step):
    fresh = Order(order.draws, order.roles, batch=order.batch, unit_count=order.unit_count)
    for other in (3, step + order.steps_per_epoch, 0):
        order.step(other)
    assert order.step(step) == fresh.step(step)


def test_accumulation_does_not_move_units():
    entries = {"images": [Entry(f"a{i}", 1, BUCKETS[i % 3]) for i in range(23)]}
    wide = Order(Draws(1), entries, batch=4, unit_count=4)
    thin = Order(Draws(1), entries, batch=1, unit_count=4)
    for step in range(20):
        flat = [[u["images"] for micro in order.step(step) for u in micro.units] for order in (wide, thin)]
        assert flat[0] == flat[1]


def test_two_epochs_differ():
    """Fails where the epoch drops out of the order's key."""
    entries = {"images": [Entry(f"a{i}", 1, (64, 64)) for i in range(30)]}
    order = Order(Draws(0), entries, batch=2, unit_count=2)
    epochs = [[[u["images"].index for m in s for u in m.units] for s in epoch_of(order, e)] for e in (0, 1)]
    assert epochs[0] != epochs[1]


def test_a_new_file_moves_nobody_past_another():
    few = [Entry(f"a{i}", 1, (64, 64)) for i in range(10)]
    more = [*few[:4], Entry("new", 1, (64, 64)), *few[4:]]
    orders = [Order(Draws(5), {"images": e}, batch=1, unit_count=1) for e in (few, more)]
    uids = [[o.roles["images"][i].uid for i, _ in o._order_cycle("images", 3)] for o in orders]
    assert [u for u in uids[1] if u != "new"] == uids[0]
