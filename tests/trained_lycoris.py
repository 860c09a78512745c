"""A model with a LoHa or LoKr that says something, its files, and what each reader of such files computes of them.

The readers' arithmetic is written out here once more, from their published sources, in float64 and without any of
tuner's or peft's code:

- ComfyUI, comfy/weight_adapter/loha.py, lokr.py and comfy/lora.py at 00728eb, 17adbb5 and 179c2d3; Forge takes the same
- AUTOMATIC1111, extensions-builtin/Lora/network_hada.py, network_lokr.py and network.py
- InvokeAI, invokeai/backend/patches/layers/loha_layer.py, lokr_layer.py and lora_layer_base.py at 8e71a8a
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from tuner.adapters import Adapter
from tuner.draws import Draws
from tuner.formats.prediction import predict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tuner.backbones import DiffusionModel
    from tuner.formats.about import About

Values = dict[str, np.ndarray]


def apart(model: DiffusionModel) -> DiffusionModel:
    """The model with modules of its own, so that what is done to it is done to no other."""
    own = copy.copy(model)
    own.denoiser = copy.deepcopy(model.denoiser)
    own.text_encoders = {name: copy.deepcopy(encoder) for name, encoder in model.text_encoders.items()}
    return own


class TrainedLycoris:
    """What a test compares with what a reader makes of its files."""

    def __init__(self, model: DiffusionModel, folder: Path, about: About, **keys: object) -> None:
        self.model = apart(model)
        self.adapter = Adapter.read(keys)
        self.attachment = self.adapter.attach(self.model, keep_base=False, draws=Draws(7))
        for name, tensor in self.attachment.state_dict().items():
            tensor.add_(0.2 * torch.from_numpy(Draws(1).normal(tuple(tensor.shape), name)))
        self.state = {name: tensor.clone() for name, tensor in self.attachment.state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        self.files = list(self.attachment.export(folder, self.state, about))
        self.file = self.files[0]

    def predict(self) -> torch.Tensor:
        return predict(self.model)


def comfy_scale(own: Values) -> float:
    """The second matrix's rank where it has one, else the first's; 1 without any, or without alpha."""
    ranks = [own[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b", "hada_w1_b") if name in own]
    return float(own["alpha"]) / ranks[-1] if ranks and "alpha" in own else 1.0


def a1111_scale(own: Values) -> float:
    dim = None
    for name in ("hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        dim = own[name].shape[0] if name in own else dim
    return 1.0 if dim is None or "alpha" not in own else float(own["alpha"]) / dim


def invoke_scale(own: Values) -> float:
    found = [own[name].shape[0] for name in ("hada_w1_b", "lokr_w1_b", "lokr_w2_b") if name in own]
    return float(own["alpha"]) / found[0] if found and "alpha" in own else 1.0


READERS: Mapping[str, Callable[[Values], float]] = {
    "ComfyUI and Forge": comfy_scale,
    "AUTOMATIC1111": a1111_scale,
    "InvokeAI": invoke_scale,
}
"""They share one product and look its scale up in ways of their own."""


def product(own: Values) -> np.ndarray:
    """Entry by entry for a LoHa, block by block for a LoKr."""
    if "hada_w1_a" in own:
        return matrix(own, "hada_w1", "hada_t1") * matrix(own, "hada_w2", "hada_t2")
    first, second = matrix(own, "lokr_w1", ""), matrix(own, "lokr_w2", "lokr_t2")
    blocks = [[value * second for value in row] for row in first]
    return np.concatenate([np.concatenate(row, axis=1) for row in blocks], axis=0)


def matrix(own: Values, name: str, middle: str) -> np.ndarray:
    if name in own:
        return own[name]
    outer, inner = own[f"{name}_a"], own[f"{name}_b"]
    if middle not in own:
        return outer.dot(inner)
    tall = np.tensordot(outer, own[middle], axes=(0, 0))  # (out, r, height, width)
    return np.moveaxis(np.tensordot(tall, inner, axes=(1, 0)), -1, 1)


def read_by(reader: str, tensors: Mapping[str, torch.Tensor], model: DiffusionModel, keys: Mapping[str, str]) -> set:
    """Change a model's weights as a reader does.

    Args:
        keys: by what the reader calls a layer, `<component>.<layer>`.

    Returns: names of tensors that it has no layer for.
    """
    layers: dict[str, Values] = {}
    for name, tensor in tensors.items():
        stem, leaf = name.split(".", 1)
        layers.setdefault(stem, {})[leaf] = tensor.double().numpy()
    parts = {model.denoiser_name: model.denoiser, **model.text_encoders}
    for stem in layers.keys() & keys.keys():
        component, _, layer = keys[stem].partition(".")
        weight = parts[component].get_submodule(layer).weight
        delta = READERS[reader](layers[stem]) * product(layers[stem])
        with torch.no_grad():
            weight += torch.from_numpy(delta).reshape(weight.shape).float()
    return layers.keys() - keys.keys()


def reader_keys(model: DiffusionModel) -> dict[str, str]:
    """What the readers call the layers: kohya's names, and on SD3.5 those of diffusers behind `lycoris_`."""
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te"}
    if model.denoiser_name == "transformer":
        prefixes = {"transformer": "lycoris", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    found = {}
    for component, module in {model.denoiser_name: model.denoiser, **model.text_encoders}.items():
        for name, part in module.named_modules():
            if component in prefixes and getattr(part, "weight", None) is not None:
                spelt = f"text_model.{name}" if name.startswith("encoder.layers") else name
                found[f"{prefixes[component]}_{spelt.replace('.', '_')}"] = f"{component}.{name}"
    return found
