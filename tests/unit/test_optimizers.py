"""Every optimizer: what skipped steps, narrow weights, a resume and the update in backward do to it."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from tuner.errors import UsageError
from tuner.optim.optimizers import Optimizer
from tuner.types import ParamGroup

NAMES = sorted(set(Optimizer.family) - {"adamw8bit"})
OWN = [
    ("adamw", torch.bfloat16),
    *((name, dtype) for name in ("adafactor", "lion", "schedule_free") for dtype in (torch.float32, torch.bfloat16)),
]
"""Those whose arithmetic is here and that update in backward."""


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    g = torch.Generator().manual_seed(0)
    shapes = {"matrix": (12, 8), "kernel": (6, 4, 3, 3), "vector": (8,)}
    return {name: nn.Parameter(torch.randn(shape, generator=g).to(dtype)) for name, shape in shapes.items()}


def gradients(own: dict[str, nn.Parameter], step: int) -> None:
    g = torch.Generator().manual_seed(100 + step)
    for p in own.values():
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def build(own: dict[str, nn.Parameter], name: str, lr: float = 1e-2, **keys):
    in_backward = keys.pop("in_backward", False)
    made = Optimizer.read({"name": name, **keys}).build([ParamGroup("all", own)], lr, seed=3, in_backward=in_backward)
    made.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    return made


def run(own, optimizer, steps, bad=()):
    for step in steps:
        gradients(own, step)
        optimizer.found_inf = torch.tensor(float(step in bad))
        if step in bad:
            own["matrix"].grad[0, 0] = float("nan")
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_bad_step_moves_nothing_and_counts_for_nothing(name, dtype):
    own = parameters(dtype)
    optimizer = build(own, name)
    run(own, optimizer, range(2))
    before = {key: p.detach().clone() for key, p in own.items()}
    state = {key: {k: v.clone() for k, v in s.items()} for key, s in optimizer.state_dict()["state"].items()}
    run(own, optimizer, [2], bad=[2])
    assert all(torch.equal(p, before[key]) for key, p in own.items())
    after = optimizer.state_dict()["state"]
    for key, kept in state.items():
        for k, v in kept.items():
            assert k == "calls" or torch.equal(after[key][k], v), k


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_going_on_from_its_state_is_exact(name, dtype):
    whole = parameters(dtype)
    straight = build(whole, name)
    run(whole, straight, range(6), bad=[1])
    half = parameters(dtype)
    first = build(half, name)
    run(half, first, range(3), bad=[1])
    saved = {key: {k: v.clone() for k, v in s.items()} for key, s in first.state_dict()["state"].items()}
    assert all(isinstance(v, torch.Tensor) for own in saved.values() for v in own.values())
    second = build(half, name)
    second.load_state_dict({"state": saved, "param_groups": second.state_dict()["param_groups"]})
    run(half, second, range(3, 6))
    assert all(torch.equal(half[key], whole[key]) for key in whole)
    found, want = second.state_dict()["state"], straight.state_dict()["state"]
    assert all(
        torch.equal(found[key][k], v) and found[key][k].dtype == v.dtype for key in want for k, v in want[key].items()
    )


def test_plain_adamw_is_torchs():
    one, two = parameters(), parameters()
    run(one, build(one, "adamw"), range(20))
    ours = build(two, "adamw", in_backward=True)  # which takes ours in place of the fused one
    ours.in_backward = False  # type: ignore[attr-defined]
    for p in two.values():
        p._post_accumulate_grad_hooks.clear()  # type: ignore[union-attr]
    run(two, ours, range(20))
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-6) for key in one)


def test_adafactor_is_torchs_on_matrices_and_vectors():
    one, two = parameters(), parameters()
    del one["kernel"], two["kernel"]  # torch factors a kernel otherwise
    theirs = torch.optim.Adafactor(list(one.values()), lr=0.05, weight_decay=0.1)
    ours = build(two, "adafactor", 0.05, relative=True, weight_decay=0.1)
    for step in range(20):
        for own, optimizer in ((one, theirs), (two, ours)):
            gradients(own, step)
            optimizer.step()
    assert all(torch.allclose(one[key], two[key], rtol=1e-5, atol=1e-6) for key in one)


def test_adafactor_remembers_a_row_and_a_column():
    own = parameters()
    optimizer = build(own, "adafactor")
    run(own, optimizer, range(1))
    kept = {
        key: {k: tuple(v.shape) for k, v in s.items()} for key, s in zip(own, optimizer.state.values(), strict=True)
    }
    assert kept["matrix"] == {"row_var": (12, 1), "col_var": (1, 8), "step": ()}
    assert kept["kernel"] == {"row_var": (6, 1), "col_var": (1, 36), "step": ()}
    assert kept["vector"] == {"variance": (8,), "step": ()}


@pytest.mark.parametrize("name", NAMES)
def test_updates_below_a_bfloat16_step_add_up(name):
    """Rounding to the nearest would leave every weight where it is."""
    keys = {"d0": 1e-4, "growth_rate": 1.0001} if name == "prodigy" else {}
    lr = 1.0 if name == "prodigy" else 1e-4  # a 78th of a step at 1
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(torch.ones(4096, dtype=dtype))
        optimizer = build({"w": weight}, name, lr, weight_decay=0.0, **keys)
        for _ in range(50):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        ends.append(float(weight.detach().float().mean()))
    assert torch.ones((), dtype=torch.bfloat16) - 1e-4 == 1
    assert ends[0] < 1 - 20 * 1e-4
    assert 1 - ends[1] == pytest.approx(1 - ends[0], rel=0.1)


@pytest.mark.parametrize(("name", "dtype"), OWN, ids=str)
def test_in_backward_is_the_same_without_gradients_left(name, dtype):
    def loss(own):
        return (own["matrix"].float() @ own["vector"].float()).square().sum() + own["kernel"].float().pow(2).sum()

    apart, within = parameters(dtype), parameters(dtype)
    one, two = build(apart, name), build(within, name, in_backward=True)
    for _ in range(4):
        loss(apart).backward()
        norm = torch.nn.utils.get_total_norm([p.grad.float() for p in apart.values()])  # type: ignore[union-attr]
        one.step()
        one.zero_grad()
        loss(within).backward()
        assert all(p.grad is None for p in within.values())
        assert torch.allclose(two.used_up()[0], norm, rtol=1e-5)  # type: ignore[attr-defined]
        two.step()
        assert two.used_up() == []  # type: ignore[attr-defined]
    assert all(torch.equal(apart[key], within[key]) for key in apart)


def test_in_backward_a_gradient_that_is_not_finite_moves_nothing():
    own = parameters()
    optimizer = build(own, "adamw", in_backward=True)
    before = own["matrix"].detach().clone()
    (own["matrix"].sum() * float("inf") * 0).backward()
    assert not torch.isfinite(optimizer.used_up()[0])  # type: ignore[attr-defined]
    assert torch.equal(own["matrix"], before)


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(UsageError, match="adamw8bit needs bitsandbytes") as caught:
        build(parameters(), "adamw8bit")
    assert "pip install" in (caught.value.hint or "")


def test_eight_bits_follow_the_float32_moments():
    pytest.importorskip("bitsandbytes")
    g = torch.Generator().manual_seed(0)
    one, two = ({"w": nn.Parameter(torch.randn(128, 64, generator=g.manual_seed(1)))} for _ in range(2))
    exact, small = build(one, "adamw", 1e-3), build(two, "adamw8bit", 1e-3)
    for step in range(10):
        gradients(one, step)
        gradients(two, step)
        exact.step()
        small.step()
    state = next(iter(small.state.values()))
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.uint8
    assert float((one["w"] - two["w"]).detach().abs().max()) < 2e-3


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"accumulate": 2, "max_grad_norm": None}, "each micro-batch would be a step of its own"),
        ({}, "cannot clip"),
        ({"max_grad_norm": None, "precision": "fp16"}, "cannot scale the loss"),
    ],
)
def test_in_backward_is_refused_with_the_reason(keys, reason):
    from pydantic import ValidationError

    from tuner.sections import Train

    with pytest.raises(ValidationError, match=reason):
        Train.model_validate({"steps": 1, "optimizer_in_backward": True, **keys})
    assert Train.model_validate({"steps": 1, "optimizer_in_backward": True, "max_grad_norm": None})
