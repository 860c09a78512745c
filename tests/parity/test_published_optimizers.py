"""Lion, Prodigy and schedule-free AdamW against their published rules in float64, and against their authors' packages."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from tuner.optim.optimizers import Optimizer
from tuner.types import ParamGroup

STEPS, WARMUP = 40, 5
SHAPES = {"a": (12, 8), "b": (6, 4, 3, 3), "c": (8,), "d": (5, 7), "e": ()}
SPLIT = (("a", "c"), ("b", "d", "e"))
"""Names of the two groups."""

Values = dict[str, np.ndarray]


def start() -> Values:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape) for name, shape in SHAPES.items()}


def gradient(values: Values, step: int) -> Values:
    """Of a bowl whose bottom is where nothing is 0, with noise."""
    draw = np.random.default_rng(100 + step)
    return {name: 0.1 * (v - 1.5) + 0.02 * draw.normal(size=v.shape) for name, v in values.items()}


def rate(step: int) -> float:
    """A warm-up, then a slow fall."""
    return min(1.0, (step + 1) / WARMUP) * (1 - 0.5 * step / STEPS)


def lion(lr, *, betas=(0.9, 0.99), weight_decay) -> Values:
    """Chen et al. 2023, algorithm 2."""
    value = start()
    moment = {name: np.zeros_like(v) for name, v in value.items()}
    for step in range(STEPS):
        for name, g in gradient(value, step).items():
            update = np.sign(betas[0] * moment[name] + (1 - betas[0]) * g)
            moment[name] = betas[1] * moment[name] + (1 - betas[1]) * g
            value[name] = value[name] - lr * rate(step) * (update + weight_decay * value[name])
    return value


def schedule_free(lr, *, betas=(0.9, 0.999), eps=1e-8, weight_decay) -> tuple[Values, Values]:
    """Defazio et al. 2024, algorithm 1, with x, y and z each kept; gives y and x."""
    x, z, y = start(), start(), start()
    second = {name: np.zeros_like(v) for name, v in x.items()}
    total = highest = 0.0
    for step in range(STEPS):
        now = lr * rate(step)
        highest = max(highest, now)
        total += highest**2
        share = highest**2 / total
        for name, g in gradient(y, step).items():
            second[name] = betas[1] * second[name] + (1 - betas[1]) * g**2
            root = np.sqrt(second[name] / (1 - betas[1] ** (step + 1)))
            z[name] = z[name] - now * (g / (root + eps) + weight_decay * y[name])
            x[name] = (1 - share) * x[name] + share * z[name]
            y[name] = (1 - betas[0]) * z[name] + betas[0] * x[name]
    return y, x


def prodigy(
    lr,
    *,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=math.inf,
    use_bias_correction=False,
    safeguard_warmup=False,
) -> tuple[Values, float]:
    """Mishchenko & Defazio 2024, algorithm 4, with the options of the authors' package; gives the weights and d."""
    value, begin = start(), start()
    m, v, s = ({name: np.zeros_like(w) for name, w in value.items()} for _ in range(3))
    root = math.sqrt(betas[1])
    d = d_max = d0
    numerator = 0.0
    for step in range(STEPS):
        size = d * lr * rate(step)
        if use_bias_correction:
            size *= math.sqrt(1 - betas[1] ** (step + 1)) / (1 - betas[0] ** (step + 1))
        numerator *= root
        for name, g in gradient(value, step).items():
            numerator += d / d0 * size * float((g * (begin[name] - value[name])).sum())
            m[name] = betas[0] * m[name] + (1 - betas[0]) * d * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * (d * g) ** 2
            s[name] = root * s[name] + d / d0 * (d if safeguard_warmup else size) * g
        found = d_coef * numerator / sum(float(np.abs(own).sum()) for own in s.values())
        if d == d0:
            d = max(d, found)
        d_max = max(d_max, found)
        d = min(d_max, d * growth_rate)
        for name, own in value.items():
            value[name] = own - size * (weight_decay * own + m[name] / (np.sqrt(v[name]) + d * eps))
    return value, d


def parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.tensor(value, dtype=dtype)) for name, value in start().items()}


def train(own: dict[str, nn.Parameter], optimizer, lr: float) -> None:
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(step)
        given = gradient({name: p.detach().double().numpy() for name, p in own.items()}, step)
        for name, p in own.items():
            p.grad = torch.tensor(given[name], dtype=p.dtype)
        optimizer.step()


def ours(name: str, lr: float, **keys):
    own = parameters(torch.float32)
    groups = [ParamGroup(str(i), {name: own[name] for name in names}) for i, names in enumerate(SPLIT)]
    optimizer = Optimizer.read({"name": name, **keys}).build(groups, lr)
    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
    train(own, optimizer, lr)
    return own, optimizer


