"""The few questions that make a whole recipe: what to train on which base, pictures, words, quality, name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import UsageError
from tuner.identifier import judge, suggest
from tuner.overrides import Override
from tuner.overrides import apply as override
from tuner.recipe import Recipe
from tuner.recipe_file import open_recipe, read_text
from tuner.strict import UNPRINTABLE
from tuner.yaml_write import to_yaml

from . import yaml_spans as spans
from .document import revise
from .methods import Method, method
from .quality import QUALITIES, facts, scale
from .words import Words, token

if TYPE_CHECKING:
    from tuner.yaml_text import Path as KeyPath

    from ..workspace import Workspace

UNNAMED = "A recipe without a name"
MAX_WORD = 60
"""Characters of a trigger or class."""
MAX_NAME = 80

HELP: Mapping[str, str] = {
    "method": "What you have and what should come of it.",
    "practice": "The practice model draws simple pictures of 64 pixels and trains in a minute or two on any machine. "
    "Try the whole way with it first; its result is of no use with a real model.",
    "dataset": "The pictures to learn from.",
    "trigger": "A rare word that stands for what is learned. Write it in a prompt to call it up. Made-up words of "
    "three or four letters serve best.",
    "subject": "What kind of thing it is, in one word: dog, woman, teapot. The model first draws ordinary pictures of "
    "that kind and trains on them as well, so that it does not forget what others of the kind look like "
    "(this is called prior preservation). Leave it empty to do without: faster, but every dog becomes yours.",
    "quality": "How long it trains and how much it can take in.",
    "name": "What you will find it by.",
}
"""The help of each basic field, in plain words."""
STARTS_AS = (
    "What your thing or style is like, in one word: the new word begins as a copy of it. Leave it empty to begin with "
    "noise."
)
"""The help of `subject` where a new word is learned."""


@dataclass(frozen=True, slots=True)
class Basics:
    """The answers."""

    method: str = "dreambooth_lora"
    """A shipped recipe's name."""
    practice: bool = False
    """On the practice model instead of the recipe's base."""
    dataset: str = ""
    """Id in the workspace."""
    trigger: str = "sks"
    subject: str = ""
    """The class, such as `dog`; empty does without."""
    quality: str = "normal"
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Basics:
        """From what `to_json` gave, or a page sent; what is not there, or of another kind, keeps its default."""
        made = cls()
        kinds = {one.name: type(getattr(made, one.name)) for one in fields(cls)}
        return replace(made, **{key: tree[key] for key, kind in kinds.items() if isinstance(tree.get(key), kind)})


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is to be learned from."""

    folder: Path
    number: int = 0
    captioned: int = 0
    """Pictures with a caption of their own."""

    @classmethod
    def of(cls, workspace: Workspace, dataset: str) -> Pictures:
        """A dataset of the workspace. Raises: UnknownId; DataError, StorageError."""
        from tuner.dataset.store import Dataset

        found = Dataset(workspace.dataset(dataset))
        captions = found.captions()
        return cls(found.images, len(captions), sum(bool(text) for text in captions.values()))


def problems(basics: Basics) -> dict[str, str]:
    """What is wrong with the answers, by field; empty where a recipe can be made of them. Raises: UsageError."""
    chosen = method(basics.method)
    wrong: dict[str, str] = {}
    for key, text, most in (
        ("trigger", basics.trigger, MAX_WORD),
        ("subject", basics.subject, MAX_WORD),
        ("name", basics.name, MAX_NAME),
    ):
        if found := UNPRINTABLE.search(text):
            wrong[key] = f"holds the unprintable character U+{ord(found[0]):04X}"
        elif len(text.strip().splitlines()) > 1:
            wrong[key] = "must be on one line"
        elif len(text.strip()) > most:
            wrong[key] = f"must be at most {most} characters long"
    if chosen.trigger and not basics.trigger.strip():
        wrong["trigger"] = "is missing: choose a word for what is learned, such as sks"
    elif chosen.token and "trigger" not in wrong and token(basics.trigger) is None:
        wrong["trigger"] = "needs letters from a to z or digits, for a new word is made of it"
    if basics.quality not in QUALITIES:
        wrong["quality"] = f"must be one of {', '.join(QUALITIES)}"
    return wrong


def notes(basics: Basics) -> dict[str, list[str]]:
    """Advice on the answers, by field: nothing here stands in the way. Raises: UsageError."""
    chosen = method(basics.method)
    said: dict[str, list[str]] = {}
    trigger, subject = basics.trigger.strip(), basics.subject.strip()
    if chosen.token:
        if new := token(trigger):
            said["trigger"] = [f"write it {new} in a prompt, angle brackets and all"]
        return said
    if chosen.trigger and trigger:
        vocabularies, _ = open_recipe(chosen.key).recipe.backbone.vocabularies()
        verdicts = [judge(word, vocabularies) for word in trigger.split()[:5]]
        if verdicts and all(verdict.fault for verdict in verdicts):
            better = ", ".join(next_words(vocabularies))
            said["trigger"] = [f"{v.word} {v.fault}" for v in verdicts] + [f"rare words serve better: {better}"]
    if subject and trigger.lower() == subject.lower():
        said.setdefault("subject", []).append(
            "is the trigger, too: the trigger names yours alone, the class all of them"
        )
    if chosen.prior and not subject:
        said.setdefault("subject", []).append("left empty: nothing keeps the rest of its kind as it is")
    return said


def next_words(vocabularies: Any, number: int = 3) -> list[str]:
    """Words that name a subject well."""
    found = suggest(vocabularies)
    return [next(found).word for _ in range(number)]


def apply(basics: Basics, pictures: Pictures) -> str:
    """A complete recipe with its comments: the method's own, with the answers in their places.

    Raises: UsageError naming each answer that it cannot be made of.
    """
    if wrong := problems(basics):
        raise UsageError("\n".join(f"{key} {text}" for key, text in wrong.items()), "mend these answers first")
    chosen = method(basics.method)
    text = chosen.file.read_text("utf-8")
    tree, said = _worded(chosen, copy.deepcopy(spans.document(text).value), basics, pictures)
    if basics.practice:
        said |= _rehearsed(tree, chosen)
    scale(tree, basics.quality)
    said["sample", "every"] = "steps between sample pictures; the first are drawn before the first step"
    said["save", "every"] = "steps between files that you can use"
    body = text[text.index("\n\n") + 1 :]
    return _header(chosen, basics) + revise(body, tree, said)


def outcome(basics: Basics, pictures: Pictures) -> str:
    """What the answers come to: `800 training steps, rank 16, 200 class pictures drawn first`. Raises: as `apply`."""
    return facts(spans.document(apply(basics, pictures)).value)


def _header(chosen: Method, basics: Basics) -> str:
    name = " ".join(basics.name.split()) or UNNAMED
    lines = [name, f"{chosen.title}.", f"Made from the recipe {chosen.key}; quality: {basics.quality}."]
    if basics.practice:
        lines.append("On the practice model that ships with tuner: small pictures, a minute or two on a CPU.")
    return "".join(f"# {line}\n" for line in lines)


def _rehearsed(tree: dict[str, Any], chosen: Method) -> dict[KeyPath, str]:
    """Write the rehearsal's preset into a recipe's values, so that the run is one like any other; gives comments."""
    reading = read_text(to_yaml(tree), chosen.key, rehearse=True)
    if "objective" not in tree and any(key.startswith("objective.") for key, _ in reading.changes):
        tree["objective"] = {"name": reading.recipe.backbone.default_objective}
    places = [override(tree, Override(key, tuple(key.split(".")), value), Recipe) for key, value in reading.changes]
    return dict.fromkeys(places, "for the practice model")


def _worded(
    chosen: Method, tree: dict[str, Any], basics: Basics, pictures: Pictures
) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The recipe's values with the answers in their places, and comments that go with them."""
    said: dict[KeyPath, str] = {}
    data = tree["data"]
    source = data[chosen.role]
    source["path"] = str(pictures.folder)
    said["data", chosen.role, "path"] = "your pictures, with their captions"
    if not chosen.trigger:
        return tree, said
    words = Words(chosen, basics.trigger, basics.subject)
    if not words.subject:
        _without_class(tree, words)
    for role in data.values():
        if isinstance(role, dict) and isinstance(role.get("caption"), str):
            role["caption"] = words.put_in(role["caption"])
    said["data", chosen.role, "caption"] = "of pictures that have no caption of their own"
    if "prior" in data:
        said["data", "prior", "caption"] = "the same sentence without your word"
        said["data", "prior", "generate"] = "class pictures that the model draws first, once"
    if chosen.token:
        for number, adapter in enumerate(tree["adapters"]):
            if adapter.get("name") == "textual_inversion":
                adapter["token"] = words.trigger
                said["adapters", number, "init"] = "what it begins as"
                if words.subject:
                    adapter["init"] = words.subject
                else:
                    adapter.pop("init", None)
    elif pictures.captioned or "trigger" in data:
        data["trigger"] = words.trigger
    prompts = [words.put_in(prompt) for prompt in tree["sample"]["prompts"]]
    tree["sample"]["prompts"] = prompts
    for number, prompt in enumerate(prompts):
        known = words.trigger in prompt
        said["sample", "prompts", number] = "with your word" if known else "without it: this should stay as it is"
    return tree, said


def _without_class(tree: dict[str, Any], words: Words) -> None:
    """Take prior preservation out, and the prompts that only show what it keeps."""
    tree["data"].pop("prior", None)
    if isinstance(tree["task"], dict):
        tree["task"].pop("prior_weight", None)
    prompts = tree["sample"]["prompts"]
    tree["sample"]["prompts"] = [one for one in prompts if words.has_trigger(one) or not words.has_class(one)]
