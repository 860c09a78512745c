"""A LoRA under any tool's keys is, in a pipeline and as a run's start, the one that was trained."""

from __future__ import annotations

import foreign_loras
import pytest
import torch
from foreign_loras import SPELLINGS, WITH_TEXT
from tiny_sd35 import load_sd35
from trained_lora import TrainedLoRA, inputs

from tuner import toybox
from tuner.backbones.sd15 import SD15
from tuner.formats.about import About
from tuner.formats.fusing import Update
from tuner.formats.inspect import inspect_file
from tuner.formats.load import put_in
from tuner.formats.load_lora import lora_layers
from tuner.formats.loaders import quiet_loaders
from tuner.formats.lora import pairs
from tuner.formats.shadow import strip_adapters
from tuner.formats.start import read_start

PROMPT = "a photo of a dog"
RANK, ALPHA = 4, 2
TOLERANCE = 2e-5


def trained(family: str, folder, base):
    about = About("dog", family=family, base=str(base), prompt=PROMPT)
    model = (
        load_sd35(base, t5_length=20)
        if family == "sd35"
        else SD15(model="toybox").load(device=torch.device("cpu"), dtype=torch.float32)
    )
    return TrainedLoRA(model, folder, about, size=0.1, rank=RANK, alpha=ALPHA, text_encoder_lr=1e-4)


def pipeline(family: str, base):
    from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

    with quiet_loaders():
        kind = StableDiffusion3Pipeline if family == "sd35" else StableDiffusionPipeline
        pipe = kind.from_pretrained(str(base), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def predict(pipe) -> torch.Tensor:
    with torch.no_grad():
        if hasattr(pipe, "transformer"):
            words = {f"prompt{n}": ["", PROMPT] for n in ("", "_2", "_3")}
            text, _, pooled, _ = pipe.encode_prompt(**words, do_classifier_free_guidance=False, max_sequence_length=20)
            x, timestep = inputs(16)
            return pipe.transformer(x, text, pooled, timestep, return_dict=False)[0]
        ids = pipe.tokenizer(["", PROMPT], padding="max_length", return_tensors="pt").input_ids
        return pipe.unet(*inputs(4), encoder_hidden_states=pipe.text_encoder(ids)[0]).sample


@pytest.fixture(scope="module", params=["sd15", "sd35"])
def case(request, tmp_path_factory):
    family = request.param
    base = request.getfixturevalue("sd35_folder") if family == "sd35" else toybox.folder("sd15")
    lora = trained(family, tmp_path_factory.mktemp("trained") / "adapter", base)
    return family, lora, pipeline(family, base)


def test_each_tools_file_loads_and_comes_off(case, tmp_path):
    """The toybox' UNet has its own count of blocks, so the original code's names of it are tested by name alone."""
    family, lora, pipe = case
    updates = [Update(p.component, p.layer, p.down, p.up, ALPHA / RANK) for p in pairs(lora.state)]
    plain = predict(pipe)
    put_in(pipe, lora.files[0])()
    assert torch.equal(predict(pipe), plain)
    alone = [u for u in updates if not u.component.startswith("text_encoder")]
    take_off = put_in(pipe, foreign_loras.write(tmp_path / "k" / "k.safetensors", "kohya", family, alone))
    denoiser_only = predict(pipe)
    take_off()
    whole = lora.predict()
    assert float((denoiser_only - whole).abs().max()) > 100 * TOLERANCE
    beyond = ("comfyui", "original") if family == "sd15" else ()
    for spelling in SPELLINGS[family]:
        if spelling in (*beyond, "diffusers", "kohya"):
            continue
        own = updates if spelling in WITH_TEXT else alone
        if spelling == "attention processors":  # it has no alpha
            own = [Update(u.component, u.layer, u.down, u.up * u.scale) for u in own]
        file = foreign_loras.write(tmp_path / spelling / "adapter_model.safetensors", spelling, family, own)
        take_off = put_in(pipe, file)
        want = whole if spelling in WITH_TEXT else denoiser_only
        assert float((predict(pipe) - want).abs().max()) <= TOLERANCE, spelling
        take_off()
        assert torch.equal(predict(pipe), plain), spelling


def test_diffusers_own_loader_takes_none_of_them(case, tmp_path):
    """As `inspect` says: it refuses the keys, or passes over them."""
    from safetensors.torch import load_file

    family, lora, pipe = case
    updates = [Update(p.component, p.layer, p.down, p.up) for p in pairs(lora.state) if p.component != "text_encoder"]
    alone = [u for u in updates if not u.component.startswith("text_encoder")]
    beyond = ("comfyui", "original") if family == "sd15" else ()
    for spelling in SPELLINGS[family]:
        if spelling == "diffusers" or spelling in beyond:
            continue
        file = foreign_loras.write(tmp_path / spelling / "x.safetensors", spelling, family, alone)
        said = inspect_file(file)["loads_in"]["diffusers"]
        try:
            with quiet_loaders():
                pipe.load_lora_weights(load_file(file), adapter_name="x")
            taken = bool(lora_layers(_denoiser(pipe), "x"))
        except (ValueError, KeyError, RuntimeError, TypeError, AttributeError):
            taken = False
        assert said.startswith("all" if taken else "NOTHING"), spelling
        strip_adapters(_denoiser(pipe))


def _denoiser(pipe):
    return pipe.transformer if hasattr(pipe, "transformer") else pipe.unet


def test_a_run_begins_with_each_tools_file(case, tmp_path):
    family, lora, _ = case
    whole = lora.state
    updates = [Update(p.component, p.layer, p.down, p.up, ALPHA / RANK) for p in pairs(whole)]
    beyond = ("comfyui", "original") if family == "sd15" else ("original",)
    for spelling in SPELLINGS[family]:
        if spelling in (*beyond, "diffusers", "attention processors"):
            continue
        text = spelling in WITH_TEXT
        own = [u for u in updates if text or not u.component.startswith("text_encoder")]
        state = {name: tensor for name, tensor in whole.items() if text or not name.startswith("text_encoder")}
        file = foreign_loras.write(tmp_path / spelling / "x.safetensors", spelling, family, own)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        start = read_start(file, shapes, lora.attachment.sizes, family=family, dora=None)
        assert start.keys() == state.keys()
        assert all(torch.equal(start[name], state[name]) for name in state), spelling
