"""How much of what a full fine-tune learned is in a LoRA extracted from it: the yardstick of methods.py, at some ranks.

    python benchmarks/extracted.py OUT RUNS [--subjects 501 502 503] [--ranks 4:4 8:8 16:0 ...]

RUNS is the folder that `methods.py` left its runs in. A rank is that of the linear layers, a colon, and that of the
convolutions (0: none are taken). What was measured is not measured again. OUT/extracted.md holds the share of the gain
in fidelity that is kept: (extracted - base) / (full - base), by subject.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from methods import ASKING

from tuner import atomic
from tuner.drawing import Strong
from tuner.evaluation.case import Case, of_run
from tuner.evaluation.evaluate import Drawn, draw, judge
from tuner.files.extract import extract
from tuner.files.low_rank import Wanted
from tuner.formats.inspect import inspect_file
from tuner.toybox import world
from tuner.watch import Watcher

ALONE, CONTEXTS = "subject fidelity/subject alone/DINO", "subject fidelity/subject in contexts/DINO"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--subjects", type=int, nargs="+", default=[501, 502, 503])
    parser.add_argument("--ranks", nargs="+", default=["4:4", "8:8", "16:16", "16:0"])
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    for subject in asked.subjects:
        rows += of_subject(asked.out, asked.runs, subject, asked.ranks)
        atomic.write(asked.out / "extracted.md", table(rows))
    print(table(rows))


def of_subject(out: Path, runs: Path, subject: int, ranks: Sequence[str]) -> list[dict[str, object]]:
    """Measure a subject's full run and what is extracted from it at each rank."""
    run = runs / f"sd15-full-class-kept-{subject}-0" / "run"
    kind = world.Subject.make(subject).class_name
    photos = runs / "photos" / str(subject)
    case = of_run(run, subject=f"a photo of sks {kind}", plain=f"a photo of a {kind}", photos=photos)
    kept = out / f"{subject}.json"
    figures = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    drawn: Drawn | None = None
    for name in ("full", *ranks):
        if name in figures:
            continue
        held: dict[str, float] = {}
        one = case
        if name != "full":
            linear, conv = map(int, name.split(":"))
            path = out / f"{subject}-{linear}-{conv}.safetensors"
            path.unlink(missing_ok=True)
            wanted = Wanted(rank=conv) if conv else None
            found = extract(
                str(run), "toybox", path, Wanted(rank=linear), Watcher(), convolutions=wanted, backbone="sd15"
            )
            held = {"of the change": found.of_all["unet"], "file (kB)": path.stat().st_size / 1e3}
            one = with_file(case, path)
        drawn = draw(one, ASKING, Watcher(), base=drawn.base if drawn else None)
        report = judge(one, drawn, ASKING, None, None, Watcher())
        rows = {"alone": report.row(ALONE), "contexts": report.row(CONTEXTS)}
        figures[name] = {key: row.adapter.mean for key, row in rows.items()} | held
        figures["base"] = {key: row.base.mean for key, row in rows.items()}
        out.mkdir(parents=True, exist_ok=True)
        atomic.write(kept, json.dumps(figures, indent=1))
        print(subject, name, figures[name], flush=True)
    base, full = figures["base"], figures["full"]
    return [
        {"subject": subject, "rank": name, **figures[name]}
        | {f"{key} kept": (figures[name][key] - base[key]) / (full[key] - base[key]) for key in ("alone", "contexts")}
        for name in ranks
    ]


def with_file(case: Case, path: Path) -> Case:
    """The same questions to another adapter on the same base."""
    drawing = replace(case.drawing, adapters=[Strong(path, 1.0)], facts=[inspect_file(path)], model_facts=())
    return replace(case, drawing=drawing)


def table(rows: Sequence[dict[str, object]]) -> str:
    """A row a subject and rank."""
    labels = ["subject", "rank", "alone kept", "contexts kept", "alone", "contexts", "of the change", "file (kB)"]
    lines = ["| " + " | ".join(labels) + " |", "|---" * len(labels) + "|"]
    for row in rows:
        cells = [f"{value:.2f}" if isinstance(value := row[label], float) else str(value) for label in labels]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
