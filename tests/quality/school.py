"""Lessons for the small model: a few subjects are taught in one way or another, and what they learned is measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tuner
from tuner.evaluation import Asking
from tuner.evaluation.case import of_run
from tuner.evaluation.evaluate import draw, judge
from tuner.toybox import world
from tuner.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tuner.evaluation import Report, Row
    from tuner.evaluation.evaluate import Drawn

ASKING = Asking(count=8, per_prompt=1, steps=15)
PHOTOS = 6

ALONE = "subject fidelity/subject alone/DINO"
IN_CONTEXTS = "subject fidelity/subject in contexts/DINO"
OBEYED = "prompt fidelity/subject in contexts/CLIP-T"
CLASS_DRIFT = "prior drift/pictures of the plain class/DINO"
TAKEN_OVER = "prior drift/plain class like the subject/DINO"


def _right(kind: str) -> dict[str, Any]:
    return {"data.instance.caption": f"a photo of sks {kind}", "data.prior.caption": f"a photo of a {kind}"}


def _without_prior(kind: str) -> dict[str, Any]:
    return {"data.instance.caption": f"a photo of sks {kind}", "data.prior": None, "task": {"name": "dreambooth"}}


LESSONS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "as shipped": _right,
    "without prior": _without_prior,
    "prior unheard": lambda kind: _right(kind) | {"task.prior_weight": 1e-6},
    "wrong caption": lambda kind: _right(kind) | {"data.instance.caption": "a photo of a red word"},
}
"""By name, what a lesson changes in the shipped recipe, given the subject's class."""


class School:
    """Gives each lesson once and keeps what it found.

    Args:
        place: folder for photos and runs.
        recipe: the shipped recipe that lessons follow.
    """

    def __init__(self, place: Path, recipe: str = "dreambooth_lora") -> None:
        self.place, self.recipe = place, recipe
        self._reports: dict[tuple[str, int, int], Report] = {}
        self._bases: dict[int, Drawn] = {}

    def photos(self, subject: int) -> Path:
        """The folder of a subject's photos."""
        folder = self.place / f"photos-{subject}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for number, picture in enumerate(world.Subject.make(subject).photos(PHOTOS)):
                picture.save(folder / f"{number}.png")
        return folder

    def taught(self, lesson: str, subject: int, seed: int = 0) -> Path:
        """The run directory of a lesson."""
        run_dir = self.place / f"{lesson}-{subject}-{seed}".replace(" ", "-")
        if not run_dir.is_dir():
            told = {
                **LESSONS[lesson](world.Subject.make(subject).class_name),
                "data.instance.path": str(self.photos(subject)),
                "train.seed": seed,
                "sample.every": None,
                "sample.prompts": [],
                "save.every": None,
            }
            words = [f"{key}={json.dumps(value)}" for key, value in told.items()]
            tuner.run(tuner.load_recipe(self.recipe, words, rehearse=True), run_dir=run_dir)
        return run_dir

    def report(self, lesson: str, subject: int, seed: int = 0) -> Report:
        """What the lesson about a subject taught of it."""
        key = (lesson, subject, seed)
        if key not in self._reports:
            self._reports[key] = self.examine(self.taught(*key), subject)
        return self._reports[key]

    def examine(self, run_dir: Path, subject: int) -> Report:
        """A subject as an adapter draws it, whatever the adapter was taught."""
        kind = world.Subject.make(subject).class_name
        asked = {"subject": f"a photo of sks {kind}", "plain": f"a photo of a {kind}", "photos": self.photos(subject)}
        case = of_run(run_dir, **asked)
        base = self._bases.get(subject)
        drawn = draw(case, ASKING, Watcher(), base and base.base)
        self._bases.setdefault(subject, drawn)
        return judge(case, drawn, ASKING, None, None, Watcher())


def gain(row: Row) -> float:
    """How much more with the adapter than without."""
    assert row.base is not None
    return row.adapter.mean - row.base.mean
