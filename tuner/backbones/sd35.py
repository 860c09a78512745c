"""Stable Diffusion 3.5 and 3: a multimodal transformer, two CLIPs, a T5, a 16-channel VAE (Esser et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ..errors import DataError
from . import sd35_sites
from .base import Backbone, DiffusionModel, Site
from .habits import Habits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import torch

    from ..parts import Problem
    from ..recipe import Recipe
    from .layout import Layout
    from .vocabulary import Vocabulary

TOYBOX = "toybox"
MULTIPLE_PX = 16
"""Sides are multiples of this: a cell of the VAE is 8 px, a patch of the transformer 2 x 2 cells."""


class SD35(Backbone, name="sd35"):
    """Stable Diffusion 3.5 medium, large and large-turbo, Stable Diffusion 3 medium, or any model with their layout."""

    components: str | None = Field(default=None, min_length=1)
    """Folder or Hub id of VAE and text encoders where `model` is a single file; null takes those published with it."""
    t5: bool = True
    """Read prompts with T5, too; false puts zeros in its place and saves its memory (19 GB in fp32, 9.5 GB in bf16)."""
    t5_length: int = Field(default=256, ge=2, le=512)
    """Tokens that T5 reads of a caption, in training and in samples; counts for its zeros, too."""
    positions: Literal["center", "random"] = "center"
    """Where in the table of positions a training picture lies: in its middle, as when drawing, or anywhere, anew for
    each micro-batch, so that larger pictures find positions that have been trained."""

    default_objective = "rectified_flow"
    text_components = ("text_encoder", "text_encoder_2", "text_encoder_3")
    text_settings = ("t5", "t5_length")
    stretches = sd35_sites.STREAMS
    placed_by_table = True
    pipelines = r"StableDiffusion3\w*Pipeline"
    file_mark = "joint_blocks."
    rehearsal = {
        "backbone.model": TOYBOX,
        "backbone.revision": None,
        "backbone.components": None,
        "backbone.t5_length": 32,
        "adapters.text_encoder_lr": 2e-3,  # its small readers hear next to nothing of a word that they have not met
        "objective.shift": {"name": "constant", "value": 4.0},
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
        "sample.guidance": 4.0,
        "sample.size": None,
        "validation.every": 125,
        "save.every": 125,
        "log.every": 10,
    }

    @model_validator(mode="after")
    def _effects(self) -> SD35:
        if self.model == TOYBOX:
            self.refuse_idle({"revision": "with the toybox model", "components": "with the toybox model"})
        elif not self.model.endswith(".safetensors"):
            self.refuse_idle({"components": "unless model is a single .safetensors file"})
        return self

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        return [*_size_problems(recipe), *_t5_problems(recipe)]

    def idle_in(self, table_px: int, sizes: Iterable[tuple[int, int]]) -> Sequence[str]:
        if self.positions == "center" or any(min(size) < table_px for size in sizes):
            return ()
        return [
            "backbone.positions: random has no effect, as every picture fills this model's table of positions "
            f"({table_px} px a side); leave it out, or lower data.resolution"
        ]

    def load(self, *, device: torch.device, dtype: torch.dtype, read: Collection[str] | None = None) -> DiffusionModel:
        from .sd35_loading import load

        return load(self, device=device, dtype=dtype, read=read)

    def habits(self) -> Habits:
        """As published: 28 steps are the pipeline's own number, 4.5 is the guidance for SD3.5, 7.0 the one for SD3.

        A turbo was distilled to draw in 4 steps without guidance; its name alone tells it from large.
        """
        name = self.model.lower()
        if "turbo" in name:
            return Habits(steps=4, guidance=0.0)
        return Habits(steps=28, guidance=7.0 if _published(name) == "sd3_medium" else 4.5)

    def size_step(self) -> int:
        return MULTIPLE_PX

    def pipeline_call(self, side: int) -> Mapping[str, Any]:
        """As in the base class; without a size the pipeline draws what `sample_size` says, whatever was trained."""
        own = self.habits()
        return {
            "num_inference_steps": own.steps,
            "guidance_scale": own.guidance,
            "max_sequence_length": self.t5_length,
            "height": side,
            "width": side,
        }

    def layout(self) -> Layout:
        from .mmdit_layout import layout

        try:
            return layout(self._configs(), t5_length=self.t5_length)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"{self.model}: its config.json files do not describe an SD3 model: {type(error).__name__}: {error}",
                "this is another kind of model, or its files are damaged",
            ) from error

    def matching(self, where: Site | Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
        return sd35_sites.matching(where, names)

    def matching_text(self, names: Iterable[str]) -> list[str]:
        return sd35_sites.matching_text(names)

    def _configs(self) -> Mapping[str, Mapping[str, Any]]:
        """Configuration by component: the toybox's, the folder's, the Hub cache's, else the published ones."""
        from .mmdit_layout import configs

        found: dict[str, Mapping[str, Any]] = dict(configs(_published(self.model)))
        folder = toybox_folder(self.key) if self.model == TOYBOX else self._folder()
        if folder is not None:
            found = {name: tree for name, tree in found.items() if not _lacks(folder, name)}
            found |= _folder_configs(folder, found)
        path = Path(self.model).expanduser()
        if path.is_file():
            from .sd35_single_file import read_config

            found["transformer"] = read_config(path)
        return found if self.t5 else {name: tree for name, tree in found.items() if name != "text_encoder_3"}

    def vocabularies(self) -> tuple[Sequence[Vocabulary], Sequence[str]]:
        """Both CLIPs have one vocabulary."""
        from .vocabulary import published_clip, read_clip, read_t5

        folder = None if self.model == TOYBOX else self._folder()
        clip = folder / "tokenizer" if folder else None
        known: list[Vocabulary] = [read_clip(clip) if clip and clip.is_dir() else published_clip()]
        if not self.t5:
            return known, ()
        if folder is None or not (folder / "tokenizer_3").is_dir():
            return known, ("T5",)
        return [*known, read_t5(folder / "tokenizer_3")], ()

    def _folder(self) -> Path | None:
        """Where the components are on this machine; None where they are not."""
        from .download import cached_folder

        single = self.model.endswith(".safetensors")
        home = self.components if single else self.model
        if home is None:
            return None
        place = Path(home).expanduser()
        return place if place.is_dir() else cached_folder(home, None if single else self.revision)


