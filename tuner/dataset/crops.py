"""How training will cut each picture, by training's own rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..data import buckets, images
from ..data.scan import MAX_ENLARGED, MIN_KEPT
from ..errors import UsageError

if TYPE_CHECKING:
    from ..sections import DataOptions


@dataclass(frozen=True, slots=True)
class Crop:
    """What is left of one picture."""

    size: tuple[int, int]
    """(W, H) in pixels that it is trained at."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the picture; of a random crop, the one in the middle."""
    kept: float
    """Share of its area, 0 to 1."""
    scale: float
    """How much it is enlarged (above 1) or reduced."""
    advice: str = ""
    """What is wrong with that, and what to do; '' for nothing."""


def options(resolution: int, crop: str = "buckets", bucket_step: int | None = None) -> DataOptions:
    """What of a recipe decides on crops. Raises: UsageError."""
    from ..sections import DataOptions

    given: dict[str, object] = {"resolution": resolution, "crop": crop}
    if crop == "random":
        given["cache"] = "off"
    if bucket_step is not None:
        given["bucket_step"] = bucket_step
    try:
        return DataOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{place}: {said}" if place else said, "as in the data section of a recipe") from None


def crop(size: tuple[int, int], data: DataOptions) -> Crop:
    """How a picture of `size` (W, H) is cut under these options of a recipe."""
    target = buckets.size_for(size, data)
    kept, scale = min(1.0, buckets.kept(size, target)), buckets.scale_to(size, target)
    advice = []
    if scale > MAX_ENLARGED:
        advice.append(
            f"too small: it is enlarged {scale:.1f} times, which looks soft; use a larger picture or a lower resolution"
        )
    if kept < MIN_KEPT:
        advice.append(f"only {kept:.0%} of it is left after cropping; crop it yourself so that what matters stays")
    return Crop(target, images.cut(size, target), kept, scale, "; ".join(advice))
