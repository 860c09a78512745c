"""What SD3.5's text encoders make of a prompt: two CLIPs side by side, T5 behind them (Esser et al. 2024, fig. 2)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..types import Cond, Tokens
from . import new_words
from .clip_tokenizer import AGAIN, token_rows
from .loading import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn
    from transformers import T5Tokenizer

CLIPS = ("text_encoder", "text_encoder_2")
T5 = "text_encoder_3"
END, PAD = "</s>", "<pad>"


def load_t5_tokenizer(folder: Path) -> T5Tokenizer:
    """From tokenizer.json, which needs no sentencepiece.

    Raises: DataError naming what is absent or damaged.
    """
    from transformers import T5Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"{path}: the base model lacks this file", f"{AGAIN}, or set backbone.t5 to false to do without T5"
        )
    model = read_json(path).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, list) or not all(_scored(entry) for entry in vocabulary):
        raise DataError(f"{path}: describes no unigram vocabulary, so it is not T5's", AGAIN)
    lacking = {END, PAD} - {entry[0] for entry in vocabulary}
    if lacking:
        raise DataError(f"{path}: not T5's vocabulary: {', '.join(sorted(lacking))} is missing", AGAIN)
    return T5Tokenizer.from_pretrained(folder, local_files_only=True)


def _scored(entry: object) -> bool:
    return (
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], (int, float))
    )


def t5_fingerprint(tokenizer: T5Tokenizer) -> str:
    """sha256 of what decides a prompt's ids."""
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    decides = {key: value for key, value in tree.items() if key not in ("truncation", "padding", "version")}
    facts = [decides, tokenizer.eos_token, tokenizer.pad_token]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def t5_rows(tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[list[list[int]], list[str]]:
    """Ids of each prompt with the end mark, padded to `length`; and the text that did not fit."""
    rows, cut = [], []
    for given in prompts:
        prompt = new_words.spread(tokenizer, given)
        found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = found["input_ids"], found["offset_mapping"]
        kept = ids[: length - 1]
        row = [*kept, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (length - len(row)))
        lost = prompt[offsets[len(kept) - 1][1] :].strip() if len(ids) > len(kept) else ""
        cut.append(new_words.gathered(tokenizer, lost, given))
    return rows, cut


def tokenize(
    tokenizers: Mapping[str, Any], encoders: Mapping[str, nn.Module], prompts: Sequence[str], t5_length: int
) -> Tokens:
    """As `DiffusionModel.tokenize`; cut is what none of the encoders reads, for T5 reads on where the CLIPs end.

    What T5 alone reads, or a longer one of both, is `partly`.
    """
    import torch

    ids, cuts = {}, []
    for name, encoder in encoders.items():
        if name == T5:
            rows, cut = t5_rows(tokenizers[name], prompts, t5_length)
        else:
            rows, cut = token_rows(tokenizers[name], prompts, encoder.config.max_position_embeddings)  # type: ignore[union-attr,arg-type]
        ids[name] = torch.tensor(rows, dtype=torch.int64)
        cuts.append(cut)
    lost = [(min(ends, key=len), max(ends, key=len)) for ends in zip(*cuts, strict=True)]
    partly = tuple(some[: len(some) - len(none)].strip() for none, some in lost)
    return Tokens(ids, tuple(none for none, _ in lost), partly)


def longest(encoders: Mapping[str, nn.Module], t5_length: int) -> str:
    """Which of the encoders reads most tokens, in words."""
    clips: list[Any] = [encoders[name].config for name in CLIPS if name in encoders]
    return "T5" if t5_length > min(config.max_position_embeddings for config in clips) else "CLIP"


def encode(encoders: Mapping[str, nn.Module], tokens: Tokens, *, pooled_width: int, width: int, t5_length: int) -> Cond:
    """`text` (B, 77 + t5_length, D) and `pooled` (B, P), as StableDiffusion3Pipeline.encode_prompt makes them.

    Each CLIP gives its last layer but one, without the final norm, and its projected vector at the end mark. The two
    stand side by side, are padded with zeros to T5's width and followed by T5's tokens. An encoder that is not there is
    zeros: T5 as in the pipeline, a CLIP as in the paper's dropout of encoders.

    Args:
        encoders: those that are there, by name; at least one CLIP.
        tokens: ids by encoder.
        pooled_width: P, of both CLIPs together.
        width: D, of T5.
        t5_length: tokens of T5's zeros.
    """
    import torch

    found = {name: _clip(encoders[name], tokens.ids[name]) for name in CLIPS if name in encoders}
    layer, vector = next(iter(found.values()))
    gap = pooled_width - sum(pooled.shape[-1] for _, pooled in found.values())
    lacking = layer.new_zeros(*layer.shape[:2], gap), vector.new_zeros(len(vector), gap)  # as wide as its vector is
    layers, pooled = zip(*(found.get(name, lacking) for name in CLIPS), strict=True)
    if T5 in encoders:
        # Nothing in it trains but a new word's vector; and autocast would take its widest layers to fp16, where they
        # overflow.
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in encoders[T5].parameters())
        with torch.set_grad_enabled(learns), torch.autocast(layer.device.type, enabled=False):
            behind = encoders[T5](tokens.ids[T5].to(_device(encoders[T5])))[0]
    else:
        behind = layer.new_zeros(len(layer), t5_length, width)
    before = torch.cat(layers, -1)  # (B, 77, D of both CLIPs)
    before = torch.nn.functional.pad(before, (0, width - before.shape[-1]))
    return Cond({"text": torch.cat([before, behind], -2), "pooled": torch.cat(pooled, -1)})


@dataclass(frozen=True, slots=True)
class Part:
    """Where one text encoder's share of the conditioning lies."""

    tokens: slice
    """In `text`, along L."""
    columns: slice
    """In `text`, along D, and in `pooled`, where a CLIP is as wide."""
    pools: bool


def parts(encoders: Mapping[str, nn.Module], pooled_width: int) -> dict[str, Part]:
    """The share of each encoder that is there; `pooled_width` is that of both CLIPs together."""
    found: dict[str, Part] = {}
    configs: dict[str, Any] = {name: encoders[name].config for name in CLIPS if name in encoders}
    widths = {name: config.projection_dim for name, config in configs.items()}
    length = next(config.max_position_embeddings for config in configs.values())
    start = 0
    for name in CLIPS:
        width = widths.get(name, pooled_width - sum(widths.values()))
        if name in widths:
            found[name] = Part(slice(0, length), slice(start, start + width), pools=True)
        start += width
    if T5 in encoders:
        found[T5] = Part(slice(length, None), slice(0, None), pools=False)
    return found


def silence(cond: Cond, dropped: Mapping[str, Tensor], parts: Mapping[str, Part]) -> Cond:
    """Zeros in the shares of the encoders that an example does without, as `encode` has them for absent ones.

    Args:
        cond: `text` and `pooled`.
        dropped: by name of an encoder, (B,) bool.
        parts: of the encoders.
    """
    text, pooled = cond["text"].clone(), cond["pooled"].clone()
    for name, lost in dropped.items():
        part, gone = parts[name], lost.to(text.device)
        text[:, part.tokens, part.columns] = text[:, part.tokens, part.columns].masked_fill(gone[:, None, None], 0)
        if part.pools:
            pooled[:, part.columns] = pooled[:, part.columns].masked_fill(gone[:, None], 0)
    return Cond({"text": text, "pooled": pooled})


def _clip(encoder: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L, D) of the last layer but one, and (B, P) projected at the end mark."""
    found = encoder(ids.to(_device(encoder)), output_hidden_states=True)
    return found.hidden_states[-2], found.text_embeds


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
