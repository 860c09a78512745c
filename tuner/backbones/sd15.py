"""Stable Diffusion 1.5 and its kin: a UNet, one CLIP text encoder, a 4-channel VAE (Rombach et al. 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from ..errors import DataError
from . import sd15_sites
from .base import Backbone, DiffusionModel, Site
from .habits import Habits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import torch

    from .layout import Layout
    from .vocabulary import Vocabulary

TOYBOX = "toybox"


class SD15(Backbone, name="sd15"):
    """Stable Diffusion 1.5, or any model with its layout."""

    clip_skip: int = Field(default=1, ge=1, le=12)
    """Which of the text encoder's last layers is read: 1 the last, 2 the one before it, as many anime models want."""

    default_objective = "ddpm"
    text_components = ("text_encoder",)
    text_settings = ("clip_skip",)
    convolves = True
    stretches = {"down": ("down_blocks",), "middle": ("mid_block",), "up": ("up_blocks",)}
    pipelines = r"StableDiffusion(Img2Img|Inpaint)?Pipeline"
    file_mark = "input_blocks."
    rehearsal = {
        "backbone.model": TOYBOX,
        "backbone.revision": None,
        "data.resolution": 64,
        "data.bucket_step": 16,
        "data.prior.generate": 24,
        "data.prior.steps": 12,
        "data.prior.guidance": 4.0,
        "train.steps": 250,
        "train.batch": 4,
        "train.accumulate": 1,
        "train.lr": 2e-3,
        "train.schedule.warmup": 25,
        "train.ema.decay": 0.95,
        "train.ema.every": 1,
        "train.precision": "fp32",
        "sample.every": 125,
        "sample.steps": 12,
        "sample.guidance": 5.0,
        "sample.size": None,
        "validation.every": 125,
        "save.every": 125,
        "log.every": 10,
    }

    @model_validator(mode="after")
    def _effects(self) -> SD15:
        if self.model == TOYBOX:
            self.refuse_idle({"revision": "with the toybox model"})
        return self

    def load(self, *, device: torch.device, dtype: torch.dtype, read: Collection[str] | None = None) -> DiffusionModel:
        from .sd15_model import load

        return load(self, device=device, dtype=dtype, read=read)

    def habits(self) -> Habits:
        """The pipeline's guidance; the toybox obeys at less."""
        return Habits(guidance=5.0) if self.model == TOYBOX else Habits()

    def layout(self) -> Layout:
        from .unet_layout import layout

        try:
            return layout(self._configs())
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                f"{self.model}: its config.json files do not describe an SD1.5 model: {type(error).__name__}: {error}",
                "this is another kind of model, or its files are damaged",
            ) from error

    def matching(self, where: Site | Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
        return sd15_sites.matching(where, names)

    def matching_text(self, names: Iterable[str]) -> list[str]:
        return sd15_sites.matching_text(names)

    def convolutions(self, names: Iterable[str]) -> list[str]:
        return sd15_sites.convolutions(names)

    def _configs(self) -> Mapping[str, Mapping[str, Any]]:
        """Configuration by component: the toybox's, the folder's, the Hub cache's, else SD1.5's own."""
        from .. import toybox
        from .bundled import configs
        from .loading import read_json

        if self.model == TOYBOX:
            return toybox.configs(self.key)
        folder = self._folder()
        found = dict(configs())
        if folder is not None:
            for name in ("unet", "vae", "text_encoder"):
                if (folder / name / "config.json").is_file():
                    found[name] = read_json(folder / name / "config.json")
        return found

    def vocabularies(self) -> tuple[Sequence[Vocabulary], Sequence[str]]:
        from .vocabulary import published_clip, read_clip

        folder = None if self.model == TOYBOX else self._folder()
        here = folder is not None and (folder / "tokenizer").is_dir()
        return (read_clip(folder / "tokenizer") if folder and here else published_clip(),), ()

    def _folder(self) -> Path | None:
        """Where its files are on this machine; None where they are not, or are one file."""
        from .download import cached_folder

        path = Path(self.model).expanduser()
        return path if path.is_dir() else cached_folder(self.model, self.revision)
