"""What runs teach, by the yardstick: the subject is learned, places are obeyed, the class is kept.

The mutants are lessons in which one of these is broken: the same bounds must see it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import school as school_module
from bounds import kept, learned, mean, obedient
from school import ALONE, CLASS_DRIFT, IN_CONTEXTS, OBEYED, TAKEN_OVER, School
from spread import said

SUBJECTS = (601, 605)
"""Unlike each other: photos of one are no nearer to the other's than to any picture."""

pytestmark = pytest.mark.xdist_group("quality")


@pytest.fixture(scope="module")
def school(tmp_path_factory, own_cache):
    return School(tmp_path_factory.mktemp("school"))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_subject_is_learned_and_places_are_obeyed(school, subject):
    report = school.report("as shipped", subject)
    assert learned(report), report.markdown()
    assert obedient(report), report.markdown()


def test_it_is_this_subject_and_no_other(school):
    one, two = SUBJECTS
    own = school.report("as shipped", one)
    other = school.examine(school.taught("as shipped", two), one)
    assert own.row(ALONE).adapter.mean >= other.row(ALONE).adapter.mean + 0.25
    assert not learned(other)


def test_prior_preservation_keeps_the_class(school):
    with_prior = [school.report("as shipped", subject) for subject in SUBJECTS]
    without = [school.report("without prior", subject) for subject in SUBJECTS]
    assert all(learned(report) for report in without)
    assert kept(with_prior, without)


def test_mutant_class_pictures_that_nobody_heeds(school):
    unheard, without = (school.report(lesson, SUBJECTS[0]) for lesson in ("prior unheard", "without prior"))
    assert not kept([unheard], [without])


def test_mutant_every_picture_in_another_place(school, monkeypatch):
    def mixed_up(*args):
        drawn = draw(*args)
        first, *rest = drawn.adapter["contexts"]
        return replace(drawn, adapter={**drawn.adapter, "contexts": [*rest, first]})

    draw = school_module.draw
    monkeypatch.setattr(school_module, "draw", mixed_up)
    assert not obedient(school.examine(school.taught("as shipped", SUBJECTS[0]), SUBJECTS[0]))


def test_mutant_wrong_caption(school):
    assert not learned(school.report("wrong caption", SUBJECTS[0]))


def test_mutant_adapter_not_loaded(school, monkeypatch):
    monkeypatch.setattr("tuner.drawing.put_on", lambda drawing, model: None)
    assert not learned(school.examine(school.taught("as shipped", SUBJECTS[0]), SUBJECTS[0]))


@pytest.mark.slow
def test_bounds_hold_for_other_subjects_and_seeds(school):
    """Prints the spread that docs/quality.md states."""
    subjects, seeds = (601, 603, 605, 607, 608), (0, 1)
    found = {
        lesson: [school.report(lesson, subject, seed) for subject in subjects for seed in seeds]
        for lesson in ("as shipped", "without prior", "wrong caption")
    }
    print(said((ALONE, IN_CONTEXTS, OBEYED, CLASS_DRIFT, TAKEN_OVER), found, len(seeds)))
    shipped = found["as shipped"]
    assert sum(map(learned, shipped)) >= 0.9 * len(shipped)
    assert all(map(obedient, shipped))
    assert sum(map(learned, found["wrong caption"])) <= 0.2 * len(found["wrong caption"])
    for start in range(0, len(shipped), len(seeds)):
        part = slice(start, start + len(seeds))
        assert mean(shipped[part], CLASS_DRIFT) < mean(found["without prior"][part], CLASS_DRIFT)
    assert kept(shipped, found["without prior"])
