"""Whole fine-tuned models among adapter files: what the single file's header tells; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .families import FAMILIES
from .file_kind import FileKind
from .original import ORIGINALS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Header

KIND, TRAINED = "tuner_kind", "tuner_trained"
"""Keys of the header."""
FOLDER = "model"
"""Name of the folder in diffusers' layout that lies beside the single file."""
MARKS = {"sd15": ".input_blocks.", "sd35": ".joint_blocks."}
"""Parts of keys that tell the family."""


class ModelKind(FileKind):
    """The single file of `adapters: [full]`; to diffusers' folder beside it, it is the name."""

    name = "full"
    label = "a whole model"

    def claims(self, header: Header) -> bool:
        return header.metadata.get(KIND) == self.name

    def facts(self, file: Path, header: Header) -> dict[str, Any]:
        family = next((name for name, mark in MARKS.items() if any(mark in key for key in header.tensors)), None)
        if family is None:
            raise DataError(f"{file}: holds no denoiser of a family that tuner knows")
        whole = dict.fromkeys(ORIGINALS[family].folders, "all of it")
        return {
            "format": "original",
            "backbone": family,
            "family": FAMILIES[family].label,
            "targets": None,
            "trained": header.metadata.get(TRAINED, "").split(","),
            "loads_in": {"diffusers": f"the folder {FOLDER} beside it, by from_pretrained", **whole},
        }

    def load(
        self, pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
    ) -> Callable[[], None]:
        from .load_model import load_model

        return load_model(pipe, file, header.metadata.get(TRAINED, "").split(","), strength)


def pipeline_of(file: Path) -> Path:
    """What to load as the base of a single file: the folder beside it, or the file alone where that is not there."""
    folder = file.parent / FOLDER
    return folder if (folder / "model_index.json").is_file() else file
