"""How the toybox's Stable Diffusion 3.5 is made: shapes, words, files, and training that can be stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tuner.backbones import Backbone
from tuner.backbones.sd35_text import load_t5_tokenizer, t5_rows
from tuner.sampling import Shot, paint
from tuner.toybox import pieces, world
from tuner.toybox.making import autoencoder, card, fit, pictures, sd35, sd35_parts, sd35_readers, sd35_transformer
from tuner.types import Cond

MB = 1_000_000


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """The whole model after no step of training, as it would be published."""
    return sd35.make(tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("sd35"), sd35.COURSES.upto(0))


@pytest.fixture(scope="module")
def t5_words(untrained):
    return load_t5_tokenizer(untrained / "tokenizer_3")


def test_plain_diffusers_loads_it_and_draws(untrained):
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(untrained, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.shift == sd35_parts.SHIFT
    assert pipe.vae.config.shift_factor is not None
    assert pipe.tokenizer.model_max_length == pipe.tokenizer_2.model_max_length == sd35_parts.CLIP_LENGTH
    assert pipe.tokenizer_2.pad_token == "!"
    drawn = pipe("a red star", num_inference_steps=1, height=64, width=64, max_sequence_length=32).images
    assert drawn[0].size == (64, 64)


@pytest.mark.parametrize("keys", [{}, {"t5": False, "t5_length": 32}, {"t5_length": 32}])
def test_the_backbone_loads_it_and_draws(untrained, keys):
    model = Backbone.read({"name": "sd35", "model": str(untrained), **keys}).load(
        device=torch.device("cpu"), dtype=torch.float32
    )
    assert (model.factor, model.channels, model.warnings) == (4, 16, ())
    assert paint(model, [Shot("a red star", size=(64, 64), steps=1, guidance=1.0)])[0].size == (64, 64)


def test_the_paper_sizes_hold_and_all_of_it_is_small(untrained):
    config = json.loads((untrained / "transformer/config.json").read_text())
    depth = config["num_layers"]
    assert config["num_attention_heads"] == depth
    assert config["num_attention_heads"] * config["attention_head_dim"] == 64 * depth
    assert config["qk_norm"] == "rms_norm"
    assert 0 < len(config["dual_attention_layers"]) < depth
    found = Backbone.read({"name": "sd35", "model": str(untrained)}).layout()
    assert found.parameters["transformer"] < 4.4e6
    assert sum(path.stat().st_size for path in untrained.rglob("*") if path.is_file()) <= 13 * MB


def test_places_can_be_told_apart(untrained):
    """At 64 px: with places too near each other the table has three distinct directions for eight of them."""
    model = Backbone.read({"name": "sd35", "model": str(untrained)}).load(
        device=torch.device("cpu"), dtype=torch.float32
    )
    row = model.denoiser.pos_embed.cropped_pos_embed(16, 16)[0, :8].double()  # eight neighbours
    strengths = torch.linalg.svdvals(row - row.mean(0))
    assert strengths[4] > 0.2 * strengths[0]


def test_the_t5_files_are_what_transformers_would_write(t5_words):
    from transformers import T5Tokenizer

    built = T5Tokenizer(vocab=pieces.vocabulary(), extra_ids=0, model_max_length=512)
    assert json.loads(t5_words.backend_tokenizer.to_str()) == json.loads(built.backend_tokenizer.to_str())
    assert json.loads(built.backend_tokenizer.to_str()) == pieces.tokenizer_files()["tokenizer.json"]
    assert len(t5_words) == sd35_parts.T5["vocab_size"]
    assert (t5_words.pad_token_id, t5_words.eos_token_id) == (0, 1)


def test_t5_reads_every_word_of_a_caption_as_one_piece(t5_words):
    for word in world.spoken():
        ids = t5_words(word, add_special_tokens=False).input_ids
        assert len(ids) == 1, word
        assert t5_words.decode(ids) == word
    said = "a sks mushroom, Zebra-like (100%)"
    ids = t5_words(said, add_special_tokens=False).input_ids
    assert t5_words.unk_token_id not in ids
    assert t5_words.decode(ids) == said


def test_every_caption_fits(untrained, t5_words):
    model = Backbone.read({"name": "sd35", "model": str(untrained), "t5_length": 32}).load(
        device=torch.device("cpu"), dtype=torch.float32
    )
    captions = [pictures.caption(purpose, n, 0) for purpose in ("train", "composed") for n in range(400)]
    assert set(t5_rows(t5_words, captions, sd35_parts.T5_LENGTH)[1]) == {""}
    assert set(model.tokenize(captions).cut) == {""}
    clip = model.tokenizers["text_encoder"]
    assert max(len(clip(said).input_ids) for said in captions) <= sd35_parts.CLIP_LENGTH


def test_the_latents_are_one_wide_around_zero(untrained):
    model = Backbone.read({"name": "sd35", "model": str(untrained)}).load(
        device=torch.device("cpu"), dtype=torch.float32
    )
    drawn = torch.stack([pictures.stack([world.render(pictures.scene("held out", n))])[0] for n in range(64)])
    with torch.no_grad():
        mean = model.encode_images(pictures.to_input(drawn)).mean
    assert abs(float(mean.mean())) < 0.1
    assert float(mean.std()) == pytest.approx(1, abs=0.1)


def test_the_velocity_begins_as_zero_and_the_output_learns_first():
    torch.manual_seed(0)
    made = sd35_transformer.SD3Transformer2DModel.from_config(dict(sd35_parts.TRANSFORMER))
    sd35_transformer.initialise(made)
    said = made(
        hidden_states=torch.randn(2, 16, 16, 16),
        timestep=torch.tensor([10.0, 900.0]),
        encoder_hidden_states=torch.randn(2, 5, 160),
        pooled_projections=torch.randn(2, 160),
        return_dict=False,
    )[0]
    assert not said.any()
    said.sum().backward()
    assert made.proj_out.weight.grad.any()


def test_an_encoder_that_is_not_heard_is_zeros_and_the_rest_stays():
    ones = Cond({"text": torch.ones(3, 72, 160), "pooled": torch.ones(3, 160)})
    heard = sd35_transformer.hear(ones, ~torch.eye(3, dtype=torch.bool))
    left = sd35_parts.L_WIDTH
    wanted = torch.ones(3, 72, 160)
    wanted[0, :40, :left] = wanted[1, :40, left:] = wanted[2, 40:] = 0
    pooled = torch.ones(3, 160)
    pooled[0, :left] = pooled[1, left:] = 0
    assert torch.equal(heard["text"], wanted)
    assert torch.equal(heard["pooled"], pooled)
    assert bool(ones["text"].all())


def test_the_length_that_t5_reads_varies_by_step_alone():
    found = [sd35_readers.t5_length(step) for step in range(200)]
    assert found == [sd35_readers.t5_length(step) for step in range(200)]
    assert set(found) == {length for length, _ in sd35_readers.T5_LENGTHS}


class Stopped(Exception):
    """What ends a training in the middle here."""


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    from tuner import checkpoint

    state, rejected = checkpoint.newest(folder)
    assert rejected == []
    return {f"{group} {name}": value for group, own in state.tensors.items() for name, value in own.items()}


@pytest.fixture
def parts(monkeypatch):
    """VAE, text encoders and tokenizers; a transformer as small as can be; and states after every step."""
    monkeypatch.setattr(fit, "MINUTES", -1)
    for key, value in {"num_layers": 2, "num_attention_heads": 1, "caption_projection_dim": 64}.items():
        monkeypatch.setitem(sd35_parts.TRANSFORMER, key, value)
    monkeypatch.setattr(sd35_transformer, "POOL", 8)
    monkeypatch.setattr(sd35_transformer, "COMPOSED_POOL", 8)
    # pictures are drawn in this process, for a handful needs no pool
    monkeypatch.setattr(pictures, "_drawn", lambda draw, count: pictures.stack([draw(n) for n in range(count)]))
    tokenizers = sd35._tokenizers()
    vae = autoencoder.AutoencoderKL.from_config(sd35_parts.VAE)
    clips = {name: sd35_readers.ClipReader(config).text for name, config in sd35_parts.CLIPS.items()}
    return {"vae": vae, **clips, "text_encoder_3": sd35_readers.T5Reader(sd35_parts.T5).text}, tokenizers


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(parts, tmp_path, monkeypatch):
    courses = (replace(sd35_transformer.COURSE, steps=3, batch=2), replace(sd35_transformer.COMPOSED, steps=1, batch=2))
    sd35_transformer.train(tmp_path / "straight", *parts, courses)

    honest = pictures.batch

    def fails(purpose, step, size, count):
        if step == 2:
            raise Stopped
        return honest(purpose, step, size, count)

    monkeypatch.setattr(pictures, "batch", fails)
    with pytest.raises(Stopped):
        sd35_transformer.train(tmp_path / "stopped", *parts, courses)
    monkeypatch.setattr(pictures, "batch", honest)
    sd35_transformer.train(tmp_path / "stopped", *parts, courses)
    for stage in ("", "-composed"):
        there, here = (state_of(tmp_path / f"{name}{stage}") for name in ("straight", "stopped"))
        assert there.keys() == here.keys()
        assert all(torch.equal(there[key], here[key]) for key in there)


def test_courses_cut_to_nothing_take_the_newest_state(parts, tmp_path):
    """So a training can be graded on its way."""
    course = replace(sd35_transformer.COURSE, steps=2, batch=2)
    none = replace(course, steps=0)
    trained = sd35_transformer.train(tmp_path / "run", *parts, (course, none))
    again = sd35_transformer.train(tmp_path / "run", *parts, (none, none))
    there, here = trained.state_dict(), again.state_dict()
    assert all(torch.equal(there[key], here[key]) for key in there)
    assert trained.proj_out.weight.any()


def test_the_card_tells_of_both_models(untrained, tmp_path):
    import shutil

    shutil.copytree(untrained, tmp_path / "sd35")
    part = {
        "prompts": 10, "right": 0.9, "each": {"class": 0.9}, "clip_t": 0.7, "clip_t of drawn pictures": 0.8,
        "drawn pictures after a VAE round trip": {"right": 1.0, "each": {}},
    }  # fmt: skip
    own = {"single objects": part, "compositions": part, "steps": 20, "guidance": 5.0, "sampler": "dpm++"}
    found = own | {
        "judges": {},
        "shuffled": {"each": {"class": 0.1}, "the commonest answer": {"class": 0.1}},
    }
    alone = card.page(tmp_path, found)
    card.write(tmp_path, found | {"sd35": own | {"sampler": "flow_euler", "guidance": 4.5}})
    both = (tmp_path / "README.md").read_text()
    assert "flow_euler" not in alone
    assert "`sd35` (flow_euler, 20 steps, guidance 4.5)" in both
    assert "| `sd35/text_encoder_3` | T5EncoderModel |" in both
    assert card.read(tmp_path)["sd35"]["guidance"] == 4.5


@pytest.mark.slow
def test_one_family_is_made_alone(tmp_path, monkeypatch, capsys):
    """From the command: its files, its figures and the card appear; everything of the others stays as it was."""
    import shutil
    import sys

    from tuner import toybox
    from tuner.toybox.making import __main__ as making
    from tuner.toybox.making import agreement, classifier, examine

    models = Path(shutil.copytree(toybox.MODELS, tmp_path / "models", ignore=shutil.ignore_patterns("sd35")))
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    figures = json.loads((models / "figures.json").read_text())
    few = examine.held_out
    monkeypatch.setattr(toybox, "MODELS", models)
    monkeypatch.setattr(sd35, "COURSES", sd35.COURSES.upto(0))
    monkeypatch.setattr(classifier, "train", lambda folder: classifier.Examiner().eval())
    monkeypatch.setattr(examine, "held_out", lambda kinds, count: few(kinds, 3))
    monkeypatch.setattr(examine, "STEPS", 1)
    monkeypatch.setattr(agreement, "told_apart", lambda clip, dino: {"a question": 0.5})
    monkeypatch.setattr(sys, "argv", ["making", str(tmp_path / "state"), "--only", "sd35", "--threads", "1"])
    making.main()
    after = {path: path.read_bytes() for path in before}
    assert {path.name for path in before if after[path] != before[path]} == {"figures.json", "README.md"}
    found = json.loads((models / "figures.json").read_text())
    assert found.pop("sd35")["sampler"] == "flow_euler"
    assert found == {"judges": {"a question": 0.5}} | {key: own for key, own in figures.items() if key != "sd35"}
    assert (models / "README.md").read_text() in capsys.readouterr().out
    assert Backbone.read({"name": "sd35", "model": "toybox"}).layout().channels == 16
    graded = making.interim(tmp_path / "state", 2)
    assert graded["prompts"] == 3
    assert set(graded["each"]) == set(examine.SINGLE)
