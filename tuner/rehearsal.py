"""`--rehearse`: any recipe on the small model that ships here, in a minute, by a preset that the backbone names."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .adapters import Adapter
from .backbones import Backbone
from .optim.optimizers import Optimizer
from .overrides import dotted
from .part_types import default_at
from .recipe import Recipe
from .tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .toybox.bundled import Bundle
    from .yaml_text import Path as KeyPath

COUNTS = frozenset({"steps", "every", "generate", "accumulate", "warmup", "repeats", "keep", "rank"})
"""Keys where the preset is an upper limit: a recipe that already asks for less keeps its own."""
DRAWN = frozenset({"sample", "prior"})
"""Sections where null sampler steps are no switch: they stand for the base's own number."""

HOLD_OUT = 0.2
"""Share of the training pictures that stands in for held-out ones that are not there."""


@dataclass(slots=True)
class Rehearsal:
    """A recipe's values after the preset."""

    tree: dict[str, Any]
    changes: dict[KeyPath, Any] = field(default_factory=dict)
    """What the preset set, by key path, in its own order."""
    notes: list[str] = field(default_factory=list)
    """One line for each folder that the bundled pictures stand in for."""
    before: dict[KeyPath, Any] = field(default_factory=dict)
    """What the recipe gave for the keys of `changes`; absent where it gave nothing."""

    def set(self, path: KeyPath, value: Any) -> None:
        section, key = _at(self.tree, path[:-1]), path[-1]
        if key in section:
            self.before[path] = section[key]
        section[key] = value
        self.changes[path] = value

    def withdraw(self, path: KeyPath) -> None:
        """Give a key of the preset its own value back: it has no effect in this recipe."""
        section = _at(self.tree, path[:-1])
        del section[path[-1]]
        if path in self.before:
            section[path[-1]] = self.before[path]
        del self.changes[path]

    def lines(self) -> list[tuple[str, Any]]:
        """What the preset set, as (key, value)."""
        return [(dotted(path), value) for path, value in self.changes.items()]


