"""What a model that cannot be loaded must say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tuner.errors import DataError, TunerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refused_by(load: Callable[..., object], folder: Path | str, *words: str, **keys: object) -> DataError:
    """The one message of a loader, which names each of `words` and what to do."""
    with pytest.raises(TunerError) as caught:
        load(folder, **keys)
    assert type(caught.value) is DataError
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    return caught.value
