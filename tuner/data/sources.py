"""What a recipe's data section says about where pictures and captions come from. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..parts import Part
from ..places import Place
from . import templates as sentences


def as_list(value: Any) -> Any:
    """A single mapping (or value) counts as a list of one."""
    if value is None or isinstance(value, (list, tuple)):
        return value
    return [value]


class CaptionChoice(Part):
    """One of several captions that a picture has, and how often it is the one that is read."""

    ending: str | None = Field(default=None, pattern=r"^(\.[^./\\]+)*\.txt$", max_length=100)
    """Caption file beside the picture: what stands in place of the picture's own ending, such as .txt or .long.txt."""
    column: str | None = Field(default=None, min_length=1)
    """Instead of ending: column of the dataset, or key of metadata.jsonl / metadata.csv."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Share of the visits, against the other captions that the picture has."""

    @model_validator(mode="after")
    def _one_place(self) -> CaptionChoice:
        if (self.ending is None) == (self.column is None):
            raise ValueError("where is this caption? give ending (a file beside the picture) or column, one of them")
        return self

    @property
    def place(self) -> str:
        """For messages."""
        return self.ending or f"the column {self.column}"


def _template(text: str) -> str:
    """Raises: ValueError."""
    if text.count(sentences.PLACE) != 1:
        raise ValueError(f"{text!r} must hold {{}} once, where the caption stands")
    return text


Template = Annotated[str, Field(min_length=2, max_length=500), AfterValidator(_template)]
Templates = Literal["object", "style"] | Annotated[tuple[Template, ...], Field(min_length=1, max_length=1000)]


