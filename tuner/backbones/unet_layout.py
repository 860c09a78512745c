"""The layers of SD1.5's components as plain numbers, from their configuration alone, without torch."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from .layout import Layout
from .unet_activations import UNetActivations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shape = tuple[int, ...]
Layer = tuple[str, Shape, bool]
"""Name, shape of the weight, and whether it has a bias as long as the weight's first axis."""


def layout(configs: Mapping[str, Mapping[str, Any]]) -> Layout:
    """Sizes of a model whose `unet`, `vae` and `text_encoder` have these configurations."""
    layers = {
        "unet": list(unet_layers(configs["unet"])),
        "vae": list(vae_layers(configs["vae"])),
        "text_encoder": list(text_layers(configs["text_encoder"])),
    }
    found = {name: linears(own) for name, own in layers.items() if name != "vae"}
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    tokens = configs["text_encoder"]["max_position_embeddings"]
    return Layout(
        factor=factor,
        channels=configs["vae"]["latent_channels"],
        tokens=tokens,
        parameters={name: sum(prod(shape) + bias * shape[0] for _, shape, bias in own) for name, own in layers.items()},
        linears=found,
        layers={name: parameters(own) for name, own in layers.items()},
        activations=activations(configs["unet"], factor, tokens, found["unet"]),
        convs=convs(layers["unet"]),
        text_tokens={"text_encoder": tokens},
    )


def parameters(layers: list[Layer]) -> dict[str, int]:
    """Parameters of each layer, weight and bias."""
    return {name: prod(shape) + bias * shape[0] for name, shape, bias in layers}


def linears(layers: list[Layer]) -> dict[str, tuple[int, int]]:
    """(in, out) features of the linear layers: those with a matrix that is no embedding."""
    return {
        name: (shape[1], shape[0]) for name, shape, _ in layers if len(shape) == 2 and not name.endswith("_embedding")
    }


def convs(layers: list[Layer]) -> dict[str, tuple[int, int, int]]:
    """(in, out, side of the kernel) of the convolutions."""
    return {name: (shape[1], shape[0], shape[2]) for name, shape, _ in layers if len(shape) == 4}


def activations(
    config: Mapping[str, Any], factor: int, text_tokens: int, linears: Mapping[str, Any]
) -> UNetActivations:
    """What the UNet of this configuration holds; its blocks are found among its layers."""
    resnets, transformers = [], []
    shapes = {name: shape for name, shape, _ in unet_layers(config)}
    for name, shape in shapes.items():
        if name.endswith(".conv1"):
            resnets.append((name.removesuffix(".conv1"), _level(name, config), shape[1], shape[0]))
        elif name.endswith(".proj_in"):
            transformers.append((name.removesuffix(".proj_in"), _level(name, config), shape[0]))
    convolutions = convs(list(unet_layers(config)))
    return UNetActivations(tuple(resnets), tuple(transformers), text_tokens, factor, linears, convolutions)


def _level(name: str, config: Mapping[str, Any]) -> int:
    """How often the latents' cells were halved where a layer is."""
    last = len(config["block_out_channels"]) - 1
    part, index, *_ = name.split(".")
    return {"down_blocks": lambda: int(index), "up_blocks": lambda: last - int(index)}.get(part, lambda: last)()


def unet_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Every layer of a UNet2DConditionModel with SD1.5's kinds of blocks (Rombach et al. 2022, table 15)."""
    widths: list[int] = list(config["block_out_channels"])
    depth = config["layers_per_block"]
    context = config["cross_attention_dim"]
    linear = bool(config.get("use_linear_projection", False))
    time = widths[0] * 4

    def transformer(name: str, width: int) -> Iterator[Layer]:
        return _transformer(name, width, context, linear=linear)

    yield _conv("conv_in", config["in_channels"], widths[0])
    yield "time_embedding.linear_1", (time, widths[0]), True
    yield "time_embedding.linear_2", (time, time), True
    skips = [widths[0]]
    before = widths[0]
    for level, (kind, width) in enumerate(zip(config["down_block_types"], widths, strict=True)):
        block = f"down_blocks.{level}"
        for index in range(depth):
            yield from _resnet(f"{block}.resnets.{index}", before, width, time)
            if kind.startswith("CrossAttn"):
                yield from transformer(f"{block}.attentions.{index}", width)
            before = width
            skips.append(width)
        if level < len(widths) - 1:
            yield _conv(f"{block}.downsamplers.0.conv", width, width)
            skips.append(width)
    yield from _resnet("mid_block.resnets.0", before, before, time)
    yield from transformer("mid_block.attentions.0", before)
    yield from _resnet("mid_block.resnets.1", before, before, time)
    for level, (kind, width) in enumerate(zip(config["up_block_types"], reversed(widths), strict=True)):
        block = f"up_blocks.{level}"
        for index in range(depth + 1):
            yield from _resnet(f"{block}.resnets.{index}", before + skips.pop(), width, time)
            if kind.startswith("CrossAttn"):
                yield from transformer(f"{block}.attentions.{index}", width)
            before = width
        if level < len(widths) - 1:
            yield _conv(f"{block}.upsamplers.0.conv", width, width)
    yield _norm("conv_norm_out", widths[0])
    yield _conv("conv_out", widths[0], config["out_channels"])


