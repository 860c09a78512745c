"""Quick, normal, careful: what each does to a recipe's values, and how that is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_RANK = 128


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares of what the recipe says."""

    steps: float
    rank: float
    pictures: float
    """Class pictures to draw."""
    text: str
    """For people."""


QUALITIES: Mapping[str, Quality] = {
    "quick": Quality(0.5, 0.5, 0.5, "half the steps, half the rank and half the class pictures: to see where it goes"),
    "normal": Quality(1.0, 1.0, 1.0, "as the recipe ships"),
    "careful": Quality(
        1.5, 2.0, 1.5, "half as many steps again, twice the rank and half as many class pictures again: finer detail"
    ),
}


def scale(tree: dict[str, Any], quality: str) -> None:
    """Apply a quality to a recipe's plain values, in place. Intervals keep their share of the run."""
    by = QUALITIES[quality]
    train = tree["train"]
    before = train["steps"]
    train["steps"] = max(1, round(before * by.steps))
    for section in (tree.get(name) for name in ("sample", "save", "validation")):
        if isinstance(section, dict) and isinstance(section.get("every"), int):
            section["every"] = max(1, round(section["every"] * train["steps"] / before))
    schedule = train.get("schedule")
    if isinstance(schedule, dict) and isinstance(schedule.get("warmup"), int):
        schedule["warmup"] = round(schedule["warmup"] * by.steps)
    for adapter in tree["adapters"] if isinstance(tree["adapters"], list) else [tree["adapters"]]:
        if isinstance(adapter, dict) and isinstance(adapter.get("rank"), int):
            adapter["rank"] = max(1, min(max(MOST_RANK, adapter["rank"]), round(adapter["rank"] * by.rank)))
    prior = tree["data"].get("prior")
    if isinstance(prior, dict) and isinstance(prior.get("generate"), int):
        prior["generate"] = max(1, round(prior["generate"] * by.pictures))


def facts(tree: Mapping[str, Any]) -> str:
    """What a quality has come to: `800 training steps, rank 16, 200 class pictures`."""
    said = [f"{tree['train']['steps']:,} training steps"]
    ranks = [one["rank"] for one in tree["adapters"] if isinstance(one, dict) and "rank" in one]
    said += [f"rank {rank}" for rank in ranks[:1]]
    prior = tree["data"].get("prior")
    if isinstance(prior, dict) and prior.get("generate"):
        said.append(f"{prior['generate']:,} class pictures drawn first")
    return ", ".join(said)
