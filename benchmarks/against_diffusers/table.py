"""The table: each measure's mean and spread over subjects and seeds, side by side, paired, whoever wins."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Measure:
    """One row."""

    key: str
    title: str
    better: int
    """1 where more is better, -1 where less is, 0 where it is only told."""
    is_time: bool = False
    """Compared as a ratio."""


@dataclass(frozen=True, slots=True)
class Result:
    """All that is known of one cell."""

    subject: str
    seed: int
    side: str
    figures: Mapping[str, float]
    """By the key of a measure; empty where the cell failed."""


def rows(
    measures: Sequence[Measure], results: Sequence[Result], sides: Sequence[str], peer: str, base: str = ""
) -> list[dict[str, Any]]:
    """One row a measure: every side's mean and spread, and each but the base against the peer, pair by pair."""
    found = []
    for measure in measures:
        values = {
            side: {
                (r.subject, r.seed): r.figures[measure.key]
                for r in results
                if measure.key in r.figures and r.side == side
            }
            for side in sides
        }
        if not any(values.values()):
            continue
        row: dict[str, Any] = {"measure": measure.key, "title": measure.title, "better": measure.better}
        row["sides"] = {side: spread(list(own.values())) for side, own in values.items()}
        rivals = [side for side in sides if side not in {peer, base}] if values.get(peer) else []
        row["against"] = {side: paired(measure, values[side], values[peer]) for side in rivals if values[side]}
        found.append(row)
    return found


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation (n - 1) and number."""
    if not values:
        return {"mean": None, "sd": None, "n": 0}
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
    }


def paired(
    measure: Measure, own: Mapping[tuple[str, int], float], peer: Mapping[tuple[str, int], float]
) -> dict[str, Any]:
    """Own less the peer's over the cells that both have; for times also how many times faster.

    The standard error is over the subjects' mean differences, since the seeds of one subject are no independent
    samples of what a next subject would show.
    """
    both = sorted(own.keys() & peer.keys())
    if not both:
        return {"n": 0}
    differences = {pair: own[pair] - peer[pair] for pair in both}
    by_subject: dict[str, list[float]] = defaultdict(list)
    for (subject, _), difference in differences.items():
        by_subject[subject].append(difference)
    means = [statistics.fmean(values) for values in by_subject.values()]
    mean = statistics.fmean(differences.values())
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
    told: dict[str, Any] = {"difference": mean, "standard_error": error, "n": len(both), "subjects": len(means)}
    if measure.better:
        told["won"] = sum(difference * measure.better > 0 for difference in differences.values())
        told["verdict"] = verdict(mean * measure.better, error)
    if measure.is_time:
        ratios = [peer[pair] / own[pair] for pair in both]
        told["ratio"] = statistics.geometric_mean(ratios)
        told["ratio_range"] = [min(ratios), max(ratios)]
    return told


def verdict(gain: float, error: float | None) -> str:
    """Who has the better mean, and whether two standard errors tell it from chance."""
    if gain == 0:
        return "equal"
    word = "better" if gain > 0 else "WORSE"
    if error is None:
        return f"{word}, by one subject alone"
    return word if abs(gain) > 2 * error else f"{word}, within chance"


def markdown(rows: Iterable[Mapping[str, Any]], sides: Sequence[str], peer: str, base: str = "") -> str:
    """The rows as a table in Markdown."""
    rivals = [side for side in sides if side not in {peer, base}]
    head = ["measure", *sides, *(f"{side} against {peer}" for side in rivals)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        arrow = {1: " (more is better)", -1: " (less is better)", 0: ""}[row["better"]]
        cells = [f"{row['title']}{arrow}", *(_mean(row["sides"][side]) for side in sides)]
        lines.append([*cells, *(_against(row["against"].get(side)) for side in rivals)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(told: Mapping[str, Any]) -> str:
    if told["mean"] is None:
        return "-"
    width = "" if told["sd"] is None else f" ± {_number(told['sd'])}"
    return f"{_number(told['mean'])}{width} (n={told['n']})"


def _against(told: Mapping[str, Any] | None) -> str:
    if not told or not told["n"]:
        return "-"
    error = "" if told["standard_error"] is None else f" ± {_number(told['standard_error'])}"
    text = f"{told['difference']:+.3g}{error}"
    if "ratio" in told:
        low, high = told["ratio_range"]
        text = f"{told['ratio']:.2f} x faster ({low:.2f} to {high:.2f})"
    return f"{text}; {told['verdict']}, in {told['won']} of {told['n']}" if "verdict" in told else text


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
