"""A new word for the text encoders, taught by a few vectors alone (Gal et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ..errors import RecipeError, StorageError
from ..parts import NO_EFFECT
from ..types import ParamGroup
from .base import Adapter, Attachment, Count

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..formats.about import About
    from ..nn.word_table import WordTable
    from ..parts import Problem
    from ..recipe import Recipe

QUERIES = ("q_proj", "SelfAttention.q")
"""Ends of the names of layers that are as wide as a text encoder's words."""


class TextualInversion(Adapter, name="textual_inversion"):
    """A new word: one or several vectors beside the text encoder's own. The smallest file; the base stays as it is."""

    token: str = Field(default="<new>", pattern=r"^<[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?>$")
    """The word, in angle brackets, so that it is found in no other word; captions and prompts call it by this."""
    init: str | None = Field(default=None, min_length=1, max_length=200)
    """What the word begins as, such as the name of its class; null begins with noise as strong as the other words."""
    vectors: int = Field(default=1, ge=1, le=64)
    """Vectors of the word, each of which takes a place in the caption; more hold more and follow a prompt less."""
    lr: float | None = Field(default=None, gt=0, le=100)
    """Peak learning rate of the vectors; null takes train.lr."""
    until: float = Field(default=1.0, gt=0, le=1)
    """Share of the run after which the word stands still while the other adapters go on: pivotal tuning's pivot."""
    length: float | Literal["vocabulary"] | None = None
    """Hold each vector at this length, or at the mean of the vocabulary's; null lets it grow, and with it how loudly
    the word speaks."""
    t5: bool = False
    """On sd35: a vector in T5 as well. Without one T5 reads the letters of the word."""

    rehearsal = {"train.steps": 600, "train.lr": 1e-2, "adapters.lr": 5e-3}

    @model_validator(mode="after")
    def _lengths(self) -> TextualInversion:
        if isinstance(self.length, float | int) and not self.length > 0:
            raise ValueError(f"length {self.length:g} is not above 0")
        return self

    def trains_text(self) -> bool:
        return True

    def needs_total(self) -> bool:
        return self.until < 1

    def words(self) -> Sequence[str]:
        return (self.token,)

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        place = f"adapters.{recipe.adapters.index(self)}"
        others = [adapter for adapter in recipe.adapters if adapter is not self]
        found: list[Problem] = []
        if self.until < 1 and not any(_outlasts(adapter) for adapter in others):
            text = "below 1 nothing would train after the pivot; name a second adapter, such as lora, or leave it at 1"
            found.append((f"{place}.until", text, "value_error"))
        if any(self.token in adapter.words() for adapter in others):
            found.append((f"{place}.token", f"two adapters teach the word {self.token}", "value_error"))
        if self.t5 and len(recipe.backbone.text_components) == 1:
            found.append((f"{place}.t5", f"has no effect on {recipe.backbone.key}, which has no T5", NO_EFFECT))
        elif self.t5 and not getattr(recipe.backbone, "t5", True):
            found.append((f"{place}.t5", "has no effect with backbone.t5: false", NO_EFFECT))
        if recipe.data.caption_dropout == 1:
            text = f"1 drops every caption, so {self.token} is never read"
            found.append(("data.caption_dropout", text, "value_error"))
        return found

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        return [
            Count(f"{component} {self.token}", self.vectors, self.vectors * _width(linears))
            for component, linears in layout.linears.items()
            if component in backbone.text_components and self._teaches(backbone, linears)
        ]

    def _teaches(self, backbone: Backbone, linears: Mapping[str, object] | Sequence[str]) -> bool:
        """Whether a text encoder with these linear layers learns the word; T5's are none that train."""
        return self.t5 or bool(backbone.matching_text(linears))

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> WordAttachment:
        from torch import nn

        taught = []
        for component, encoder in model.text_encoders.items():
            linears = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
            if self._teaches(model.backbone, linears):
                taught.append(component)
        return WordAttachment(self, model, taught, draws)


