"""JSON Schema of a recipe file, for editors that complete and check as one types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from .data.sources import as_list
from .recipe import Recipe

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _RecipeSchema(GenerateJsonSchema):
    """pydantic's schema, and what it cannot know of our validators."""

    schema_dialect = DIALECT

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        made = super().function_before_schema(schema)
        if schema["function"]["function"] is as_list:  # a value alone is a list of one
            return {"anyOf": [made["items"], made]}
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        # A value that is no list is never read as a list of one here: each choice is of one kind.
        made = [self.generate_inner(choice) for choice in schema["choices"].values()]
        return {
            "anyOf": [way["anyOf"][-1] if way.get("anyOf", [{}])[-1].get("type") == "array" else way for way in made]
        }


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe: `oneOf` for each family, each key with its help sentence."""
    tree = Recipe.model_json_schema(schema_generator=_RecipeSchema)
    return {
        "$schema": DIALECT,
        "title": "tuner recipe",
        **{k: v for k, v in tree.items() if k not in ("$schema", "title")},
    }


def schema_text() -> str:
    """`json_schema` as the text of `docs/recipe.schema.json`."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