def toybox_folder(key: str) -> Path:
    """Where the toybox model lies. Raises: DataError where none ships."""
    from .. import toybox

    folder = toybox.folder(key)
    if not folder.is_dir():
        raise DataError(f"backbone.model: no {TOYBOX} model of {key} ships with tuner", "give a folder or a Hub id")
    return folder


def _published(model: str) -> Any:
    """Which of the published sizes a name speaks of; where it says nothing, SD3.5 medium."""
    name = model.lower()
    if "large" in name:
        return "large"
    return "sd3_medium" if "diffusion-3-medium" in name or "sd3_medium" in name else "medium"


def _folder_configs(folder: Path, names: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    from .loading import read_json

    paths = {name: folder / name / f"{'scheduler_' if name == 'scheduler' else ''}config.json" for name in names}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def _lacks(folder: Path, name: str) -> bool:
    """Whether a folder says that it has no such component."""
    from .loading import read_json

    index = folder / "model_index.json"
    return index.is_file() and absent(read_json(index), name)


def absent(index: Mapping[str, Any], name: str) -> bool:
    """Whether model_index.json says that a text encoder is not there: `[null, null]`, or not a word of it."""
    return name.startswith("text_encoder") and not any(index.get(name) or ())


def _size_problems(recipe: Recipe) -> Iterable[Problem]:
    sizes = {"data.resolution": recipe.data.resolution, "sample.size": recipe.sample.size}
    if recipe.data.crop == "buckets":
        sizes["data.bucket_step"] = recipe.data.bucket_step
    for key, size in sizes.items():
        if size is not None and size % MULTIPLE_PX:
            yield key, f"{size} is not a multiple of {MULTIPLE_PX}, the pixels of an sd35 patch", "value_error"


def _t5_problems(recipe: Recipe) -> Iterable[Problem]:
    """No adapter trains T5, and a pattern that asks for it is told why."""
    for index, adapter in enumerate(recipe.adapters):
        where = adapter.model_dump(mode="json").get("where")
        for pattern in where if isinstance(where, list) else ():
            if sd35_sites.names_t5(pattern):
                yield (
                    f"adapters.{index}.where",
                    f"{pattern!r} is a layer of T5, which is not trained: StableDiffusion3Pipeline passes over T5 "
                    "layers when it loads a LoRA; text_encoder_lr trains both CLIPs",
                    "value_error",
                )
