"""Strict, typed values: the section of a recipe file, the Python object and the web form are one class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from .field_help import field_docs
from .strict import TAG, strict
from .wording import choices, quoted, sentence, suggest, what


class Part(BaseModel):
    """One section of a recipe: a frozen value that holds no tensors. The sentence under a field is its help text."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that belong to a relative of this part, and what to say to someone who writes them here."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__annotations__
        for name, doc in field_docs(cls).items():
            if not str(own[name]).startswith("ClassVar"):
                own[name] = Annotated[own[name], Field(description=doc)]

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn 'extra inputs are not permitted' into 'unknown key; did you mean ...'."""
        try:
            return handler(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
            around = {
                e["loc"][:end] for e in found for end in range(len(e["loc"]))
            }  # a list is not also too short because its entries were wrong
            details = [cls._reword(e) for e in found if e["type"] != "too_short" or e["loc"] not in around]
            raise ValidationError.from_exception_data(cls.__name__, details) from None

    @classmethod
    def _reword(cls, e: Any) -> InitErrorDetails:
        kind: Any = e["type"]
        context = e.get("ctx", {})
        loc = tuple(key for key in e["loc"] if not str(key).startswith(TAG))
        if "text" in context:  # worded already, by the part it is about
            message = context["text"]
        elif kind == "extra_forbidden" and len(loc) == 1:
            message = cls.elsewhere.get(str(loc[0])) or "unknown key" + suggest(str(loc[0]), cls.model_fields)
        else:
            message = sentence(kind, e["msg"], e["input"], context)
        # Messages hold user text, so braces must not be read as a template.
        kind = PydanticCustomError(kind, "{text}", {"text": message})
        return InitErrorDetails(type=kind, loc=loc, input=e["input"])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return strict(handler(source))

    def refuse_idle(self, why: Mapping[str, str]) -> None:
        """Refuse each key of `why` that was written down although it has no effect here.

        Raises: pydantic.ValidationError, of type `no_effect`, which lets `resolved.yaml` leave those keys out.
        """
        given = {key for key in self.model_fields_set if getattr(self, key) is not None}
        idle = {key: text for key, text in why.items() if key in given}
        if idle:
            raise problems_error([(key, f"has no effect {text}", NO_EFFECT) for key, text in idle.items()])


Problem = tuple[str, str, str]
"""Dotted key path, what is wrong, error type (NO_EFFECT or another word)."""

NO_EFFECT = "no_effect"
"""Error type of a key that does nothing where it stands."""


def problems_error(problems: Iterable[Problem]) -> ValidationError:
    """Several problems as one ValidationError."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(kind, "{text}", {"text": text}),  # type: ignore[arg-type]
            loc=tuple(int(key) if key.isdigit() else key for key in path.split(".")),
            input=None,
        )
        for path, text, kind in problems
    ]
    return ValidationError.from_exception_data("recipe", details)


class Choice(Part):
    """A family of parts selected by `name`, such as every Adapter.

    A direct subclass of Choice opens a family; a subclass that is given `name=` joins it. In a recipe a member is a
    mapping with a `name`, or the bare name where every other key keeps its default.
    """

    family: ClassVar[dict[str, type[Choice]]]
    """Every member by name."""
    key: ClassVar[str] = ""
    """The member's own name."""
    opens_family: ClassVar[bool] = False
    known_as: ClassVar[tuple[str, ...]] = ()
    """What other tools call the member; whoever writes that is told its name here."""

    def __init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.opens_family = Choice in cls.__bases__

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.opens_family:
            cls.family = {}
        if name:
            if name in cls.family:
                raise TypeError(f"{cls.__name__}: the name {name!r} is taken by {cls.family[name].__name__}")
            cls.family[name] = cls
            cls.key = name

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not cls.opens_family:  # a member validates as itself; only the family chooses
            return super().__get_pydantic_core_schema__(source, handler)

        def serialize(value: Choice) -> dict[str, Any]:
            return {"name": value.key, **value.model_dump(mode="json")}

        def schema(_core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
            members = ((name, cls.family[name]) for name in sorted(cls.family))
            return {"oneOf": [way for name, member in members for way in member.json_ways(name, handler)]}

        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(serialize),
            metadata={"pydantic_js_functions": [schema]},
        )

    @classmethod
    def json_ways(cls, name: str, handler: GetJsonSchemaHandler) -> list[dict[str, Any]]:
        """JSON Schema of the ways to write this member: a mapping with its name, or the bare name where it will do."""
        mapping = handler(cls.__pydantic_core_schema__)
        tree = handler.resolve_ref_schema(mapping)
        tree["properties"] = {"name": {"const": name}, **tree.get("properties", {})}
        needed = [key for key in tree.get("required", []) if key != "name"]
        tree["required"] = ["name", *needed]
        return [mapping] if needed else [mapping, {"const": name, "description": tree.get("description", "")}]

    @classmethod
    def _meant(cls, word: str) -> str:
        """What somebody who writes `word` may have meant, as the end of a message."""
        return suggest(
            word, cls.family, {other: key for key, own in cls.family.items() for other in (key, *own.known_as)}
        )

    @classmethod
    def read(cls, value: object) -> Self:
        """The member that a recipe's mapping (or bare name) describes.

        Raises: ValueError for an unknown name; pydantic.ValidationError for the member's own keys.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            if value not in cls.family:
                raise ValueError(f"unknown {cls.__name__.lower()} {quoted(value)}{cls._meant(value)}")
            value = {"name": value}
        family = cls.__name__.lower()
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping with a `name`, or a bare name, not {what(value)}{choices(cls.family)}")
        if "name" not in value:
            raise ValueError(f"this {family} has no `name`{choices(cls.family)}")
        name = value["name"]
        member = cls.family.get(name) if isinstance(name, str) else None
        if member is None:
            problem = f"unknown {family} {quoted(name)}{cls._meant(name)}" if isinstance(name, str) else ""
            problem = problem or f"must be one of {', '.join(sorted(cls.family))}, not {what(name)}"
            raise problems_error([("name", problem, "unknown_name")])
        return member.model_validate({k: v for k, v in value.items() if k != "name"})  # type: ignore[return-value]
