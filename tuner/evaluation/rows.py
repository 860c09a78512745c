"""The measures of a report, from pictures without and with the adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import measures
from .report import Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL.Image import Image

    from .case import Question
    from .judges import Judge
    from .measures import Embeddings

    Pictures = Mapping[str, Sequence[Image]]
    """By question."""
    Seen = Mapping[str, Embeddings]

ORDER = ("subject fidelity", "style fidelity", "prompt fidelity", "prior drift", "diversity", "overfitting")
FIDELITY, STYLE, OBEDIENCE, DRIFT, DIVERSITY, OVERFITTING = ORDER
LEFT_ALONE = {"class": "pictures of the plain class", "unrelated": "unrelated pictures"}
"""What should not move, by question."""
SAID = {"contexts": "subject in contexts", "sampled": "the run's own prompts", "unrelated": "unrelated pictures"}
"""What should show what was asked, by question."""


def looks(label: str, seen: Judge, photos: Sequence[Image], base: Pictures, adapter: Pictures) -> list[Row]:
    """What a judge says of the pictures alone."""
    one, two = ({name: seen.pictures(pictures) for name, pictures in side.items()} for side in (base, adapter))
    known = seen.pictures(photos) if photos else None
    rows = []
    if known is not None and "subject" in one:
        rows += _subject(label, one, two, known)
    if known is not None and "captions" in one:
        rows += _style(label, one, two, known)
    for name, said in LEFT_ALONE.items():
        if name in one:
            rows.append(Row(DRIFT, said, label, None, measures.drift(one[name], two[name]), better="lower"))
    if "class" in one:
        if known is not None:
            before, after = (measures.to_references(side["class"], known) for side in (one, two))
            rows.append(Row(DRIFT, "plain class like the subject", label, before, after, better="lower"))
        before, after = measures.diversity(one["class"]), measures.diversity(two["class"])
        if after is not None:
            rows.append(Row(DIVERSITY, "pictures of the plain class", label, before, after, better="higher"))
    return rows


def _subject(label: str, base: Seen, adapter: Seen, photos: Embeddings) -> list[Row]:
    rows = []
    own = measures.among(photos)
    for name, said in (("subject", "subject alone"), ("contexts", "subject in contexts")):
        if name in base:
            before, after = (measures.to_references(side[name], photos) for side in (base, adapter))
            rows.append(Row(FIDELITY, said, label, before, after, own, "higher"))
    before, after = (measures.to_nearest(side["subject"], photos) for side in (base, adapter))
    rows.append(Row(OVERFITTING, "nearest training photo", label, before, after, measures.among_nearest(photos)))
    before, after = measures.diversity(base["subject"]), measures.diversity(adapter["subject"])
    if after is not None:
        rows.append(
            Row(OVERFITTING, "diversity of the subject", label, before, after, measures.diversity(photos), "higher")
        )
    return rows


def _style(label: str, base: Seen, adapter: Seen, pictures: Embeddings) -> list[Row]:
    """How like the pictures it learned from are those that their captions call up."""
    before, after = (measures.to_references(side["captions"], pictures) for side in (base, adapter))
    one, two = (measures.to_nearest(side["captions"], pictures) for side in (base, adapter))
    said = "captions of the pictures"
    return [
        Row(STYLE, said, label, before, after, measures.among(pictures), "higher"),
        Row(OVERFITTING, "nearest training picture", label, one, two, measures.among_nearest(pictures)),
    ]


def texts(seen: Judge, asked: Mapping[str, Question], base: Pictures, adapter: Pictures) -> list[Row]:
    """How well pictures show what was asked, the class's word standing for the subject's, which no judge knows."""
    rows = []
    for name, said in SAID.items():
        if name in asked:
            words = seen.texts(asked[name].said)
            before, after = (measures.pairwise(seen.pictures(side[name]), words) for side in (base, adapter))
            rows.append(Row(OBEDIENCE, said, "CLIP-T", before, after, better="higher"))
    return rows


def pixels(base: Pictures, adapter: Pictures) -> list[Row]:
    """How far what should not move has moved, without any judge."""
    return [
        Row(DRIFT, said, "RMSE", None, measures.pixel_drift(base[name], adapter[name]), better="lower")
        for name, said in LEFT_ALONE.items()
        if name in base
    ]


def in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """By the question that they answer; otherwise as they come."""
    return tuple(sorted(rows, key=lambda row: ORDER.index(row.group)))
