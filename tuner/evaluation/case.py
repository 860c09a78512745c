"""What is to be measured: a base, an adapter, the subject's photos, and the prompts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, get_args

from ..errors import UsageError
from . import prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from ..drawing import Drawing
    from ..objectives import Objective
    from ..recipe import Recipe
    from ..sampling import Shot
    from .photos import Learned

TOYBOX = "toybox"


@dataclass(frozen=True)
class Case:
    """One adapter and what it should have learned."""

    drawing: Drawing
    """The base and the adapter on it."""
    photos: Sequence[Image]
    """What it learned from, upright RGB; empty where they are not known."""
    subject: str | None
    """The subject's caption, such as 'a photo of sks dog'; None where the run taught no subject."""
    plain: str | None
    """The class's caption, such as 'a photo of a dog'; None where it is not known."""
    prompts: prompts.PromptSet
    side: int
    """Width and height of the pictures to draw."""
    missing: tuple[str, ...] = ()
    """What cannot be measured, and why."""
    sampled: tuple[str, ...] = ()
    """The run's own prompts, asked where there is no subject to ask for."""
    captions: tuple[str, ...] = ()
    """How the photos are captioned, where they show a style or a theme and no one subject."""
    objective: Objective | None = None
    """What the run trained for, so that its adapter is sampled as it was trained; None is the base's own."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How pictures are drawn for a measure."""

    count: int = 16
    """Pictures of the subject, and of the plain class."""
    per_prompt: int | None = None
    """Pictures for each context and each unrelated prompt; None takes what the prompts say."""
    seed: int = 0
    steps: int = 20
    guidance: float | None = None
    """None: the base's own (`Backbone.habits`)."""
    scheduler: str = "auto"
    """As `Shot.scheduler`."""
    batch: int | None = None
    """Pictures at a time; None: 16 on the toybox, else 1."""


@dataclass(frozen=True, slots=True)
class Question:
    """Some shots that are measured together."""

    shots: tuple[Shot, ...]
    said: tuple[str, ...]
    """What each picture should show, in words that a judge knows: the class in the subject's place."""


def questions(case: Case, asking: Asking) -> dict[str, Question]:
    """What is drawn, by name: `subject` and `contexts`, or `captions` and `sampled`; `class`; `unrelated`.

    Some cases lack some.
    """
    found: dict[str, Question] = {}
    each = asking.per_prompt or case.prompts.per_prompt
    if case.subject is not None:
        found["subject"] = _ask(case, asking, [(case.subject, case.plain or case.subject)] * asking.count, 0)
        thing = prompts.noun(case.subject)
        kind = prompts.noun(case.plain) if case.plain else thing
        pairs = [(prompts.fill(c, thing), prompts.fill(c, kind)) for c in case.prompts.contexts for _ in range(each)]
        found["contexts"] = _ask(case, asking, pairs, 1000)
    else:
        captions = [case.captions[n % len(case.captions)] for n in range(asking.count)] if case.captions else []
        found["captions"] = _ask(case, asking, [(text, text) for text in captions], 0)
        found["sampled"] = _ask(case, asking, [(text, text) for text in case.sampled for _ in range(each)], 1000)
    if case.plain is not None:
        found["class"] = _ask(case, asking, [(case.plain, case.plain)] * asking.count, 2000)
    other = [text for text in case.prompts.unrelated if case.plain is None or not _same(text, case.plain)]
    found["unrelated"] = _ask(case, asking, [(text, text) for text in other for _ in range(each)], 3000)
    return {name: question for name, question in found.items() if question.shots}


def _same(prompt: str, plain: str) -> bool:
    return prompts.noun(prompt).lower() == prompts.noun(plain).lower()


def _ask(case: Case, asking: Asking, pairs: Sequence[tuple[str, str]], first: int) -> Question:
    from ..sampling import Shot

    guidance = case.drawing.backbone.habits().guidance if asking.guidance is None else asking.guidance
    shots = tuple(
        Shot(
            prompt,
            seed=asking.seed + first + number,
            size=(case.side, case.side),
            steps=asking.steps,
            guidance=guidance,
            scheduler=asking.scheduler,
        )
        for number, (prompt, _) in enumerate(pairs)
    )
    return Question(shots, tuple(said for _, said in pairs))


