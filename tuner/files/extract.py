"""A LoRA out of a fully fine-tuned model: the best low-rank matrices of what training changed (Eckart and Young 1936).

What no LoRA can hold (norms, biases, embeddings) is not dropped in silence: each kind is told with its share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from . import low_rank
from .loras import Made, require_style, told
from .whole import open_model
from .writing import cast, require_new, torch_dtype, write_lora

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from ..backbones import DiffusionModel
    from ..formats.convert import Style
    from ..formats.fusing import Update
    from ..watch import Watcher
    from .low_rank import Wanted

NO_LORA = re.compile(r"(^|\.)(vae|text_encoder_3)$")
"""Components that no tool reads a LoRA of."""


@dataclass(frozen=True, slots=True)
class Left:
    """Parameters of one kind that a LoRA cannot hold, or was not asked to."""

    component: str
    kind: str
    """norms, biases, convolutions, embeddings, or others."""
    count: int
    share: float
    """Of the component's whole change, as energy."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What `extract` wrote."""

    made: Made
    """`kept` is of the layers that are in the file."""
    of_all: Mapping[str, float]
    """By component, the share of its whole change that the file holds."""
    left: Sequence[Left]
    unchanged: int
    """Layers that the two models have alike."""


@dataclass(slots=True)
class _Tally:
    """What was seen of one component."""

    total: float = 0.0
    left: dict[str, list[float]] = field(default_factory=dict)
    unchanged: int = 0

    def leave(self, kind: str, energy: float) -> None:
        if energy:
            self.left.setdefault(kind, []).append(energy)


def extract(
    tuned: str,
    base: str,
    out: Path,
    wanted: Wanted,
    watcher: Watcher,
    *,
    convolutions: Wanted | None = None,
    backbone: str | None = None,
    style: str | None = None,
    dtype: str = "fp32",
) -> Extracted:
    """Write the difference of two models as a LoRA.

    Args:
        tuned: a folder, single file, Hub id, or run of `adapters: [full]`.
        base: what it was trained from.
        out: a .safetensors file that is not there yet.
        wanted: how much of each linear layer's change to keep.
        watcher: is told what goes on.
        convolutions: how much of each convolution's; None leaves them out.
        backbone: the family, where the files do not tell.
        style: the keys; None takes those that most tools read of this family.
        dtype: of the factors.

    Raises: DataError where a model is broken or the two are of different kinds; UsageError where they are the same, or
        `out` is there; NumbersError; StorageError.
    """
    from ..formats.families import FAMILIES

    require_new(out)
    require_style(style)
    kind = torch_dtype(dtype)
    watcher.phase("looking at the models")
    theirs = open_model(tuned, backbone, option="TUNED")
    ours = open_model(base, theirs.backbone.key)
    family = theirs.backbone.key
    keys: Style = style or ("kohya" if FAMILIES[family].kohya_in_diffusers else "diffusers")  # type: ignore[assignment]
    tallies: dict[str, _Tally] = {}
    updates: list[Update] = []
    energies: list[tuple[float, float]] = []
    components = [name for name in ours.components if name in theirs.components and not NO_LORA.search(name)]
    for component in components:
        tally = tallies[component] = _Tally()
        for update, kept, total in _changes(theirs, ours, component, (wanted, convolutions), tally, watcher):
            updates.append(cast(update, kind))
            energies.append((kept, total))
    if not updates:
        raise UsageError(
            f"{tuned} and {base} have the same weights in every layer that a LoRA can hold", "is this the right base?"
        )
    identity = ours.identity(ours.denoiser_name)
    watcher.phase(f"writing {out} and reading it back")
    metadata = _header(family, ours, identity, wanted, convolutions)
    write_lora(out, updates, family=family, style=keys, metadata=metadata, source=out)
    made = told(out, family, keys, updates, energies)
    return _account(made, updates, energies, tallies)


