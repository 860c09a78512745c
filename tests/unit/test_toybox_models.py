"""The shipped models: genuine files that plain libraries load, small, and as good as their card says."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tuner import toybox
from tuner.draws import Draws
from tuner.formats.container import read_header
from tuner.toybox import words, world

MB = 1_000_000


def test_loads_in_plain_diffusers():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(toybox.folder("sd15"), local_files_only=True)
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings == 77
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == world.SIZE
    assert pipeline.scheduler.config.prediction_type == "epsilon"


def test_weights_are_half_precision_and_small():
    files = sorted(toybox.MODELS.rglob("*.safetensors"))
    assert {path.parent.name for path in files} >= {"unet", "vae", "text_encoder", "clip", "dino"}
    for path in files:
        assert {entry.dtype for entry in read_header(path).tensors.values()} == {"F16"}, path
    everything = [path for path in (*toybox.MODELS.rglob("*"), *toybox.PICTURES.rglob("*")) if path.is_file()]
    later = [path for path in everything if toybox.folder("sd35") in path.parents]
    assert sum(path.stat().st_size for path in later) <= 13 * MB
    assert sum(path.stat().st_size for path in everything if path not in later) <= 12 * MB


def test_configs_are_those_of_the_files():
    found = toybox.configs("sd15")
    assert set(found) == {"unet", "vae", "text_encoder", "scheduler"}
    assert found["unet"]["cross_attention_dim"] == found["text_encoder"]["hidden_size"]
    assert found["text_encoder"]["vocab_size"] == len(words.vocabulary(words.merges()))


def test_the_tokenizer_is_the_words_own():
    """A changed vocabulary would silently rename every token that the weights have learned."""
    for folder in (toybox.folder("sd15") / "tokenizer", toybox.judge("clip")):
        for name, content in words.tokenizer_files().items():
            text = (folder / name).read_text(encoding="utf-8")
            assert (text if isinstance(content, str) else json.loads(text)) == content


def test_a_rare_word_is_spelt(sd15_folder):
    from tuner.backbones.clip_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(sd15_folder / "tokenizer", 77)
    names = tokenizer.convert_ids_to_tokens(tokenizer("a photo of sks mushroom").input_ids)
    assert names == ["<|startoftext|>", "a</w>", "photo</w>", "of</w>", "sk", "s</w>", "mushroom</w>", "<|endoftext|>"]


def test_every_byte_is_in_the_vocabulary(sd15_folder):
    from tuner.backbones.clip_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(sd15_folder / "tokenizer", 77)
    text = "naïve 犬 🐕 \x7f sks's"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert len(words.byte_characters()) == len(set(words.byte_characters())) == 256


def test_bundled_pictures_have_what_is_said_of_them():
    from tuner.toybox.bundled import BUNDLES

    for role, bundle in BUNDLES.items():
        assert len(list(bundle.folder.rglob("*.png"))) >= 5, role
    assert BUNDLES["images"].folder.joinpath("00.txt").read_text(encoding="utf-8").strip().endswith("in sks style")


def test_the_card_keeps_the_promise():
    figures = json.loads((toybox.MODELS / "figures.json").read_text(encoding="utf-8"))
    single, composed = figures["single objects"], figures["compositions"]
    assert (single["prompts"], composed["prompts"]) == (500, 300)
    assert single["right"] >= 0.90
    assert composed["right"] >= 0.60
    for part in (single, composed):
        assert min(part["drawn pictures after a VAE round trip"]["each"].values()) >= 0.99
    for name, share in figures["shuffled"]["each"].items():
        assert share <= figures["shuffled"]["the commonest answer"][name] + 0.05


@pytest.fixture(scope="module")
def judge():
    import torch

    from tuner.evaluation.judges import clip

    return clip(toybox.judge("clip"), torch.device("cpu"))


def zero_shot(judge, pictures, answers):
    """Which of some texts each picture shows, in the eyes of the judge."""
    return (judge.pictures(pictures) @ judge.texts(answers).T).argmax(1)


def test_the_judge_finds_each_pictures_caption(judge):
    """Among 60 full descriptions of scenes that it was not trained on."""
    scenes = [world.sample(Draws(7).generator("unseen", n), "single") for n in range(60)]
    said = [world.full(scene) for scene in scenes]
    assert (zero_shot(judge, [world.render(scene) for scene in scenes], said) == np.arange(60)).mean() >= 0.95


def test_the_judge_knows_every_class(judge):
    """All else alike; shown askew, its answers change with the pictures."""
    from tuner.toybox.scenes import Scene, Thing

    right = []
    for colour, ground in (("blue", "white"), ("red", "black"), ("green", "yellow"), ("black", "grass")):
        shown = [world.render(Scene((Thing(name, colour, None, 0.6),), ground)) for name in world.CLASSES]
        said = [f"a {colour} {name} {world.said(ground)}" for name in world.CLASSES]
        right.append(zero_shot(judge, shown, said) == np.arange(12))
        assert (zero_shot(judge, shown[1:] + shown[:1], said) == np.arange(12)).mean() < 0.2
    assert np.mean(right) >= 0.75


def test_the_model_draws_what_it_is_told(judge):
    """Classes and colours of pictures, by the judge; with the prompts in another order it is wrong."""
    import torch

    from tuner.backbones import Backbone
    from tuner.sampling import Shot, paint

    model = Backbone.read({"name": "sd15", "model": "toybox"}).load(device=torch.device("cpu"), dtype=torch.float32)
    colours = ["red", "blue", "green", "yellow"] * 3
    prompts = [f"a {colour} {name} on a white background" for colour, name in zip(colours, world.CLASSES, strict=True)]
    shots = [Shot(prompt, seed=n, size=(64, 64), steps=12, guidance=5.0) for n, prompt in enumerate(prompts)]
    found = zero_shot(judge, paint(model, shots, batch=12), prompts)
    assert (found == np.arange(len(prompts))).mean() >= 0.75


def test_the_second_judge_tells_subjects_apart():
    """Pictures of one subject are nearer than those of two of the same class."""
    import torch

    from tuner.evaluation.judges import dino

    seer = dino(toybox.judge("dino"), torch.device("cpu"))
    seen = [seer.pictures(world.Subject.make(seed, "fish").photos(4, 64)) for seed in range(900, 908)]
    own = np.mean([(rows @ rows.T)[np.triu_indices(4, 1)].mean() for rows in seen])
    other = np.mean([(seen[a] @ seen[b].T).mean() for a in range(8) for b in range(a)])
    assert own > 0.75
    assert other < own - 0.35


@pytest.mark.parametrize(
    "module",
    [
        "tuner.toybox",
        "tuner.sampling",
        "tuner.data.prior",
        "tuner.backbones.sd15",
        "tuner.backbones.sd15_model",
        "tuner.backbones.single_file",
        "tuner.backbones.loading",
        "tuner.backbones.download",
        "tuner.backbones.unet_layout",
    ],
)
def test_imports_nothing_heavy(module):
    code = (
        f"import sys, {module} as m\n"
        "from tuner.backbones import Backbone\n"
        "Backbone.read({'name': 'sd15', 'model': 'toybox'}).layout()\n"
        "Backbone.read({'name': 'sd15', 'model': 'a/b'}).layout()\n"
        "print([n for n in ('torch', 'diffusers', 'transformers', 'peft', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
