"""SD1.5's conventions and our samplers against diffusers' own pipeline."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import load_sd15

from tuner import toybox
from tuner.objectives import Objective
from tuner.sampling import SCHEDULERS, Shot, paint, sampler, start_noise

CLASSES = {
    "dpm++": "DPMSolverMultistepScheduler",
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
}

SCALE = toybox.configs("sd15")["vae"]["scaling_factor"]


@pytest.fixture(scope="module")
def model(sd15_folder):
    return load_sd15("toybox")


@pytest.fixture(scope="module")
def pipeline(sd15_folder):
    """Plain diffusers, loaded by itself."""
    from diffusers import StableDiffusionPipeline

    found = StableDiffusionPipeline.from_pretrained(sd15_folder, local_files_only=True)
    found.set_progress_bar_config(disable=True)
    return found


def with_scheduler(pipeline, name, **overrides):
    import diffusers

    config = dict(diffusers.PNDMScheduler.load_config(pipeline.name_or_path, subfolder="scheduler"))
    pipeline.scheduler = getattr(diffusers, CLASSES[name]).from_config(config, **overrides)
    return pipeline


def as_numbers(picture):
    return np.asarray(picture).astype(int)


def test_weights_and_predictions_equal_those_of_diffusers(model, pipeline):
    for name, module in model.components.items():
        theirs = getattr(pipeline, name).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in module.state_dict().items())
    x_t, t = torch.randn(2, 4, 16, 12, generator=torch.manual_seed(0)), torch.tensor([3.0, 961.0])
    cond = model.encode_text(model.tokenize(["a red dog", ""]))
    with torch.no_grad():
        theirs = pipeline.unet(x_t, t, cond["text"]).sample
        assert torch.equal(model.denoise(x_t, t, cond), theirs)
    assert not any(p.requires_grad for m in model.components.values() for p in m.parameters())
    assert not any(part.training for m in model.components.values() for part in m.modules())


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_paint_is_the_pipeline(model, pipeline, name, guidance):
    shot = Shot("a photo of a dog", "a bad drawing", 3, (80, 48), 7, guidance, name)
    (ours,) = paint(model, [shot])
    theirs = with_scheduler(pipeline, name)(
        shot.prompt,
        negative_prompt=shot.negative,
        num_inference_steps=shot.steps,
        guidance_scale=guidance,
        latents=start_noise(model, shot)[None],
        width=80,
        height=48,
    ).images[0]
    assert ours.size == theirs.size == (80, 48)
    assert np.abs(as_numbers(ours) - as_numbers(theirs)).max() <= 1  # rounding of equal floats


@pytest.mark.parametrize("name", SCHEDULERS)
def test_paint_of_a_v_predicting_zero_terminal_snr_model(model, pipeline, name):
    """The objective's word reaches the sampler: same as diffusers told the same."""
    told = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    objective = Objective.read({"name": "ddpm", "prediction": "v", "zero_terminal_snr": True})
    bound = objective.bind(model.scheduler, torch.device("cpu"))
    shot = Shot("a photo of a dog", "", 3, (64, 64), 6, 5.0, name)
    (ours,) = paint(model, [shot], objective=bound)
    theirs = with_scheduler(pipeline, name, **told)(
        shot.prompt, num_inference_steps=6, guidance_scale=5.0, latents=start_noise(model, shot)[None]
    ).images[0]
    assert np.abs(as_numbers(ours) - as_numbers(theirs)).max() <= 1
    (epsilon,) = paint(model, [shot])
    assert np.abs(as_numbers(ours) - as_numbers(epsilon)).mean() > 1


@pytest.mark.parametrize("name", SCHEDULERS)
def test_our_own_pipeline_samples_alike(model, name):
    """What `model.pipeline` hands out holds the live modules and the same sampler."""
    shot = Shot("a photo of a dog", "", 11, (64, 64), 4, 7.5, name)
    own = model.pipeline(name)
    own.set_progress_bar_config(disable=True)
    assert own.unet is model.denoiser
    assert own.safety_checker is None
    theirs = own(
        shot.prompt, num_inference_steps=4, latents=start_noise(model, shot)[None], height=64, width=64
    ).images[0]
    assert np.abs(as_numbers(paint(model, [shot])[0]) - as_numbers(theirs)).max() <= 1


