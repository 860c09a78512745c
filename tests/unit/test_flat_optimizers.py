"""Optimizers of many tensors at once: how these lie together, and which of them has a gradient, changes no value."""

from __future__ import annotations

import pytest
import torch
from test_loop_waits_for_nothing import Count, no_waiting
from torch import nn

from tuner.errors import UsageError
from tuner.optim import flat
from tuner.optim.optimizers import Optimizer
from tuner.types import ParamGroup

NAMES = ("lion", "schedule_free", "prodigy")
ALL = ("adamw", "adafactor", *NAMES)
SHAPES = {"a": (12, 8), "b": (6, 4, 3, 3), "c": (), "d": (40,), "e": (5, 7), "f": (3, 3)}
SPLIT = (("a", "b", "c", "d"), ("e", "f"))


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for name, shape in SHAPES.items()}


def build(name: str, own: dict[str, nn.Parameter], *, rates=(None, None), in_backward=False, **keys):
    groups = [
        ParamGroup(str(i), {name: own[name] for name in names}, lr=rate)
        for i, (names, rate) in enumerate(zip(SPLIT, rates, strict=True))
    ]
    keys = {"d0": 1e-3, **keys} if name == "prodigy" else keys
    lr = 1.0 if name == "prodigy" else 1e-2
    return Optimizer.read({"name": name, **keys}).build(groups, lr, seed=3, in_backward=in_backward)


def run(own, optimizer, steps, *, absent=lambda step, name: False, factors=None):
    """Steps towards 0.5, with noise; `absent` parameters have no gradient."""
    for step in steps:
        g = torch.Generator().manual_seed(step)
        for name, p in own.items():
            noise = 0.1 * torch.randn(p.shape, generator=g)
            pull = 0.1 * (p.detach().float() * (factors or {}).get(name, 1.0) - 0.5) + noise
            p.grad = None if absent(step, name) else (pull * (factors or {}).get(name, 1.0)).to(p.dtype)
        optimizer.found_inf = torch.zeros(())
        optimizer.step()


def same(one, other, tolerance=0.0):
    for name, p in one.items():
        assert torch.allclose(p, other[name], rtol=0, atol=tolerance), name


def gap(step: int, name: str) -> bool:
    return (name == "b" and step in (3, 4)) or (name == "d" and step < 2) or (name == "e" and step == 5)


