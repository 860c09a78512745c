"""`python -m tuner.toybox.making STATE`: train, publish and examine; called again, it goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTokenizer

from ... import toybox
from . import agreement, bundles, card, classifier, examine, judges, publish, sd15, sd35


def main() -> None:
    """Make every model of the toybox and its card, into the package."""
    parser = argparse.ArgumentParser(prog="python -m tuner.toybox.making", description=__doc__)
    parser.add_argument("state", type=Path, help="folder for the states of training; keep it to go on later")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=tuple(examine.FAMILIES), help="make this model; leave the rest as it is")
    parser.add_argument(
        "--interim", action="store_true", help="grade sd35 as far as it has come; trains and publishes none of it"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.interim:
        print(json.dumps(interim(asked.state), indent=2))  # noqa: T201
        return
    make(asked.state, asked.only)
    card.write(toybox.MODELS, figures(asked.state, asked.only))
    print((toybox.MODELS / "README.md").read_text(encoding="utf-8"))  # noqa: T201


def make(state: Path, only: str | None = None) -> None:
    """Train each model, from its newest state, and publish it."""
    words = _tokenizer()
    if only in (None, "sd15"):
        sd15.make(state, words)
    if only in (None, "sd35"):
        sd35.make(state, toybox.folder("sd35"), sd35.COURSES)
    if only is None:
        publish.judge(toybox.judge("clip"), judges.train_clip(state / "clip", words), reads=True)
        publish.judge(toybox.judge("dino"), judges.train_dino(state / "dino"), reads=False)
        bundles.write(toybox.PICTURES)


def figures(state: Path, only: str | None = None) -> dict[str, Any]:
    """What the card publishes: those of SD1.5 and of the judges, and under its own name each later model's."""
    found = card.read(toybox.MODELS)
    examiner = classifier.train(state / "examiner")
    clip = toybox.judge("clip")
    if only in (None, "sd15"):
        found |= examine.figures("sd15", examiner, clip)
    if only in (None, "sd35"):
        found["sd35"] = examine.figures("sd35", examiner, clip)
    if only is None or "judges" not in found:
        found["judges"] = agreement.told_apart(clip, toybox.judge("dino"))
    if only is None or "shuffled" not in found:
        found["shuffled"] = examine.at_chance(classifier.train(state / "shuffled", shuffled=True))
    return found


def interim(state: Path, count: int = 100) -> dict[str, Any]:
    """Shares of right answers about held-out single objects that the newest states draw."""
    examiner = classifier.train(state / "examiner")
    scenes = examine.held_out(("single",), count)
    with tempfile.TemporaryDirectory() as scratch:
        model = sd35.make(state, Path(scratch), sd35.COURSES.upto(0))
        settings = {**examine.FAMILIES["sd35"].backbone, "model": str(model)}
        graded = examine.examine(settings, examiner, scenes, examine.SINGLE, examine.FAMILIES["sd35"].guidance)
    return {"prompts": graded.count, "right": graded.right, "each": graded.each}


def _tokenizer() -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as scratch:
        publish.tokenizer(Path(scratch))
        return CLIPTokenizer.from_pretrained(scratch)


if __name__ == "__main__":
    main()
