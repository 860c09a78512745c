"""Drawing a grid: the base loaded once, the weights on it changed as seldom as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import NumbersError
from .grids import BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL.Image import Image

    from .backbones import DiffusionModel
    from .drawing import Drawing
    from .grids import Cell, Grid, Weights
    from .sampling import Shot
    from .watch import Watcher

NAME = "grid"
"""What the adapter is called in the pipeline."""


def draw(grid: Grid, watcher: Watcher) -> Iterator[tuple[Cell, Image]]:
    """Load the base once and draw cell by cell, the adapter's weights changed as seldom as can be.

    A cell of strength 0 is drawn before any adapter was on the base, and cells that are drawn with the same weights and
    settings are drawn once. Each picture is drawn alone: in a batch its last bits would depend on its neighbours.

    Raises: DataError where an adapter does not fit the base; NumbersError where a picture is not finite.
    """
    from .drawing import load

    model = load(next(iter(grid.drawings.values())), watcher)
    worn = _Worn(model, grid, watcher)
    by_weights: dict[Weights, dict[Shot, list[Cell]]] = {BASE: {}}
    order = {checkpoint: place for place, checkpoint in enumerate(grid.drawings)}
    for cell in sorted(grid.cells, key=lambda cell: order.get(cell.weights.checkpoint, 0)):
        by_weights.setdefault(cell.weights, {}).setdefault(cell.shot, []).append(cell)
    watcher.phase("drawing", len(grid.cells))
    done = 0
    for weights, by_shot in by_weights.items():
        worn.change(weights)
        for shot, picture in zip(by_shot, _paint(model, list(by_shot), weights), strict=True):
            done += len(by_shot[shot])
            watcher.progress(done)
            for cell in by_shot[shot]:
                yield cell, picture


class _Worn:
    """A base and which weights are on it."""

    def __init__(self, model: DiffusionModel, grid: Grid, watcher: Watcher) -> None:
        self.model, self.grid, self.watcher = model, grid, watcher
        self.pipe: Any = model.pipeline()
        self.now = BASE
        self.take_off: Callable[[], None] = lambda: None
        first = next(iter(grid.drawings.values()))
        self.known = [fact["base_identity"] for fact in first.facts]
        """Bases that adapters say they were trained on, compared with this one already."""

    def change(self, to: Weights) -> None:
        """Raises: DataError where the adapter does not fit."""
        from .formats.load import put_in, set_strength

        if to == self.now:
            return
        drawing = self.grid.drawings[to.checkpoint] if to != BASE else None
        (adapter,) = (drawing.adapters if drawing else ()) or (None,)
        same = self.now != BASE and to.checkpoint == self.now.checkpoint
        if adapter and same and set_strength(self.pipe, adapter.path, NAME, to.strength):
            self.now = to
            return
        self.take_off()
        self.take_off, self.now = (lambda: None), BASE
        if drawing and adapter:
            self._check(drawing)
            self.take_off = put_in(self.pipe, adapter.path, to.strength, NAME)
        self.now = to

    def _check(self, drawing: Drawing) -> None:
        """Whether a checkpoint was trained on this base; the loading of the base has asked that of the first."""
        from .drawing import check_identity

        named = [fact["base_identity"] for fact in drawing.facts]
        if any(identity not in self.known for identity in named):
            check_identity(drawing, self.model, self.watcher)
            self.known += named


def _paint(model: DiffusionModel, shots: Sequence[Shot], weights: Weights) -> Iterator[Image]:
    """Draw shots one by one with the weights that are on; the prompts are read first, so that the text encoders, which
    may be larger than the rest, visit the device once.
    """
    from .sampling import paint, read_ahead

    if not shots:
        return
    device = next(model.denoiser.parameters()).device
    try:
        with model.at_hand(model.text_encoders, device):
            for encoder in model.text_encoders.values():
                encoder.eval()
            read_ahead(model, shots, device)
        for shot in shots:
            yield from paint(model, [shot])
    except NumbersError as error:
        hint = "take a lower strength there" if weights != BASE else error.hint
        raise NumbersError(f"at strength {weights.strength:g} {error.message}", hint) from error
    finally:
        model.forget()