@pytest.mark.parametrize("name", ["lion", "schedule_free"])
@pytest.mark.parametrize("absent", [None, gap], ids=["all have gradients", "some lack theirs"])
def test_together_is_as_one_by_one(name, absent):
    apart, together = parameters(), parameters()
    each = build(name, apart, in_backward=True)
    each.step = lambda: [
        each._update(p, p.grad, index, group, each.found_inf)
        for p, (index, group) in each.places.items()
        if p.grad is not None
    ]
    each.step = torch.no_grad()(each.step)
    absent = absent or (lambda step, name: False)
    run(apart, each, range(10), absent=absent)
    run(together, build(name, together), range(10), absent=absent)
    same(apart, together, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_how_many_are_updated_at_once_changes_nothing(name, monkeypatch):
    one, other = parameters(), parameters()
    run(one, build(name, one), range(10))
    monkeypatch.setattr(flat, "MOST_ON_CPU", 41)
    cut = build(name, other)
    run(other, cut, range(10))
    assert [len(stretch.members) for stretch in cut.stretches()] == [1, 1, 2, 1, 1]
    same(one, other, 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_looks_at_stretches_and_not_at_tensors(name):
    own = parameters()
    optimizer = build(name, own)
    run(own, optimizer, range(2))
    assert [len(stretch.members) for stretch in optimizer.stretches()] == [4, 2], "one a group"


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gradient_nothing_of_a_parameter_moves(name):
    own = parameters()
    optimizer = build(name, own, weight_decay=0.5)
    run(own, optimizer, range(3))
    before = {key: value.clone() for key, value in optimizer.state[own["b"]].items()}
    value = own["b"].detach().clone()
    run(own, optimizer, [3], absent=lambda step, name: name == "b")
    assert torch.equal(own["b"], value)
    assert all(torch.equal(optimizer.state[own["b"]][key], kept) for key, kept in before.items())
    run(own, optimizer, [4])
    assert not torch.equal(own["b"], value)
    assert float(optimizer.state[own["b"]]["step"]) == 4
    assert float(optimizer.state[own["a"]]["step"]) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_going_on_is_exact_wherever_gradients_were_lacking(name, dtype):
    whole = parameters(dtype)
    run(whole, build(name, whole), range(10), absent=gap)
    for stop in (1, 3, 4, 6):
        half = parameters(dtype)
        first = build(name, half)
        run(half, first, range(stop), absent=gap)
        kept = {key: {k: v.clone() for k, v in own.items()} for key, own in first.state_dict()["state"].items()}
        second = build(name, half)
        second.load_state_dict({"state": kept, "param_groups": second.state_dict()["param_groups"]})
        run(half, second, range(stop, 10), absent=gap)
        same(half, whole)


@pytest.mark.parametrize("name", ALL)
def test_a_step_waits_for_nothing(name, monkeypatch):
    own = parameters()
    optimizer = build(name, own)
    run(own, optimizer, range(2))
    optimizer.found_inf = torch.zeros(())
    with no_waiting(monkeypatch), Count() as count:
        optimizer.step()
    assert count.waits == []


# Prodigy


def test_a_groups_own_rate_is_a_unit_of_length():
    """A group at a tenth of the rate is the same run as one whose weights are ten times as large."""
    plain, scaled = parameters(), parameters()
    factors = dict.fromkeys(SPLIT[1], 0.1)
    for name in factors:
        scaled[name].data.mul_(10)
    first = build("prodigy", plain, rates=(None, 0.1), eps=1e-12)
    second = build("prodigy", scaled, eps=1e-12)
    run(plain, first, range(20))
    run(scaled, second, range(20), factors=factors)
    assert float(first.shared["d"]) == pytest.approx(float(second.shared["d"]), rel=1e-3)
    assert float(first.shared["d"]) > 2e-3
    same(plain, {name: p.detach() * factors.get(name, 1.0) for name, p in scaled.items()}, 1e-3)


def test_prodigy_finds_the_way_that_there_is():
    """d is, within a factor, the distance to where the loss is lowest, whatever it began with."""
    for d0 in (1e-6, 1e-4):
        weight = nn.Parameter(torch.zeros(100))
        optimizer = Optimizer.read({"name": "prodigy", "d0": d0}).build([ParamGroup("all", {"w": weight})], 1.0)
        for _ in range(200):
            weight.grad = (weight.detach() - 3.0).sign() * 0.01
            optimizer.found_inf = torch.zeros(())
            optimizer.step()
        assert 0.3 < float(optimizer.shared["d"]) < 3.1
        assert float((weight.detach() - 3.0).abs().max()) < 1.0


def test_gradients_of_nothing_move_nothing():
    own = parameters()
    before = {name: p.detach().clone() for name, p in own.items()}
    optimizer = build("prodigy", own, weight_decay=0.5)
    for p in own.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    same(own, before)
    assert all(bool(torch.isfinite(value)) for value in optimizer.shared.values())


def test_prodigy_cannot_update_in_backward():
    with pytest.raises(UsageError, match="needs the gradients of all weights"):
        build("prodigy", parameters(), in_backward=True)


def test_the_gauges_tell_the_estimate_once_they_were_opened():
    own = parameters()
    optimizer = build("prodigy", own)
    told = Optimizer.read("prodigy").gauges(optimizer)
    for gauge in told:
        gauge.begin()
        assert gauge.end() is None, "no step yet"
    run(own, optimizer, range(5))
    assert [gauge.end() for gauge in told] == [None, None], "not opened"
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for gauge in told:
        gauge.begin()
    found = {gauge.name: float(gauge.end()) for gauge in told}
    assert found == {"prodigy_d": float(optimizer.shared["d"]), "effective_lr": 0.5 * float(optimizer.shared["d"])}
