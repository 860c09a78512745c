"""Proof that a saved word is the trained one: loaded by its real loader, prompts must be read the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ..backbones.base import device_of
from ..errors import StorageError, TunerError
from .container import read_header
from .load_word import load_word, read_vectors
from .prediction import undrawn
from .shadow import shadow_model
from .word_kind import describe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from ..adapters.textual_inversion import WordAttachment
    from ..backbones import DiffusionModel
    from ..types import Cond

PROMPTS = ("{}", "a photo of {}, 3 blue cups on a table", "two {} and a {}")
TOLERANCE = 1e-6
"""Allowed difference of what the text encoders make of a prompt, relative to its largest value: the vectors are equal
bit for bit, and only the order of sums may differ from one call to the next."""


def verify_word(attachment: WordAttachment, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
    """Load the file back and compare each vector bit for bit, and what prompts with the word are read as.

    The live model is not touched: the comparison runs on a shadow over the same memory (`shadow.py`) and on tokenizers
    of their own, which know no such word; whatever else is attached acts in both readings.

    Raises: StorageError naming the file, the loader and the difference.
    """
    file = next(path for path in files if path.suffix == ".safetensors")
    rows = _stored(attachment, file, state)
    with undrawn():
        want = _read(_taught(attachment, rows), attachment.adapter.token)
        shadow = _untaught(attachment)
        plain = _read(shadow, attachment.adapter.token)
        try:
            load_word(shadow.pipeline(), file, read_header(file), file.stem)
        except TunerError as error:
            raise _fault(file, f"the loader refuses it: {error.message}") from error
        found = _read(shadow, attachment.adapter.token)
    for name, tensor in want.tensors.items():
        allowed = TOLERANCE * float(tensor.abs().max())
        difference = float((found[name] - tensor).abs().max())
        if not difference <= allowed:
            raise _fault(file, f"prompts with the word are read with a difference of {difference:.3g} in {name}")
    if all(bool((found[name] == plain[name]).all()) for name in found.tensors):
        raise _fault(file, "it changes nothing")


def _stored(attachment: WordAttachment, file: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The trained rows as the file's type holds them, which must be what it holds."""
    import torch

    try:
        found = read_vectors(file, describe(file, read_header(file)))
    except TunerError as error:
        raise _fault(file, f"it cannot be read: {error.message}") from error
    rows = attachment.rows(state)
    if rows.keys() != found.keys():
        raise _fault(file, "it holds the word for other text encoders")
    for component, own in rows.items():
        if not torch.equal(own.cpu().to(found[component].dtype), found[component]):
            raise _fault(file, f"its vectors for the {component} are not those that were trained")
    return {component: values.float() for component, values in found.items()}


def _taught(attachment: WordAttachment, rows: Mapping[str, Tensor]) -> DiffusionModel:
    """The trained model with the rows that the file holds."""
    from ..nn.word_table import WordTable

    token = attachment.adapter.token
    parameters = {f"{component}.{token}": table.vectors for component, table in attachment.tables.items()}
    values = {f"{component}.{token}": own for component, own in rows.items()}
    shadow = shadow_model(attachment.model, values, parameters)
    for component, table in attachment.tables.items():
        for part in shadow.text_encoders[component].modules():
            if isinstance(part, WordTable) and part.ids is table.ids:  # buffers are shared
                part.length = None  # the rows are as they are read already
    return shadow


def _untaught(attachment: WordAttachment) -> DiffusionModel:
    """The model as somebody else has it, with the run's other adapters but with no new word."""
    from ..nn.word_table import WordTable

    shadow = shadow_model(attachment.model, {}, {})
    shadow.tokenizers = {**attachment.model.tokenizers, **copy.deepcopy(attachment.plain)}
    for component in attachment.tables:
        encoder = shadow.text_encoders[component]
        table = encoder.get_input_embeddings()  # type: ignore[operator]
        while isinstance(table, WordTable):
            table = table.table
        encoder.set_input_embeddings(table)  # type: ignore[operator]
    return shadow


def _read(model: DiffusionModel, token: str) -> Cond:
    """What prompts with the word are read as, float32 on the CPU."""
    import torch

    device = device_of(next(iter(model.text_encoders.values())))
    prompts = [prompt.replace("{}", token) for prompt in PROMPTS]
    with torch.no_grad():
        cond = model.encode_text(model.tokenize(prompts).to(device))
    return cond.to(torch.device("cpu"), torch.float32)


def _fault(file: Path, what: str) -> StorageError:
    return StorageError(
        f"{file}: loaded back, {what}",
        "do not use this file; start the same command again to write it anew from the checkpoint",
    )
