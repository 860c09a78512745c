"""Help texts: the reader of the sentences under the fields finds what pydantic's own would."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic._internal._docs_extraction import extract_docstrings_from_cls

import tuner.recipe  # noqa: F401  (defines every part)
from tuner.parts import Choice, Part


def parts(kind: type = Part):
    for member in kind.__subclasses__():
        if member.__module__.startswith("tuner."):
            yield member
        yield from parts(member)


@pytest.mark.parametrize("part", sorted(set(parts()), key=lambda p: p.__qualname__), ids=lambda p: p.__qualname__)
def test_every_field_has_the_help_that_stands_under_it(part):
    if part.__qualname__ == "Data":
        pytest.skip("made at run time, from parts that are looked at here")
    wanted: dict[str, Any] = extract_docstrings_from_cls(part, use_inspect=True)
    own = {name: field.description for name, field in part.model_fields.items() if name in part.__annotations__}
    assert own == {name: wanted[name] for name in own}  # and none is without


def test_bounds_and_defaults_survive():
    from tuner.adapters.lora import LoRA

    field = LoRA.model_fields["rank"]
    assert field.default == 16
    assert {type(m).__name__ for m in field.metadata} >= {"Ge", "Le"}
    assert issubclass(LoRA, Choice)
    assert "Rank of the update" in LoRA.model_json_schema()["properties"]["rank"]["description"]


def test_a_part_inside_a_function_has_help_too():
    class Inner(Part):
        number: int = 1
        """A number."""
        bare: int = 2

    assert Inner.model_fields["number"].description == "A number."
    assert Inner.model_fields["bare"].description is None
    assert Inner(number=3).number == 3
