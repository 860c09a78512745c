"""What runs teach Stable Diffusion 3.5, by the same yardstick and bounds."""

from __future__ import annotations

import pytest
from bounds import kept, learned, obedient
from school import ALONE, CLASS_DRIFT, IN_CONTEXTS, OBEYED, TAKEN_OVER, School
from spread import said

SUBJECTS = (601, 605, 608)
SEEDS = (0, 1)

pytestmark = pytest.mark.xdist_group("quality sd35")


@pytest.fixture(scope="module")
def school(tmp_path_factory, own_cache):
    return School(tmp_path_factory.mktemp("school-sd35"), "dreambooth_lora_sd35_medium")


def test_the_subject_is_learned_and_places_are_obeyed(school):
    report = school.report("as shipped", SUBJECTS[0])
    assert learned(report), report.markdown()
    assert obedient(report), report.markdown()


def test_mutant_adapter_not_loaded(school, monkeypatch):
    monkeypatch.setattr("tuner.drawing.put_on", lambda drawing, model: None)
    assert not learned(school.examine(school.taught("as shipped", SUBJECTS[0]), SUBJECTS[0]))


@pytest.mark.slow
def test_bounds_hold_for_three_subjects_and_two_seeds(school):
    """Prints the spread that docs/quality.md states. One of six may miss a bound of 0.25, or be taken for learned."""
    found = {
        lesson: [school.report(lesson, subject, seed) for subject in SUBJECTS for seed in SEEDS]
        for lesson in ("as shipped", "without prior", "wrong caption")
    }
    print(said((ALONE, IN_CONTEXTS, OBEYED, CLASS_DRIFT, TAKEN_OVER), found, len(SEEDS)))
    assert sum(map(learned, found["as shipped"])) >= 5
    assert all(map(obedient, found["as shipped"]))
    assert sum(map(learned, found["wrong caption"])) <= 1
    assert kept(found["as shipped"], found["without prior"])
