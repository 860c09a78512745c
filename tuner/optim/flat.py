"""Optimizers that treat each number by itself: the tensors of a group lie end to end, so a step is a few kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .one_by_one import OneByOne

MOST, MOST_ON_CPU = 2**22, 2**17
"""Numbers that are updated at once, but for a larger tensor: a step holds several copies of them in float32, which on a
CPU should lie in its cache."""
SINCE = "since"
"""Key of a state: the first step that a parameter had a gradient in, or ALONE."""
ALONE = -1
"""Of a parameter that lacked a gradient in a later step: from then on it is updated by itself."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Parameters of one group, type and device that have had a gradient in the same steps, and what is remembered."""

    members: Sequence[Tensor]
    indices: Sequence[int]
    """Of the members, among all parameters."""
    group: dict[str, Any]
    state: dict[str, Tensor]

    def values(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.members])

    def gradients(self) -> Tensor:
        """Float32."""
        return torch.cat([p.grad.reshape(-1) for p in self.members if p.grad is not None]).float()

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Views of `flat` in the members' shapes."""
        sizes = [p.numel() for p in self.members]
        return [part.view(p.shape) for part, p in zip(flat.split(sizes), self.members, strict=True)]


class Flat(OneByOne):
    """As `OneByOne`, with `begin` and `move` given many parameters as one vector, whose numbers they treat alike.

    What it remembers of a parameter is a view into what it remembers of them all. A number that they share, such as
    `step`, is named in `common`. In backward, each parameter is given by itself.
    """

    common: ClassVar[frozenset[str]] = frozenset({"step"})

    def __init__(self, groups: Sequence[dict[str, Any]], *, seed: int, in_backward: bool) -> None:
        super().__init__(groups, seed=seed, in_backward=in_backward)
        self.since: dict[Tensor, int] = {}
        self._stretches: dict[tuple[int, ...], Stretch] = {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for stretch in () if self.in_backward else self.stretches():
            old = stretch.values().float()
            new, after = self._moved(old, stretch.gradients(), stretch.state, stretch.group, self.found_inf)
            self.keep(stretch, after)
            self.put(stretch, new, self.found_inf)
        self.calls += 1
        self.squares = None

    def put(self, stretch: Stretch, new: Tensor, found: Tensor | None) -> None:
        """Give the members their next values, each rounded under a key of its own."""
        parts = stretch.parts(new)
        if stretch.members[0].dtype == torch.bfloat16:
            each = zip(parts, stretch.members, stretch.indices, strict=True)
            parts = [self._rounded(part, p.detach(), index, found) for part, p, index in each]
        torch._foreach_copy_(list(stretch.members), parts)  # pyright: ignore[reportPrivateImportUsage]

    @staticmethod
    def keep(stretch: Stretch, after: Mapping[str, Tensor]) -> None:
        """Remember `after`, in place: the parameters' own states look into it."""
        for name, value in after.items():
            stretch.state[name].copy_(value)

    def stretches(self) -> list[Stretch]:
        """What has a gradient now. Which parameters lie together follows from the steps that each was in alone."""
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for p, (index, group) in self.places.items():
            if p.grad is None:
                if p in self.since:
                    self.since[p] = ALONE
                continue
            since = self.since.setdefault(p, self.calls)
            key = (index,) if since == ALONE else (id(group), p.dtype, p.device, since)
            alike.setdefault(key, []).append(p)
        now = {tuple(map(id, members)): members for together in alike.values() for members in _cut(together)}
        self._stretches = {ids: self._stretches.get(ids) or self._stretch(members) for ids, members in now.items()}
        return list(self._stretches.values())

    def _stretch(self, members: Sequence[Tensor]) -> Stretch:
        indices, groups = zip(*(self.places[p] for p in members), strict=True)
        if members[0] in self.state:
            own = [self.state[p] for p in members]
            state = {
                name: first.clone() if name in self.common else torch.cat([each[name].reshape(-1) for each in own])
                for name, first in own[0].items()
            }
        else:
            state = self._fresh(torch.cat([p.detach().reshape(-1) for p in members]))
        stretch = Stretch(members, indices, groups[0], state)
        views = {name: None if name in self.common else stretch.parts(flat) for name, flat in state.items()}
        for i, p in enumerate(members):
            self.state[p] = {name: state[name] if parts is None else parts[i] for name, parts in views.items()}
        return stretch

    def state_dict(self) -> dict[str, Any]:
        tree = super().state_dict()
        parameters = list(self.places)
        for index, own in tree["state"].items():
            if (p := parameters[index]) in self.since:
                own[SINCE] = torch.tensor(self.since[p], dtype=torch.int64)
        return tree

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._stretches.clear()
        self.since = {p: int(own.pop(SINCE)) for p, own in self.state.items() if SINCE in own}


def _cut(together: Sequence[Tensor]) -> list[list[Tensor]]:
    """In stretches of that many numbers, or of one tensor."""
    found: list[list[Tensor]] = []
    room = 0
    for p in together:
        if p.numel() > room:
            found.append([])
            room = MOST_ON_CPU if p.device.type == "cpu" else MOST
        found[-1].append(p)
        room -= p.numel()
    return found
