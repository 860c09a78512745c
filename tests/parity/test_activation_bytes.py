"""The plan's activations against what a step really holds, on diffusers' own modules of several sizes.

Tolerances: 8 % of a step, 15 % with gradient checkpointing (where gradients on their way through a block are a large
share); a forward pass is an upper estimate, at most half too high.
"""

from __future__ import annotations

import logging

import pytest
import torch
from held_bytes import held, prepared

from tuner.adapters.lora import LoRA
from tuner.backbones import Backbone, sd15_sites, sd35_sites
from tuner.backbones import mmdit_layout as ml
from tuner.backbones import unet_layout as ul
from tuner.backbones.bundled import configs as sd15_configs

MMDIT = {
    "sample_size": 64, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
    "joint_attention_dim": 512, "pooled_projection_dim": 256, "pos_embed_max_size": 96,
}  # fmt: skip
UNET = {
    "block_out_channels": (64, 128, 192), "layers_per_block": 1, "cross_attention_dim": 96, "norm_num_groups": 8,
    "in_channels": 4, "out_channels": 4, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    """diffusers warns where a module is cast by `to`, which here changes nothing."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    before, logger.disabled = logger.disabled, True
    yield
    logger.disabled = before


def mmdit(depth: int, heads: int, dual: int = 0, *, normed: bool = True) -> dict:
    return MMDIT | {
        "num_layers": depth, "num_attention_heads": heads, "caption_projection_dim": 64 * heads,
        "dual_attention_layers": list(range(dual)), "qk_norm": "rms_norm" if normed else None,
    }  # fmt: skip


def layout_of(config: dict, t5_length: int):
    return ml.layout({**ml.configs("medium"), "transformer": config}, t5_length=t5_length)


def count_mmdit(config, names, *, px, text, sixteen, checkpointing=False, gradients=True, dora=None):
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    kind = torch.bfloat16 if sixteen and names is not None else torch.float32
    with torch.device("meta"):
        module = prepared(SD3Transformer2DModel.from_config(config), names, sixteen=sixteen, dora=dora)
        inputs = {
            "hidden_states": torch.empty(1, 16, px // 8, px // 8, dtype=kind),
            "encoder_hidden_states": torch.empty(1, text, config["joint_attention_dim"], dtype=kind),
            "pooled_projections": torch.empty(1, config["pooled_projection_dim"]),
            "timestep": torch.empty(1),
        }
    if checkpointing:
        module.enable_gradient_checkpointing()
        module.train()
    return held(module, inputs, sixteen=sixteen, gradients=gradients)


def count_unet(config, names, *, px, sixteen, checkpointing=False, gradients=True, dora=None):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    kind = torch.bfloat16 if sixteen and names is not None else torch.float32
    with torch.device("meta"):
        module = prepared(UNet2DConditionModel.from_config(config), names, sixteen=sixteen, dora=dora)
        inputs = {
            "sample": torch.empty(1, 4, px // 8, px // 8, dtype=kind),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, 77, config["cross_attention_dim"], dtype=kind),
        }
    module.train(checkpointing)
    if checkpointing:
        module.enable_gradient_checkpointing()
    return held(module, inputs, sixteen=sixteen, gradients=gradients)


SHAPES = {
    "narrow": (mmdit(2, 4), 256, 77),
    "wider, with a second attention": (mmdit(3, 8, dual=2), 384, 256),
    "not normalised": (mmdit(5, 6, normed=False), 256, 20),
}
CASES = [
    ("narrow", "attention", True),
    ("narrow", "attention", False),
    ("narrow", None, True),
    ("wider, with a second attention", "attention", True),
    ("wider, with a second attention", "all_linear", False),
    ("wider, with a second attention", None, False),
    ("not normalised", "all_linear", True),
]


def mmdit_case(shape: str, where: str | None):
    config, px, t5_length = SHAPES[shape]
    layout = layout_of(config, t5_length)
    names = None if where is None else sd35_sites.matching(where, layout.linears["transformer"])[where]
    return config, px, 77 + t5_length, layout.activations, names


@pytest.mark.parametrize(("shape", "where", "sixteen"), CASES)
def test_a_step_of_an_mmdit(shape, where, sixteen):
    config, px, text, activations, names = mmdit_case(shape, where)
    planned = activations.training(px * px, 2 if sixteen else 4, names)
    assert planned == pytest.approx(count_mmdit(config, names, px=px, text=text, sixteen=sixteen), rel=0.08)


@pytest.mark.parametrize("sixteen", [True, False], ids=["16 bit", "fp32"])
def test_a_checkpointed_step_of_an_mmdit(sixteen):
    config, px, text, activations, names = mmdit_case("wider, with a second attention", "attention")
    counted = count_mmdit(config, names, px=px, text=text, sixteen=sixteen, checkpointing=True)
    assert activations.training(px * px, 2 if sixteen else 4, names, checkpointing=True) == pytest.approx(
        counted, rel=0.15
    )


@pytest.mark.parametrize("sixteen", [True, False], ids=["16 bit", "fp32"])
def test_a_forward_pass_of_an_mmdit(sixteen):
    config, px, text, activations, _ = mmdit_case("wider, with a second attention", "attention")
    counted = count_mmdit(config, ["proj_out"], px=px, text=text, sixteen=sixteen, gradients=False)
    assert 0.95 < activations.forward(px * px, 2 if sixteen else 4) / counted < 1.5


@pytest.mark.parametrize(
    ("px", "checkpointing", "sixteen"), [(256, False, True), (512, False, False), (512, True, True), (512, True, False)]
)
def test_a_step_of_a_unet(px, checkpointing, sixteen):
    layout = ul.layout({**sd15_configs(), "unet": UNET})
    names = sd15_sites.matching("attention", layout.linears["unet"])["attention"]
    counted = count_unet(UNET, names, px=px, sixteen=sixteen, checkpointing=checkpointing)
    planned = layout.activations.training(px * px, 2 if sixteen else 4, names, checkpointing=checkpointing)
    assert planned == pytest.approx(counted, rel=0.15 if checkpointing else 0.08)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["saved", "recomputed"])
@pytest.mark.parametrize("sixteen", [True, False], ids=["16 bit", "fp32"])
@pytest.mark.parametrize("size", ["medium", "large", "sd3_medium", "sd15"])
def test_a_step_of_the_true_models(size, sixteen, checkpointing):
    itemsize = 2 if sixteen else 4
    if size == "sd15":
        layout = ul.layout(sd15_configs())
        names = sd15_sites.matching("attention", layout.linears["unet"])["attention"]
        unet = {key: value for key, value in sd15_configs()["unet"].items() if not key.startswith("_")}
        counted = count_unet(unet, names, px=512, sixteen=sixteen, checkpointing=checkpointing)
        planned = layout.activations.training(512**2, itemsize, names, checkpointing=checkpointing)
    else:
        layout = ml.layout(ml.configs(size), t5_length=256)
        config = ml.configs(size)["transformer"]
        names = sd35_sites.matching("attention", layout.linears["transformer"])["attention"]
        counted = count_mmdit(config, names, px=1024, text=333, sixteen=sixteen, checkpointing=checkpointing)
        planned = layout.activations.training(1024**2, itemsize, names, checkpointing=checkpointing)
    assert planned == pytest.approx(counted, rel=0.10 if checkpointing else 0.05)


VARIANTS = [({"conv_rank": 4}, True), ({"dora": "output"}, False), ({"dora": "input", "conv_rank": 4}, True)]


@pytest.mark.parametrize(("keys", "sixteen"), VARIANTS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["saved", "recomputed"])
def test_a_step_of_a_unet_whose_convolutions_train_or_with_norms(keys, sixteen, checkpointing):
    lora, backbone = LoRA(**keys), Backbone.read({"name": "sd15", "model": "toybox"})
    layout, itemsize = ul.layout({**sd15_configs(), "unet": UNET}), 2 if sixteen else 4
    names = list(lora.layers(backbone, layout))
    counted = count_unet(UNET, names, px=512, sixteen=sixteen, checkpointing=checkpointing, dora=lora.dora)
    planned = layout.activations.training(
        512**2, itemsize, names, checkpointing=checkpointing, beside=lora.kept_beside(backbone, layout, itemsize)
    )
    assert planned == pytest.approx(counted, rel=0.15 if checkpointing else 0.08)


@pytest.mark.parametrize(("dora", "sixteen"), [("output", True), ("input", False)])
def test_a_step_of_an_mmdit_with_norms(dora, sixteen):
    config, px, text, activations, names = mmdit_case("wider, with a second attention", "attention")
    lora, backbone = LoRA(dora=dora), Backbone.read({"name": "sd35", "model": "nobody/nothing-like-this"})
    beside = lora.kept_beside(backbone, layout_of(config, 256), 2 if sixteen else 4)
    planned = activations.training(px * px, 2 if sixteen else 4, names, beside=beside)
    counted = count_mmdit(config, names, px=px, text=text, sixteen=sixteen, dora=dora)
    assert planned == pytest.approx(counted, rel=0.08)