def test_samplers_never_share_the_training_table(model):
    """Trap 26: a sampler changes neither the base's configuration nor another sampler."""
    before = dict(model.scheduler)
    first = sampler(model.scheduler, "euler", {"prediction_type": "v_prediction"})
    first.set_timesteps(3)
    second = sampler(model.scheduler, "euler", {})
    assert dict(model.scheduler) == before
    assert second.config["prediction_type"] == "epsilon"
    assert torch.equal(second.alphas_cumprod, sampler(model.scheduler, "ddim", {}).alphas_cumprod)


def test_ddim_does_not_clip_latents_where_the_base_is_silent():
    assert sampler({"beta_schedule": "scaled_linear"}, "ddim", {}).config["clip_sample"] is False


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_diffusers_plus_one(pipeline, skip):
    """Trap 31: clip_skip 2 reads hidden_states[-2] through the final norm, which diffusers calls 1."""
    model = load_sd15("toybox", clip_skip=skip)
    ours = model.encode_text(model.tokenize(["a photo of a dog"]))["text"]
    encoder = pipeline.text_encoder
    if not hasattr(encoder, "text_model"):  # diffusers 0.42 still reads the level that transformers 5 dropped
        object.__setattr__(encoder, "text_model", encoder)
    theirs, _ = pipeline.encode_prompt("a photo of a dog", "cpu", 1, False, clip_skip=None if skip == 1 else skip - 1)
    assert torch.equal(ours, theirs)


def test_clip_skip_changes_pictures_and_identity():
    one, two = load_sd15("toybox"), load_sd15("toybox", clip_skip=2)
    shot = Shot("a photo of a dog", "", 0, (64, 64), 2, 7.5)
    assert np.abs(as_numbers(paint(one, [shot])[0]) - as_numbers(paint(two, [shot])[0])).max() > 1
    assert one.identity("text_encoder") != two.identity("text_encoder")
    assert one.identity("unet") == two.identity("unet")


def test_posterior_is_scaled_to_unit_variance(model, pipeline):
    """z = (latent - shift) * scale for samples, so mean and log-variance follow; decoding takes it back (trap 12)."""
    pixels = torch.rand(2, 3, 32, 48, generator=torch.manual_seed(1)) * 2 - 1
    with torch.no_grad():
        ours, theirs = model.encode_images(pixels), pipeline.vae.encode(pixels).latent_dist
        assert torch.allclose(ours.mean, theirs.mean * SCALE, rtol=1e-6)
        assert torch.allclose(ours.logvar, theirs.logvar + 2 * math.log(SCALE), rtol=1e-6)
        assert torch.allclose((0.5 * ours.logvar).exp(), theirs.std * SCALE, rtol=1e-5)
        decoded = model.decode_latents(ours.mean)
        assert torch.allclose(decoded, pipeline.vae.decode(theirs.mean).sample, atol=1e-4)
    assert ours.mean.shape == (2, 4, 8, 12)
    assert ours.mean.dtype == ours.logvar.dtype == torch.float32


def test_shift_comes_from_the_vae(model):
    """The law of trap 12 with a shift: encode then decode is the VAE's own round trip whatever shift and scale are."""
    pixels = torch.rand(1, 3, 32, 32, generator=torch.manual_seed(2)) * 2 - 1
    with torch.no_grad():
        plain, trip = model.encode_images(pixels), model.decode_latents(model.encode_images(pixels).mean)
        shifted = load_sd15("toybox")
        shifted.vae.register_to_config(shift_factor=0.25, scaling_factor=0.5)
        other = shifted.encode_images(pixels)
        assert torch.allclose(other.mean, (plain.mean / SCALE - 0.25) * 0.5, atol=1e-5)
        assert torch.allclose(shifted.decode_latents(other.mean), trip, atol=1e-4)


def test_sixteen_bit_weights_leave_the_vae_in_fp32(sd15_folder):
    from tuner.backbones import Backbone

    backbone = Backbone.read({"name": "sd15", "model": "toybox"})
    low = backbone.load(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {p.dtype for p in low.vae.parameters()} == {torch.float32}
    assert {p.dtype for p in low.denoiser.parameters()} == {torch.bfloat16}
    shot = Shot("a photo of a dog", "", 3, (64, 64), 4, 5.0)
    ours, full = paint(low, [shot])[0], paint(load_sd15("toybox"), [shot])[0]
    assert np.abs(as_numbers(ours) - as_numbers(full)).mean() < 10  # of 255: the same picture
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = low.encode_images(torch.zeros(1, 3, 32, 32))
    assert found.mean.dtype == torch.float32
