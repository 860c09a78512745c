"""A1111's hypernetworks computed again, from the description of its format alone: plain matrices, no module of ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

FUNCTIONS = {
    "relu": F.relu, "leakyrelu": F.leaky_relu, "elu": F.elu, "swish": F.hardswish, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "mish": F.mish, "softsign": F.softsign, "gelu": F.gelu,
}  # fmt: skip


def network(weights: dict[str, torch.Tensor], words: dict[str, Any], x: torch.Tensor, multiplier: float = 1.0):
    """x + net(x) * multiplier, for a state dict and the words of a `.pt`, without dropout."""
    layers = words["layer_structure"]
    index, y = 0, x
    for i in range(len(layers) - 1):
        y = y @ weights[f"linear.{index}.weight"].T + weights[f"linear.{index}.bias"]
        index += 1
        if words["activation_func"] != "linear" and (i < len(layers) - 2 or words["activate_output"]):
            y = FUNCTIONS[words["activation_func"]](y)
            index += 1
        if words["is_layer_norm"]:
            mean, variance = y.mean(-1, keepdim=True), y.var(-1, unbiased=False, keepdim=True)
            y = (y - mean) / torch.sqrt(variance + 1e-5)
            y = y * weights[f"linear.{index}.weight"] + weights[f"linear.{index}.bias"]
            index += 1
        index += words["dropout_structure"][i + 1] > 0
    return x + y * multiplier


def attention(layer, pairs: dict[int, Any], words: dict[str, Any], x, context, multiplier: float = 1.0):
    """One attention of a UNet from its own matrices, as A1111's `attention_CrossAttention_forward` orders it."""
    source = x if context is None else context
    key, value = source, source
    if pair := pairs.get(source.shape[-1]):
        key, value = (network(weights, words, source, multiplier) for weights in pair)
    q = x @ layer.to_q.weight.T
    k, v = key @ layer.to_k.weight.T, value @ layer.to_v.weight.T
    q, k, v = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (q, k, v))
    weight = (q @ k.transpose(-1, -2) * layer.scale).softmax(-1)
    out = (weight @ v).transpose(1, 2).flatten(2)
    return out @ layer.to_out[0].weight.T + layer.to_out[0].bias


def comfy_network(weights: dict[str, torch.Tensor], words: dict[str, Any], x: torch.Tensor, strength: float = 1.0):
    """x + net(x) * strength as ComfyUI's loader builds it: from the order of the weights, not from their numbers."""
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    y, i = x, 0
    while i < len(names):
        last = i == len(names) - 1
        y = F.linear(y, weights[f"{names[i]}.weight"], weights[f"{names[i]}.bias"])
        if words["activation_func"] != "linear" and (not last or words["activate_output"]):
            y = FUNCTIONS[words["activation_func"]](y)
        if words["is_layer_norm"]:
            i += 1
            y = F.layer_norm(y, y.shape[-1:], weights[f"{names[i]}.weight"], weights[f"{names[i]}.bias"])
        i += 1
    return x + y * strength
