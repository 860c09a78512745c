"""What a file says of the run that made it: gathered once, written into headers, sidecars and the model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..redact import redact

if TYPE_CHECKING:
    from ..recipe import Recipe

Dtype = Literal["fp32", "fp16", "bf16"]
Level = Literal["full", "minimal", "none"]


class Facts(TypedDict, total=False):
    """What only the engine knows of a run. Everything but `seconds` and `device` is equal between equal runs."""

    step: int
    """Optimizer steps that the weights have seen."""
    max_steps: int
    """Optimizer steps of the whole run."""
    epoch: float
    """Visits of each picture of the first role so far."""
    images: int
    """Pictures of the first role."""
    prior_images: int
    """Pictures of the other roles."""
    buckets: Mapping[str, int]
    """Pictures by bucket, such as {"512x512": 4}."""
    tags: Mapping[str, Mapping[str, int]]
    """For each role, how often each tag stands in the captions (`count_tags`)."""
    precision: str
    """What the frozen model was computed in: fp32, bf16 or fp16."""
    trained_parameters: int
    """Number of trained values."""
    validation_loss: float | None
    """Of these weights on held-out pictures; None where it was not measured or is not finite."""
    best: str | None
    """The best saved step so far and its validation loss."""
    seconds: float
    """How long it took. Goes to the card alone."""
    device: str
    """Name of the machine's accelerator or processor. Goes to the card alone."""


AVERAGES: Mapping[str, str] = {
    "ema": "the moving average of the trained weights (EMA)",
    "schedule_free": "the average of the weights that a schedule-free optimizer keeps",
}
"""What files hold in place of the trained weights, by `About.weights`."""

SETTINGS: Mapping[str, str] = {
    "lr": "train.lr",
    "optimizer": "train.optimizer.name",
    "schedule": "train.schedule.name",
    "warmup": "train.schedule.warmup",
    "batch": "train.batch",
    "accumulate": "train.accumulate",
    "max_grad_norm": "train.max_grad_norm",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "ema_decay": "train.ema.decay",
    "seed": "train.seed",
    "crop": "data.crop",
    "caption_dropout": "data.caption_dropout",
    "encoder_dropout": "data.encoder_dropout",
    "flip": "data.flip",
    "task": "task.name",
    "prior_weight": "task.prior_weight",
    "beta": "task.beta",
    "objective": "objective.name",
    "min_snr_gamma": "objective.min_snr_gamma",
    "noise_offset": "objective.noise_offset",
    "input_perturbation": "objective.input_perturbation",
    "levels": "objective.levels",
    "shift": "objective.shift",
    "weighting": "objective.weighting",
    "t5": "backbone.t5",
    "t5_length": "backbone.t5_length",
    "clip_skip": "backbone.clip_skip",
}
"""Facts that the recipe itself tells, by key path; a path that this recipe lacks is left out."""


@dataclass(frozen=True, slots=True)
class About:
    """Name, precision and story of the files of one adapter.

    Whatever it is given, it holds no path but the preview's, and no access token.
    """

    name: str
    """Stem of the files that carry a name: the run's."""
    dtype: Dtype = "fp32"
    """Precision of the tensors."""
    metadata: Level = "full"
    """How much the files say: all, what model browsers need, or only what loading needs."""
    family: str = "sd15"
    """Name of the backbone."""
    base: str = ""
    """The base model: a Hub id, `toybox`, or the last part of a path."""
    base_identity: str | None = None
    """sha256 of the base's denoiser (`DiffusionModel.identity`), by which a wrong base is noticed."""
    prediction: str = "epsilon"
    """What the denoiser predicts: epsilon, v or velocity."""
    prompt: str | None = None
    """Caption of the first role's pictures, where one caption serves all."""
    trigger: str | None = None
    """Word that calls what was learned, where the recipe names one."""
    sample_prompts: tuple[str, ...] = ()
    """Prompts of the run's samples."""
    negative: str = ""
    """Negative prompt of the samples."""
    resolution: int = 512
    """Side in pixels of the square whose area the pictures were scaled to."""
    recipe: str = ""
    """The resolved recipe as YAML, paths reduced to their last part, no tokens."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`Facts` and the recipe's own (`SETTINGS`, `text_encoder_lr`), by name."""
    call: Mapping[str, Any] = field(default_factory=lambda: {"num_inference_steps": 25})
    """Keywords of a call of diffusers' pipeline (`Backbone.pipeline_call`)."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """What that pipeline's scheduler has to be told to draw as the run did; empty where the base says it already."""
    weights: Literal["raw", "ema", "schedule_free"] = "raw"
    """Whether the tensors are the trained weights or one of `AVERAGES`."""
    made: str | None = None
    """When, as an ISO date. Goes to the sidecar and the card alone, so that equal runs give equal tensor files."""
    alone: bool = True
    """Whether the run trained one adapter, so that these are all of its files."""
    preview: Path | None = None
    """A picture to put beside the file; its pixels are copied, its metadata is not."""

    def __post_init__(self) -> None:
        for name in ("prompt", "trigger", "sample_prompts", "negative", "recipe", "facts"):
            object.__setattr__(self, name, _scrubbed(getattr(self, name)))
        object.__setattr__(self, "base", without_private(base_name(self.base)))

    @property
    def title(self) -> str:
        """What the adapter is called in browsers; the same whatever the run's directory is called."""
        return self.trigger or self.prompt or f"LoRA on {self.base or self.family}"

    @property
    def activation(self) -> str:
        """What to write in a prompt so that the adapter shows."""
        return self.trigger or self.prompt or ""


