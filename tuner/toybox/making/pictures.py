"""Drawn pictures for training: pools that are the same at any time, as bytes and as model inputs."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...draws import Draws
from .. import world

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image
    from torch import Tensor

SEED = 64


MIXES = {
    "composed": ((0.25, "single"), (0.5, "pair"), (0.05, "count"), (0.2, "word")),
    "sd35 composed": ((0.45, "single"), (0.35, "pair"), (0.05, "count"), (0.15, "word")),
}
"""Shares of the kinds of scene, where they are not the world's own."""


def scene(purpose: str, index: int, kind: str | None = None) -> world.Scene:
    """Scene `index` of a purpose: `train`, or one that no model was trained on, such as `held out`."""
    rng = Draws(SEED).generator("toybox", "world", purpose, index)
    if kind is None and purpose in MIXES:
        shares, kinds = [share for share, _ in MIXES[purpose]], [kind for _, kind in MIXES[purpose]]
        kind = str(rng.choice(kinds, p=shares))
    return world.sample(rng, kind)


def caption(purpose: str, index: int, visit: int) -> str:
    """What is said of that scene at a visit."""
    return world.caption(scene(purpose, index), Draws(SEED).generator("toybox", "caption", purpose, index, visit))


def arrays(purpose: str, count: int) -> Tensor:
    """Pictures of the first `count` scenes of a purpose, (N, 3, 64, 64) bytes."""
    return drawn(partial(scene, purpose), count)


def everything(count: int) -> Tensor:
    """Scenes, subjects and styles, seven, two and one of ten, (N, 3, 64, 64) bytes: what an autoencoder must hold."""
    return _drawn(_any_picture, count)


def drawn(scenes: Callable[[int], world.Scene], count: int) -> Tensor:
    """Pictures of scenes by their number, (N, 3, 64, 64) bytes."""
    return _drawn(partial(_scene_picture, scenes), count)


def _scene_picture(scenes: Callable[[int], world.Scene], index: int) -> Image:
    return world.render(scenes(index))


def _any_picture(index: int) -> Image:
    place, seed = index % 10, 1_000_000 + index
    if place < 7:
        return world.render(scene("train", index))
    rng = Draws(SEED).generator("toybox", "any", index)
    if place < 9:
        return world.Subject.make(seed).draw(rng)
    return world.Style.make(seed).render(world.sample(rng))


def _drawn(draw: Callable[[int], Image], count: int) -> Tensor:
    with ProcessPoolExecutor(2) as pool:
        pictures = list(pool.map(partial(_bytes, draw), range(count), chunksize=256))
    return torch.from_numpy(np.stack(pictures))


def _bytes(draw: Callable[[int], Image], index: int) -> np.ndarray:
    return np.asarray(draw(index)).transpose(2, 0, 1).copy()


def stack(drawn: Sequence[Image]) -> Tensor:
    """Pictures as bytes, (N, 3, 64, 64)."""
    return torch.from_numpy(np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in drawn]).copy())


def to_input(pictures: Tensor) -> Tensor:
    """Bytes -> [-1, 1], channels last in memory."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def batch(purpose: str, step: int, size: int, count: int) -> Sequence[int]:
    """Indices of the pictures of a step: a new permutation each time round."""
    start = step * size
    picked = []
    for place in range(start, start + size):
        visit, within = divmod(place, count)
        picked.append(int(_order(purpose, visit, count)[within]))
    return picked


_orders: dict[tuple[str, int, int], np.ndarray] = {}


def _order(purpose: str, visit: int, count: int) -> np.ndarray:
    key = (purpose, visit, count)
    if key not in _orders:
        if len(_orders) > 3:
            _orders.clear()
        _orders[key] = Draws(SEED).permutation(count, "toybox", "order", purpose, visit)
    return _orders[key]
