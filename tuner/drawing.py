"""Pictures from a saved adapter: which base belongs to it, and whether the two fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from .errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

    from .backbones import Backbone, DiffusionModel
    from .objectives import BoundObjective
    from .sampling import Shot
    from .watch import Watcher

FOREIGN = ("Stable Diffusion 2", "SDXL")
"""Families that `inspect_file` knows and tuner has no backbone for."""
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
WHOLE = "full"
"""The kind of file that is no adapter, but a model."""
MAIN_FAMILY = "sd15"
"""Taken for a base that tells nothing of itself, such as the toybox; what loads it says what is wrong with it."""
STRENGTH = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Strong:
    """An adapter file and how strongly it acts."""

    path: Path
    strength: float


def parse_adapter(text: str) -> Strong:
    """`FILE` or `FILE:STRENGTH`. A colon that no number follows is part of the name, as in C:/dog.safetensors."""
    path, colon, tail = text.rpartition(":")
    drive = len(path) == 1 and path.isalpha()
    if colon and path and not drive and STRENGTH.fullmatch(tail.strip()) and not Path(text).exists():
        return Strong(Path(path).expanduser(), float(tail))
    return Strong(Path(text).expanduser(), 1.0)


@dataclass(frozen=True)
class Drawing:
    """A base model and the adapters on it; nothing is loaded yet."""

    backbone: Backbone
    adapters: Sequence[Strong]
    facts: Sequence[dict[str, Any]]
    """What `inspect_file` says of each adapter."""
    chosen: bool
    """Whether the base was named by the user rather than found."""
    device: str
    model_facts: Sequence[dict[str, Any]] = ()
    """What `inspect_file` says of the whole model that is the base, where one was given among the adapters."""

    @classmethod
    def plan(cls, adapters: Sequence[Strong], base: str | None, device: str, *, backbone: str | None = None) -> Self:
        """Find the base that the adapters were trained on; a whole model among them is the base, unless one is named.

        Args:
            adapters: what is put on it.
            base: its name, where the user gives one.
            device: where to draw.
            backbone: its family, where the user gives one; else the adapters tell, or the base itself.

        Raises: UsageError where it is not known or the adapters disagree; DataError where one cannot be used.
        """
        from .backbones import Backbone

        facts = [all_facts(adapter.path) for adapter in adapters]
        for adapter, fact in zip(adapters, facts, strict=True):
            if fact["problem"] or fact["family"] in FOREIGN:
                raise DataError(
                    f"{adapter.path}: {fact['problem'] or 'is for ' + fact['family']}",
                    "give an adapter for Stable Diffusion 1.5, 3.5 or 3; `tuner inspect FILE` says what this one is",
                )
        given, told, models = adapters, facts, []
        if base is None:
            base = whole_model(adapters, facts)
            models = [fact for fact in facts if fact["kind"] == WHOLE]
            adapters = [a for a, fact in zip(adapters, facts, strict=True) if fact["kind"] != WHOLE]
            facts = [fact for fact in facts if fact["kind"] != WHOLE]
        model = base if base is not None else common_base(adapters, facts)
        name = family_of(given, told, model, backbone)
        kind = cast("type[Backbone]", Backbone.family[name])
        settings = {"name": name, "model": model, **text_settings(told, kind.text_settings)}
        return cls(Backbone.read(settings), list(adapters), facts, base is not None, device, models)

    @property
    def base(self) -> str:
        return self.backbone.model

    @property
    def names(self) -> list[str]:
        """File names (never whole paths) and strengths."""
        return [f"{a.path.name}:{a.strength:g}" for a in self.adapters]

    @property
    def resolution(self) -> int:
        """Side that the first adapter was trained at, else the family's own."""
        known = [fact["resolution"] for fact in (*self.model_facts, *self.facts) if fact["resolution"]]
        if known or self.base == "toybox":
            return known[0] if known else 64
        from .formats.families import FAMILIES

        return FAMILIES[self.backbone.key].side

    def check_size(self, width: int, height: int) -> None:
        """Raises: UsageError where the model cannot draw that size."""
        step = self.backbone.size_step()
        if width % step or height % step:
            raise UsageError(
                f"--size {width}x{height} is not a multiple of {step}", f"such as {width // step * step or step}"
            )
        most = self.backbone.layout().max_side_px
        if most is not None and max(width, height) > most:
            raise UsageError(f"--size {width}x{height}: the positions of this model end at {most} px a side")


def family_of(adapters: Sequence[Strong], facts: Sequence[dict[str, Any]], model: str, backbone: str | None) -> str:
    """The backbone that adapters and base are for, by what the user, the adapters or the base say, in this order.

    Raises: UsageError where these disagree, or there is no such backbone.
    """
    from .backbones import Backbone

    if backbone is not None and backbone not in Backbone.family:
        raise UsageError(f"unknown backbone {backbone!r}", f"there is {', '.join(Backbone.family)}")
    kinds = {fact["backbone"] for fact in facts}
    if len(kinds) > 1:
        raise UsageError(f"the adapters are for different families: {', '.join(sorted(kinds))}", "use those of one")
    known = kinds.pop() if kinds else backbone
    if backbone not in (None, known):
        raise UsageError(f"{adapters[0].path} is for {known}, not for {backbone}", "leave out --backbone")
    if known is not None or model == "toybox":
        return known or MAIN_FAMILY
    from .backbones.recognise import recognise

    return recognise(model) or MAIN_FAMILY


