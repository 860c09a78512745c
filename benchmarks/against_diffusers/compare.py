"""From the command line to the table: check, train what is missing, measure what is not measured, write it down."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import machine, table, yardstick
from .matrix import Changed, Matrix, claim, write
from .meter import Evaluation
from .sides import Matched, Own, Peer, Side
from .subjects import drawn, photographed, sides_px
from .terms import Job, Terms
from .timing import Failed, environment, run

if TYPE_CHECKING:
    from argparse import Namespace

    from .yardstick import Figure

TIMES = (
    table.Measure("wall_s", "seconds from command to saved file", -1, is_time=True),
    table.Measure("cpu_s", "seconds of processor time", -1, is_time=True),
)


def compare(asked: Namespace, terms: Terms) -> int:
    """All of it; 1 where a cell failed, 2 where the comparison cannot be made."""
    out: Path = asked.out.resolve()
    try:
        matrix = prepare(asked, terms, out)
        claim(out, facts(asked, matrix))
    except (Changed, ValueError, OSError) as error:
        print(error)
        return 2
    if not asked.table_only:
        warm_up(matrix)
        matrix.train(print)
    figures = {}
    if not asked.times_only and not asked.large_photos:
        from tuner.evaluation import Asking

        asking = Asking(count=asked.pictures, per_prompt=asked.per_prompt)
        base = named(asked.base)
        figures = yardstick.measure(matrix, Evaluation(base, terms.resolution, terms.threads, asking), print)
    return conclude(matrix, facts(asked, matrix), figures)


def prepare(asked: Namespace, terms: Terms, out: Path) -> Matrix:
    """Write the photos and put the matrix together. Raises: ValueError, OSError."""
    for path in (asked.script, asked.python):
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
    if asked.large_photos:
        subjects = photographed(asked.large_photos.resolve())
    else:
        subjects = drawn(asked.subjects, asked.photos, asked.photo_px, out / "photos")
    python = Path(sys.executable)
    base = folder_of(asked.base)
    own = named(asked.base)
    known: dict[str, Side] = {
        "peer": Peer(asked.python.absolute(), asked.script.resolve(), base),
        "matched": Matched(python, own),
        "own": Own(python, own),
    }
    shared = own if asked.shared_prior else None
    sides = [known[name] for name in asked.sides]
    matrix = Matrix(out, terms, subjects, asked.seeds, sides, shared, asked.limit_s)
    for cell in matrix.cells():
        cell.side.command(Job(out, out, "", "", 0), terms)  # what cannot be asked is told before the first training
    return matrix


def named(base: str) -> str:
    """A base as tuner's recipes name it."""
    return base if base == "toybox" else str(folder_of(base))


def folder_of(base: str) -> Path:
    """Where a base lies. Raises: ValueError."""
    if base == "toybox":
        from tuner import toybox

        return toybox.folder("sd15")
    path = Path(base).expanduser().resolve()
    if not (path / "model_index.json").is_file():
        raise ValueError(f"{path}: no model folder in diffusers' layout")
    return path


def facts(asked: Namespace, matrix: Matrix) -> dict[str, Any]:
    """Everything that a cell depends on, and the machine."""
    photos = {"photos": asked.photos, "px": asked.photo_px}
    if asked.large_photos:
        sides = [sides_px(subject) for subject in matrix.subjects]
        photos = {"folder": asked.large_photos.name, "px": [min(s[0] for s in sides), max(s[1] for s in sides)]}
    return {
        "machine": machine.machine(),
        "terms": asdict(matrix.terms),
        "photos": photos,
        "class pictures": "shared" if matrix.shared_prior else "each tool's own",
        "base": machine.digest(folder_of(asked.base)),
        "script": machine.digest(asked.script),
        "peer": machine.versions(asked.python),
        "tuner": machine.versions(Path(sys.executable)),
    }


