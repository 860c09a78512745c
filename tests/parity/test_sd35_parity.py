"""SD3.5's conventions and our sampling against diffusers' own pipeline."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_sd35 import load_sd35

from tuner.sampling import Shot, paint, start_noise

PROMPTS = ["a photo of a red dog", "", "cup on grass, 7 blue cats"]
LONG = "cup " * 120
SHIFT, SCALE = 0.0609, 1.5305


@pytest.fixture(scope="module")
def model(sd35_folder):
    return load_sd35(sd35_folder)


def plain(folder, **keys):
    """Plain diffusers, loaded by itself."""
    from diffusers import StableDiffusion3Pipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **keys)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def pipeline(sd35_folder):
    return plain(sd35_folder)


@torch.no_grad()
def theirs(pipeline, prompts, length=256):
    text, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, device="cpu", do_classifier_free_guidance=False, max_sequence_length=length
    )
    return text, pooled


@torch.no_grad()
def ours(model, prompts):
    cond = model.encode_text(model.tokenize(prompts))
    return cond["text"], cond["pooled"]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def as_numbers(picture):
    return np.asarray(picture).astype(int)


def test_weights_and_predictions_equal_those_of_diffusers(model, pipeline):
    for name, module in model.components.items():
        own = getattr(pipeline, name).state_dict()
        assert module.state_dict().keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in module.state_dict().items())
    x_t, t = torch.randn(2, 16, 12, 8, generator=torch.manual_seed(0)), torch.tensor([3.25, 961.0])
    cond = model.encode_text(model.tokenize(["a red dog", ""]))
    with torch.no_grad():
        text, pooled = cond["text"], cond["pooled"]
        velocity = pipeline.transformer(
            hidden_states=x_t, timestep=t, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
        assert torch.equal(model.denoise(x_t, t, cond), velocity)
    assert not any(p.requires_grad for m in model.components.values() for p in m.parameters())
    assert not any(part.training for m in model.components.values() for part in m.modules())


@pytest.mark.parametrize("length", [256, 77, 5, 512])
def test_text_is_the_pipelines(sd35_folder, pipeline, length):
    """Trap 32, and a prompt that every encoder cuts."""
    model = load_sd35(sd35_folder, t5_length=length)
    prompts = [*PROMPTS, LONG]
    assert equal(ours(model, prompts), theirs(pipeline, prompts, length))
    assert ours(model, prompts)[0].shape == (4, 77 + length, 48)
    assert ours(model, prompts)[1].shape == (4, 40)


@pytest.mark.parametrize("length", [256, 77])
def test_without_t5_its_tokens_are_the_pipelines_zeros(sd35_folder, length):
    model = load_sd35(sd35_folder, t5=False, t5_length=length)
    assert "text_encoder_3" not in model.components
    own = ours(model, PROMPTS)
    assert equal(own, theirs(plain(sd35_folder, text_encoder_3=None, tokenizer_3=None), PROMPTS, length))
    assert not own[0][:, 77:].any()
    assert own[0][:, :77].any()


def test_dropping_t5_is_not_the_empty_prompt(model, sd35_folder):
    """Trap 33: zeros are one thing, the encoded empty string another."""
    assert ours(model, [""])[0][:, 77:].any()


def test_a_folder_without_t5_needs_no_word_from_the_recipe(sd35_folder, tmp_path):
    folder = Path(shutil.copytree(sd35_folder, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder_3"] = index["tokenizer_3"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    shutil.rmtree(folder / "text_encoder_3")
    shutil.rmtree(folder / "tokenizer_3")
    model = load_sd35(folder)
    assert equal(ours(model, PROMPTS), ours(load_sd35(sd35_folder, t5=False), PROMPTS))
    assert any("text_encoder_3" in note and "zeros" in note for note in model.notes)
    assert "text_encoder_3" not in model.backbone.layout().parameters


@pytest.mark.parametrize(("name", "text", "pooled"), [("text_encoder", (0, 16), 0), ("text_encoder_2", (16, 40), 16)])
def test_a_clip_that_is_not_there_is_zeros_in_its_place(model, sd35_folder, tmp_path, name, text, pooled):
    folder = Path(shutil.copytree(sd35_folder, tmp_path / "copy"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {name: [None, None]}))
    whole, part = ours(model, PROMPTS), ours(load_sd35(folder), PROMPTS)
    columns = slice(*text)
    vector = slice(pooled, pooled + text[1] - text[0])
    assert whole[0][:, :77, columns].any()
    whole[0][:, :77, columns] = 0
    whole[1][:, vector] = 0
    assert equal(whole, part)


def test_pooled_is_at_the_end_mark_with_added_words(sd35_folder):
    """Trap 30: the published config says eos_token_id 2, which pools at the largest id; an added word has a larger one."""
    assert json.loads((sd35_folder / "text_encoder/config.json").read_text())["eos_token_id"] == 2
    model = load_sd35(sd35_folder)
    for name in ("text_encoder", "text_encoder_2"):
        model.tokenizers[name].add_tokens(["<subject>"])
        encoder = model.text_encoders[name]
        encoder.resize_token_embeddings(encoder.config.vocab_size + 1)
    near, far = ours(model, ["a <subject> dog", "a <subject> cup"])[1]
    assert not torch.equal(near, far), "words behind the added one count"
    encoder = model.text_encoders["text_encoder"]
    ids = model.tokenize(["a <subject> dog"]).ids["text_encoder"]
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).last_hidden_state
        end = ids[0].tolist().index(model.tokenizers["text_encoder"].eos_token_id)
        assert torch.allclose(near[:16], encoder.text_projection(states[0, end]), atol=1e-5)


def test_cut_is_what_no_encoder_reads(model, sd35_folder):
    """Trap 34."""
    prompt = "a " * 90 + "dog"
    assert model.tokenize([prompt]).cut == ("",), "T5 reads on"
    short = load_sd35(sd35_folder, t5=False).tokenize([prompt, "a dog"]).cut
    assert short[0].endswith("a dog")
    assert len(short[0].split()) == 91 - 75
    assert short[1] == ""
    assert load_sd35(sd35_folder, t5_length=80).tokenize([prompt]).cut[0].split() == ["a"] * 11 + ["dog"]


def test_every_encoder_is_differentiable(sd35_folder):
    """T5 by its words' rows alone: no adapter trains its layers."""
    model = load_sd35(sd35_folder)
    for encoder in model.text_encoders.values():
        encoder.requires_grad_(requires_grad=True)
    cond = model.encode_text(model.tokenize(["a dog"]))
    (cond["text"].square().sum() + cond["pooled"].square().sum()).backward()
    for name in ("text_encoder", "text_encoder_2"):
        assert all(p.grad is not None for p in model.text_encoders[name].text_model.encoder.parameters())
    assert model.text_encoders["text_encoder_3"].shared.weight.grad.any()


