"""What a lesson must reach. docs/quality.md has the spread over subjects and seeds from which these come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from school import ALONE, CLASS_DRIFT, IN_CONTEXTS, OBEYED, TAKEN_OVER, gain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tuner.evaluation import Report


def learned(report: Report) -> bool:
    """The subject is drawn, alone and in places where it never was, where the base draws any of its class."""
    return gain(report.row(ALONE)) >= 0.25 and gain(report.row(IN_CONTEXTS)) >= 0.25


def obedient(report: Report) -> bool:
    """Places are followed nearly as well as the base follows them; any other place loses about 0.3."""
    return gain(report.row(OBEYED)) >= -0.25


def kept(with_prior: Sequence[Report], without: Sequence[Report]) -> bool:
    """With prior preservation the class moves less, and less of it towards the subject."""
    return all(
        mean(with_prior, key) <= mean(without, key) - margin for key, margin in ((CLASS_DRIFT, 0.15), (TAKEN_OVER, 0.1))
    )


def mean(reports: Sequence[Report], key: str) -> float:
    return sum(report.row(key).adapter.mean for report in reports) / len(reports)
