"""What the factors of a LoHa or LoKr add to a weight: the arithmetic that its readers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from .deltas import Delta
from .lycoris import Factors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from .lycoris import Found


@dataclass(frozen=True, slots=True)
class Product(Delta):
    """A LoHa's or LoKr's update of one layer of diffusers."""

    component: str
    layer: str
    factors: Mapping[str, Tensor]
    """By LyCORIS' names."""
    scale: float

    def added(self, weight: Tensor) -> Tensor:
        delta = self.scale * product({leaf: factor.float() for leaf, factor in self.factors.items()})
        if delta.numel() != weight.numel() or delta.shape[0] != weight.shape[0]:
            raise ValueError(f"an update of {tuple(delta.shape)} does not fit a weight of {tuple(weight.shape)}")
        return delta.reshape(weight.shape)

    def size(self) -> tuple[int, int]:
        """Rows of the weight, and the product of its other axes."""
        method = "loha" if "hada_w1_a" in self.factors else "lokr"
        shapes = {leaf: tuple(factor.shape) for leaf, factor in self.factors.items()}
        return Factors(method, {}, shapes, (self.layer,)).size


def product(factors: Mapping[str, Tensor]) -> Tensor:
    """The update at scale 1, (rows, columns) or (rows, in, height, width); its first axis is the weight's.

    LoHa: (w1_a w1_b) * (w2_a w2_b), entry by entry. LoKr: the Kronecker product of w1 and w2. A middle factor t of a
    convolution stands for a product with the outer two along its first two axes (Tucker).
    """
    import torch

    if "hada_w1_a" in factors:
        return _matrix(factors, "hada_w1", "hada_t1") * _matrix(factors, "hada_w2", "hada_t2")
    first, second = _matrix(factors, "lokr_w1"), _matrix(factors, "lokr_w2", "lokr_t2")
    if second.ndim == 4:
        first = first[:, :, None, None]
    return torch.kron(first.contiguous(), second.contiguous())


def read_products(file: Path, found: Found) -> list[Product]:
    """Every update of a file, one for each of diffusers' layers. Raises: DataError where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    products = []
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            for component, layers in found.components.items():
                for own in layers.values():
                    values = {leaf: tensors.get_tensor(name) for leaf, name in own.names.items()}
                    alpha = values.pop("alpha", None)
                    scale = 1.0 if alpha is None or own.rank is None else float(alpha) / own.rank
                    parts = _parts(values, own)
                    products += [
                        Product(component, layer, part, scale) for layer, part in zip(own.layers, parts, strict=True)
                    ]
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return products


def _parts(values: Mapping[str, Tensor], own: Factors) -> list[dict[str, Tensor]]:
    """The factors of each layer in order: those that make the rows come apart, the others are shared."""
    import torch

    if len(own.layers) == 1 and not own.turned:
        return [dict(values)]
    outer = {"hada_w1_a", "hada_w2_a"} if own.method == "loha" else {"lokr_w1", "lokr_w1_a"}
    if own.turned:
        swapped = {leaf: torch.cat(values[leaf].chunk(2)[::-1]) for leaf in outer & values.keys()}
        return [{**values, **swapped}]
    count = len(own.layers)
    split = {leaf: values[leaf].chunk(count) for leaf in outer & values.keys()}
    return [{**values, **{leaf: chunks[n] for leaf, chunks in split.items()}} for n in range(count)]


def _matrix(factors: Mapping[str, Tensor], name: str, middle: str = "") -> Tensor:
    import torch

    if name in factors:
        return factors[name]
    outer, inner = factors[f"{name}_a"], factors[f"{name}_b"]
    if middle not in factors:
        return outer @ inner
    return torch.einsum("ijkl,ip,jr->prkl", factors[middle], outer, inner)