def test_posterior_is_shifted_and_scaled(model, pipeline):
    """z = (latent - shift) * scale, and decoding takes it back as z / scale + shift (trap 12)."""
    pixels = torch.rand(2, 3, 32, 48, generator=torch.manual_seed(1)) * 2 - 1
    with torch.no_grad():
        own, found = model.encode_images(pixels), pipeline.vae.encode(pixels).latent_dist
        assert torch.allclose(own.mean, (found.mean - SHIFT) * SCALE, atol=1e-6)
        assert torch.allclose(own.logvar, found.logvar + 2 * math.log(SCALE), atol=1e-5)
        decoded = model.decode_latents(own.mean)
        assert torch.allclose(decoded, pipeline.vae.decode(found.mean).sample, atol=1e-4)
    assert own.mean.shape == (2, 16, 4, 6)
    assert own.mean.dtype == own.logvar.dtype == torch.float32


@pytest.mark.parametrize("guidance", [4.5, 1.0])
@pytest.mark.parametrize("size", [(80, 48), (64, 64), (112, 176)])
def test_paint_is_the_pipeline(model, pipeline, guidance, size):
    shot = Shot("a photo of a dog", "a bad drawing", 3, size, 5, guidance)
    (own,) = paint(model, [shot])
    found = pipeline(
        shot.prompt,
        negative_prompt=shot.negative,
        num_inference_steps=shot.steps,
        guidance_scale=guidance,
        latents=start_noise(model, shot)[None],
        width=size[0],
        height=size[1],
    ).images[0]
    assert own.size == found.size == size
    assert np.abs(as_numbers(own) - as_numbers(found)).max() <= 1  # rounding of equal floats


