"""The spread of what lessons taught, as text."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tuner.evaluation import Report


def said(keys: Sequence[str], found: Mapping[str, Sequence[Report]], seeds: int) -> str:
    """Mean and range of each row by lesson.

    Args:
        keys: rows of a report.
        found: reports by lesson, those of one subject side by side, one for each of its `seeds`.
    """
    lines = []
    for key in keys:
        lines.append(f"\n{key}")
        first = next(iter(found.values()))[::seeds]
        rows = {"base": [row.base.mean for report in first if (row := report.row(key)).base is not None]}
        rows |= {lesson: [report.row(key).adapter.mean for report in reports] for lesson, reports in found.items()}
        lines.extend(f"  {name:16} {_spread(values)}" for name, values in rows.items() if values)
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):6.3f} ±{spread:.3f}  ({min(values):.3f} to {max(values):.3f}, n {len(values)})"