def about_run(  # noqa: PLR0913  (a record with as many fields)
    name: str,
    recipe: Recipe,
    *,
    facts: Facts,
    recipe_text: str,
    base: str | None = None,
    base_identity: str | None = None,
    prediction: str = "epsilon",
    weights: Literal["raw", "ema", "schedule_free"] = "raw",
    made: str | None = None,
    preview: Path | None = None,
) -> About:
    """What the files of a run say, from its recipe and the engine's facts.

    Args:
        name: stem of the named files; the run directory's name.
        recipe: the resolved recipe.
        facts: what the engine knows; see `Facts`.
        recipe_text: the resolved recipe as YAML without paths and tokens (`recipe_file.scrub`).
        base: the base model as the recipe names it; None takes `recipe.backbone.model`. A path keeps its last part.
        base_identity: `model.identity(model.denoiser_name)`.
        prediction: what the denoiser predicts; `epsilon` or `v` (`BoundDDPM.prediction`).
        weights: which they are, see `About.weights`.
        made: ISO date of the save.
        preview: the latest sample, if any.
    """
    tree: dict[str, Any] = recipe.model_dump(mode="json")
    tree["objective"] = {"name": recipe.bound_objective.key, **recipe.bound_objective.model_dump(mode="json")}
    told = {fact: value for fact, path in SETTINGS.items() if (value := _at(tree, path)) is not None}
    lrs = [adapter["text_encoder_lr"] for adapter in tree["adapters"] if adapter.get("text_encoder_lr") is not None]
    first = recipe.sources.get(next(iter(recipe.task.sources)), ())
    captions = {source.caption for source in first}
    called = not any(role.beside for role in recipe.task.roles(recipe.sources))  # no caption calls a preference
    caption = captions.pop() if called and len(captions) == 1 else None
    side = recipe.data.resolution
    return About(
        name=name,
        dtype=recipe.save.dtype,
        metadata=recipe.save.metadata,
        family=recipe.backbone.key,
        base=base or recipe.backbone.model,
        base_identity=base_identity,
        prediction=prediction,
        prompt=caption,
        trigger=recipe.data.trigger,
        sample_prompts=tuple(recipe.sample.prompts),
        negative=recipe.sample.negative,
        resolution=side,
        call=recipe.backbone.pipeline_call(side),
        sampler=_sampler(recipe),
        recipe=recipe_text,
        facts={**told, **({"text_encoder_lr": lrs[0]} if lrs else {}), **facts},
        weights=weights,
        made=made,
        alone=len(recipe.adapters) == 1,
        preview=preview,
    )


def _sampler(recipe: Recipe) -> Mapping[str, Any]:
    """What the objective changes in the base's scheduler, for squares of the recipe's resolution."""
    layout, objective = recipe.backbone.layout(), recipe.bound_objective
    if layout.scheduler and not objective.notes(layout.scheduler):
        return {}
    cells = recipe.data.resolution // layout.factor
    return objective.scheduler_changes(cells, cells)


def _at(tree: Mapping[str, Any], path: str) -> Any:
    value: Any = tree
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return without_private(value)
    if isinstance(value, Mapping):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
    return tuple(map(_scrubbed, value)) if isinstance(value, tuple) else value


def base_name(model: str) -> str:
    """A Hub id as it is; of a path, the last part."""
    return model if is_hub_id(model) or model == "toybox" else re.split(r"[\\/]+", model.rstrip("\\/"))[-1]


def is_hub_id(model: str) -> bool:
    """Whether this reads as `owner/name` and is no path on this machine."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", model) is not None and not Path(model).exists()


def count_tags(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag stands in these captions, most frequent first."""
    counts: dict[str, int] = {}
    for caption in captions:
        for tag in filter(None, (part.strip() for part in caption.split(","))):
            counts[tag] = counts.get(tag, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


_PATHS = re.compile(
    r"(?<![\w./\\])(?:~[\w.-]*/|file://|/(?:home|Users|root|mnt|media|data|work|workspace|tmp|var|opt|srv|scratch|private)/"
    r"|[A-Za-z]:[\\/]|\\\\)(?:[^\s'\"`,;:<>|]*[\\/])?"
)
"""The part of a path before its last component."""


def without_private(text: str) -> str:
    """The text with access tokens hidden and paths reduced to their last part."""
    return _PATHS.sub("", redact(text))