@pytest.mark.parametrize("t5", [True, False])
def test_our_own_pipeline_samples_alike(sd35_folder, t5):
    model = load_sd35(sd35_folder, t5=t5, t5_length=40)
    own = model.pipeline()
    own.set_progress_bar_config(disable=True)
    assert own.transformer is model.denoiser
    assert (own.text_encoder_3 is None) is (not t5)
    shot = Shot("a photo of a dog", "", 11, (64, 64), 4, 4.5)
    found = own(
        shot.prompt,
        num_inference_steps=4,
        guidance_scale=4.5,
        latents=start_noise(model, shot)[None],
        height=64,
        width=64,
        max_sequence_length=40,
    ).images[0]
    assert np.abs(as_numbers(paint(model, [shot])[0]) - as_numbers(found)).max() <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights(sd35_folder, dtype):
    """The VAE stays float32; and in fp16 the layers of T5 that overflow do, as transformers keeps them."""
    from tuner.backbones import Backbone

    low = Backbone.read({"name": "sd35", "model": str(sd35_folder)}).load(device=torch.device("cpu"), dtype=dtype)
    assert {p.dtype for p in low.vae.parameters()} == {torch.float32}
    assert {p.dtype for p in low.denoiser.parameters()} == {dtype}
    reference = plain(sd35_folder, torch_dtype=dtype)
    kinds = {name: p.dtype for name, p in low.text_encoders["text_encoder_3"].named_parameters()}
    assert kinds == {name: p.dtype for name, p in reference.text_encoder_3.named_parameters()}
    assert equal(ours(low, PROMPTS), theirs(reference, PROMPTS))


def test_a_sixteen_bit_prediction_is_the_pipelines(sd35_folder):
    from tuner.backbones import Backbone

    low = Backbone.read({"name": "sd35", "model": str(sd35_folder)}).load(
        device=torch.device("cpu"), dtype=torch.bfloat16
    )
    reference = plain(sd35_folder, torch_dtype=torch.bfloat16).transformer
    x_t, t = torch.randn(1, 16, 8, 8, generator=torch.manual_seed(0)), torch.tensor([333.3])
    with torch.no_grad():
        cond = low.encode_text(low.tokenize(["a dog"]))
        found = reference(
            hidden_states=x_t.bfloat16(),
            timestep=t,
            encoder_hidden_states=cond["text"],
            pooled_projections=cond["pooled"],
        ).sample
        assert torch.equal(low.denoise(x_t, t, cond), found)


def test_t5_computes_in_its_own_type_under_autocast(model):
    """In fp16 its widest layers overflow."""
    want = ours(model, PROMPTS)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(model, PROMPTS)[0]
    assert torch.equal(found[:, 77:], want[:, 77:])
    assert not torch.equal(found[:, :77], want[:, :77])


def test_the_table_of_words_of_t5_is_in_memory_once(model):
    t5 = model.text_encoders["text_encoder_3"]
    assert t5.encoder.embed_tokens.weight is t5.shared.weight


def test_identities_tell_components_apart_and_are_the_contents(model, sd35_folder, tmp_path):
    folder = Path(shutil.copytree(sd35_folder, tmp_path / "copy"))
    other = load_sd35(folder)
    mine = {name: model.identity(name) for name in model.components}
    assert mine == {name: other.identity(name) for name in other.components}
    assert len(set(mine.values())) == len(mine)
