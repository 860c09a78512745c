"""Optional sinks for the numbers and samples of a run: TensorBoard, W&B, trackio. Each gets no path and no token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .watch import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

PROJECT = "tuner"
"""Project that runs appear under, where a tracker has projects."""


class TensorBoard(Watcher):
    """Event files in `<run>/tensorboard`; `tensorboard --logdir runs` shows them."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier process wrote after the state that is gone on from is done again.
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1 if step else None)
        self._writer.add_text("recipe", "\n".join(f"    {key}: {value}" for key, value in flat(config).items()))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        for number, (_, file) in enumerate(pictures):
            self._writer.add_image(f"samples/{number}", pixels(file), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Watcher):
    """Weights & Biases, with everything switched off that reads the machine, the code or the terminal."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        import wandb  # type: ignore[import-not-found]  # optional

        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
        )
        self._wandb = wandb
        self._run = wandb.init(
            project=PROJECT,
            name=run_dir.name if not step else f"{run_dir.name} from step {step}",
            group=run_dir.name,
            dir=str(run_dir),
            config=dict(config),
            save_code=False,
            settings=settings,
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        images = [self._wandb.Image(pixels(file), caption=prompt) for prompt, file in pictures]
        self._run.log({"samples": images}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio(Watcher):
    """trackio's own dashboard, on this machine unless TRACKIO_SPACE_ID says otherwise."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any], step: int) -> None:
        import trackio  # type: ignore[import-not-found]  # optional

        self._trackio = trackio
        self._run = trackio.init(
            project=PROJECT,
            name=run_dir.name,
            config=flat(config),
            resume="allow" if step else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def samples(self, step: int, pictures: Sequence[tuple[str, Path]]) -> None:
        images = {
            f"samples/{number}": self._trackio.Image(pixels(file), caption=prompt)
            for number, (prompt, file) in enumerate(pictures)
        }
        self._run.log(images, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, tuple[Callable[[Path, Mapping[str, Any], int], Watcher], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WandB, "wandb"),
    "trackio": (Trackio, "trackio"),
}
"""Class and package by the name in `log.to`."""


def require_trackers(names: Sequence[str]) -> None:
    """See that the packages are there, before anything else is done.

    Raises: UsageError naming what to install.
    """
    missing = [name for name in names if find_spec(TRACKERS[name][1]) is None]
    if missing:
        raise UsageError(
            f"log.to: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            "pip install 'diffusion-tuner[track]', or take it out of log.to",
        )


def open_trackers(names: Sequence[str], run_dir: Path, config: Mapping[str, Any], step: int = 0) -> list[Watcher]:
    """The watchers of `log.to`.

    Args:
        names: of `TRACKERS`.
        run_dir: of the run; its last component is the run's name there.
        config: the recipe without paths and tokens (`recipe_file.scrub`).
        step: optimizer steps that are done already.

    Raises: UsageError where a package is missing.
    """
    require_trackers(names)
    config = pathless(config)
    return [TRACKERS[name][0](run_dir, config, step) for name in names]


def pathless(tree: Any) -> Any:
    """A tree without its `path` keys: even the last part of a folder's name may be somebody's."""
    if isinstance(tree, Mapping):
        return {key: pathless(value) for key, value in tree.items() if key != "path"}
    return [pathless(value) for value in tree] if isinstance(tree, list) else tree


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree as `{"train.lr": 0.0001, ...}`; lists stay as they are."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def pixels(file: Path) -> np.ndarray:
    """A picture as (H, W, 3) uint8: what is sent is the picture, never its path or its embedded text."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))
