"""The file of a LoHa or LoKr with LyCORIS' tensor names, and what lies beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..atomic import storage
from ..errors import NumbersError
from .container import pack
from .families import FAMILIES
from .lora import on_disk
from .lycoris import key_of
from .lycoris_card import write_card
from .lycoris_shapes import LABELS
from .metadata import lycoris_header
from .sidecar import write_sidecars

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..adapters.injected import Injected
    from .about import About

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def write_lycoris(
    folder: Path, state: Mapping[str, Tensor], adapter: Injected, scales: Mapping[str, float], about: About
) -> list[Path]:
    """Write every file of a LoHa or LoKr into `folder`.

    Args:
        state: float32 factors, `<component>.<layer>.<LyCORIS' name>`, `<layer>` as the loaded model names it.
        adapter: whose factors they are.
        scales: by `<component>.<layer>`, by what an update is multiplied.
        about: name, dtype and metadata.

    Returns: the files, the `.safetensors` first.

    Raises: NumbersError for values that are not finite, or do not fit into the dtype; StorageError.
    """
    tensors = named(state, scales, about)
    rank, alpha = adapter.rank, adapter.alpha or adapter.rank
    settings = {"algo": adapter.method, **adapter.settings()}
    path = folder / f"{about.name}.safetensors"
    content = pack(tensors, lycoris_header(tensors, about, settings, rank=rank, alpha=alpha))
    with storage(path):
        path.write_bytes(content)
    components = {name.partition(".")[0] for name in state}
    card = write_card(folder, about, path, adapter, components)
    return [path, *write_sidecars(folder, about, LABELS[adapter.method]), card]


def named(state: Mapping[str, Tensor], scales: Mapping[str, float], about: About) -> dict[str, Tensor]:
    """The tensors of the file: factors in its dtype, and beside each layer's its alpha.

    Alpha stays float32, since half precision would round it. Of two whole matrices no reader takes any; LyCORIS itself
    reads such a layer as of rank 1.

    Raises: NumbersError.
    """
    import torch

    dtype: torch.dtype = getattr(torch, DTYPES[about.dtype])
    tensors: dict[str, Tensor] = {}
    for name, factor in sorted(state.items()):
        key, leaf = key_and_leaf(about.family, name)
        if not bool(torch.isfinite(factor).all()):
            raise NumbersError(f"{name}: holds values that are not finite", "lower the learning rate, then start again")
        cast = tensors[f"{key}.{leaf}"] = factor.detach().to("cpu", dtype).contiguous()
        if not bool(torch.isfinite(cast).all()):
            raise NumbersError(f"{name}: its values do not fit into {about.dtype}", "set save.dtype to fp32 or bf16")
        scale = scales[name.rpartition(".")[0]]
        if leaf.endswith("_b"):
            tensors[f"{key}.alpha"] = torch.tensor(scale * factor.shape[0], dtype=torch.float32)
        else:
            tensors.setdefault(f"{key}.alpha", torch.tensor(scale, dtype=torch.float32))
    return tensors


def key_and_leaf(family: str, name: str) -> tuple[str, str]:
    """A factor's name in training as the file's key of its layer, and LyCORIS' name of the factor."""
    stem, _, leaf = name.rpartition(".")
    component, _, layer = stem.partition(".")
    if component not in (FAMILIES[family].denoiser, *FAMILIES[family].names.prefixes):
        raise ValueError(f"{name}: is of no part of {FAMILIES[family].label}")
    return key_of(family, component, on_disk(component, layer)), leaf
