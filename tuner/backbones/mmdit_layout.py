"""The layers of SD3.5's components as plain numbers, from their configuration alone, without torch."""

from __future__ import annotations

import json
from importlib.resources import files
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from .layout import Layout
from .mmdit_activations import MMDiTActivations
from .unet_layout import parameters, text_layers, vae_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .unet_layout import Layer

Size = Literal["medium", "large", "sd3_medium"]

TIME_CHANNELS = 256
"""Width of the sinusoids that a timestep becomes."""

EMBEDDINGS = ("embedding", "shared", "relative_attention_bias")
"""Last parts of the names of embedding tables."""


def configs(size: Size) -> dict[str, dict[str, Any]]:
    """Configuration of each component as published: SD3.5 medium, SD3.5 large (turbo is its equal), or SD3 medium."""
    names = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3", "scheduler")
    return {"transformer": _read(f"transformer_{size}"), **{name: _read(name) for name in names}}


def _read(name: str) -> dict[str, Any]:
    return json.loads((files("tuner.backbones") / "data" / "sd35" / f"{name}.json").read_text("utf-8"))


def layout(configs: Mapping[str, Mapping[str, Any]], *, t5_length: int) -> Layout:
    """Sizes of a model whose components have these configurations; a text encoder that it lacks has none.

    Args:
        configs: by component.
        t5_length: tokens of the T5 part of the text, which is there as zeros where T5 is not.
    """
    layers = {"transformer": list(transformer_layers(configs["transformer"])), "vae": list(vae_layers(configs["vae"]))}
    for name in ("text_encoder", "text_encoder_2"):
        if name in configs:
            layers[name] = list(projected_text_layers(configs[name]))
    if "text_encoder_3" in configs:
        layers["text_encoder_3"] = list(t5_layers(configs["text_encoder_3"]))
    caption_lengths = {clip_length(configs), *([t5_length] if "text_encoder_3" in configs else [])}
    linears = {
        name: {layer: (shape[1], shape[0]) for layer, shape, _ in found if len(shape) == 2 and not _table(layer)}
        for name, found in layers.items()
        if name != "vae"
    }
    config = configs["transformer"]
    return Layout(
        factor=2 ** (len(configs["vae"]["block_out_channels"]) - 1),
        channels=configs["vae"]["latent_channels"],
        tokens=clip_length(configs) + t5_length,
        parameters={
            name: sum(prod(shape) + bias * shape[0] for _, shape, bias in found) for name, found in layers.items()
        },
        linears=linears,
        activations=MMDiTActivations(
            width=_width(config),
            depth=config["num_layers"],
            dual=frozenset(config.get("dual_attention_layers") or ()),
            normed=bool(config.get("qk_norm")),
            text_tokens=clip_length(configs) + t5_length,
            cell_px=_cell(configs),
            linears=linears["transformer"],
        ),
        text_tokens={
            name: t5_length if name == "text_encoder_3" else configs[name]["max_position_embeddings"]
            for name in linears
            if name != "transformer"
        },
        layers={name: parameters(found) for name, found in layers.items()},
        max_side_px=configs["transformer"]["pos_embed_max_size"] * _cell(configs),
        pretrained_px=1440 if configs["transformer"].get("dual_attention_layers") else 1024,
        text_width=configs["transformer"]["joint_attention_dim"],
        caption_tokens=max(caption_lengths),
        shared_tokens=min(caption_lengths) if len(caption_lengths) > 1 else None,
        scheduler=configs.get("scheduler", {}),
    )


def clip_length(configs: Mapping[str, Mapping[str, Any]]) -> int:
    """Tokens of the CLIP part of the text."""
    for name in ("text_encoder", "text_encoder_2"):
        if name in configs:
            return configs[name]["max_position_embeddings"]
    return 77


def _cell(configs: Mapping[str, Mapping[str, Any]]) -> int:
    """Pixels of an image token, along one side."""
    return configs["transformer"]["patch_size"] * 2 ** (len(configs["vae"]["block_out_channels"]) - 1)


def _table(layer: str) -> bool:
    return layer.rpartition(".")[2].endswith(EMBEDDINGS)


def _width(config: Mapping[str, Any]) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def transformer_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Every layer of an SD3Transformer2DModel (Esser et al. 2024, sec. 4 and fig. 2)."""
    width, patch = _width(config), config["patch_size"]
    dual = set(config.get("dual_attention_layers") or ())
    yield "pos_embed.proj", (width, config["in_channels"], patch, patch), True
    yield "time_text_embed.timestep_embedder.linear_1", (width, TIME_CHANNELS), True
    yield "time_text_embed.timestep_embedder.linear_2", (width, width), True
    yield "time_text_embed.text_embedder.linear_1", (width, config["pooled_projection_dim"]), True
    yield "time_text_embed.text_embedder.linear_2", (width, width), True
    yield "context_embedder", (config["caption_projection_dim"], config["joint_attention_dim"]), True
    for index in range(config["num_layers"]):
        last = index == config["num_layers"] - 1
        yield from _block(f"transformer_blocks.{index}", config, dual=index in dual, last=last)
    yield "norm_out.linear", (2 * width, width), True
    yield "proj_out", (patch * patch * (config.get("out_channels") or config["in_channels"]), width), True


def _block(block: str, config: Mapping[str, Any], *, dual: bool, last: bool) -> Iterator[Layer]:
    width, head, normed = _width(config), config["attention_head_dim"], bool(config.get("qk_norm"))
    yield f"{block}.norm1.linear", ((9 if dual else 6) * width, width), True
    yield f"{block}.norm1_context.linear", ((2 if last else 6) * width, width), True
    text = ("add_q_proj", "add_k_proj", "add_v_proj", *(() if last else ("to_add_out",)))
    for name in ("to_q", "to_k", "to_v", "to_out.0", *text):
        yield f"{block}.attn.{name}", (width, width), True
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k") if normed else ():
        yield f"{block}.attn.{name}", (head,), False
    if dual:
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield f"{block}.attn2.{name}", (width, width), True
        for name in ("norm_q", "norm_k") if normed else ():
            yield f"{block}.attn2.{name}", (head,), False
    for stream in ("ff",) if last else ("ff", "ff_context"):
        yield f"{block}.{stream}.net.0.proj", (4 * width, width), True
        yield f"{block}.{stream}.net.2", (width, 4 * width), True


def projected_text_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Every layer of a CLIPTextModelWithProjection."""
    for name, shape, bias in text_layers(config):
        yield f"text_model.{name}", shape, bias
    yield "text_projection", (config["projection_dim"], config["hidden_size"]), False


def t5_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Every layer of a T5EncoderModel (Raffel et al. 2020), gated or not."""
    width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated-")
    yield "shared", (config["vocab_size"], width), False
    for index in range(config["num_layers"]):
        attention, mlp = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        for name in ("q", "k", "v"):
            yield f"{attention}.SelfAttention.{name}", (inner, width), False
        yield f"{attention}.SelfAttention.o", (width, inner), False
        if index == 0:
            buckets = config.get("relative_attention_num_buckets", 32)
            yield f"{attention}.SelfAttention.relative_attention_bias", (buckets, config["num_heads"]), False
        yield f"{attention}.layer_norm", (width,), False
        for name in ("wi_0", "wi_1") if gated else ("wi",):
            yield f"{mlp}.DenseReluDense.{name}", (config["d_ff"], width), False
        yield f"{mlp}.DenseReluDense.wo", (width, config["d_ff"]), False
        yield f"{mlp}.layer_norm", (width,), False
    yield "encoder.final_layer_norm", (width,), False
