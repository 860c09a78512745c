"""Counts what a training step holds, on the meta device: as on a GPU, and with no value computed."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NARROW = ("linear", "conv2d", "scaled_dot_product_attention")
WIDE = ("layer_norm", "group_norm")
"""What torch's autocast computes in 16 bit, and in float32, on CUDA; on the CPU its lists are others."""


class Held(TorchDispatchMode):
    """Bytes of every storage that an operation made and that is still alive."""

    def __init__(self, *known: torch.Tensor | None) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in known if tensor is not None}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone():
            self.seen.discard(key)
            self.live -= size

        weakref.finalize(storage, gone)


class Tiled(torch.autograd.Function):
    """Attention that keeps its inputs, its output and a number a row, as every fused kernel does."""

    @staticmethod
    def forward(ctx, query, key, value):
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def tiled(query, key, value, **_):
    return Tiled.apply(query, key, value)


class OnCuda:
    """Within it functions cast as autocast does on CUDA (`narrow` None casts nothing), and attention is tiled."""

    def __init__(self, narrow: torch.dtype | None) -> None:
        self.narrow, self.copies, self.stack = narrow, {}, ExitStack()

    def __enter__(self):
        for name in (*NARROW, *WIDE):
            real = tiled if name.startswith("scaled") else getattr(F, name)
            kind = self.narrow if name in NARROW else torch.float32
            self.stack.enter_context(patch.object(F, name, self._casting(real, kind)))
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _casting(self, real, kind):
        def call(*args, **kwargs):
            if self.narrow is not None:
                args, kwargs = tree_map(lambda value: self._cast(value, kind), (args, kwargs))
            return real(*args, **kwargs)

        return call

    def _cast(self, value, kind):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == kind:
            return value
        if isinstance(value, nn.Parameter) and value.requires_grad:  # copies of weights are kept and shared
            key = id(value), kind
            if key not in self.copies:
                self.copies[key] = value.to(kind)
            return self.copies[key]
        return value.to(kind)

    @property
    def copied(self) -> int:
        return sum(copy.nbytes for copy in self.copies.values())


def held(module: nn.Module, inputs: dict, *, sixteen: bool, gradients: bool = True) -> int:
    """The peak of a step (or of a forward pass), without weights, gradients of weights and casts of weights."""
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:
        p.grad = torch.empty_like(p)
    known = [*module.parameters(), *module.buffers(), *(p.grad for p in trained), *tree_leaves(inputs)]
    count = Held(*(tensor for tensor in known if isinstance(tensor, torch.Tensor)))
    cuda = OnCuda(torch.bfloat16 if sixteen else None)
    with count, cuda, nullcontext() if gradients else torch.no_grad():
        out = module(**inputs, return_dict=False)[0]
        copied = cuda.copied
        if gradients:
            forward, count.peak = count.peak - copied, 0
            cuda.copies.clear()
            torch.autograd.backward(out.float().square().mean())
            return max(forward, count.peak - copied)
    return count.peak - copied


def prepared(
    module: nn.Module, names: list[str] | None, *, sixteen: bool, rank: int = 4, dora: str | None = None
) -> nn.Module:
    """As a run has it: frozen weights in 16 bit with float32 factors at `names`, or everything float32 and training.

    `dora` names what a DoRA's norms are of.
    """
    module.requires_grad_(names is None)
    if names is not None:
        from peft import LoraConfig

        if sixteen:
            module.to(torch.bfloat16)
        module.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names, use_dora=dora == "output"))
        if dora == "input":
            from tuner.nn.dora import put_input_norms

            for name in names:
                put_input_norms(module.get_submodule(name), "default")
        for p in module.parameters():
            if p.requires_grad:
                p.data = p.data.float()
    return module
