"""In bf16 the adapters and their gradients are float32, and a gradient as small as eps 1e-15 can tell comes through."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_run import CPU, TinyRun

from tuner.loop import accumulate
from tuner.processes import Processes


def gradients(folder, dtype: torch.dtype | None, weight: float) -> dict[str, torch.Tensor]:
    """Of one micro-batch whose loss is `weight` times what it is."""
    run = TinyRun(folder, batch=2, accumulate=1, dtype=dtype)
    for tensor in run.student.attachments[0].state_dict().values():
        if not bool(tensor.any()):
            tensor.fill_(0.01)  # so that A has a gradient, too
    batch = run.batches[0][0].to(CPU)
    batch = replace(batch, weight=batch.weight * weight)
    accumulate(run.student, run.task, run.training, [batch], step=0, draws=run.draws, processes=Processes())
    named = {name: p for group in run.training.groups for name, p in group.params.items()}
    assert {p.dtype for p in named.values()} == {torch.float32}
    return {name: p.grad for name, p in named.items() if p.grad is not None}


@pytest.mark.parametrize("weight", [2.0**-20, 2.0**-40], ids=["a millionth", "1e-12"])
def test_small_gradients_come_through_bf16(sd35_folder, weight):
    """Its exponents are float32's, so that a power of two goes through bit for bit; fp16 would give zeros."""
    whole, small = (gradients(sd35_folder, torch.bfloat16, scale) for scale in (1.0, weight))
    assert {g.dtype for g in whole.values()} == {torch.float32}
    assert sum(bool(g.any()) for g in whole.values()) > len(whole) / 2
    assert all(torch.equal(small[name], gradient * weight) for name, gradient in whole.items())


def test_bf16_is_about_what_float32_is(sd35_folder):
    exact, half = (gradients(sd35_folder, dtype, 1.0) for dtype in (None, torch.bfloat16))
    one, other = (torch.cat([g.flatten() for g in found.values()]) for found in (exact, half))
    assert not torch.equal(one, other)
    assert float(torch.cosine_similarity(one, other, 0)) > 0.995