def warm_up(matrix: Matrix) -> None:
    """Let each side start once, untimed, so that no cell pays for compiling Python files or reading them from disk.

    A side that fails here fails in its cells too, where that is written down.
    """
    if all(cell.timed is not None for cell in matrix.cells()):
        return
    subject = matrix.subjects[0]
    terms = Terms(**{**asdict(matrix.terms), "steps": 1, "prior": min(matrix.terms.prior, 1)})
    home = matrix.place / "home"
    home.mkdir(exist_ok=True)
    for side in matrix.sides:
        place = matrix.place / "warm-up"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        command = side.command(Job(place, subject.photos, subject.instance, subject.plain, 0), terms)
        try:
            run(command, environment(terms.threads, home), place / "log.txt", matrix.limit_s)
        except Failed as error:
            print(f"warm-up of {side.name}: {error}")
    shutil.rmtree(matrix.place / "warm-up", ignore_errors=True)


def conclude(matrix: Matrix, told: dict[str, Any], figures: dict[Path, list[Figure]]) -> int:
    """Write table.json and table.md and print the latter; 1 where a cell failed."""
    results, failed, missing = [], [], 0
    for cell in matrix.cells():
        timed = cell.timed
        if timed is None:
            if (failure := cell.failure) is not None:
                failed.append({"cell": cell.label, "how": failure})
            else:
                missing += 1
            continue
        values = {key: timed[key] for key in ("wall_s", "cpu_s")} | {
            figure.key: figure.adapter for figure in figures.get(cell.place, ())
        }
        results.append(table.Result(cell.subject.name, cell.seed, cell.side.name, values))
    results += yardstick.base_results(matrix, figures)
    names = [side.name for side in matrix.sides]
    peer = next((side.name for side in matrix.sides if isinstance(side, Peer)), "")
    columns = names if not any(r.side == yardstick.BASE for r in results) else [yardstick.BASE, *names]
    found = table.rows([*TIMES, *yardstick.measures(figures)], results, columns, peer, yardstick.BASE)
    document = {
        "settings": told,
        "sides": {side.name: side.about for side in matrix.sides},
        "rows": found,
        "cells": [asdict(result) for result in results],
        "failed": failed,
        "not done": missing,
        "same layers": same_layers(matrix, peer),
    }
    write(matrix.place / "table.json", json.dumps(document, indent=1) + "\n")
    text = f"{table.markdown(found, columns, peer, yardstick.BASE)}\n\n{notes(matrix, document)}\n"
    write(matrix.place / "table.md", text)
    print(text)
    return 1 if failed else 0


def same_layers(matrix: Matrix, peer: str) -> bool | None:
    """Whether the peer's and the matched adapters change the same layers by factors of the same shapes.

    None where there is nothing to compare.
    """
    from tuner.formats.container import read_header
    from tuner.formats.kinds import recognise

    kinds: dict[str, set[str]] = {}
    for cell in matrix.cells():
        if cell.timed is not None and cell.side.name in {peer, Matched.name}:
            header = read_header(cell.adapter)
            held = {
                f"{component} {layer}": [header.tensors[name].shape for name in (factors.down, factors.up)]
                for component, layers in recognise(cell.adapter, header).components.items()
                for layer, factors in layers.items()
            }
            kinds.setdefault(cell.side.name, set()).add(json.dumps(held, sort_keys=True))
    return len(set.union(*kinds.values())) == 1 if len(kinds) == 2 else None


def notes(matrix: Matrix, document: dict[str, Any]) -> str:
    """What the table was made of, and what did not come out."""
    lines = [f"- {name}: {about}" for name, about in document["sides"].items()]
    lines += [f"- {key}: {json.dumps(value)}" for key, value in document["settings"].items()]
    lines.append(f"- {len(matrix.subjects)} subjects, seeds {', '.join(map(str, matrix.seeds))}")
    lines.append("- mean ± standard deviation over subjects and seeds; differences ± standard error over subjects")
    if document["same layers"] is not None:
        lines.append(f"- the peer's and the matched adapters change the same layers: {document['same layers']}")
    states = {cell.timed["code"] for cell in matrix.cells() if cell.timed is not None}
    if len(states) > 1:
        lines.append(f"- MIXED: tuner's own code changed while this ran, {len(states)} states of it are in the table")
    if document["not done"]:
        lines.append(f"- NOT DONE: {document['not done']} trainings")
    for entry in document["failed"]:
        words = entry["how"].splitlines()
        lines.append(f"- FAILED: {entry['cell']}: {words[0]}: {words[-1]}")
    return "\n".join(lines)