def close(found, want: Values, atol: float) -> None:
    for name, value in want.items():
        assert np.allclose(found[name].detach().numpy(), value, rtol=0, atol=atol), name


def moved(want: Values) -> float:
    return max(float(np.abs(want[name] - value).max()) for name, value in start().items())


LION = [{"weight_decay": 0.0}, {"weight_decay": 0.3}, {"weight_decay": 0.1, "betas": (0.95, 0.98)}]
FREE = [{"weight_decay": 0.0}, {"weight_decay": 0.2, "betas": (0.95, 0.99)}, {"weight_decay": 0.1, "eps": 1e-2}]
PRODIGY = [
    {"weight_decay": 0.0, "d0": 1e-3},
    {"weight_decay": 0.2, "d0": 1e-3},
    {"weight_decay": 0.0, "d0": 1e-3, "growth_rate": 1.3},
    {"weight_decay": 0.1, "d0": 1e-2, "d_coef": 0.5, "use_bias_correction": True},
    {"weight_decay": 0.0, "d0": 1e-3, "safeguard_warmup": True},
    {"weight_decay": 0.0, "d0": 1e-3, "betas": (0.5, 0.99), "eps": 1e-4},
]


def label(keys) -> str:
    return " ".join(f"{name}={value}" for name, value in keys.items())


@pytest.mark.parametrize("keys", LION, ids=label)
def test_lion_is_the_published_one(keys):
    want = lion(0.02, **keys)
    assert moved(want) > 0.3
    found, _ = ours("lion", 0.02, **keys)
    close(found, want, 1e-5)


@pytest.mark.parametrize("keys", FREE, ids=label)
def test_schedule_free_is_the_published_one(keys):
    y, x = schedule_free(0.05, **keys)
    assert moved(x) > 0.3
    assert max(float(np.abs(x[name] - y[name]).max()) for name in x) > 0.01
    found, optimizer = ours("schedule_free", 0.05, **keys)
    close(found, y, 1e-5)
    close({name: optimizer.average(p) for name, p in found.items()}, x, 1e-5)


@pytest.mark.parametrize("keys", PRODIGY, ids=label)
def test_prodigy_is_the_published_one(keys):
    want, d = prodigy(1.0, **keys)
    assert moved(want) > 0.3
    found, optimizer = ours("prodigy", 1.0, **keys)
    assert d > 10 * keys["d0"]
    assert float(optimizer.shared["d"]) == pytest.approx(d, rel=1e-4)
    close(found, want, 1e-3)


def test_prodigy_from_its_usual_start():
    """There d is a quotient of differences that begin as the last digits of a float32."""
    _, d = prodigy(1.0, weight_decay=0.1)
    _, optimizer = ours("prodigy", 1.0, weight_decay=0.1)
    assert d > 0.1
    assert float(optimizer.shared["d"]) == pytest.approx(d, rel=1e-2)


def theirs(kind, lr: float, **keys) -> tuple[Values, torch.optim.Optimizer]:
    """The weights that an author's package gives, in float64."""
    own = parameters(torch.float64)
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = kind([{"params": [own[name] for name in names]} for names in SPLIT], lr=lr, **keys)
    if hasattr(optimizer, "train"):
        optimizer.train()
    train(own, optimizer, lr)
    return {name: p.detach().numpy().copy() for name, p in own.items()}, optimizer


@pytest.mark.parametrize("keys", LION, ids=label)
def test_the_formula_here_is_lion_pytorchs(keys):
    kind = pytest.importorskip("lion_pytorch").Lion
    close({n: torch.tensor(v) for n, v in theirs(kind, 0.02, **keys)[0].items()}, lion(0.02, **keys), 1e-9)


@pytest.mark.parametrize("keys", FREE, ids=label)
def test_the_formula_here_is_schedulefrees(keys):
    kind = pytest.importorskip("schedulefree").AdamWScheduleFree
    found, _ = theirs(kind, 0.05, **keys)
    close({n: torch.tensor(v) for n, v in found.items()}, schedule_free(0.05, **keys)[0], 1e-9)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
@pytest.mark.parametrize("keys", PRODIGY, ids=label)
def test_the_formula_here_is_prodigyopts(keys):
    kind = pytest.importorskip("prodigyopt").Prodigy
    found, optimizer = theirs(kind, 1.0, **keys)
    want, d = prodigy(1.0, **keys)
    assert optimizer.param_groups[0]["d"] == pytest.approx(d, rel=1e-9)
    close({n: torch.tensor(v) for n, v in found.items()}, want, 1e-8)
