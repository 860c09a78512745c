"""Files that came together: which caption belongs to which picture among them, and what became of it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..data.listing import some
from . import names
from .landing import Caption, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class Bundle:
    """The pictures of one zip or folder, or the one picture that came alone."""

    pictures: Sequence[str]
    """Their names as given."""
    captions: dict[int, Caption] = field(default_factory=dict)
    """What came beside a picture, by its place in `pictures`."""
    verdicts: list[Verdict] = field(default_factory=list)
    """On the captions that found a picture here."""
    _places: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._places = defaultdict(list)
        for place, name in enumerate(self.pictures):
            self._places[names.key(name)].append(place)

    def offer(self, caption: Caption, *, loose: bool) -> Caption | Verdict | None:
        """None where its picture is here; else a verdict, or (`loose`) the caption, which may find one elsewhere."""
        places = [
            place
            for place in self._places.get(caption.key, ())
            if caption.suffix in ("", names.suffix(self.pictures[place]))
        ]
        if len(places) > 1:
            shown = some((names.display(self.pictures[place]) for place in places), 3)
            return _refused(caption, f"would caption {shown}; rename one of them, and the caption with it")
        if not places:
            return caption if loose else _refused(caption, "no picture of that name in the zip")
        return self._keep(places[0], caption)

    def settle(self, start: int, verdicts: Sequence[Verdict]) -> None:
        """Say of the captions of pictures from place `start` on what became of them, now that theirs were judged."""
        for place, verdict in enumerate(verdicts, start):
            caption = self.captions.get(place)
            if caption is None:
                continue
            if verdict.accepted:
                notes = (*caption.notes, f"captions {verdict.name}")
                self.verdicts.append(
                    Verdict(caption.name, accepted=True, notes=notes, kind="caption", picture=verdict.picture)
                )
            elif verdict.picture:
                reason = f"its picture is here already; drop {caption.name} alone to change the caption"
                self.verdicts.append(_refused(caption, reason))
            else:
                self.verdicts.append(_refused(caption, f"its picture {verdict.name} is not used"))

    def _keep(self, place: int, caption: Caption) -> Verdict | None:
        """The .txt counts before a row of a table, as in training; of two alike the first."""
        earlier = self.captions.get(place)
        if earlier is None:
            self.captions[place] = caption
            return None
        loser = caption
        if earlier.suffix and not caption.suffix:
            self.captions[place], loser = caption, earlier
        winner = self.captions[place]
        return _refused(loser, f"{winner.name} says it already")


def _refused(caption: Caption, reason: str) -> Verdict:
    return Verdict(caption.name, accepted=False, reason=reason, kind="caption")
