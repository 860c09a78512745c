"""Groups of torch tensors as safetensors files, bitwise, with none sharing memory with the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any dtype, shape, layout and device.

    Raises: OSError or safetensors.SafetensorError (its own words for a full disk).
    """
    from safetensors.torch import save_file

    save_file(_plain(tensors), path)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors with memory of their own, copied only where needed: the format allows no others."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().to("cpu").contiguous()
        start = flat.untyped_storage().data_ptr()
        if flat.numel() and (start in seen or flat.untyped_storage().nbytes() != flat.nbytes):
            flat = flat.clone()
            start = flat.untyped_storage().data_ptr()
        seen.add(start)
        plain[name] = flat
    return plain


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a group as CPU tensors that own their memory. Raises: OSError, safetensors.SafetensorError."""
    from safetensors import safe_open

    # Tensors of safetensors map the file itself, so a file that changes later would change them: copy each.
    with safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two groups hold the same names, dtypes, shapes and bits (NaN equals NaN, -0 differs from 0)."""
    import torch

    def bits(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8)

    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and tensor.shape == other[name].shape
        and torch.equal(bits(tensor), bits(other[name]))
        for name, tensor in one.items()
    )
