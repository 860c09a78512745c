"""A hypernetwork into a pipeline: checked before, counted after, refused where it would do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from .families import FAMILIES
from .hypernetwork import describe, places, read_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import nn

    from .container import Header


def load_hypernetwork(
    pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
) -> Callable[[], None]:
    """As `FileKind.load`: let a hypernetwork act behind those that are there, before whatever LoRA there is or comes.

    It computes in float32 and puts out what the pipeline computes in.
    """
    from ..nn.hypernetwork import Hypernetwork
    from ..nn.key_value_hooks import attach, detach

    found = describe(file, header)
    family = FAMILIES[found.family]
    denoiser: nn.Module | None = pipe.components.get(family.denoiser)
    if denoiser is None:
        raise DataError(
            f"{file}: is for the {family.denoiser}, which this pipeline does not have",
            f"it is for {family.label}: load it into a {family.pipeline}",
        )
    _require_free(denoiser, family.denoiser, name)
    where = places(found.family, [layer for layer, _ in denoiser.named_modules()])
    widths = {denoiser.get_submodule(layer).in_features for layer in where["k"]}
    if strange := sorted(set(found.widths) - widths):  # type: ignore[arg-type]
        raise DataError(
            f"{file}: is for tokens of {strange[0]} values; this {family.denoiser} has those of {_listed(widths)}",
            "is it for another base model?",
        )
    _require_weights(file, denoiser)
    network = Hypernetwork(found.structure, found.widths, strength=strength)
    network.fill(read_weights(file))
    network.requires_grad_(False)
    attach(denoiser, name, network, where)
    return lambda: detach(denoiser, name)


def strengthen_hypernetwork(pipe: DiffusionPipeline, name: str, strength: float) -> bool:
    """As `FileKind.set_strength`."""
    from ..nn.hypernetwork import Hypernetwork
    from ..nn.key_value_hooks import chain_of

    for family in FAMILIES.values():
        denoiser = pipe.components.get(family.denoiser)
        chain = None if denoiser is None else chain_of(denoiser)
        member = chain.members[name] if chain is not None and name in chain.members else None
        if isinstance(member, Hypernetwork):
            member.strength = strength
            return True
    return False


def unload_hypernetwork(pipe: DiffusionPipeline, name: str) -> bool:
    """As `FileKind.unload`; with its last hypernetwork, the denoiser is as it was."""
    from ..nn.key_value_hooks import chain_of, detach

    parts = [pipe.components.get(family.denoiser) for family in FAMILIES.values()]
    for denoiser in (part for part in parts if part is not None):
        chain = chain_of(denoiser)
        if chain is not None and name in chain.members:
            detach(denoiser, name)
            return True
    return False


def _require_free(denoiser: nn.Module, component: str, name: str) -> None:
    """Raises: UsageError where the denoiser has a hypernetwork of this name. A LoRA may share it, as one adapter."""
    from ..nn.key_value_hooks import chain_of

    chain = chain_of(denoiser)
    if chain is not None and name in chain.members:
        raise UsageError(f"the pipeline's {component} has a hypernetwork named {name!r}", "give another `name`")


def _require_weights(file: Path, denoiser: nn.Module) -> None:
    """Raises: UsageError where the denoiser's weights come and go layer by layer, which this would have no part in."""
    if next(denoiser.parameters()).device.type == "meta":
        raise UsageError(
            f"{file}: cannot be loaded into a pipeline whose weights are offloaded layer by layer",
            "load it before enable_sequential_cpu_offload()",
        )


def _listed(widths: Iterable[object]) -> str:
    return ", ".join(str(width) for width in sorted(widths, key=int))  # type: ignore[arg-type]