def all_facts(path: Path) -> dict[str, Any]:
    """What the adapter at `path` says of itself, completed from the other files that the same save wrote beside it.

    Raises: DataError where it cannot be read.
    """
    from .formats.find import find_files
    from .formats.inspect import inspect_file

    first, *others = find_files(path)
    fact = inspect_file(first)
    if first.name == DIFFUSERS_FILE:  # it tells little of itself, so that equal runs give equal bytes
        others += [file for file in sorted(first.parent.glob("*.safetensors")) if file not in (first, *others)]
    for file in others:
        told = inspect_file(file)
        fact |= {key: told[key] for key, value in fact.items() if value is None}
    return fact


def whole_model(adapters: Sequence[Strong], facts: Sequence[dict[str, Any]]) -> str | None:
    """Where the whole model among the adapters lies; None where there is none. Raises: UsageError."""
    from .formats.find import find_file
    from .formats.model_kind import pipeline_of

    found = [a for a, fact in zip(adapters, facts, strict=True) if fact["kind"] == WHOLE]
    if not found:
        return None
    if len(found) > 1:
        raise UsageError("several of these are whole models", "draw with one of them")
    if found[0].strength != 1:
        raise UsageError(
            f"{found[0].path} is a whole model, which has no strength by itself",
            "name the base that it was trained from, to draw with something between the two: --base MODEL",
        )
    return str(pipeline_of(find_file(found[0].path)))


def common_base(adapters: Sequence[Strong], facts: Sequence[dict[str, Any]]) -> str:
    """The base that every adapter names. Raises: UsageError."""
    if not adapters:
        raise UsageError(
            "neither a base nor an adapter is named", "give --adapter FILE, or --base MODEL for the base alone"
        )
    named = {adapter.path: fact["base"] or None for adapter, fact in zip(adapters, facts, strict=True)}
    unknown = [str(path) for path, base in named.items() if base is None]
    if unknown:
        raise UsageError(f"{unknown[0]} does not say which base it was trained on", "name it: --base MODEL")
    bases = sorted({base for base in named.values() if base is not None})
    if len(bases) > 1:
        raise UsageError(
            f"the adapters were trained on different bases: {', '.join(bases)}", "choose one: --base MODEL"
        )
    if not Path(bases[0]).exists() and "/" not in bases[0] and bases[0] != "toybox":
        raise UsageError(
            f"{adapters[0].path} was trained on a local model named {bases[0]!r}", "say where it is: --base PATH"
        )
    return bases[0]


def text_settings(facts: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """How the text was read in training, by the recipe or the header of the first adapter that tells.

    Args:
        facts: of each adapter.
        names: `Backbone.text_settings`.
    """
    from .yaml_text import parse

    for fact in facts:
        tree = parse(fact["recipe"] or "").value
        backbone = tree.get("backbone") if isinstance(tree, dict) else None
        if not isinstance(backbone, dict):
            header = fact.get("metadata") or {}
            backbone = {name: parse(header.get(f"tuner_{name}", "").lower()).value for name in names}
        if told := {name: backbone[name] for name in names if isinstance(backbone.get(name), int)}:
            return told
    return {}


def load(drawing: Drawing, watcher: Watcher) -> DiffusionModel:
    """The base, without its adapters. Raises: DataError where an adapter was trained on another."""
    from .device import choose
    from .sections import Train

    place = choose(Train.model_validate({"steps": 1, "device": drawing.device}))
    watcher.phase(f"loading {drawing.base}")
    model = drawing.backbone.load(device=place.device, dtype=place.weights)
    check_identity(drawing, model, watcher)
    return model


def put_on(drawing: Drawing, model: DiffusionModel) -> None:
    """Load the adapters into a base from `load`. Raises: DataError where one does not fit."""
    from .formats.load import load_adapter

    pipe: Any = model.pipeline()
    for number, adapter in enumerate(drawing.adapters):
        load_adapter(pipe, adapter.path, adapter.strength, name=f"adapter_{number}")


def paint_all(
    model: DiffusionModel,
    shots: Sequence[Shot],
    watcher: Watcher,
    *,
    batch: int = 1,
    phase: str = "drawing",
    objective: BoundObjective | None = None,
) -> Iterator[Image]:
    """Draw shot by shot, or some at a time, telling how far it is; `objective` as for `sampling.paint`."""
    from .sampling import paint

    watcher.phase(phase, len(shots))
    for start in range(0, len(shots), batch):
        yield from paint(model, shots[start : start + batch], objective=objective, batch=batch)
        watcher.progress(min(start + batch, len(shots)))


def draw(drawing: Drawing, shots: Sequence[Shot], watcher: Watcher) -> Iterator[Image]:
    """Load everything and draw shot by shot. Raises: DataError where an adapter does not fit the base."""
    model = load(drawing, watcher)
    put_on(drawing, model)
    yield from paint_all(model, shots, watcher)


def check_identity(drawing: Drawing, model: DiffusionModel, watcher: Watcher) -> None:
    """Compare the loaded denoiser with the one that each adapter says it was trained on.

    Another base that the user named is used, and said so: adapters often serve kin of their base.

    Raises: DataError where nobody named another base.
    """
    known = [
        (a, f["base_identity"]) for a, f in zip(drawing.adapters, drawing.facts, strict=True) if f["base_identity"]
    ]
    if not known:
        return
    here = model.identity(model.denoiser_name)
    for adapter, identity in known:
        if identity == here:
            continue
        text = f"{adapter.path} was trained on other weights than this {drawing.base} has"
        if not drawing.chosen:
            raise DataError(text, f"give --base to use it all the same: --base {drawing.base}")
        watcher.warn(f"{text}; the pictures may differ from what it learned")
