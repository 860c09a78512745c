"""Which layers a word of a recipe means, by name alone."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, cast, get_args

from .base import Site

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .base import Backbone


def layers_at(
    backbone: Backbone, where: str | Sequence[str], layers: Iterable[str], linears: Iterable[str]
) -> dict[str, list[str]]:
    """Of the denoiser's layers, those at a place, each under the first pattern that it fits.

    Args:
        backbone: which knows its sites and stretches.
        where: `all`, a site, one of `Backbone.stretches`, or patterns. A pattern fits where it stands anywhere in a
            name between dots: `attn2` fits `up_blocks.1.attn2.to_k`, and so does `up_blocks.[12]`.
        layers: names of all layers with parameters.
        linears: names of the linear ones among them.

    Returns: names by pattern (a single word is one pattern), empty where nothing fits.
    """
    known = list(layers)
    if where == "all":
        return {"all": known}
    if isinstance(where, str) and where in get_args(Site):
        hits = backbone.matching(cast("Site", where), linears)
        return {where: [name for name in known if name in set(hits[where])]}
    if isinstance(where, str):
        stretch = backbone.stretches[where]
        return {where: [name for name in known if any(fits(name, pattern) for pattern in stretch)]}
    found: dict[str, list[str]] = {pattern: [] for pattern in where}
    for name in known:
        first = next((pattern for pattern in where if fits(name, pattern)), None)
        if first is not None:
            found[first].append(name)
    return found


def fits(name: str, pattern: str) -> bool:
    """Whether a pattern stands in a name, part by part; * and [0-9] stand for what they do in file names."""
    parts, wanted = name.split("."), pattern.split(".")
    return any(
        all(fnmatchcase(part, want) for part, want in zip(parts[at:], wanted, strict=False))
        for at in range(len(parts) - len(wanted) + 1)
    )
