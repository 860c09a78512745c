"""Class pictures drawn by the untouched base for prior preservation (Ruiz et al. 2022, sec. 3.2): once, then kept."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

from .. import atomic
from ..draws import Draws

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from ..backbones import DiffusionModel
    from ..objectives import BoundObjective
    from ..sampling import Shot
    from ..watch import Watcher
    from .sources import PriorSource

VERSION = 1
"""Counts up whenever the same address would hold other pictures."""

GROUP = 4
"""Pictures drawn at a time. The groups are fixed, so that a killed run that goes on draws each in the same company."""

SCHEDULER = "auto"
"""The one that draws a base of its kind by default; the address holds its own name."""


def generate(
    model: DiffusionModel,
    source: PriorSource,
    size: tuple[int, int],
    count_have: int,
    cache_root: Path,
    *,
    objective: BoundObjective,
    watcher: Watcher,
    check: Callable[[], None] = lambda: None,
    device: torch.device | None = None,
) -> Path:
    """The folder of class pictures that `source` still lacks; each is drawn unless it is there already.

    The folder holds `0000.png` and so on, exactly as many as are asked for, and `index.json` with the seed of each.
    Picture i depends on the base, the size, the settings, `source.seed`, the caption and i; on no random generator.

    Args:
        model: before any adapter is attached.
        source: with `generate` and `caption` set.
        size: (width, height) in pixels.
        count_have: pictures of the class that the user brought.
        cache_root: where `priors/` lies.
        objective: of the run, for how the base is to be sampled.
        watcher: sees the phase `class pictures`.
        check: called between groups; may raise to stop (`Stopped`).
        device: where to draw, if there is something to draw; None where the denoiser is. The text encoders are done
            before the denoiser and the VAE come into memory.

    Raises: StorageError, NumbersError.
    """
    from ..backbones.base import device_of
    from ..sampling import paint, read_ahead

    count = max((source.generate or 0) - count_have, 0)
    source = _settled(source, model)
    settings = _settings(model, source, size, objective)
    shelf = cache_root / "priors" / _address(settings)
    folder = shelf / f"{count:05d}"
    shots = [_shot(source, size, index) for index in range(count)]
    atomic.write(folder / "index.json", _index(settings, shots))
    missing = [index for index in range(count) if not _present(folder / _name(index), shelf, watcher)]
    done = count - len(missing)
    watcher.phase("class pictures", count, done)
    if not missing:
        return folder
    where = device or device_of(model.denoiser)
    with model.at_hand(model.text_encoders, where):
        read_ahead(model, shots, where, batch=GROUP)
    with model.at_hand([model.denoiser_name, "vae"], where):
        for start in sorted({index - index % GROUP for index in missing}):
            check()
            group = range(start, min(start + GROUP, count))
            for index, picture in zip(
                group, paint(model, [shots[i] for i in group], objective=objective, batch=GROUP), strict=True
            ):
                if index in missing:
                    packed = io.BytesIO()
                    picture.save(packed, "PNG")
                    atomic.write(folder / _name(index), packed.getvalue())
                    done += 1
                    watcher.progress(done)
    model.forget()
    return folder


def _settled(source: PriorSource, model: DiffusionModel) -> PriorSource:
    """The source with the base's own steps and guidance where it says nothing."""
    own = model.backbone.habits()
    said = {"steps": source.steps or own.steps}
    if source.guidance is None:
        said |= {"guidance": own.guidance}
    return source.model_copy(update=said)


def _shot(source: PriorSource, size: tuple[int, int], index: int) -> Shot:
    from ..sampling import Shot

    assert source.steps is not None
    assert source.guidance is not None
    caption = source.caption or ""
    seed = Draws(source.seed).torch_seed("prior", caption, index)
    return Shot(caption, "", seed, size, source.steps, source.guidance, SCHEDULER)


def _settings(
    model: DiffusionModel, source: PriorSource, size: tuple[int, int], objective: BoundObjective
) -> dict[str, Any]:
    """Everything that the pictures depend on but their number."""
    from ..sampling import choose

    return {
        "version": VERSION,
        "base": {name: model.identity(name) for name in sorted(model.components)},
        "base_scheduler": dict(model.scheduler),
        "dtype": str(next(model.denoiser.parameters()).dtype).removeprefix("torch."),
        "caption": source.caption,
        "size": list(size),
        "steps": source.steps,
        "guidance": source.guidance,
        "seed": source.seed,
        "scheduler": choose(model.scheduler, SCHEDULER),
        "sampling": dict(objective.sampling_at(size[1] // model.factor, size[0] // model.factor)),
    }


def _address(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:24]


def _index(settings: Mapping[str, Any], shots: list[Shot]) -> str:
    pictures = [{"file": _name(index), "seed": shot.seed} for index, shot in enumerate(shots)]
    return json.dumps({**settings, "pictures": pictures}, indent=1, sort_keys=True) + "\n"


def _name(index: int) -> str:
    return f"{index:04d}.png"


def _present(path: Path, shelf: Path, watcher: Watcher) -> bool:
    """Whether a whole picture is there, or was drawn under the same settings for another number and is taken over."""
    if path.is_file():
        if _whole(path):
            return True
        watcher.warn(f"{path}: damaged; it is drawn again")
        return False
    for other in sorted(shelf.glob(f"*/{path.name}")):
        if _whole(other):
            with atomic.storage(other, "cannot read"):
                content = other.read_bytes()
            atomic.write(path, content)
            return True
    return False


def _whole(path: Path) -> bool:
    """Whether a PNG's checksums hold to its end."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.verify()
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError):  # Pillow's words for a broken PNG
        return False
    return True
