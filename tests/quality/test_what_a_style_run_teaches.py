"""What a run teaches of a style, by the yardstick: things that were on none of its pictures are drawn in it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from school import ASKING, gain

import tuner
from tuner.evaluation.case import of_run
from tuner.evaluation.evaluate import draw, judge
from tuner.toybox import world
from tuner.watch import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from tuner.evaluation import Report

STYLES = (11, 12)
UNSEEN = ("house", "star", "fish", "heart")
"""Classes that are on no picture of the lessons."""
FIDELITY = "style fidelity/captions of the pictures/DINO"

pytestmark = pytest.mark.xdist_group("quality style")


class StyleSchool:
    """Teaches each style once and keeps what it found."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.reports: dict[tuple[int, int], Report] = {}

    def pictures(self, style: int) -> Path:
        """The folder of a style's pictures, each with its caption beside it."""
        folder = self.place / f"pictures-{style}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            drawn = [(p, name) for p, name in world.Style.make(style).pictures(40) if name not in UNSEEN]
            for number, (picture, name) in enumerate(drawn[:16]):
                picture.save(folder / f"{number}.png")
                (folder / f"{number}.txt").write_text(f"a {name} in sks style", encoding="utf-8")
        return folder

    def taught(self, style: int) -> Path:
        """The run directory of a lesson, by the shipped recipe."""
        run_dir = self.place / f"style-{style}"
        if not run_dir.is_dir():
            told = {
                "data.images.path": str(self.pictures(style)),
                "sample.every": None,
                "sample.prompts": [],
                "save.every": None,
                "validation": None,
            }
            words = [f"{key}={json.dumps(value)}" for key, value in told.items()]
            tuner.run(tuner.load_recipe("style_lora", words, rehearse=True), run_dir=run_dir)
        return run_dir

    def report(self, taught: int, asked: int) -> Report:
        """How like one style's pictures the adapter of another (or the same) draws what it never saw."""
        if (taught, asked) not in self.reports:
            case = of_run(self.taught(taught), photos=self.pictures(asked))
            case = replace(case, captions=tuple(f"a {name} in sks style" for name in UNSEEN))
            self.reports[taught, asked] = judge(case, draw(case, ASKING, Watcher()), ASKING, None, None, Watcher())
        return self.reports[taught, asked]


@pytest.fixture(scope="module")
def school(tmp_path_factory, own_cache):
    return StyleSchool(tmp_path_factory.mktemp("styles"))


@pytest.mark.parametrize("style", STYLES)
def test_things_that_no_picture_showed_are_drawn_in_the_style(school, style):
    report = school.report(style, style)
    assert gain(report.row(FIDELITY)) >= 0.25, report.markdown()


def test_it_is_this_style_and_no_other(school):
    one, two = STYLES
    own, other = (school.report(taught, one).row(FIDELITY).adapter.mean for taught in STYLES)
    assert own >= other + 0.25
