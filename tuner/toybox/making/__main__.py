"""`python -m tuner.toybox.making STATE`: train, publish and examine; called again, it goes on where it stopped."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from ... import toybox
from . import autoencoder, bundles, card, classifier, decoder, denoiser, examine, judges, publish, reader


def main() -> None:
    """Make every model of the toybox and its card, into the package."""
    parser = argparse.ArgumentParser(prog="python -m tuner.toybox.making", description=__doc__)
    parser.add_argument("state", type=Path, help="folder for the states of training; keep it to go on later")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    make(asked.state)
    bundles.write(toybox.PICTURES)
    examiner = classifier.train(asked.state / "examiner")
    figures = examine.figures(examiner, toybox.folder("sd15"), toybox.judge("clip"), toybox.judge("dino"))
    figures["shuffled"] = examine.at_chance(classifier.train(asked.state / "shuffled", shuffled=True))
    card.write(toybox.MODELS, figures)
    print((toybox.MODELS / "README.md").read_text(encoding="utf-8"))  # noqa: T201


def make(state: Path) -> None:
    """Train each model, from its newest state, and publish it."""
    words = _tokenizer()
    vae = autoencoder.train(state / "vae")
    text = reader.train(state / "reader", words)
    unet, text = denoiser.train(state / "denoiser", vae, text, words)
    vae = decoder.train(state / "decoder", vae)
    publish.pipeline(toybox.folder("sd15"), unet, vae, text)
    publish.judge(toybox.judge("clip"), judges.train_clip(state / "clip", words), reads=True)
    publish.judge(toybox.judge("dino"), judges.train_dino(state / "dino"), reads=False)


def _tokenizer() -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as scratch:
        publish.tokenizer(Path(scratch))
        return CLIPTokenizer.from_pretrained(scratch)


if __name__ == "__main__":
    main()