def _changes(
    theirs: DiffusionModel,
    ours: DiffusionModel,
    component: str,
    wanted: tuple[Wanted, Wanted | None],
    tally: _Tally,
    watcher: Watcher,
) -> list[tuple[Update, float, float]]:
    """The updates of one component with the energy kept and whole, and in `tally` what is not among them.

    Raises: DataError where the two have different tensors, or values that are not finite.
    """
    from ..formats.fusing import Update
    from ..formats.whole_model import file_key, stored

    new, old = stored(theirs, component), stored(ours, component)
    odd = sorted(new.keys() ^ old.keys()) or sorted(name for name in new if new[name].shape != old[name].shape)
    if odd:
        raise DataError(
            f"the {component} of {theirs.backbone.model} is another kind than that of {ours.backbone.model}: "
            f"the first difference is {odd[0]}",
            "a LoRA is extracted against the base that the model was trained from",
        )
    found = []
    watcher.phase(f"comparing the {component}", len(new))
    for number, name in enumerate(new, 1):
        watcher.progress(number)
        change = new[name].double() - old[name].double()
        energy = float((change**2).sum())
        if not energy < float("inf"):
            raise DataError(f"{component}.{name}: holds values that are not finite in one of the two models")
        tally.total += energy
        what = _kind(theirs, component, name, change)
        much = {"linear": wanted[0], "convolution": wanted[1]}.get(what)
        if energy == 0:
            tally.unchanged += what in ("linear", "convolution")
        elif much is None:
            tally.leave({"convolution": "convolutions"}.get(what, what), energy)
        else:
            layer = file_key(component, name).removesuffix(".weight")
            down, up, kept = _factors(change, much)
            found.append((Update(component, layer, down, up), kept, energy))
    return found


def _factors(change: Tensor, much: Wanted) -> tuple[Tensor, Tensor, float]:
    """Down (rank, in, ...) and up (out, rank, 1 ...), and the energy that they keep."""
    spectrum = low_rank.of_matrix(change.flatten(1))
    rank = much.of(spectrum)
    down, up = spectrum.factors(rank)
    ones = (1,) * (change.ndim - 2)
    return down.reshape(rank, *change.shape[1:]), up.reshape(-1, rank, *ones), spectrum.kept(rank)


def _kind(model: DiffusionModel, component: str, name: str, change: Tensor) -> str:
    """What a parameter belongs to: linear, convolution, or the plural of what a LoRA cannot hold."""
    from torch import nn

    from ..formats.families import FAMILIES
    from ..formats.whole_model import file_key

    layer, _, leaf = name.rpartition(".")
    if leaf == "bias":
        return "biases"
    module = model.components[component].get_submodule(layer)
    if isinstance(module, nn.Embedding):
        return "embeddings"
    names = FAMILIES[model.backbone.key].names
    spelled = file_key(component, name).removesuffix(".weight")
    if leaf == "weight" and names.key(component, spelled) is not None:
        if isinstance(module, nn.Linear):
            return "linear"
        if isinstance(module, nn.Conv2d):
            return "convolution"
    return "norms" if change.ndim == 1 else "others"


def _header(
    family: str, base: DiffusionModel, identity: str, wanted: Wanted, convolutions: Wanted | None
) -> dict[str, str]:
    """What the file says of itself, without path and date."""
    from ..formats.about import base_name
    from ..formats.families import FAMILIES

    said = f"rank {wanted.rank}" if wanted.rank is not None else f"energy {wanted.energy:g}"
    if convolutions is not None:
        own = convolutions
        said += ", convolutions " + (f"rank {own.rank}" if own.rank is not None else f"energy {own.energy:g}")
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": FAMILIES[family].architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "tuner_base": base_name(base.backbone.model),
        "tuner_base_identity": identity,
        "tuner_extracted": said,
    }


def _account(
    made: Made,
    updates: Sequence[Update],
    energies: Sequence[tuple[float, float]],
    tallies: Mapping[str, _Tally],
) -> Extracted:
    of_all, left = {}, []
    for component, tally in tallies.items():
        kept = sum(e[0] for u, e in zip(updates, energies, strict=True) if u.component == component)
        if tally.total:
            of_all[component] = min(1.0, kept / tally.total)
        for kind, own in sorted(tally.left.items(), key=lambda item: -sum(item[1])):
            left.append(Left(component, kind, len(own), sum(own) / tally.total))
    return Extracted(made, of_all, left, sum(tally.unchanged for tally in tallies.values()))
