"""Fill the cache with pictures: each through the VAE once, alone, in float32.

One picture a forward pass, never a batch: the last bits of a latent depend on how many pictures share the batch, and a
cache that was killed and completed would then differ from one that was filled in one go.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import DataError, NumbersError
from . import images
from .cache import load
from .cache_writer import Writer
from .encode_text import encode_captions, text_key
from .scan import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from ..backbones import DiffusionModel
    from ..sections import Colour
    from ..watch import Watcher
    from .cache import Cache
    from .scan import Example

__all__ = ["Picture", "encode_captions", "encode_pictures", "load", "picture_key", "text_key"]

CODE_VERSION = 1
"""Changes whenever the same picture would be encoded to other numbers."""

_DECODERS = 4
"""Threads that decode ahead of the model, where there are so many cores."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoding of one picture."""

    example: Example
    size: tuple[int, int]
    """Width and height in pixels that it is scaled and cut to."""
    flip: bool


@dataclass(slots=True)
class _Job:
    """Everything that is made of one picture file, which is decoded once."""

    examples: list[Example]
    """Exact duplicates, one digest."""
    variants: dict[str, tuple[tuple[int, int], bool]] = field(default_factory=dict)
    """Size and flip by record key."""


def picture_key(model_identity: str, digest: str, size: tuple[int, int], flip: bool, background: str) -> str:
    """The key of a picture's latents: whatever changes one of these changes the latents.

    Args:
        model_identity: of the VAE (`DiffusionModel.identity`).
        digest: sha256 of the picture file's bytes.
        size: width and height in pixels that it is scaled to cover and cut to, from its centre.
        flip: whether it is mirrored.
        background: what stands behind transparent parts.
    """
    facts = ["latents", CODE_VERSION, model_identity, "float32", digest, list(size), "cover, centre", flip, background]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:40]


def encode_pictures(
    model: DiffusionModel,
    wanted: Sequence[Picture],
    cache: Cache,
    *,
    background: Colour,
    watcher: Watcher,
    check: Callable[[], None] = lambda: None,
    device: torch.device | None = None,
) -> list[Refused]:
    """Put the latents (`mean` and `logvar`, (C, h, w) float32) of every wanted picture into the cache.

    What is there already is left as it is. What is done is written every few seconds, also when this is interrupted.

    Args:
        model: its VAE is in float32.
        wanted: may repeat.
        cache: where to.
        background: colour behind transparent parts.
        watcher: sees the phase `caching`, and is told of damaged records.
        check: called between pictures; may raise to stop (`Stopped`).
        device: where to encode, if there is something to encode; None where the VAE is.

    Returns: the pictures that cannot be decoded (or changed since they were scanned), and why.

    Raises: NumbersError naming the picture whose latents are not finite; StorageError.
    """
    jobs, total, missing = _jobs(model.identity("vae"), wanted, cache, background)
    for note in cache.take_notes():
        watcher.warn(note)
    done = total - missing
    watcher.phase("caching", total, done)
    refused: list[Refused] = []
    with Writer(cache, "latents") as writer, model.at_hand(["vae"] if missing else (), device):
        for job, pixels in _decoded(jobs, background):
            check()
            if isinstance(pixels, str):
                refused += [Refused(example.name, pixels) for example in job.examples]
                done += len(job.variants)
            else:
                for key, array in pixels.items():
                    writer.add(key, _latents(model, array, job.examples[0].name))
                    done += 1
                    watcher.progress(done)
            watcher.progress(done)
    return refused


def _jobs(identity: str, wanted: Sequence[Picture], cache: Cache, background: Colour) -> tuple[list[_Job], int, int]:
    """One job a picture file that lacks something; the number of encodings, and of those that are missing."""
    jobs: dict[str, _Job] = {}
    present: dict[str, bool] = {}
    for picture in wanted:
        example = picture.example
        key = picture_key(identity, example.digest, picture.size, picture.flip, background)
        if key not in present:
            present[key] = cache.get("latents", key) is not None
        if not present[key]:
            job = jobs.setdefault(example.digest, _Job([]))
            if all(example.name != other.name for other in job.examples):
                job.examples.append(example)
            job.variants[key] = (picture.size, picture.flip)
    # Pictures of one size follow each other, so that a GPU picks its kernels once a size.
    ordered = sorted(jobs.values(), key=lambda job: min(job.variants.values()))
    return ordered, len(present), sum(not there for there in present.values())


def _decoded(jobs: Sequence[_Job], background: Colour) -> Iterator[tuple[_Job, dict[str, NDArray[np.uint8]] | str]]:
    """Each job with its pixels, (H, W, 3) uint8 by key, or with why there are none. Decodes a few pictures ahead."""
    workers = max(1, min(_DECODERS, (os.cpu_count() or 1) - 1))
    ahead: deque[tuple[_Job, Future[dict[str, NDArray[np.uint8]] | str]]] = deque()
    rest = iter(jobs)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while True:
                while len(ahead) <= workers and (job := next(rest, None)) is not None:
                    ahead.append((job, pool.submit(_decode, job, background)))
                if not ahead:
                    return
                job, future = ahead.popleft()
                yield job, future.result()
        finally:
            for _, future in ahead:
                future.cancel()


def _decode(job: _Job, background: Colour) -> dict[str, NDArray[np.uint8]] | str:
    """Every variant of one picture, or why it cannot be had."""
    import numpy as np

    example = job.examples[0]
    try:
        data = example.read()
        if hashlib.sha256(data).hexdigest() != example.digest:  # other runs will trust what is filed under this digest
            return "has changed since it was looked at"
        image = images.decode(data, example.name, background)
    except DataError as error:
        return error.message.removeprefix(f"{example.name}: ")
    pixels = {size: images.fit(image, size) for size, _ in job.variants.values()}
    return {
        key: np.ascontiguousarray(pixels[size][:, ::-1] if flip else pixels[size])
        for key, (size, flip) in job.variants.items()
    }


def _latents(model: DiffusionModel, pixels: NDArray[np.uint8], name: str) -> dict[str, NDArray[np.float32]]:
    """The posterior of one picture, (H, W, 3) uint8 -> both (C, h, w). Raises: NumbersError."""
    import torch

    weight = next(model.vae.parameters())
    if weight.dtype != torch.float32:
        raise ValueError(f"the VAE is in {weight.dtype}; latents are cached in float32 alone")
    with torch.inference_mode(), torch.autocast(weight.device.type, enabled=False):
        scaled = torch.from_numpy(pixels)[None].to(weight.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = model.encode_images(scaled.contiguous())
        found = {"mean": _row(posterior.mean), "logvar": _row(posterior.logvar)}
    for part, array in found.items():
        _require_finite(array, f"{name}: the VAE of {model.backbone.model} gives it a {part} that is not finite")
    return found


def _row(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor[0].float().cpu().contiguous().numpy()


def _require_finite(array: NDArray[np.float32], message: str) -> None:
    import numpy as np

    if not np.isfinite(array).all():
        raise NumbersError(message, "look at the picture; if others fail too, the base model's VAE is broken")
