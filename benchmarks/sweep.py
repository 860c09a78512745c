"""What the toybox's preset should be: settings of the DreamBooth recipe, each taught to several subjects and measured.

    python benchmarks/sweep.py OUT [--subjects 501 502] [--seeds 0] [KEY=VALUE,VALUE ...]

Every key is swept alone from the preset's own value, unless --grid is given. A cell that is there is not made again, so
the sweep can be stopped and goes on, and several can fill one OUT, each with subjects of its own. OUT/table.md holds
the means over subjects and seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import atomic, load_recipe, run
from tuner.evaluation import Asking, evaluate
from tuner.toybox import world

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHOWN = {
    "subject fidelity/subject alone/DINO": "subject (DINO)",
    "subject fidelity/subject in contexts/DINO": "in contexts (DINO)",
    "prompt fidelity/subject in contexts/CLIP-T": "contexts obeyed (CLIP-T)",
    "prior drift/pictures of the plain class/DINO": "class drift (DINO)",
    "prior drift/plain class like the subject/DINO": "class like subject (DINO)",
    "prior drift/unrelated pictures/DINO": "other drift (DINO)",
    "prompt fidelity/unrelated pictures/CLIP-T": "others obeyed (CLIP-T)",
    "overfitting/diversity of the subject/DINO": "subject diversity (DINO)",
}
DEFAULT = (
    "train.lr=5e-4,1e-3,4e-3",
    "train.steps=125,400",
    "train.batch=2,8",
    "task.prior_weight=0.000001,0.5,2",
    "data.prior.generate=12,48",
    "adapters.0.rank=4,8,32",
    "adapters.0.where=cross_attention,attention_mlp",
)
ASKING = Asking(count=8, per_prompt=1, steps=15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("swept", nargs="*", metavar="KEY=VALUE,VALUE")
    parser.add_argument("--subjects", type=int, nargs="+", default=[501, 502, 503])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--grid", action="store_true", help="every combination instead of one key at a time")
    asked = parser.parse_args()
    keys = {key: values.split(",") for key, values in (word.split("=", 1) for word in asked.swept or DEFAULT)}
    found: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for overrides in settings(keys, grid=asked.grid):
        for subject, seed in itertools.product(asked.subjects, asked.seeds):
            figures = cell(asked.out, overrides, world.Subject.make(subject), seed, asked.photos)
            found.setdefault(overrides, []).append(figures)
            print(
                " ".join(overrides) or "preset", subject, seed, {k: round(v, 3) for k, v in figures.items()}, flush=True
            )
        atomic.write(asked.out / "table.md", table(found))
    print(table(found))


def settings(keys: Mapping[str, Sequence[str]], *, grid: bool) -> Iterator[tuple[str, ...]]:
    """Overrides of each cell."""
    if grid:
        for values in itertools.product(*keys.values()):
            yield tuple(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        return
    yield ()
    for key, values in keys.items():
        for value in values:
            yield (f"{key}={value}",)


def cell(out: Path, overrides: Sequence[str], subject: world.Subject, seed: int, photos: int) -> dict[str, float]:
    """Teach one subject and measure; from the file where that was done before."""
    told = {
        "data.instance.caption": f"a photo of sks {subject.class_name}",
        "data.prior.caption": f"a photo of a {subject.class_name}",
        "train.seed": seed,
        "sample.every": None,
        "sample.prompts": [],
    }
    words = [*(f"{key}={json.dumps(value)}" for key, value in told.items()), *overrides]
    name = hashlib.sha256(json.dumps([words, subject.seed, photos]).encode()).hexdigest()[:12]
    kept = out / "cells" / f"{name}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))["figures"]
    folder = out / "photos" / str(subject.seed)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for number, picture in enumerate(subject.photos(photos)):
            picture.save(folder / f"{number}.png")
    place = out / f"run-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    started = time.monotonic()
    recipe = load_recipe("dreambooth_lora", [f"data.instance.path={json.dumps(str(folder))}", *words], rehearse=True)
    run(recipe, run_dir=place)
    seconds = time.monotonic() - started
    report = evaluate(place, asking=ASKING)
    shutil.rmtree(place)
    figures = {label: report.row(key).adapter.mean for key, label in SHOWN.items()} | {"seconds": seconds}
    facts: dict[str, Any] = {"overrides": list(overrides), "subject": subject.seed, "seed": seed, "figures": figures}
    atomic.write(kept, json.dumps(facts, indent=1))
    return figures


def table(found: Mapping[tuple[str, ...], Sequence[Mapping[str, float]]]) -> str:
    """Means and standard deviations over subjects and seeds, one row a setting."""
    labels = [*SHOWN.values(), "seconds"]
    lines = ["| setting | n | " + " | ".join(labels) + " |", "|---" * (len(labels) + 2) + "|"]
    for overrides, cells in found.items():
        shown = [[figures[label] for figures in cells] for label in labels]
        said = [f"{statistics.mean(v):.3f} ±{statistics.stdev(v) if len(v) > 1 else 0:.3f}" for v in shown]
        lines.append(f"| {' '.join(overrides) or 'the preset'} | {len(cells)} | " + " | ".join(said) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
