"""Which charts the numbers of a run make: what shares one, what each is called, what lies in front."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .metrics import MOST_POINTS, Curve, decimate, smoothed
from .svg import Line, Panel
from .words import figure, one_line

KNOWN_TITLES = {
    "grad_norm": "Length of the gradient",
    "it_s": "Steps a second",
    "memory_mb": "Memory of the GPU, MB",
    "skipped_steps": "Steps that moved nothing",
    "loss_scale": "Scale of the loss (fp16)",
    "attention_logit_max": "Largest attention logit",
    "effective_lr": "Learning rate that Prodigy comes to",
    "prodigy_d": "Prodigy's estimate d",
    "accuracy": "Share of pairs told apart",
}
"""What the chart of a number is called where its own name says little to a newcomer."""
_GROUPS = {
    "lr": (r"lr|lr_.*", "Learning rate"),
    "parts": (r"loss_(?!scale$).*", "Parts of the loss"),
    "levels": (r"validation_loss/.*", "Validation by noise level, least noise first"),
}
"""Names that share a chart, and its title."""


def panels(curves: Mapping[str, Curve], most: int = MOST_POINTS) -> tuple[Panel, ...]:
    """The charts of a run: the loss first, then the learning rate, then every other number.

    The parts of a loss share a chart, and so do the noise levels that validation is measured at.
    """
    groups = {key: [name for name in curves if re.fullmatch(pattern, name)] for key, (pattern, _) in _GROUPS.items()}
    grouped = {name for names in groups.values() for name in names} | {"loss", "validation_loss", "epoch"}
    found = [_loss(curves, most)]
    found += [_together(curves, key, _GROUPS[key][1], names, most) for key, names in groups.items()]
    for name in sorted(set(curves) - grouped):
        found.append(_together(curves, f"metric:{name}", KNOWN_TITLES.get(name, one_line(name, 60)), [name], most))
    return tuple(panel for panel in found if panel is not None)


def _loss(curves: Mapping[str, Curve], most: int) -> Panel | None:
    lines: list[Line] = []
    raw = curves["loss"].points() if "loss" in curves else []
    if raw:
        lines.append(Line("each interval", decimate(raw, most), "faint", tone=1))
        lines.append(Line("smoothed", decimate(smoothed(raw), most), tone=1))
    if "validation_loss" in curves:
        lines.append(Line("validation", decimate(curves["validation_loss"].points(), most), "dots", tone=2))
    return Panel("loss", "Loss", tuple(lines), _latest(curves, "loss")) if lines else None


def _together(curves: Mapping[str, Curve], key: str, title: str, names: Sequence[str], most: int) -> Panel | None:
    """One chart with a line for each name, called by what tells it from the others."""
    if not names:
        return None
    starts = {"lr": "lr_", "parts": "loss_", "levels": "validation_loss/"}
    lines = []
    for name in sorted(names):
        own = name.removeprefix(starts.get(key, "")).replace("_", " ")
        called = title if name == "lr" or len(names) == 1 else own
        look = "dots" if key == "levels" else "plain"
        lines.append(Line(one_line(called, 40), decimate(curves[name].points(), most), look))
    return Panel(key, title, tuple(lines), _latest(curves, names[0]) if len(names) == 1 else "")


def _latest(curves: Mapping[str, Curve], name: str) -> str:
    values = curves[name].values if name in curves else ()
    return figure(values[-1]) if values else ""
