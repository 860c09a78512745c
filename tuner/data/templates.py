"""Sentences that a caption may stand in, so that a word is learned and not the one sentence around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLACE = "{}"
"""Where the caption stands."""

OBJECT = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
)
"""For a thing: the sentences of Gal et al. 2022 (appendix), of those that CLIP was tried with (Radford et al. 2021)."""

STYLE = (
    "a painting in the style of {}",
    "a rendering in the style of {}",
    "a cropped painting in the style of {}",
    "the painting in the style of {}",
    "a clean painting in the style of {}",
    "a dirty painting in the style of {}",
    "a dark painting in the style of {}",
    "a picture in the style of {}",
    "a cool painting in the style of {}",
    "a close-up painting in the style of {}",
    "a bright painting in the style of {}",
    "a cropped picture in the style of {}",
    "a good painting in the style of {}",
    "a close-up picture in the style of {}",
    "a rendition in the style of {}",
    "a nice painting in the style of {}",
    "a small painting in the style of {}",
    "a weird painting in the style of {}",
    "a large painting in the style of {}",
)
"""For a style (Gal et al. 2022, sec. 4.3 and appendix)."""

SETS: Mapping[str, Sequence[str]] = {"object": OBJECT, "style": STYLE}


def around(caption: str, templates: str | Sequence[str]) -> tuple[str, ...]:
    """The caption in each sentence of a set by name, or of one's own; equal sentences once."""
    sentences = SETS[templates] if isinstance(templates, str) else templates
    return tuple(dict.fromkeys(sentence.replace(PLACE, caption) for sentence in sentences))