def vae_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Every layer of an AutoencoderKL."""
    widths: list[int] = list(config["block_out_channels"])
    depth, latent = config["layers_per_block"], config["latent_channels"]
    yield _conv("encoder.conv_in", config["in_channels"], widths[0])
    before = widths[0]
    for level, width in enumerate(widths):
        for index in range(depth):
            yield from _resnet(f"encoder.down_blocks.{level}.resnets.{index}", before, width, None)
            before = width
        if level < len(widths) - 1:
            yield _conv(f"encoder.down_blocks.{level}.downsamplers.0.conv", width, width)
    yield from _vae_middle("encoder", before, attention=config.get("mid_block_add_attention", True))
    yield _norm("encoder.conv_norm_out", before)
    yield _conv("encoder.conv_out", before, 2 * latent)
    if config.get("use_quant_conv", True):
        yield "quant_conv", (2 * latent, 2 * latent, 1, 1), True
    if config.get("use_post_quant_conv", True):
        yield "post_quant_conv", (latent, latent, 1, 1), True
    yield _conv("decoder.conv_in", latent, widths[-1])
    yield from _vae_middle("decoder", widths[-1], attention=config.get("mid_block_add_attention", True))
    before = widths[-1]
    for level, width in enumerate(reversed(widths)):
        for index in range(depth + 1):
            yield from _resnet(f"decoder.up_blocks.{level}.resnets.{index}", before, width, None)
            before = width
        if level < len(widths) - 1:
            yield _conv(f"decoder.up_blocks.{level}.upsamplers.0.conv", width, width)
    yield _norm("decoder.conv_norm_out", widths[0])
    yield _conv("decoder.conv_out", widths[0], config["out_channels"])


def text_layers(config: Mapping[str, Any]) -> Iterator[Layer]:
    """Every layer of a CLIPTextModel (Radford et al. 2021), named as transformers 5 does."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.token_embedding", (config["vocab_size"], width), False
    yield "embeddings.position_embedding", (config["max_position_embeddings"], width), False
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layers.{index}"
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{layer}.self_attn.{name}", (width, width), True
        yield _norm(f"{layer}.layer_norm1", width)
        yield f"{layer}.mlp.fc1", (inner, width), True
        yield f"{layer}.mlp.fc2", (width, inner), True
        yield _norm(f"{layer}.layer_norm2", width)
    yield _norm("final_layer_norm", width)


def _transformer(name: str, width: int, context: int, *, linear: bool) -> Iterator[Layer]:
    outer: Shape = (width, width) if linear else (width, width, 1, 1)
    yield _norm(f"{name}.norm", width)
    yield f"{name}.proj_in", outer, True
    block = f"{name}.transformer_blocks.0"
    for index, source in ((1, width), (2, context)):
        yield _norm(f"{block}.norm{index}", width)
        yield f"{block}.attn{index}.to_q", (width, width), False
        yield f"{block}.attn{index}.to_k", (width, source), False
        yield f"{block}.attn{index}.to_v", (width, source), False
        yield f"{block}.attn{index}.to_out.0", (width, width), True
    yield _norm(f"{block}.norm3", width)
    yield f"{block}.ff.net.0.proj", (8 * width, width), True  # GEGLU: four times as wide, twice (Shazeer 2020)
    yield f"{block}.ff.net.2", (width, 4 * width), True
    yield f"{name}.proj_out", outer, True


def _resnet(name: str, source: int, width: int, time: int | None) -> Iterator[Layer]:
    yield _norm(f"{name}.norm1", source)
    yield _conv(f"{name}.conv1", source, width)
    if time is not None:
        yield f"{name}.time_emb_proj", (width, time), True
    yield _norm(f"{name}.norm2", width)
    yield _conv(f"{name}.conv2", width, width)
    if source != width:
        yield f"{name}.conv_shortcut", (width, source, 1, 1), True


def _vae_middle(part: str, width: int, *, attention: bool) -> Iterator[Layer]:
    yield from _resnet(f"{part}.mid_block.resnets.0", width, width, None)
    if attention:
        yield _norm(f"{part}.mid_block.attentions.0.group_norm", width)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield f"{part}.mid_block.attentions.0.{name}", (width, width), True
    yield from _resnet(f"{part}.mid_block.resnets.1", width, width, None)


def _conv(name: str, source: int, width: int) -> Layer:
    return name, (width, source, 3, 3), True


def _norm(name: str, width: int) -> Layer:
    return name, (width,), True
