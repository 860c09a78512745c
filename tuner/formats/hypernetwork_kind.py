"""Hypernetwork files as one kind of adapter file: what their header tells; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .container import read_header
from .families import FAMILIES
from .file_kind import Exported, FileKind
from .hypernetwork import PREFIX, WORDS, describe, to_words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Header

OURS = "all of it by tuner.load_adapter"
"""diffusers has no loader for hypernetworks."""


class HypernetworkKind(FileKind):
    """Files that `tuner` wrote; A1111's own are pickles, which only `tuner import` reads."""

    name = "hypernetwork"
    label = "a hypernetwork"
    exports = {"a1111": ".pt", "comfyui": ".pt"}

    def claims(self, header: Header) -> bool:
        return WORDS in header.metadata or any(key.startswith(PREFIX) for key in header.tensors)

    def facts(self, file: Path, header: Header) -> dict[str, Any]:
        found = describe(file, header)
        family = FAMILIES[found.family]
        words = to_words(found.structure, found.init)
        return {
            "format": "tuner",
            "backbone": found.family,
            "family": family.label,
            "targets": None,
            "hypernetwork": {"sizes": list(found.widths), **words},
            "loads_in": loads_in(found.family),
        }

    def load(
        self, pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
    ) -> Callable[[], None]:
        from .load_hypernetwork import load_hypernetwork

        return load_hypernetwork(pipe, file, header, strength, name)

    def set_strength(self, pipe: DiffusionPipeline, name: str, strength: float) -> bool:
        from .load_hypernetwork import strengthen_hypernetwork

        return strengthen_hypernetwork(pipe, name, strength)

    def unload(self, pipe: DiffusionPipeline, name: str) -> bool:
        from .load_hypernetwork import unload_hypernetwork

        return unload_hypernetwork(pipe, name)

    def export(self, file: Path, to: str, out: Path) -> Exported:
        from .hypernetwork_pt import export_pt

        made = export_pt(file, read_header(file), out)
        widths = ", ".join(map(str, made.found.widths))
        said = f"a hypernetwork as A1111 and ComfyUI read it, widths {widths}; read back, every number is the same"
        return Exported(made.file, file, said, {"sizes": list(made.found.widths)}, made.warnings)


def loads_in(family: str) -> dict[str, str]:
    """What each tool does with the file."""
    if family != "sd15":
        return {"diffusers": f"{OURS}; no other tool has hypernetworks for {FAMILIES[family].label}"}
    pickled = "what `tuner export FILE --to a1111` writes of it"
    return {"diffusers": OURS, "AUTOMATIC1111": pickled, "ComfyUI": pickled}
