"""What every loader needs: values that are finite, and other people's loaders without their noise."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check_values(file: Path) -> None:
    """Raises: DataError naming a tensor that is not finite."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (no mapping)
                if not bool(torch.isfinite(tensors.get_tensor(key)).all()):
                    raise DataError(f"{file}: {key} holds values that are not finite")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


@contextlib.contextmanager
def quiet_loaders() -> Iterator[None]:
    """Within it the loaders show no bars and do not say that a file without a text encoder's part has none."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers", "peft")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
