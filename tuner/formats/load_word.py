"""A word into a pipeline: its vectors behind the text encoders' own, its name into their tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backbones import new_words
from ..errors import DataError, UsageError
from .loaders import check_values, quiet_loaders
from .word_kind import describe
from .written_out import write_out_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import Tensor

    from .container import Header
    from .word_kind import Word

TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}
"""diffusers' name of each text encoder's tokenizer."""


LOADED = "tuner_words"
"""Attribute of a pipeline: the words that were loaded, in order, each as its adapter's name, itself and its undoing."""


def load_word(pipe: DiffusionPipeline, file: Path, header: Header, name: str) -> Callable[[], None]:
    """As `FileKind.load`; a word has no strength, and the name serves to take it off again."""
    word = describe(file, header)
    _check_fit(pipe, file, header, word)
    check_values(file)
    undo = _undo(pipe, word)
    if not hasattr(pipe, "load_textual_inversion"):
        _by_hand(pipe, word, read_vectors(file, word))
        plain_prompts = write_out_words(pipe) if word.count > 1 else None
        if plain_prompts is not None:
            undo = _both(undo, plain_prompts)
    else:
        try:
            with quiet_loaders():
                _by_diffusers(pipe, file, word)
        except DataError:
            undo()
            raise
    loaded: list[tuple[str, str, Callable[[], None]]] = vars(pipe).setdefault(LOADED, [])
    mine = (name, word.token, undo)
    loaded.append(mine)
    return _both(undo, lambda: loaded.remove(mine))


def unload_word(pipe: DiffusionPipeline, name: str) -> bool:
    """As `FileKind.unload`: the last word first, for the rows of each lie behind those that were there before.

    Raises: UsageError where another word was loaded after it; nothing is taken off then.
    """
    loaded: list[tuple[str, str, Callable[[], None]]] = vars(pipe).get(LOADED, [])
    first = next((place for place, (own, _, _) in enumerate(loaded) if own == name), None)
    if first is None:
        return False
    if later := next(((own, token) for own, token, _ in loaded[first:] if own != name), None):
        raise UsageError(
            f"the word {later[1]} was loaded after {name!r}, and its vectors lie behind that",
            f"take off {later[0]!r} first",
        )
    while len(loaded) > first:
        loaded.pop()[2]()
    return True


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        first()
        second()

    return run


def _check_fit(pipe: DiffusionPipeline, file: Path, header: Header, word: Word) -> None:
    """Raises: DataError where a text encoder is not there or of another width; UsageError where the word is taken."""
    for component, key in word.keys.items():
        encoder, tokenizer = pipe.components.get(component), pipe.components.get(TOKENIZERS[component])
        if encoder is None or tokenizer is None:
            raise DataError(
                f"{file}: teaches the {component} a word, which this pipeline does not have",
                "load the pipeline with all of its text encoders and tokenizers",
            )
        width, here = header.tensors[key].shape[-1], encoder.get_input_embeddings().weight.shape[1]
        if width != here:
            raise DataError(
                f"{file}: its vectors have {width} values, the words of this pipeline's {component} {here}",
                "is it for another base model?",
            )
        if new_words.known(tokenizer, word.token):
            raise UsageError(
                f"{file}: the pipeline's {TOKENIZERS[component]} has a word {word.token!r} already",
                "load the word once, into a pipeline that does not know it",
            )


def _undo(pipe: DiffusionPipeline, word: Word) -> Callable[[], None]:
    """What brings tokenizers and tables back as they are now. It keeps the tables' lengths, not the tables."""
    from tokenizers import Tokenizer

    parts: dict[str, tuple[Any, Any]] = {
        name: (pipe.components[name], pipe.components[TOKENIZERS[name]]) for name in word.keys
    }
    before = {
        name: (len(encoder.get_input_embeddings().weight), encoder.config.vocab_size, words.backend_tokenizer.to_str())
        for name, (encoder, words) in parts.items()
    }

    def take_off() -> None:
        for name, (encoder, tokenizer) in parts.items():
            rows, size, words = before[name]
            encoder.set_input_embeddings(_first(encoder.get_input_embeddings().weight, rows))
            encoder.config.vocab_size = size
            tokenizer._tokenizer = Tokenizer.from_str(words)

    return take_off


def _first(table: Tensor, rows: int) -> Any:
    import torch

    return torch.nn.Embedding.from_pretrained(table.detach()[:rows].clone(), freeze=not table.requires_grad)


def _by_diffusers(pipe: Any, file: Path, word: Word) -> None:
    """Raises: DataError with what diffusers' loader says."""
    from safetensors import SafetensorError

    faults = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, OSError, SafetensorError)
    try:
        pipe.load_textual_inversion(
            str(file.parent), weight_name=file.name, token=word.token, local_files_only=True, use_safetensors=True
        )
    except faults as error:
        raise DataError(f"{file}: diffusers' loader refuses it: {str(error)[:300]}") from error
    pipe.text_encoder.get_input_embeddings().requires_grad_(False)


def _by_hand(pipe: DiffusionPipeline, word: Word, vectors: Mapping[str, Tensor]) -> None:
    """What diffusers' loader does, for each text encoder of a pipeline that has no loader."""
    import torch

    for component, rows in vectors.items():
        encoder, tokenizer = pipe.components[component], pipe.components[TOKENIZERS[component]]
        ids = new_words.add(tokenizer, word.token, len(rows))
        own = encoder.get_input_embeddings().weight
        # T5's table is longer than its vocabulary, and is not cut
        wide = torch.nn.Embedding(max(len(own), max(ids) + 1), own.shape[1], device=own.device, dtype=own.dtype)
        with torch.no_grad():
            wide.weight[: len(own)] = own
            wide.weight[len(own) :] = 0
            wide.weight[ids] = rows.to(own.device, own.dtype)
        encoder.set_input_embeddings(wide.requires_grad_(False))
        encoder.config.vocab_size = len(wide.weight)
        _pool_at_the_end(encoder, tokenizer)


def _pool_at_the_end(encoder: Any, tokenizer: Any) -> None:
    """Let CLIP's pooled vector be that of the end mark.

    A configuration of old says 2, and transformers then takes the largest id for the end mark, which a new word's is.
    """
    inner = getattr(encoder, "text_model", encoder)
    if getattr(inner, "eos_token_id", None) == 2:
        inner.eos_token_id = tokenizer.eos_token_id


def read_vectors(file: Path, word: Word) -> dict[str, Tensor]:
    """By text encoder, (n, D). Raises: DataError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            found = {component: tensors.get_tensor(key) for component, key in word.keys.items()}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return {component: rows[None] if rows.ndim == 1 else rows for component, rows in found.items()}