class WordAttachment(Attachment):
    """The tables that stand where the text encoders' embeddings stood."""

    def __init__(
        self, adapter: TextualInversion, model: DiffusionModel, components: Sequence[str], draws: Draws
    ) -> None:
        import copy

        from ..backbones import new_words
        from ..nn.word_table import WordTable

        self.adapter, self.model = adapter, model
        self.tables: dict[str, WordTable] = {}
        self.plain = {component: copy.deepcopy(model.tokenizers[component]) for component in components}
        """The tokenizers without the word, on which files are tried."""
        self._frozen: dict[str, str] = {}
        for component in components:
            encoder, tokenizer = model.text_encoders[component], model.tokenizers[component]
            if new_words.known(tokenizer, adapter.token):
                text = f"adapters.textual_inversion.token: {adapter.token} is a word of the {component} already"
                raise RecipeError([text], "choose another")
            table = encoder.get_input_embeddings()  # type: ignore[operator]
            start = self._first(component, tokenizer, table, draws)
            ids = new_words.add(tokenizer, adapter.token, adapter.vectors)
            self.tables[component] = WordTable(table, ids, start, length=self._length(table.weight))
            encoder.set_input_embeddings(self.tables[component])  # type: ignore[operator]
            self._frozen[component] = digest(table.weight)

    def _first(self, component: str, tokenizer: object, table: object, draws: Draws) -> Tensor:
        """What the rows begin as, (n, D) float32."""
        import torch

        adapter, weight = self.adapter, table.weight  # type: ignore[attr-defined]
        shape = (adapter.vectors, weight.shape[1])
        if adapter.init is None:
            noise = torch.from_numpy(draws.normal(shape, "word_init", component, adapter.token))
            return noise.to(weight.device) * weight.float().std()
        pieces = tokenizer(adapter.init, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        if not pieces:
            raise RecipeError([f"adapters.textual_inversion.init: {adapter.init!r} holds no word"], "name a class")
        with torch.no_grad():
            return dealt(table(torch.tensor(pieces, device=weight.device)).float(), adapter.vectors)  # type: ignore[operator]

    def _length(self, weight: Tensor) -> float | None:
        if self.adapter.length == "vocabulary":
            return float(weight.float().norm(dim=-1).mean())
        return self.adapter.length

    def param_groups(self) -> Sequence[ParamGroup]:
        token = self.adapter.token
        params = {f"{component}.{token}": table.vectors for component, table in self.tables.items()}
        return [ParamGroup(f"word {token}", params, lr=self.adapter.lr, weight_decay=0.0, until=self.adapter.until)]

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the word reads as it did before the first step: what the run started from.

        It cannot read as its letters would, since a batch holds token ids; and a reference that disagreed with the
        model at step 0 would spoil a preference loss.
        """
        before = [(table, table.on) for table in self.tables.values()]
        for table, _ in before:
            table.on = False
        try:
            yield
        finally:
            for table, on in before:
                table.on = on

    def rows(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By component, the rows that `state` stands for, (n, D) float32."""
        token = self.adapter.token
        return {c: table.read(state[f"{c}.{token}"]).detach() for c, table in self.tables.items()}

    def summary(self) -> Sequence[str]:
        return [
            f"{component} {self.adapter.token}: {len(table.vectors)} "
            f"{'vector' if len(table.vectors) == 1 else 'vectors'}, {table.vectors.numel():,} parameters"
            for component, table in self.tables.items()
        ]

    def export(self, folder: Path, state: Mapping[str, Tensor], about: About) -> Sequence[Path]:
        from ..formats.textual_inversion import write_word

        return write_word(folder, self.adapter.token, self.rows(state), about)

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify_word import verify_word

        self.require_still()
        verify_word(self, files, state)

    def require_still(self) -> None:
        """Raises: StorageError where a row of the base's own vocabulary is not, bit for bit, what it was."""
        moved = [name for name, table in self.tables.items() if digest(table.weight) != self._frozen[name]]
        if moved:
            raise StorageError(
                f"the vocabulary of the {' and the '.join(moved)} changed while {self.adapter.token} was taught",
                "this is a fault of tuner or of the machine's memory; start the run over with --new, and report it",
            )


def dealt(pieces: Tensor, count: int) -> Tensor:
    """(k, D) rows -> (count, D): in turn where there are fewer, else the mean of each share.

    Copies of one row need no noise to part: each stands at a place of its own in the caption.
    """
    import torch

    if len(pieces) <= count:
        return pieces[torch.arange(count, device=pieces.device) % len(pieces)]
    return torch.stack([share.mean(0) for share in pieces.tensor_split(count)])


def digest(weight: Tensor) -> str:
    """sha256 of a tensor's bits."""
    import hashlib

    import torch

    found = hashlib.sha256()
    for rows in weight.detach().split(4096):
        found.update(rows.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()


def _outlasts(adapter: Adapter) -> bool:
    """Whether an adapter trains to the end."""
    return not adapter.needs_total()


def _width(linears: Mapping[str, tuple[int, int]]) -> int:
    return next(width for name, (width, _) in linears.items() if name.endswith(QUERIES))