class Source(Part):
    """One folder or dataset of pictures that plays one role."""

    path: Place | None = None
    """Folder of pictures (or one picture). Relative to the working directory; ~ is your home."""
    dataset: Place | None = None
    """Instead of a path: a dataset id on the Hub, or a local .parquet file. Needs the extra `data`."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    image_column: str = "image"
    """Column of the dataset that holds the picture."""
    caption_column: str = "text"
    """Column of the dataset, or key of metadata.jsonl / metadata.csv, that holds the caption."""
    caption: str | None = None
    """Caption of every picture that has none of its own (a .txt beside it, or a row of metadata.jsonl / .csv)."""
    captions: Annotated[tuple[CaptionChoice, ...], Field(min_length=1), BeforeValidator(as_list)] | None = None
    """Instead of caption_column: several captions a picture, one of them drawn by weight on each visit, such as
    [{ending: .txt, weight: 0.5}, {ending: .synthetic.txt, weight: 0.5}]."""
    own_captions: bool = True
    """Read the caption that a picture has of its own; false calls every picture by `caption`."""
    templates: Templates | None = None
    """Sentences around `caption`, one of them drawn on each visit: `object` (27, a photo of a {} ...), `style` (19,
    a painting in the style of {} ...), or a list of your own with {} where the caption stands."""
    repeats: int = Field(default=1, ge=1, le=10_000)
    """How often each picture is seen in one epoch."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Weight of these pictures' loss against the others of the same role."""

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if self.path is not None and self.dataset is not None:
            raise ValueError("path and dataset are both given; keep the one that holds the pictures")
        if self.dataset is None:
            self.refuse_idle(dict.fromkeys(("split", "revision", "image_column"), "without dataset"))
        self._check_captions()
        self._check_place()
        return self

    def _check_captions(self) -> None:
        if self.caption is None:
            self.refuse_idle({"templates": "without caption, which they are put around"})
            if not self.own_captions:
                raise ValueError("own_captions: false leaves the pictures without any; give caption, too")
        if not self.own_captions:
            self.refuse_idle(dict.fromkeys(("captions", "caption_column"), "with own_captions: false"))
        if self.captions is None:
            return
        self.refuse_idle({"caption_column": "with captions, which says where they are"})
        places = [choice.place for choice in self.captions]
        twice = sorted({place for place in places if places.count(place) > 1})
        if twice:
            raise ValueError(f"captions names {', '.join(twice)} more than once; add the weights up")
        if self.dataset is not None and any(choice.ending for choice in self.captions):
            raise ValueError("captions: a dataset has no files beside its pictures; name columns, not endings")

    @property
    def spoken(self) -> tuple[str, ...]:
        """What the pictures without a caption of their own are called: `caption`, within each of its templates."""
        if self.caption is None:
            return ()
        return sentences.around(self.caption, self.templates) if self.templates else (self.caption,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns or keys that hold captions."""
        if self.captions is None:
            return (self.caption_column,)
        return tuple(choice.column for choice in self.captions if choice.column)

    def _check_place(self) -> None:
        if self.path is None and self.dataset is None:
            raise ValueError("neither path nor dataset is given; say where the pictures are")


class PriorSource(Source):
    """Pictures of the plain class for prior preservation: your own, generated by the untouched base, or none at all."""

    generate: int | None = Field(default=None, ge=1, le=100_000)
    """Fill up to this many class pictures, drawn by the untouched base from `caption` (Ruiz et al. 2022, sec. 3.2)."""
    predict: bool = False
    """No pictures: keep the base's own prediction for the instance pictures under `caption`."""
    guidance: float | None = Field(default=None, ge=0, le=50)
    """Guidance scale of generated class pictures; null takes the base's own, as `sample.guidance` does."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Sampler steps of generated class pictures; null takes the base's own, as `sample.steps` does."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of generated class pictures; picture number i depends on this, i and the caption alone."""

    def _check_place(self) -> None:
        if self.predict:
            keys = ("path", "dataset", "generate", "repeats", "guidance", "steps", "seed", "caption_column", "captions")
            keys += ("templates", "own_captions")
            self.refuse_idle(dict.fromkeys(keys, "with predict: true, which uses no class pictures"))
        elif self.path is None and self.dataset is None and self.generate is None:
            raise ValueError("give path (own class pictures), generate: N (let the base draw them) or predict: true")
        if (self.predict or self.generate is not None) and not self.caption:
            raise ValueError("caption is missing: name the plain class, such as `a photo of a dog`")
        if self.generate is None:
            self.refuse_idle(dict.fromkeys(("guidance", "steps", "seed"), "without generate"))


CHOSEN, REJECTED = "chosen", "rejected"
"""The roles of a pair, and the folders that hold them."""


class PairSource(Source):
    """Pairs of pictures, of which one is preferred: a folder with `chosen` and `rejected` in it, a table, a dataset."""

    path: Place | None = None
    """Folder that holds `chosen/` and `rejected/` (a pair has one name in both), or a .jsonl file whose rows name the
    two pictures of a pair, relative to the file. Relative to the working directory; ~ is your home."""
    caption_column: str = "caption"
    """Column of the dataset, or key of the .jsonl file (of metadata.jsonl in a folder), that holds the caption."""
    caption: str | None = None
    """Caption of every pair that has none of its own (a .txt beside its chosen picture, or its row)."""
    chosen_column: str = "chosen"
    """Column of the dataset, or key of the .jsonl file, that holds the preferred picture."""
    rejected_column: str = "rejected"
    """Column of the dataset, or key of the .jsonl file, that holds the other picture."""
    label_column: str | None = None
    """Column or key that says whether the chosen picture is the preferred one: 1 it is, 0 it is the other, 0.5 a tie,
    which is left out. null takes each row as it is."""
    repeats: int = Field(default=1, ge=1, le=10_000)
    """How often each pair is seen in one epoch."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Weight of these pairs' loss against the others."""

    def _check_place(self) -> None:
        super()._check_place()
        self.refuse_idle({"image_column": "on pairs, which have chosen_column and rejected_column"})
        self.refuse_idle({"captions": "on pairs, which have one caption each"})
        if self.dataset is None and not str(self.path).lower().endswith(".jsonl"):
            keys = ("chosen_column", "rejected_column", "label_column")
            self.refuse_idle(dict.fromkeys(keys, "without a dataset or a .jsonl file"))


class HeldOutSource(Source):
    """Pictures that the run is measured on and never learns from."""

    def _check_place(self) -> None:
        super()._check_place()
        self.refuse_idle(dict.fromkeys(("repeats", "weight"), "on held-out pictures, each of which counts once"))


def sources_of(kind: type[Source]) -> Any:
    """The type of a role in the data section: one mapping, or a list of them (several concepts)."""
    return Annotated[tuple[kind, ...], Field(min_length=1), BeforeValidator(as_list)]
