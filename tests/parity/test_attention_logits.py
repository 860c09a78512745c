"""The largest attention logit against a plain computation, and training that does not notice it."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny_sd35 import TRANSFORMER, spread
from torch.utils._python_dispatch import TorchDispatchMode

from tuner import attention_logits
from tuner.attention_logits import LargestLogit, largest

PLAIN = {"qk_norm": None, "dual_attention_layers": ()}
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "equal")


def tiny(**overrides):
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SD3Transformer2DModel(**{**TRANSFORMER, **overrides})
        spread(model)
    return model


def inputs(count=2):
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(count, 16, 8, 8, generator=g),
        "timestep": torch.tensor([300.0] * count),
        "encoder_hidden_states": torch.randn(count, 7, 48, generator=g),
        "pooled_projections": torch.randn(count, 40, generator=g),
        "return_dict": False,
    }


def plainly(model, run) -> float:
    """From the outputs of the projections (and their norms, where there are some): every pair of both streams."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda _module, _args, out: seen.__setitem__(name, out.detach().double())

    names = {
        "to_q": "norm_q", "to_k": "norm_k", "add_q_proj": "norm_added_q", "add_k_proj": "norm_added_k",
    }  # fmt: skip
    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in {*names, *names.values()}
    ]
    run()
    for hook in hooks:
        hook.remove()
    most = -float("inf")
    for block, layer in enumerate(model.transformer_blocks):
        for part in ("attn", "attn2") if layer.attn2 is not None else ("attn",):

            def of(name, prefix=f"transformer_blocks.{block}.{part}."):
                if prefix + names[name] in seen:
                    return seen[prefix + names[name]]  # (B, H, tokens, d)
                return seen[prefix + name].unflatten(-1, (3, 8)).transpose(1, 2)

            q, k = of("to_q"), of("to_k")
            if part == "attn":
                q, k = torch.cat([q, of("add_q_proj")], 2), torch.cat([k, of("add_k_proj")], 2)
            most = max(most, float(torch.einsum("bhid,bhjd->bhij", q, k).max() / 8**0.5))
    return most


@pytest.mark.parametrize("overrides", [PLAIN, {}], ids=["not normalised", "normalised, with a second attention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def test_it_is_the_largest_of_all_pairs_heads_and_layers(monkeypatch, overrides, dtype):
    model = tiny(**overrides)
    asked = {k: v.to(dtype) if torch.is_tensor(v) and k != "timestep" else v for k, v in inputs().items()}
    model = model.to(dtype).requires_grad_(True)
    monkeypatch.setattr(attention_logits, "LOGITS_AT_ONCE", 300)  # a few rows at a time
    gauge = LargestLogit(model)
    gauge.begin()
    expected = plainly(model, lambda: model(**asked))
    found = gauge.end()
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.item() == pytest.approx(expected, rel={torch.float32: 1e-6}.get(dtype, 2**-8))


@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_scale_is_that_of_the_attention(scale):
    q, k = torch.randn(2, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    expected = (q.double() @ k.double().mT).max() * (0.5 if scale is None else scale)
    assert largest(q, k, scale).item() == pytest.approx(expected.item(), rel=1e-6)


def test_float16_does_not_end_where_its_numbers_do():
    q = torch.full((1, 1, 2, 64), 200.0, dtype=torch.float16)
    assert largest(q, q).item() == pytest.approx(64 * 200**2 / 8)


def train(overrides, *, watched, autocast, checkpointing):
    """Three steps of a LoRA; its weights, losses and what was measured at each."""
    from peft import LoraConfig

    model = tiny(**overrides).requires_grad_(False)
    if autocast:
        model.to(torch.bfloat16)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "add_q_proj"], init_lora_weights=False))
    live = [p for p in model.parameters() if p.requires_grad]
    for p in live:
        p.data = p.data.float()
    if checkpointing:
        model.enable_gradient_checkpointing()
        model.train()
    gauge, found, losses = LargestLogit(model), [], []
    optimizer = torch.optim.AdamW(live, 1e-2)
    for _ in range(3):
        if watched:
            gauge.begin()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**inputs())[0].float().square().mean()
        loss.backward()
        found.append(gauge.end())
        losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in live], losses, found


@pytest.mark.parametrize("checkpointing", [False, True], ids=["saved", "recomputed"])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_training_has_the_same_bits_with_and_without_it(autocast, checkpointing):
    ways = [train(PLAIN, watched=watched, autocast=autocast, checkpointing=checkpointing) for watched in (False, True)]
    (plain, losses, nothing), (watched, same, found) = ways
    assert all(torch.equal(a, b) for a, b in zip(plain + losses, watched + same, strict=True))
    assert nothing == [None] * 3
    assert len({value.item() for value in found}) == 3, "it follows the weights"


def test_it_sees_each_attention_once_and_no_pass_without_gradients(monkeypatch):
    model = tiny().requires_grad_(True).train()
    model.enable_gradient_checkpointing()
    gauge, calls = LargestLogit(model), []
    monkeypatch.setattr(attention_logits, "largest", lambda *_: calls.append(1) or torch.zeros(()))
    gauge.begin()
    with torch.no_grad():
        model(**inputs())
    assert not calls
    model(**inputs())[0].sum().backward()
    assert len(calls) == 3 + 2, "three joint attentions and two of the picture alone, not again where recomputed"
    assert gauge.end() is not None
    model(**inputs())
    assert len(calls) == 5, "nothing is seen outside begin and end"
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_forward_pass_that_fails_leaves_nothing_behind():
    from torch.overrides import _get_current_function_mode_stack

    model = tiny()
    gauge = LargestLogit(model)
    gauge.begin()
    with pytest.raises(RuntimeError):
        model(**{**inputs(), "encoder_hidden_states": torch.zeros(2, 7, 5)})
    assert _get_current_function_mode_stack() == []
    gauge.end()


def test_a_watched_step_waits_for_nothing():
    class Count(TorchDispatchMode):
        waits = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.waits += func.__name__.split(".")[0] in WAITS
            return func(*args, **(kwargs or {}))

    model = tiny(**PLAIN)
    gauge = LargestLogit(model)
    gauge.begin()
    with Count() as count:
        model(**inputs())[0].sum().backward()
        found = gauge.end()
        assert count.waits == 0
        found.item()
    assert count.waits == 1, "the count sees one"


def test_a_unet_can_be_watched_too(sd15_model):
    from tuner.gauges import gauges

    asked = SimpleNamespace(attention_logit=True)
    (gauge,) = gauges(asked, sd15_model)
    gauge.begin()
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    sd15_model.denoiser(x, torch.tensor([10]), torch.zeros(1, 77, sd15_model.denoiser.config.cross_attention_dim))
    assert torch.isfinite(gauge.end())


@pytest.mark.parametrize(
    ("asked", "grows", "expected"),
    [(None, False, 0), (None, True, 1), (True, False, 1), (False, True, 0)],
)
def test_who_is_watched(sd35_model, asked, grows, expected):
    from tuner.gauges import gauges

    assert sd35_model.logits_may_grow is False, "its queries and keys are normalised"
    model = copy.copy(sd35_model)
    model.logits_may_grow = grows
    assert len(gauges(SimpleNamespace(attention_logit=asked), model)) == expected
