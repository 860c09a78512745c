"""The yardstick: draw with and without the adapter from the same noise, and let two judges compare."""

from __future__ import annotations

import gc
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..errors import UsageError
from ..watch import Watcher
from . import rows
from .case import TOYBOX, Asking, Case, Changes, of_run, questions
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from .case import Question
    from .report import Row

FOLDER = "evaluation"
"""Where a run keeps its reports."""


@dataclass(frozen=True)
class Drawn:
    """Pictures by question, without and with the adapter, in the same order and from the same noise."""

    questions: Mapping[str, Question]
    base: Mapping[str, Sequence[Image]]
    adapter: Mapping[str, Sequence[Image]]


def place(run_dir: Path, step: int | None) -> Path:
    """Where the report of a run, or of one of its checkpoints, is written."""
    return run_dir / FOLDER if step is None else run_dir / FOLDER / str(step)


def evaluate(
    run: Path | str,
    *,
    step: int | None = None,
    asking: Asking | None = None,
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    out: Path | None = None,
    watcher: Watcher | None = None,
    **changes: Unpack[Changes],
) -> Report:
    """Measure what a run taught, and write `report.json`, `report.md` and `sheet.png` into its `evaluation/`.

    Args:
        run: a run directory.
        step: measure the adapter of this checkpoint instead of the final one.
        asking: how many pictures, and how they are drawn.
        clip: the CLIP judge, a folder or Hub id; None takes the toybox's own there, else `judges.CLIP`.
        dino: the judge of particular things, likewise.
        out: where to write instead.
        watcher: who sees the progress.
        changes: base, subject, plain, photos, prompts, size, device; see `Changes`.

    Raises: UsageError, DataError, NumbersError, StorageError. What can be known is checked before the first picture.
    """
    run_dir, watcher, asking = Path(run).expanduser(), watcher or Watcher(), asking or Asking()
    case = of_run(run_dir, step=step, **changes)
    clip, dino = _judges(case, clip, dino, watcher)
    drawn = draw(case, asking, watcher)
    report = judge(case, drawn, asking, clip, dino, watcher)
    write(out or place(run_dir, step), report, sheet(case, drawn))
    return report


def _judges(case: Case, clip: str | Path | None, dino: str | Path | None, watcher: Watcher) -> tuple[str | Path, ...]:
    """Which judges look, their files on this machine before the first picture is drawn. Raises: DataError."""
    from .. import toybox
    from . import judges

    on_toybox = case.drawing.base == TOYBOX
    clip = clip or (toybox.judge("clip") if on_toybox else judges.CLIP)
    dino = dino or (toybox.judge("dino") if on_toybox else judges.DINO)
    watcher.phase("looking for the judges")
    judges.find_clip(clip)
    judges.find_dino(dino)
    return clip, dino


def draw(case: Case, asking: Asking, watcher: Watcher, base: Mapping[str, Sequence[Image]] | None = None) -> Drawn:
    """Every picture of a case; those of the base may be given, where the same were drawn before.

    Raises: UsageError where there is nothing to draw; DataError where the adapter does not fit the base.
    """
    from ..drawing import load, paint_all, put_on

    asked = questions(case, asking)
    shots = [shot for question in asked.values() for shot in question.shots]
    if not shots:
        raise UsageError(
            "nothing can be measured: this run taught no subject, and there is nothing else to draw",
            "name the subject with --subject, or give --prompts a file with some lines that do not hold {}",
        )
    batch = asking.batch or (16 if case.drawing.base == TOYBOX else 1)
    model = load(case.drawing, watcher)
    if base is None:
        base = _sorted_out(
            asked, list(paint_all(model, shots, watcher, batch=batch, phase="drawing without the adapter"))
        )
    put_on(case.drawing, model)
    device = next(model.denoiser.parameters()).device
    learned = case.objective and case.objective.bind(model.scheduler, device)
    adapter = list(paint_all(model, shots, watcher, batch=batch, phase="drawing with the adapter", objective=learned))
    return Drawn(asked, base, _sorted_out(asked, adapter))


def _sorted_out(asked: Mapping[str, Question], pictures: Sequence[Image]) -> dict[str, Sequence[Image]]:
    found, start = {}, 0
    for name, question in asked.items():
        found[name] = pictures[start : start + len(question.shots)]
        start += len(question.shots)
    return found


def judge(
    case: Case,
    drawn: Drawn,
    asking: Asking,
    clip: str | Path | None,
    dino: str | Path | None,
    watcher: Watcher,
) -> Report:
    """Compare the pictures of a case, one judge in memory at a time. Raises: DataError, NumbersError."""
    from ..device import choose
    from ..sections import Train
    from . import judges

    clip, dino = _judges(case, clip, dino, watcher)
    device = choose(Train.model_validate({"steps": 1, "device": case.drawing.device})).device
    found: list[Row] = []
    for label, open_judge, source in (("CLIP-I", judges.clip, clip), ("DINO", judges.dino, dino)):
        _let_go()
        watcher.phase(f"comparing ({label})")
        seen = open_judge(source, device)
        found += rows.looks(label, seen, case.photos, drawn.base, drawn.adapter)
        if label == "CLIP-I":
            found += rows.texts(seen, drawn.questions, drawn.base, drawn.adapter)
        del seen
    found += rows.pixels(drawn.base, drawn.adapter)
    return Report(rows.in_order(found), _facts(case, drawn, asking, clip, dino), case.missing)


def _let_go() -> None:
    """Free what is no longer used, here and on the GPU: the model that drew, and the judge before this one."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _facts(case: Case, drawn: Drawn, asking: Asking, clip: str | Path, dino: str | Path) -> dict[str, Any]:
    return {
        "base": case.drawing.base,
        "adapter": case.drawing.names,
        "subject": case.subject,
        "class": case.plain,
        "photos": len(case.photos),
        "prompts": case.prompts.name,
        "side": case.side,
        "drawn": {name: len(question.shots) for name, question in drawn.questions.items()},
        "asking": asdict(asking),
        "judges": {"clip": _named(clip), "dino": _named(dino)},
    }


def _named(source: str | Path) -> str:
    """A Hub id as it is, of a folder its name."""
    path = Path(source)
    return path.name if path.is_dir() else str(source)


def sheet(case: Case, drawn: Drawn, across: int = 4) -> Image:
    """Some of the pictures: base on the left, adapter on the right."""
    from ..contact_sheet import contact_sheet

    lines: list[tuple[str, Sequence[Image]]] = []
    if case.photos:
        lines.append(("the photos", case.photos[: 2 * across]))
    for name, question in drawn.questions.items():
        distinct = dict.fromkeys(shot.prompt for shot in question.shots)
        for prompt in list(distinct)[:6]:
            places = [n for n, shot in enumerate(question.shots) if shot.prompt == prompt][:across]
            left, right = ([side[name][place] for place in places] for side in (drawn.base, drawn.adapter))
            gap = [_blank(left[0])] * (across - len(left))
            lines.append((prompt, [*left, *gap, *right]))
    columns = ["base"] * across + ["adapter"] * across
    return contact_sheet(lines, columns, max(64, min(case.side, 128)))


def _blank(like: Image) -> Image:
    from PIL import Image

    return Image.new("RGB", like.size, (255, 255, 255))


def write(folder: Path, report: Report, picture: Image) -> None:
    """Write a report's files, each whole or not at all. Raises: StorageError."""
    from .. import atomic

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    with atomic.storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / "sheet.png", buffer.getvalue())
    atomic.write(folder / "report.md", report.markdown())
    atomic.write(folder / "report.json", report.to_json())