class Changes(TypedDict, total=False):
    """What is not as the run had it, or not known from it."""

    base: str | None
    """Another place of the base model."""
    subject: str | None
    """Caption of the subject, where it is not the first instance caption."""
    plain: str | None
    """Caption of the plain class, where the run has no `data.prior`."""
    photos: Path | None
    """Folder of the subject's photos, where they are not where the run found them."""
    prompts: str | None
    """As `prompts.choose`: `objects`, `live`, `toybox` or a file; None takes what fits."""
    size: int | None
    """Side of the pictures in pixels; None takes the run's resolution, or what the model can draw just below it."""
    device: str
    """`auto`, `cuda`, `mps` or `cpu`."""


def of_run(run_dir: Path, *, step: int | None = None, **changes: Unpack[Changes]) -> Case:
    """The case of a run directory.

    Args:
        run_dir: a run with a saved adapter.
        step: take the adapter of this checkpoint instead of the final one.
        changes: see there.

    Raises: UsageError where there is no such run, adapter, step, size or device; DataError where photos cannot be read.
    """
    from ..recipe_file import load_recipe
    from .photos import learned_from

    resolved = run_dir / "resolved.yaml"
    if not resolved.is_file():
        raise UsageError(
            f"{run_dir} is not a run directory: it has no resolved.yaml", "`tuner runs` lists the runs here"
        )
    recipe = load_recipe(resolved)
    drawing = _drawing(run_dir, recipe, step, changes.get("base"), changes.get("device", "auto"))
    side = changes.get("size") or _drawable(drawing, recipe.data.resolution)
    drawing.check_size(side, side)
    found = learned_from(recipe, changes.get("photos"), changes.get("subject"))
    plain = changes.get("plain") or found.plain
    kind = prompts.noun(plain or found.subject or "")
    return Case(
        drawing,
        found.photos,
        found.subject,
        plain,
        prompts.choose(changes.get("prompts"), on_toybox=drawing.base == TOYBOX, class_noun=kind),
        side,
        (*_missing(found, plain, recipe.sample.prompts), *found.notes),
        recipe.sample.prompts,
        found.captions,
        recipe.objective,
    )


def _drawing(run_dir: Path, recipe: Recipe, step: int | None, base: str | None, device: str) -> Drawing:
    """A run's adapter on the very base that the run had, or on the one that the user names."""
    from ..drawing import Drawing, Strong
    from ..sections import Train

    devices = get_args(Train.model_fields["device"].annotation)
    if device not in devices:
        raise UsageError(f"unknown device {device!r}", f"there is {', '.join(devices)}")
    adapter = run_dir / "adapter" if step is None else run_dir / "checkpoints" / str(step) / "adapter"
    if not adapter.is_dir():
        raise UsageError(f"{run_dir} has no {adapter.relative_to(run_dir).as_posix()} yet", _steps(run_dir))
    drawing = Drawing.plan([Strong(adapter, 1.0)], base or recipe.backbone.model, device)
    return drawing if base else replace(drawing, backbone=recipe.backbone, chosen=False)


def _drawable(drawing: Drawing, side: int) -> int:
    """The largest side that the model draws and that is not above `side`; the smallest there is where none is."""
    step = drawing.backbone.size_step()
    return max(side // step * step, step)


def _missing(found: Learned, plain: str | None, sampled: Sequence[str]) -> tuple[str, ...]:
    lines = []
    subject = found.subject
    if subject is None:
        if not found.captions:
            lines.append("the subject: this run taught none (its task has no instance role); name one with --subject")
        if sampled:
            lines.append("what the run's own prompts say in words that it taught, for no judge knows them")
    if plain is None:
        lines.append("prior drift and diversity of the class: the run has no data.prior; name the class with --class")
    if subject is not None and plain is None:
        lines.append(
            f"prompt fidelity in words that every judge knows: {prompts.noun(subject)!r} stands in its own place; "
            "name the class with --class"
        )
    return tuple(lines)


def _steps(run_dir: Path) -> str:
    saved = sorted(
        (int(path.parent.name) for path in run_dir.glob("checkpoints/*/adapter") if path.parent.name.isdigit()),
    )
    return f"--step takes {', '.join(map(str, saved))}" if saved else "let the run reach a save, or finish"
