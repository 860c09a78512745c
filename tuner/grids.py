"""Grids of pictures over two of checkpoint, strength, seed, prompt, guidance and steps: what each cell will be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from . import grid_axes
from .errors import UsageError
from .outcome import FINAL, RESOLVED, adapter_folder, called, run_of, saved_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .drawing import Drawing
    from .grid_axes import Axis, Value
    from .sampling import Shot

ON_OR_OFF = (0.0, 1.0)
"""The strengths of an adapter that is on or off, such as a new word."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What is the same in every cell; None is not said. What an axis varies must not be said here, too."""

    prompt: str | None = None
    negative: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    strength: float | None = None
    size: tuple[int, int] | None = None
    """Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Which weights draw a cell."""

    checkpoint: int | str | None
    """A step, `final`, or None: the adapter as it was given."""
    strength: float


BASE = Weights(None, 0.0)
"""The base model with nothing on it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a grid."""

    row: int
    column: int
    settings: Mapping[str, Value]
    """What the axes say of it, by their names."""
    weights: Weights
    shot: Shot
    adapters: tuple[str, ...] = ()
    """File names and strengths, for the picture's text."""

    @property
    def file(self) -> str:
        """Its name in the grid's folder."""
        return f"{self.row:03}-{self.column:03}.png"

    def facts(self) -> dict[str, Any]:
        """As `grid.json` has it."""
        shot = self.shot
        return {
            "file": self.file,
            "row": self.row,
            "column": self.column,
            "checkpoint": self.weights.checkpoint,
            "strength": self.weights.strength,
            "adapters": list(self.adapters),
            "prompt": shot.prompt,
            "negative": shot.negative,
            "seed": shot.seed,
            "steps": shot.steps,
            "guidance": shot.guidance,
            "scheduler": shot.scheduler,
            "size": list(shot.size),
        }


@dataclass(frozen=True, slots=True)
class Grid:
    """Every cell of a grid, its settings checked; nothing is loaded yet."""

    x: Axis
    y: Axis | None
    cells: tuple[Cell, ...]
    """Row by row."""
    drawings: Mapping[int | str | None, Drawing] = field(repr=False)
    """The base with the adapter on it, by checkpoint; with a key None alone where the checkpoint does not vary."""

    @property
    def base(self) -> str:
        return next(iter(self.drawings.values())).base

    @property
    def row_count(self) -> int:
        return len(self.y.values) if self.y else 1

    def facts(self) -> dict[str, Any]:
        """As `grid.json` has it."""
        axes = {"x": self.x, **({"y": self.y} if self.y else {})}
        return {
            "base": Path(self.base).name if Path(self.base).is_absolute() else self.base,
            "axes": {side: {"name": a.name, "values": list(a.values), "labels": a.labels} for side, a in axes.items()},
            "cells": [cell.facts() for cell in self.cells],
        }


def plan(
    x: Axis,
    y: Axis | None,
    fixed: Fixed,
    *,
    adapter: Path | None = None,
    base: str | None = None,
    backbone: str | None = None,
    device: str = "auto",
) -> Grid:
    """Find what the grid needs, and check what can be known before anything is loaded.

    Args:
        x: what varies from left to right.
        y: what varies from top to bottom, if anything.
        fixed: everything else.
        adapter: file, adapter folder or run.
        base: the base model where it is not the adapter's own.
        backbone: its family, where neither adapter nor base tell.
        device: auto, cuda, mps or cpu.

    Raises: UsageError, DataError.
    """
    grid_axes.check_size(x, y)
    names = {x.name, *([y.name] if y else [])}
    _check_fixed(names, fixed, adapter)
    points = [
        (row, column, {x.name: across} | ({y.name: down} if y is not None else {}))
        for row, down in enumerate(y.values if y else (0,))
        for column, across in enumerate(x.values)
    ]
    own = 0.0 if adapter is None else 1.0 if fixed.strength is None else fixed.strength
    weights = [_weights(settings, own) for _, _, settings in points]
    drawings = _drawings(weights, adapter, base, backbone, device)
    shots = _shots([settings for _, _, settings in points], fixed, next(iter(drawings.values())))
    cells = tuple(
        Cell(row, column, settings, worn, shot, _names(worn, adapter))
        for (row, column, settings), worn, shot in zip(points, weights, shots, strict=True)
    )
    return Grid(x, y, cells, drawings)


def _check_fixed(names: set[str], fixed: Fixed, adapter: Path | None) -> None:
    """Raises: UsageError where an option has no effect beside the axes, or something is not said at all."""
    said = {"prompt": fixed.prompt, "seed": fixed.seed, "steps": fixed.steps, "guidance": fixed.guidance}
    for name, value in said.items():
        if name in names and value is not None:
            raise UsageError(f"an axis varies the {name}, so one for all cells has no effect", "leave one of them out")
    if fixed.strength is not None and "strength" in names:
        raise UsageError("an axis varies the strength, so one behind --adapter has no effect", "leave one of them out")
    if "prompt" not in names and not (fixed.prompt or "").strip():
        raise UsageError("there is no prompt", 'say what to draw: tuner grid ... "a photo of sks dog"')
    for name in sorted(names & {"checkpoint", "strength"}):
        if adapter is None:
            raise UsageError(f"there is no adapter whose {name} could vary", "name it: --adapter runs/dog")


