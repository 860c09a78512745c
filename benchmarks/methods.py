"""Which method teaches a subject best: each teaches several subjects to the toybox, by its recipe, and is measured.

    python benchmarks/methods.py OUT [--backbone sd15] [--subjects 501 502 503] [--seeds 0] [--only METHOD ...]

A run that is there is not made again, so it can be stopped and goes on. OUT/table.md holds means and deviations over
subjects and seeds. `tuner eval` measures what is drawn; sizes are those of the largest file that a user would share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner import atomic, load_recipe, run
from tuner.evaluation import Asking
from tuner.evaluation.case import of_run
from tuner.evaluation.evaluate import draw, judge
from tuner.toybox import world
from tuner.watch import Watcher

SHOWN = {
    "subject fidelity/subject alone/DINO": "subject (DINO)",
    "subject fidelity/subject in contexts/DINO": "in contexts (DINO)",
    "prompt fidelity/subject in contexts/CLIP-T": "contexts obeyed (CLIP-T)",
    "prior drift/plain class like the subject/DINO": "class like subject (DINO)",
    "prior drift/pictures of the plain class/DINO": "class drift (DINO)",
    "prior drift/unrelated pictures/DINO": "other drift (DINO)",
    "overfitting/diversity of the subject/DINO": "subject diversity (DINO)",
}
ASKING = Asking(count=8, per_prompt=1, steps=15)
PHOTOS = 6
WORD = "<thing>"
Told = Mapping[str, Any]


def rare(kind: str) -> Told:
    """A rare identifier beside its class, and the class kept by its own pictures."""
    return {"data.instance.caption": f"a photo of sks {kind}", "data.prior.caption": f"a photo of a {kind}"}


def unkept(kind: str) -> Told:
    """The same without the class."""
    return {"data.instance.caption": f"a photo of sks {kind}", "data.prior": None, "task": "dreambooth"}


def for_a_subject(kind: str) -> Told:
    """Of a recipe that is for a style or a domain."""
    prior = {"caption": f"a photo of a {kind}", "generate": 24}
    instance = {"caption": f"a photo of sks {kind}"}
    return {"task": "dreambooth", "data.images": None, "data.instance": instance, "data.prior": prior}


def word(kind: str) -> Told:
    """A new word that begins as its class."""
    return {"adapters.0.token": WORD, "adapters.0.init": kind, "data.instance.caption": WORD}


METHODS: Mapping[str, Mapping[str, tuple[str, Callable[[str], Told]]]] = {
    "LoRA, class kept": {"sd15": ("dreambooth_lora", rare), "sd35": ("dreambooth_lora_sd35_medium", rare)},
    "LoRA": {"sd15": ("dreambooth_lora", unkept), "sd35": ("dreambooth_lora_sd35_medium", unkept)},
    "full, class kept": {"sd15": ("dreambooth_full", rare), "sd35": ("full_sd35_medium", for_a_subject)},
    "textual inversion": {"sd15": ("textual_inversion", word), "sd35": ("textual_inversion_sd35", word)},
    "pivotal tuning": {"sd15": ("pivotal", word), "sd35": ("pivotal_sd35", word)},
    "hypernetwork, class kept": {"sd15": ("hypernetwork", for_a_subject), "sd35": ("hypernetwork_sd35", for_a_subject)},
}
"""By name and backbone: the recipe, and what a lesson about a subject of a class changes in it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", choices=("sd15", "sd35"), default="sd15")
    parser.add_argument("--subjects", type=int, nargs="+", default=[501, 502, 503])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=tuple(METHODS), nargs="+", default=tuple(METHODS))
    asked = parser.parse_args()
    found: dict[str, list[Mapping[str, float]]] = {}
    for method, subject, seed in itertools.product(asked.only, asked.subjects, asked.seeds):
        figures = cell(asked.out, asked.backbone, method, world.Subject.make(subject), seed)
        found.setdefault(method, []).append(figures)
        print(method, subject, seed, {k: round(v, 3) for k, v in figures.items()}, flush=True)
        atomic.write(asked.out / "table.md", table(found))
    print(table(found))


def cell(out: Path, backbone: str, method: str, subject: world.Subject, seed: int) -> dict[str, float]:
    """Teach one subject in one way and measure; what was done before is not done again."""
    place = out / f"{backbone}-{method}-{subject.seed}-{seed}".replace(" ", "-").replace(",", "")
    kept = place / "figures.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    photos = out / "photos" / str(subject.seed)
    if not photos.is_dir():
        photos.mkdir(parents=True)
        for number, picture in enumerate(subject.photos(PHOTOS)):
            picture.save(photos / f"{number}.png")
    name, tell = METHODS[method][backbone]
    told = {
        **tell(subject.class_name),
        "train.seed": seed,
        "sample.every": None,
        "sample.prompts": [],
        "save.every": None,
    }
    if isinstance(told.get("data.instance"), dict):
        told["data.instance"] = {**told["data.instance"], "path": str(photos)}
    else:
        told["data.instance.path"] = str(photos)
    words = [f"{key}={json.dumps(value)}" for key, value in told.items()]
    recipe = load_recipe(name, words, rehearse=True)
    started = time.monotonic()
    done = run(recipe, run_dir=place / "run")
    seconds = time.monotonic() - started
    kind = subject.class_name
    said = WORD if tell is word else f"sks {kind}"
    case = of_run(place / "run", subject=f"a photo of {said}", plain=f"a photo of a {kind}", photos=photos)
    report = judge(case, draw(case, ASKING, Watcher()), ASKING, None, None, Watcher())
    figures = {label: report.row(key).adapter.mean for key, label in SHOWN.items()}
    figures |= {"steps": done.step, "seconds": seconds, "file (kB)": largest(done.adapter) / 1e3}
    atomic.write(kept, json.dumps(figures, indent=1))
    return figures


def largest(adapter: Path) -> int:
    """Bytes of the largest file that is shared; a whole model's is its single file."""
    return max(path.stat().st_size for path in adapter.glob("*.safetensors"))


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Means and standard deviations over subjects and seeds, a row a method."""
    labels = [*SHOWN.values(), "steps", "seconds", "file (kB)"]
    lines = ["| method | n | " + " | ".join(labels) + " |", "|---" * (len(labels) + 2) + "|"]
    for method, cells in found.items():
        shown = []
        for label in labels:
            values = [figures[label] for figures in cells]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            mean = statistics.mean(values)
            shown.append(f"{mean:.2f} ±{spread:.2f}" if label in SHOWN.values() else f"{mean:.0f}")
        lines.append(f"| {method} | {len(cells)} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
