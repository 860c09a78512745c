"""Sizes of the true SD3.5 and SD3, counted from their configuration and from the modules themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tiny_sd35 import load_sd35
from torch import nn

from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.backbones import mmdit_layout as ml

SIZES = ("medium", "large", "sd3_medium")
IDS = {
    "medium": "stabilityai/stable-diffusion-3.5-medium",
    "large": "stabilityai/stable-diffusion-3.5-large",
    "turbo": "stabilityai/stable-diffusion-3.5-large-turbo",
    "sd3_medium": "stabilityai/stable-diffusion-3-medium-diffusers",
}


@pytest.fixture(autouse=True)
def empty_hub_cache(monkeypatch):
    """What lies in this machine's Hub cache is no part of a test."""
    monkeypatch.setattr("tuner.backbones.download.cached_folder", lambda *_: None)


def backbone(size: str, **keys: object) -> Backbone:
    return Backbone.read({"name": "sd35", "model": IDS[size], **keys})


def on_meta(name: str, config: dict) -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    with torch.device("meta"):
        if name == "transformer":
            return SD3Transformer2DModel.from_config(config)
        if name == "vae":
            return AutoencoderKL.from_config(config)
        if name == "text_encoder_3":
            encoder = T5EncoderModel(T5Config(**config))
            encoder.encoder.embed_tokens = encoder.shared  # one table, as after loading
            return encoder
        return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def linears(module: nn.Module) -> dict[str, tuple[int, int]]:
    return {k: (m.in_features, m.out_features) for k, m in module.named_modules() if isinstance(m, nn.Linear)}


@pytest.mark.parametrize("size", SIZES)
def test_every_layer_of_the_true_transformers(size):
    config = ml.configs(size)["transformer"]
    module = on_meta("transformer", config)
    layout = backbone(size).layout()
    assert layout.linears["transformer"] == linears(module)
    assert layout.parameters["transformer"] == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"])
def test_every_layer_of_the_true_vae_and_text_encoders(name):
    module = on_meta(name, ml.configs("medium")[name])
    layout = backbone("medium").layout()
    assert layout.parameters[name] == sum(p.numel() for p in module.parameters())
    if name != "vae":
        assert layout.linears[name] == linears(module)


def test_parameters_of_the_true_models():
    """As published: 8.1 billion in large's transformer; medium's 2.5 count its table of positions, which is no weight."""
    found = backbone("large").layout().parameters
    assert found == {
        "transformer": 8_056_627_520,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
        "text_encoder_3": 4_762_310_656,
    }
    assert backbone("turbo").layout() == backbone("large").layout()
    assert backbone("medium").layout().parameters["transformer"] == 2_243_171_520
    assert round((2_243_171_520 + 384**2 * 1536) / 1e9, 1) == 2.5
    assert backbone("sd3_medium").layout().parameters["transformer"] == 2_028_328_000


@pytest.mark.parametrize("size", SIZES)
def test_the_papers_rules_of_size(size):
    """Esser et al. 2024, sec. 5.3: hidden size 64 times depth, as many heads as blocks."""
    config = ml.configs(size)["transformer"]
    assert config["num_attention_heads"] == config["num_layers"]
    assert config["caption_projection_dim"] == 64 * config["num_layers"] == 64 * config["num_attention_heads"]


def test_dropping_t5_drops_its_parameters_and_keeps_its_place():
    full, without = backbone("medium").layout(), backbone("medium", t5=False).layout()
    assert set(full.parameters) - set(without.parameters) == {"text_encoder_3"}
    assert (full.factor, full.channels, full.tokens, full.text_width) == (8, 16, 77 + 256, 4096)
    assert without.tokens == full.tokens, "its zeros are as long"
    assert (full.caption_tokens, without.caption_tokens) == (256, 77), "but hold no caption"
    assert backbone("medium", t5_length=77).layout().tokens == 154


def test_each_text_encoder_reads_its_own_tokens():
    assert backbone("medium").layout().text_tokens == {"text_encoder": 77, "text_encoder_2": 77, "text_encoder_3": 256}
    assert "text_encoder_3" not in backbone("medium", t5=False).layout().text_tokens


def test_the_tiny_model(sd35_folder):
    model = load_sd35(sd35_folder)
    layout = model.backbone.layout()
    assert layout.parameters == {name: sum(p.numel() for p in m.parameters()) for name, m in model.components.items()}
    for name in ("transformer", *model.text_encoders):
        assert layout.linears[name] == linears(model.components[name])
    assert layout.tokens == model.encode_text(model.tokenize(["a"]))["text"].shape[1]
    assert layout.text_width == model.encode_text(model.tokenize(["a"]))["text"].shape[2]


def test_the_cache_is_planned_with_the_width_of_the_text():
    from tuner.planning.cache_cost import text_width
    from tuner.recipe_file import load_recipe

    recipe = load_recipe("lora").model_copy(update={"backbone": backbone("large")})
    assert text_width(recipe, recipe.backbone.layout()) == 4096


def test_lora_layers_on_the_meta_device_agree_with_the_count():
    from peft import LoraConfig

    part = backbone("medium")
    layout = part.layout()
    module = on_meta("transformer", ml.configs("medium")["transformer"]).requires_grad_(False)
    names = part.matching("attention", layout.linears["transformer"])["attention"]
    with torch.device("meta"):
        module.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=names))
    (count,) = Adapter.read({"name": "lora", "rank": 4}).count(part, layout)
    assert (count.part, count.modules) == ("transformer attention", 243)
    assert count.parameters == sum(p.numel() for p in module.parameters() if p.requires_grad) == 243 * 4 * 2 * 1536


def test_a_layout_imports_no_torch():
    code = (
        "import sys; from tuner.backbones import Backbone;"
        "Backbone.read({'name': 'sd35', 'model': 'nobody/nothing-like-this'}).layout();"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
