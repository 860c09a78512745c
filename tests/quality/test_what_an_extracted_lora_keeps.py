"""A LoRA extracted from a full fine-tune draws the subject as the full model does; without its convolutions less so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from school import ALONE, ASKING, School, gain

from tuner.drawing import Strong
from tuner.evaluation.case import of_run
from tuner.evaluation.evaluate import draw, judge
from tuner.files.extract import extract
from tuner.files.low_rank import Wanted
from tuner.formats.inspect import inspect_file
from tuner.toybox import world
from tuner.watch import Watcher

if TYPE_CHECKING:
    from pathlib import Path

SUBJECT, RANK = 501, 16
KEPT = 0.95

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("quality extracted")]


def test_it_keeps_the_gain_in_fidelity(tmp_path_factory):
    place = tmp_path_factory.mktemp("extracted")
    school = School(place, "dreambooth_full")
    run = school.taught("as shipped", SUBJECT)
    kind = world.Subject.make(SUBJECT).class_name
    photos = school.photos(SUBJECT)
    case = of_run(run, subject=f"a photo of sks {kind}", plain=f"a photo of a {kind}", photos=photos)
    drawn = draw(case, ASKING, Watcher())
    full = judge(case, drawn, ASKING, None, None, Watcher()).row(ALONE)
    assert gain(full) > 0.3

    def kept(file: Path, convolutions: Wanted | None) -> float:
        extract(str(run), "toybox", file, Wanted(rank=RANK), Watcher(), convolutions=convolutions, backbone="sd15")
        drawing = replace(case.drawing, adapters=[Strong(file, 1.0)], facts=[inspect_file(file)], model_facts=())
        other = replace(case, drawing=drawing)
        again = draw(other, ASKING, Watcher(), base=drawn.base)
        found = judge(other, again, ASKING, None, None, Watcher()).row(ALONE)
        return (found.adapter.mean - full.adapter.mean) / gain(full) + 1

    assert kept(place / "whole.safetensors", Wanted(rank=RANK)) >= KEPT
    assert kept(place / "linear.safetensors", None) < KEPT
