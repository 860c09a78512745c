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
import shutil
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tuner import atomic, load_recipe, run, toybox
from tuner.evaluation import Asking
from tuner.evaluation.case import of_run, questions
from tuner.evaluation.evaluate import Drawn, draw, judge
from tuner.toybox import world
from tuner.watch import Watcher

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
    sweep = Sweep(asked.out, asked.photos)
    found: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for overrides in settings(keys, grid=asked.grid):
        for subject, seed in itertools.product(asked.subjects, asked.seeds):
            figures = sweep.cell(overrides, world.Subject.make(subject), seed)
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


class Sweep:
    """Adapters, their pictures and figures in a folder. Judges that changed look at the same pictures again."""

    def __init__(self, out: Path, photos: int) -> None:
        self.out, self.photos = out, photos
        self.judges = judges()
        self.bases: dict[int, Mapping[str, Any]] = {}

    def cell(self, overrides: Sequence[str], subject: world.Subject, seed: int) -> dict[str, float]:
        """Teach one subject and measure; what was done before is not done again."""
        told = {
            "data.instance.caption": f"a photo of sks {subject.class_name}",
            "data.prior.caption": f"a photo of a {subject.class_name}",
            "train.seed": seed,
            "sample.every": None,
            "sample.prompts": [],
            "save.every": None,
        }
        words = [*(f"{key}={json.dumps(value)}" for key, value in told.items()), *overrides]
        name = hashlib.sha256(json.dumps([words, subject.seed, self.photos]).encode()).hexdigest()[:12]
        place = self.out / "cells" / name
        taught = place / "taught.json"
        if not taught.is_file():
            seconds = self._teach(words, subject, place)
            facts = {"overrides": list(overrides), "subject": subject.seed, "seed": seed, "seconds": seconds}
            atomic.write(taught, json.dumps(facts, indent=1))
        figures = self._measured(place, subject)
        return figures | {"seconds": json.loads(taught.read_text(encoding="utf-8"))["seconds"]}

    def _teach(self, words: Sequence[str], subject: world.Subject, place: Path) -> float:
        folder = self.out / "photos" / str(subject.seed)
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for number, picture in enumerate(subject.photos(self.photos)):
                picture.save(folder / f"{number}.png")
        shutil.rmtree(place, ignore_errors=True)
        started = time.monotonic()
        recipe = load_recipe(
            "dreambooth_lora", [f"data.instance.path={json.dumps(str(folder))}", *words], rehearse=True
        )
        run(recipe, run_dir=place / "run")
        return time.monotonic() - started

    def _measured(self, place: Path, subject: world.Subject) -> dict[str, float]:
        kept = place / "figures.json"
        if kept.is_file():
            found = json.loads(kept.read_text(encoding="utf-8"))
            if found["judges"] == self.judges:
                return found["figures"]
        report = judge(of_run(place / "run"), self._pictures(place, subject), ASKING, None, None, Watcher())
        figures = {label: report.row(key).adapter.mean for key, label in SHOWN.items()}
        atomic.write(kept, json.dumps({"judges": self.judges, "figures": figures}, indent=1))
        return figures

    def _pictures(self, place: Path, subject: world.Subject) -> Drawn:
        """Those of the base are the same for every adapter of a subject."""
        case, kept = of_run(place / "run"), place / "pictures.npz"
        if kept.is_file() and subject.seed in self.bases:
            with np.load(kept) as arrays:
                shown = {name: [Image.fromarray(picture) for picture in arrays[name]] for name in arrays.files}
            return Drawn(questions(case, ASKING), self.bases[subject.seed], shown)
        drawn = draw(case, ASKING, Watcher(), self.bases.get(subject.seed))
        self.bases[subject.seed] = drawn.base
        np.savez(kept, **{name: np.stack([np.asarray(p) for p in own]) for name, own in drawn.adapter.items()})
        return drawn


def judges() -> str:
    """A digest of the judges' weights."""
    found = hashlib.sha256()
    for name in ("clip", "dino"):
        found.update((toybox.judge(name) / "model.safetensors").read_bytes())
    return found.hexdigest()[:12]


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
