"""How fast a run like this went on this machine before. Nothing is guessed: without such a run there is no rate."""

from __future__ import annotations

import platform
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..recipe import Recipe

DATA = ("resolution", "crop", "bucket_step", "cache")
TRAIN = ("batch", "accumulate", "precision", "gradient_checkpointing", "device")
"""Keys that the time of a step depends on, besides backbone, adapters and task."""


def measured_rate(recipe: Recipe, root: Path) -> float | None:
    """Optimizer steps a second of the latest run below `root` that was like `recipe`, the median over its log lines."""
    from ..resolved import scrub
    from ..rundir import RunDir, runs

    wanted = speed_facts(scrub(recipe))
    for summary in runs(root):
        run = RunDir(summary.path)
        status = run.status()
        if status is None or status.host != platform.node() or read_facts(run.resolved_file) != wanted:
            continue
        rates = rates_of(run.metrics_file)
        if rates:
            return median(rates)
    return None


def speed_facts(tree: Any) -> dict[str, Any]:
    """What the time of a step depends on, of a recipe's resolved values."""
    facts: dict[str, Any] = {name: tree.get(name) for name in ("adapters", "task")}
    backbone = dict(tree.get("backbone") or {})
    facts["backbone"] = backbone | {"model": Path(str(backbone.get("model"))).name}
    facts |= {key: tree.get("data", {}).get(key) for key in DATA}
    return facts | {key: tree.get("train", {}).get(key) for key in TRAIN}


def read_facts(file: Path) -> dict[str, Any] | None:
    """`speed_facts` of a run's resolved.yaml; None where it is not there or no longer read."""
    from ..yaml_text import parse

    try:
        tree = parse(file.read_text("utf-8")).value
    except (OSError, UnicodeDecodeError):
        return None
    known = isinstance(tree, dict) and all(isinstance(tree.get(key), dict) for key in ("backbone", "data", "train"))
    return speed_facts(tree) if known else None


def rates_of(file: Path) -> list[float]:
    """Every finite `it_s` of a metrics.jsonl."""
    from ..lines import read_metrics

    values = [row.get("it_s") for row in read_metrics(file).values()]
    return [value for value in values if value is not None and value > 0]