def _weights(settings: Mapping[str, Any], strength: float) -> Weights:
    strength = settings.get("strength", strength)
    return Weights(settings.get("checkpoint"), strength) if strength else BASE


def _drawings(
    weights: Sequence[Weights], adapter: Path | None, base: str | None, backbone: str | None, device: str
) -> dict[int | str | None, Drawing]:
    """By checkpoint, what is put on which base. Raises: UsageError, DataError."""
    from .drawing import Drawing
    from .sections import Train

    devices = get_args(Train.model_fields["device"].annotation)
    if device not in devices:
        raise UsageError(f"unknown device {device!r}", f"there is {', '.join(devices)}")
    if adapter is None:
        return {None: Drawing.plan([], base, device, backbone=backbone)}
    found: dict[int | str | None, Drawing] = {}
    for checkpoint in dict.fromkeys(one.checkpoint for one in weights if one != BASE) or (None,):
        place = adapter if checkpoint is None else _checkpoint(adapter, checkpoint)
        strengths = {one.strength for one in weights if one == BASE or one.checkpoint == checkpoint}
        _check_strengths(place, strengths)
        found[checkpoint] = _drawing(place, adapter, strengths, base, backbone, device)
    first = next(iter(found.values()))
    if any(drawing.backbone != first.backbone for drawing in found.values()):
        raise UsageError("the checkpoints were trained on different bases", "name one: --base MODEL")
    return found


def _check_strengths(place: Path, strengths: set[float]) -> None:
    """Raises: UsageError where the adapter is on or off, and nothing between; DataError where it cannot be read."""
    from .formats.container import read_header
    from .formats.find import find_files, kind_of

    kinds = {file: kind_of(read_header(file)) for file in find_files(place)}
    between = sorted(strengths - set(ON_OR_OFF))
    if between and not any(kind.scales for kind in kinds.values()):
        file, kind = next(iter(kinds.items()))
        raise UsageError(
            f"{file} is {kind.label}, which has no strength such as {between[0]:g}",
            "it is there at 1 and not at 0; say in the prompt how much of it you want",
        )


def _drawing(
    place: Path, given: Path, strengths: set[float], base: str | None, backbone: str | None, device: str
) -> Drawing:
    """An adapter on the base that its run had, else on the one that it names, or that the user names."""
    from .drawing import Drawing, Strong

    run = run_of(given)
    if base is None and backbone is None and run is not None:
        from .recipe_file import load_recipe

        own = load_recipe(run / RESOLVED).backbone
        return replace(Drawing.plan([Strong(place, 1.0)], own.model, device), backbone=own, chosen=False)
    # of a whole model whose base nobody names, any strength but 1 is refused there
    least = min(strengths, key=lambda strength: strength == 1)
    return Drawing.plan([Strong(place, least)], base, device, backbone=backbone)


def _checkpoint(run: Path, checkpoint: int | str) -> Path:
    """Raises: UsageError."""
    if not (run / "checkpoints").is_dir() and not (run / RESOLVED).is_file():
        raise UsageError(f"{run} is not a run directory, so it has no checkpoints", "give the run itself to --adapter")
    try:
        return adapter_folder(run, None if checkpoint == FINAL else int(checkpoint))
    except UsageError as error:
        there = [str(step) for step in saved_steps(run)] + [FINAL] * (run / "adapter").is_dir()
        raise UsageError(error.message, f"there is {', '.join(there)}" if there else error.hint) from error


def _shots(settings: Sequence[Mapping[str, Any]], fixed: Fixed, drawing: Drawing) -> list[Shot]:
    """What is drawn in each cell, by what its axes say. Raises: UsageError where the model cannot draw that size."""
    from .sampling import SAMPLERS, Shot

    own = drawing.backbone.habits()
    size = fixed.size or (drawing.resolution, drawing.resolution)
    drawing.check_size(*size)
    scheduler = SAMPLERS[drawing.backbone.default_objective][0]
    common = {
        "prompt": fixed.prompt,
        "seed": fixed.seed or 0,
        "steps": fixed.steps or own.steps,
        "guidance": own.guidance if fixed.guidance is None else fixed.guidance,
    }
    return [
        Shot(
            negative=fixed.negative,
            size=size,
            scheduler=scheduler,
            **{name: said.get(name, common[name]) for name in common},
        )
        for said in settings
    ]


def _names(worn: Weights, adapter: Path | None) -> tuple[str, ...]:
    """File names (never whole paths) and strengths."""
    if worn == BASE or adapter is None:
        return ()
    return (f"{called(adapter, worn.checkpoint)}:{worn.strength:g}",)
