"""Fill the cache with captions: each through the text encoders once, alone (see encode.py for why not in batches)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import NumbersError
from .cache_writer import Writer
from .unpadded import trim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..backbones import DiffusionModel
    from ..types import Tokens
    from ..watch import Watcher
    from .cache import Cache

CODE_VERSION = 1
"""Changes whenever the same caption would be encoded to other numbers."""
_CUTS_TOLD = 5


def text_key(identity: str, caption: str, ids: Mapping[str, Sequence[int]]) -> str:
    """The key of a caption's embeddings.

    Args:
        identity: `text_identity` of the model.
        caption: the text.
        ids: its token ids by text encoder, which stand for the tokenizers.
    """
    facts = ["text", CODE_VERSION, identity, caption, sorted((name, list(row)) for name, row in ids.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def text_identity(model: DiffusionModel) -> str:
    """What embeddings depend on besides the tokens: every text encoder and its dtype, and the backbone's options.

    Where the model lies is no part of it; options such as clip_skip are.
    """
    encoders = {
        name: [model.identity(name), str(next(encoder.parameters()).dtype)]
        for name, encoder in model.text_encoders.items()
    }
    options = model.backbone.model_dump(mode="json", exclude={"model", "revision"})
    return json.dumps([model.backbone.key, encoders, options], sort_keys=True)


def encode_captions(
    model: DiffusionModel,
    captions: Sequence[str],
    cache: Cache,
    *,
    watcher: Watcher,
    check: Callable[[], None] = lambda: None,
    device: torch.device | None = None,
) -> dict[str, str]:
    """Put the embeddings of every caption into the cache; what encoders do not read is told to the watcher.

    A record holds the tensors of the model's Cond by name, float32, without the batch axis, as
    `unpadded.trim` leaves them.

    Args:
        model: nothing in its text encoders trains.
        cache: where to.
        watcher: sees the phase `caching`, and is told of cut captions and damaged records.
        captions: may repeat; '' counts as one.
        check: called between captions; may raise to stop (`Stopped`).
        device: where to encode, if there is something to encode; None where the text encoders are.

    Returns: the record key of each caption.

    Raises: NumbersError naming the caption whose embeddings are not finite; StorageError.
    """
    if model.learns_text():
        raise ValueError("something in a text encoder trains, so embeddings cannot be cached")
    identity = text_identity(model)
    keys: dict[str, str] = {}
    missing: dict[str, Tokens] = {}
    lengths = Lengths()
    for caption in dict.fromkeys(captions):
        tokens = model.tokenize([caption])
        lengths.see(caption, tokens)
        keys[caption] = text_key(identity, caption, {name: ids[0].tolist() for name, ids in tokens.ids.items()})
        if cache.get("text", keys[caption]) is None:
            missing[caption] = tokens
    for note in cache.take_notes():
        watcher.warn(note)
    lengths.tell(model, watcher)
    done = len(keys) - len(missing)
    watcher.phase("caching", len(keys), done)
    with Writer(cache, "text") as writer, model.at_hand(model.text_encoders if missing else (), device):
        for caption, tokens in missing.items():
            check()
            writer.add(keys[caption], trim(_embeddings(model, tokens, caption)))
            done += 1
            watcher.progress(done)
    return keys


@dataclass(slots=True)
class Lengths:
    """What text encoders do not read of some captions."""

    count: int = 0
    cut: dict[str, str] = field(default_factory=dict)
    """What none of them reads, by caption."""
    partly: dict[str, str] = field(default_factory=dict)
    """What some of them read."""

    def see(self, caption: str, tokens: Tokens) -> None:
        self.count += 1
        if any(tokens.cut):
            self.cut[caption] = tokens.cut[0]
        if any(tokens.partly):
            self.partly[caption] = tokens.partly[0]

    def tell(self, model: DiffusionModel, watcher: Watcher) -> None:
        """Warn of what is never read, and note what is read in part."""
        for warning in cut_notes(self.cut, self.count):
            watcher.warn(warning)
        if self.partly:
            caption, rest = next(iter(self.partly.items()))
            watcher.say(
                f"{len(self.partly)} of {self.count} captions are longer than every text encoder reads: of "
                f"{_short(caption)} {model.reads_on} alone reads {_short(rest)}"
            )


def tell_lengths(model: DiffusionModel, captions: Sequence[str], watcher: Watcher) -> None:
    """What text encoders do not read of captions that are not cached."""
    lengths = Lengths()
    for caption in captions:
        lengths.see(caption, model.tokenize([caption]))
    lengths.tell(model, watcher)


def cut_notes(cut: Mapping[str, str], count: int) -> list[str]:
    """Lines that say how many of `count` captions do not fit the text encoder, and what each loses (`cut`)."""
    if not cut:
        return []
    lines = [f"{len(cut)} of {count} captions are longer than the text encoder reads; the model never sees their end"]
    lines += [f"caption {_short(caption)} loses {_short(lost)}" for caption, lost in list(cut.items())[:_CUTS_TOLD]]
    if len(cut) > _CUTS_TOLD:
        lines.append(f"... and {len(cut) - _CUTS_TOLD} more captions")
    return lines


def _short(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")


def _embeddings(model: DiffusionModel, tokens: Tokens, caption: str) -> dict[str, NDArray[np.float32]]:
    """The tensors of one caption without batch axis. Raises: NumbersError."""
    import numpy as np
    import torch

    device: torch.device = next(next(iter(model.text_encoders.values())).parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        cond = model.encode_text(tokens.to(device))
        found = {name: tensor[0].float().cpu().contiguous().numpy() for name, tensor in cond.tensors.items()}
    for array in found.values():
        if not np.isfinite(array).all():
            raise NumbersError(
                f"caption {_short(caption)}: the text encoder of {model.backbone.model} gives it NaN or infinity",
                "set train.precision to fp32 or bf16; if that does not help, the base model's text encoder is broken",
            )
    return found
