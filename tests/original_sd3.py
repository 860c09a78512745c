"""The linear layers of SD3's original code (Stability-AI/sd3-ref, mmditx.py), listed here by its own structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TIME = 256


def layers(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and (out, in) of each, for the model that diffusers describes by `config`."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    dual, last = set(config["dual_attention_layers"] or ()), config["num_layers"] - 1
    yield "t_embedder.mlp.0", (width, TIME)
    yield "t_embedder.mlp.2", (width, width)
    yield "y_embedder.mlp.0", (width, config["pooled_projection_dim"])
    yield "y_embedder.mlp.2", (width, width)
    yield "context_embedder", (width, config["joint_attention_dim"])
    yield "final_layer.linear", (config["patch_size"] ** 2 * config["out_channels"], width)
    yield "final_layer.adaLN_modulation.1", (2 * width, width)
    for index in range(config["num_layers"]):
        for stream in ("x_block", "context_block"):
            block = f"joint_blocks.{index}.{stream}"
            ends, second = stream == "context_block" and index == last, stream == "x_block" and index in dual
            yield f"{block}.adaLN_modulation.1", ((2 if ends else 9 if second else 6) * width, width)
            for attention in ("attn", "attn2") if second else ("attn",):
                yield f"{block}.{attention}.qkv", (3 * width, width)
                if not ends:
                    yield f"{block}.{attention}.proj", (width, width)
            if not ends:
                yield f"{block}.mlp.fc1", (4 * width, width)
                yield f"{block}.mlp.fc2", (width, 4 * width)
