"""The pictures that ship with the package, for whoever has none yet, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLACE = Path(__file__).parent / "pictures"
CLASS = "mushroom"
"""What the bundled subject is."""
STYLED = "{} in sks style"
"""What is said of a thing in the bundled style."""

LIKED = ("house", "star", "fish", "flower")
"""What the bundled pairs show."""
PREFERRED = "green"
"""The colour of every chosen picture."""
PLAINLY = "a photo of a {}"
"""What is said of both pictures of a pair: nothing of the colour."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Pictures for one role, and the recipe's sentences that go with them."""

    folder: Path
    captions: Mapping[str, str]
    """Caption by role."""
    prompts: Sequence[str] = ()
    """For `sample.prompts`."""
    called: str = ""
    """What of these sentences is the thing that is taught; a run that teaches a word of its own says that instead."""
    kind: str = ""
    """What such a word begins as."""


BUNDLES: Mapping[str, Bundle] = {
    "instance": Bundle(
        PLACE / "instance",
        {"instance": f"a photo of sks {CLASS}", "prior": f"a photo of a {CLASS}"},
        (f"a photo of sks {CLASS} in the snow", f"a photo of a {CLASS}"),
        called=f"sks {CLASS}",
        kind=CLASS,
    ),
    "images": Bundle(
        PLACE / "images",
        {"images": STYLED.format("a picture")},
        (STYLED.format("a house"), "a photo of a house"),
        called="sks style",
        kind="picture",
    ),
    "prior": Bundle(PLACE / "prior", {}),
    "pairs": Bundle(
        PLACE / "pairs", {"pairs": PLAINLY.format("thing")}, (PLAINLY.format(LIKED[0]), PLAINLY.format(LIKED[1]))
    ),
}
"""By the role of a recipe's data."""
