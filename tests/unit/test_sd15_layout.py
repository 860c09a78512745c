"""The torch-free layout against the modules themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner import toybox
from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.backbones import unet_layout as ul
from tuner.backbones.bundled import configs


@pytest.fixture(scope="module", params=["sd15", "toybox", "linear_projections"])
def both(request):
    """Configurations, and the modules they describe, without storage."""
    from tuner.backbones.sd15_model import build

    trees = configs() if request.param == "sd15" else toybox.configs("sd15")
    if request.param == "linear_projections":
        trees["unet"] |= {"use_linear_projection": True, "layers_per_block": 2}
        trees["vae"] |= {"mid_block_add_attention": False, "use_quant_conv": False, "use_post_quant_conv": False}
    return trees, dict(zip(("unet", "vae", "text_encoder"), build(trees, Path("x")), strict=True))


def test_every_parameter_has_its_name_and_shape(both):
    trees, modules = both
    for name, layers in (
        ("unet", ul.unet_layers(trees["unet"])),
        ("vae", ul.vae_layers(trees["vae"])),
        ("text_encoder", ul.text_layers(trees["text_encoder"])),
    ):
        found = {}
        for layer, shape, bias in layers:
            found[f"{layer}.weight"] = shape
            if bias:
                found[f"{layer}.bias"] = shape[:1]
        assert found == {k: tuple(p.shape) for k, p in modules[name].named_parameters()}


def test_layout_counts_and_linears(both):
    from torch import nn

    trees, modules = both
    layout = ul.layout(trees)
    assert layout.parameters == {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}
    for name in ("unet", "text_encoder"):
        assert layout.linears[name] == {
            k: (m.in_features, m.out_features) for k, m in modules[name].named_modules() if isinstance(m, nn.Linear)
        }


def count(rank: int, where: object = "attention", **keys: object) -> int:
    backbone = Backbone.read({"name": "sd15", "model": "nobody/nothing-like-this"})
    adapter = Adapter.read({"name": "lora", "rank": rank, "where": where, **keys})
    return sum(part.parameters for part in adapter.count(backbone, backbone.layout()))


def test_lora_on_the_attention_of_the_true_sd15():
    assert count(4) == 797_184  # 3.19 MB in fp32
    assert count(16) == 4 * 797_184
    assert sum(ul.layout(configs()).parameters.values()) == 859_520_964 + 83_653_863 + 123_060_480


def test_lora_on_the_text_encoder_of_the_true_sd15():
    assert count(4, text_encoder_lr=1e-5) - count(4) == 12 * 4 * 4 * (768 + 768)


def test_lora_layers_on_the_meta_device_agree_with_the_count():
    """The same number from peft's own layers on the true architecture."""
    from peft import LoraConfig

    from tuner.backbones.sd15_model import build

    unet = build(configs(), Path("x"))[0].requires_grad_(False)
    backbone = Backbone.read({"name": "sd15", "model": "toybox"})
    names = backbone.matching("attention", ul.layout(configs()).linears["unet"])["attention"]
    assert len(names) == 128
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=names))
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == 797_184


def test_sizes():
    layout = Backbone.read({"name": "sd15", "model": "nobody/nothing-like-this"}).layout()
    assert (layout.factor, layout.channels, layout.tokens) == (8, 4, 77)
    assert layout.text_tokens == {"text_encoder": 77}
    small = Backbone.read({"name": "sd15", "model": "toybox"}).layout()
    assert (small.factor, small.channels, small.tokens) == (4, 4, 77)
    assert small.activations.training(512**2, 2, ()) < layout.activations.training(512**2, 2, ()) / 2


@pytest.mark.parametrize(
    ("where", "modules"),
    [("cross_attention", 64), ("attention", 128), ("attention_mlp", 160), ("all_linear", 160), ("context_kv", 32)],
)
def test_sites_of_the_true_sd15(where, modules):
    backbone = Backbone.read({"name": "sd15", "model": "nobody/nothing-like-this"})
    hits = backbone.matching(where, backbone.layout().linears["unet"])
    assert {name: len(found) for name, found in hits.items()} == {where: modules}


def test_patterns_match_whole_parts_of_names():
    """Trap 4: a pattern ends a name at a dot, or is the name; one that hits nothing stays in the answer, empty."""
    backbone = Backbone.read({"name": "sd15", "model": "toybox"})
    names = backbone.layout().linears["unet"]
    full = next(name for name in names if name.endswith("attn2.to_k"))
    hits = backbone.matching(["to_k", "attn2.to_k", "o_k", "to_q.weight", full, "to_out.0"], names)
    counts = {pattern: len(found) for pattern, found in hits.items()}
    assert counts == {"to_k": 14, "attn2.to_k": 7, "o_k": 0, "to_q.weight": 0, full: 1, "to_out.0": 14}