def rehearsal_changes(tree: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What `--rehearse` would set in a recipe's values, as (key, value)."""
    return rehearse(tree).lines()


def rehearse(tree: Mapping[str, Any], overridden: Sequence[KeyPath] = ()) -> Rehearsal:
    """Scale a recipe's values down by its backbone's preset.

    Args:
        tree: the values as read, overrides included; not changed. What is wrong in them is left for the validation.
        overridden: key paths that were set on the command line; the preset leaves them alone.
    """
    made = Rehearsal(copy.deepcopy(dict(tree)))
    name = made.tree.get("backbone")
    name = name.get("name") if isinstance(name, dict) else name
    backbone = Backbone.family.get(name) if isinstance(name, str) else None
    if backbone is None or not issubclass(backbone, Backbone):
        return made
    if isinstance(name, str) and isinstance(made.tree["backbone"], str):
        made.tree["backbone"] = {"name": name}
    preset = {**backbone.rehearsal, **_presets_of_adapters(made.tree)}
    objective = made.tree.get("objective")
    if (objective is None or isinstance(objective, str)) and any(key.startswith("objective.") for key in preset):
        made.tree["objective"] = {"name": objective or backbone.default_objective}
    preset |= _rates_of_optimizer(made.tree, preset)
    for dotted_key, value in {**preset, **_preset_of_task(made.tree, preset)}.items():
        for path in _places(made.tree, tuple(dotted_key.split("."))):
            if not _touched(path, overridden):
                _limit(made, path, value, overridden)
    _begin_anew(made, overridden)
    _stand_in(made, overridden)
    _hold_out(made, overridden)
    return made


def _presets_of_adapters(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe's adapters want otherwise than their backbone; of two that disagree, the last."""
    named = tree.get("adapters")
    preset: dict[str, Any] = {}
    for entry in named if isinstance(named, list) else [named]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        member = Adapter.family.get(name) if isinstance(name, str) else None
        if member is not None and issubclass(member, Adapter):
            preset |= member.rehearsal
    return preset


def _rates_of_optimizer(tree: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rates of `preset` as the recipe's optimizer takes them."""
    train = tree.get("train")
    named = train.get("optimizer") if isinstance(train, dict) else None
    name = named.get("name") if isinstance(named, dict) else named
    optimizer = Optimizer.family.get(name) if isinstance(name, str) else None
    if optimizer is None or not issubclass(optimizer, Optimizer):
        return {}
    return {key: optimizer.rate_of_adamw.of(value) for key, value in preset.items() if key.endswith(".lr")}


def _preset_of_task(tree: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe's task bears at most, where that is less than `preset` says."""
    named = tree.get("task")
    name = named.get("name") if isinstance(named, dict) else named
    task = Task.family.get(name) if isinstance(name, str) else None
    if task is None or not issubclass(task, Task):
        return {}
    return {key: most for key, most in task.rehearsal.items() if most < preset.get(key, most + 1)}


def _limit(made: Rehearsal, path: KeyPath, value: Any, overridden: Sequence[KeyPath]) -> None:
    section, key = _at(made.tree, path[:-1]), path[-1]
    epochs = (*path[:-1], "epochs")
    if path == ("train", "steps") and section.get("epochs") is not None:
        if not _touched(epochs, overridden):
            made.set(epochs, None)
            made.set(path, value)
        return
    given = section[key] if key in section else default_at(Recipe, path)
    if key in COUNTS:
        if given is None and not (key == "steps" and DRAWN.intersection(path)):
            return  # switched off; the preset does not switch it on
        if isinstance(given, (int, float)) and isinstance(value, (int, float)) and given <= value:
            return
    if given != value:
        made.set(path, value)


def _begin_anew(made: Rehearsal, overridden: Sequence[KeyPath]) -> None:
    """Drop the adapters that the recipe's own begin as: they are of another size."""
    for path in _places(made.tree, ("adapters", "init_from")):
        section = _at(made.tree, path[:-1])
        if section.get("init_from") is not None and not _touched(path, overridden):
            made.notes.append(f"{section['init_from']} ({dotted(path)}) is of another size; the rehearsal begins anew")
            del section["init_from"]


def _stand_in(made: Rehearsal, overridden: Sequence[KeyPath]) -> None:
    """Put bundled pictures, and what is said of them, where a folder of the recipe's is not on this machine."""
    from .toybox.bundled import BUNDLES

    data = made.tree.get("data")
    if not isinstance(data, dict):
        return
    for role in [role for role in BUNDLES if role in data]:
        absent = _absent(made, ("data", role, "path"), overridden)
        for path in absent:
            section = _at(made.tree, path[:-1])
            made.notes.append(
                f"{section['path']} ({dotted(path)}) is not there; the bundled pictures and captions stand in"
            )
            section["path"] = str(BUNDLES[role].folder)
        if absent:
            _speak(made, BUNDLES[role], overridden)


def _absent(made: Rehearsal, keys: tuple[str, ...], overridden: Sequence[KeyPath]) -> list[KeyPath]:
    """Where a key names a folder that is not on this machine, unless the command line named it."""
    return [
        path
        for path in _places(made.tree, keys)
        if isinstance(given := _at(made.tree, path[:-1]).get("path"), str)
        and not _touched(path, overridden)
        and not os.path.exists(os.path.expanduser(given))
    ]


def _hold_out(made: Rehearsal, overridden: Sequence[KeyPath]) -> None:
    """Hold out some of the pictures that are there, where a folder of held-out ones is not."""
    for path in _absent(made, ("validation", "images", "path"), overridden)[:1]:
        given = _at(made.tree, path[:-1])["path"]
        made.notes.append(f"{given} ({dotted(path)}) is not there; {HOLD_OUT:.0%} of the training pictures stand in")
        del made.tree["validation"]["images"]
        made.set(("validation", "hold_out"), HOLD_OUT)


def _speak(made: Rehearsal, bundle: Bundle, overridden: Sequence[KeyPath]) -> None:
    """Say of the bundled pictures what they show, wherever the recipe says something else.

    A word that the recipe teaches is left in its captions, stands in the prompts, and begins as what they show.
    """
    words = _words(made.tree)
    for role, caption in bundle.captions.items():
        for path in _places(made.tree, ("data", role, "caption")):
            given = _at(made.tree, path[:-1]).get("caption")
            if isinstance(given, str) and not _touched(path, overridden) and not any(word in given for word in words):
                made.set(path, caption)
    sample = made.tree.get("sample")
    prompts = ("sample", "prompts")
    if bundle.prompts and isinstance(sample, dict) and sample.get("prompts") and not _touched(prompts, overridden):
        made.set(prompts, [text.replace(bundle.called, words[0]) if words else text for text in bundle.prompts])
    for path in _places(made.tree, ("adapters", "init")) if words and bundle.kind else ():
        if _at(made.tree, path[:-1]).get("token") in words and not _touched(path, overridden):
            made.set(path, bundle.kind)


def _words(tree: Mapping[str, Any]) -> list[str]:
    """The words that the recipe's adapters teach; what is wrong in an adapter is left for the validation."""
    named = tree.get("adapters")
    found: list[str] = []
    for entry in named if isinstance(named, list) else [named]:
        try:
            found += Adapter.read(entry).words()
        except ValueError:
            continue
    return found


def _places(tree: Any, keys: tuple[str, ...], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Where a dotted key stands: its section is there, and of a list every entry that gives the key."""
    if isinstance(tree, list):
        for index, entry in enumerate(tree):
            if len(keys) > 1 or (isinstance(entry, dict) and set(keys) <= entry.keys()):
                yield from _places(entry, keys, (*path, index))
    elif isinstance(tree, dict):
        if len(keys) == 1:
            yield (*path, *keys)
        elif keys[0] in tree:
            yield from _places(tree[keys[0]], keys[1:], (*path, keys[0]))


def _at(tree: Any, path: KeyPath) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _touched(path: KeyPath, overridden: Sequence[KeyPath]) -> bool:
    """Whether a path or a section around it was set on the command line."""
    return any(path[: len(other)] == other for other in overridden)
