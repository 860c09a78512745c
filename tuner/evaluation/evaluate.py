"""The yardstick: draw with and without the adapter from the same noise, and let two judges compare."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..watch import Watcher
from . import measures
from .case import TOYBOX, Asking, Case, of_run, questions
from .report import Report, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from .case import Question
    from .judges import Judge
    from .measures import Embeddings

FOLDER = "evaluation"
"""Where a run keeps its reports."""


@dataclass(frozen=True)
class Drawn:
    """Pictures by question, without and with the adapter, in the same order and from the same noise."""

    questions: Mapping[str, Question]
    base: Mapping[str, Sequence[Image]]
    adapter: Mapping[str, Sequence[Image]]


def evaluate(
    run: Path | str,
    *,
    step: int | None = None,
    asking: Asking | None = None,
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    out: Path | None = None,
    watcher: Watcher | None = None,
    **case: Any,
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
        case: as `case.of_run`: base, plain, subject, photos, asked_prompts, size, device.

    Raises: UsageError, DataError, StorageError.
    """
    run_dir, watcher = Path(run).expanduser(), watcher or Watcher()
    found = of_run(run_dir, step=step, **case)
    drawn = draw(found, asking or Asking(), watcher)
    report = judge(found, drawn, asking or Asking(), clip, dino, watcher)
    default = run_dir / FOLDER if step is None else run_dir / FOLDER / str(step)
    write(out or default, report, sheet(found, drawn))
    return report


def draw(case: Case, asking: Asking, watcher: Watcher, base: Mapping[str, Sequence[Image]] | None = None) -> Drawn:
    """Every picture of a case; those of the base may be given, where the same were drawn before."""
    from ..drawing import load, paint_all, put_on

    asked = questions(case, asking)
    shots = [shot for question in asked.values() for shot in question.shots]
    batch = asking.batch or (16 if case.drawing.base == TOYBOX else 1)
    model = load(case.drawing, watcher)
    if base is None:
        base = _sorted_out(
            asked, list(paint_all(model, shots, watcher, batch=batch, phase="drawing without the adapter"))
        )
    put_on(case.drawing, model)
    adapter = list(paint_all(model, shots, watcher, batch=batch, phase="drawing with the adapter"))
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
    """Compare the pictures of a case. Raises: DataError where a judge cannot be loaded."""
    from .. import toybox
    from ..device import choose
    from ..sections import Train
    from . import judges

    on_toybox = case.drawing.base == TOYBOX
    clip = clip or (toybox.judge("clip") if on_toybox else judges.CLIP)
    dino = dino or (toybox.judge("dino") if on_toybox else judges.DINO)
    device = choose(Train.model_validate({"steps": 1, "device": case.drawing.device})).device
    rows: list[Row] = []
    for label, open_judge, source in (("CLIP-I", judges.clip, clip), ("DINO", judges.dino, dino)):
        watcher.phase(f"comparing ({label})")
        seen = open_judge(source, device)
        rows += _looks(label, seen, case, drawn)
        if label == "CLIP-I":
            rows += _texts(seen, drawn)
    order = ["subject fidelity", "prompt fidelity", "prior drift", "diversity", "overfitting"]
    rows.sort(key=lambda row: order.index(row.group))
    return Report(tuple(rows), _facts(case, drawn, asking, clip, dino), case.missing)


def _looks(label: str, seen: Judge, case: Case, drawn: Drawn) -> list[Row]:
    """What a judge says of the pictures alone."""
    base = {name: seen.pictures(pictures) for name, pictures in drawn.base.items()}
    with_it = {name: seen.pictures(pictures) for name, pictures in drawn.adapter.items()}
    rows = []
    photos = seen.pictures(case.photos) if case.photos else None
    if photos is not None and "subject" in base:
        rows += _subject(label, base, with_it, photos)
    for name, said in (("class", "pictures of the plain class"), ("unrelated", "unrelated pictures")):
        if name in base:
            rows.append(
                Row("prior drift", said, label, None, measures.drift(base[name], with_it[name]), better="lower")
            )
    if "class" in base:
        if photos is not None:
            one, two = (measures.to_references(side["class"], photos) for side in (base, with_it))
            rows.append(Row("prior drift", "plain class like the subject", label, one, two, better="lower"))
        one, two = measures.diversity(base["class"]), measures.diversity(with_it["class"])
        if two is not None:
            rows.append(Row("diversity", "pictures of the plain class", label, one, two, better="higher"))
    return rows


def _subject(
    label: str, base: Mapping[str, Embeddings], with_it: Mapping[str, Embeddings], photos: Embeddings
) -> list[Row]:
    rows = []
    alike = measures.among_nearest(photos)
    for name, said in (("subject", "subject alone"), ("contexts", "subject in contexts")):
        one, two = (measures.to_references(side[name], photos) for side in (base, with_it))
        own = measures.to_references(photos, photos) if len(photos) > 1 else None
        rows.append(Row("subject fidelity", said, label, one, two, own, "higher"))
    one, two = (measures.to_nearest(side["subject"], photos) for side in (base, with_it))
    rows.append(Row("overfitting", "nearest training photo", label, one, two, alike))
    one, two = measures.diversity(base["subject"]), measures.diversity(with_it["subject"])
    if two is not None:
        rows.append(
            Row("overfitting", "diversity of the subject", label, one, two, measures.diversity(photos), "higher")
        )
    return rows


def _texts(seen: Judge, drawn: Drawn) -> list[Row]:
    """How well pictures show what was asked, the class's word standing for the subject's, which no judge knows."""
    rows = []
    for name, said in (("contexts", "subject in contexts"), ("unrelated", "unrelated pictures")):
        if name in drawn.questions:
            texts = seen.texts(drawn.questions[name].said)
            one, two = (measures.pairwise(seen.pictures(side[name]), texts) for side in (drawn.base, drawn.adapter))
            rows.append(Row("prompt fidelity", said, "CLIP-T", one, two, better="higher"))
    return rows


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

    rows: list[tuple[str, Sequence[Image]]] = []
    if case.photos:
        rows.append(("the photos", case.photos[: 2 * across]))
    for name, question in drawn.questions.items():
        distinct = dict.fromkeys(shot.prompt for shot in question.shots)
        for prompt in list(distinct)[:6]:
            places = [n for n, shot in enumerate(question.shots) if shot.prompt == prompt][:across]
            left, right = ([side[name][place] for place in places] for side in (drawn.base, drawn.adapter))
            gap = [_blank(left[0])] * (across - len(left))
            rows.append((prompt, [*left, *gap, *right]))
    columns = ["base"] * across + ["with the adapter"] * across
    return contact_sheet(rows, columns, max(64, min(case.side, 128)))


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
