"""The text in a file's header: peft's configuration for diffusers; modelspec 1.0.1 and kohya's ss_ for browsers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import container
from .families import FAMILIES
from .flow_facts import level_fields, text_fields

if TYPE_CHECKING:
    from torch import Tensor

    from .about import About
    from .lora import Pair

IMPLEMENTATION = "https://github.com/Stability-AI/generative-models"
"""What modelspec calls the implementation whose tools read kohya's keys."""
FULL: Mapping[str, str] = {
    "ss_learning_rate": "lr",
    "ss_unet_lr": "lr",
    "ss_text_encoder_lr": "text_encoder_lr",
    "ss_optimizer": "optimizer",
    "ss_lr_scheduler": "schedule",
    "ss_lr_warmup_steps": "warmup",
    "ss_max_train_steps": "max_steps",
    "ss_steps": "step",
    "ss_epoch": "epoch",
    "ss_num_train_images": "images",
    "ss_num_reg_images": "prior_images",
    "ss_batch_size_per_device": "batch",
    "ss_gradient_accumulation_steps": "accumulate",
    "ss_gradient_checkpointing": "gradient_checkpointing",
    "ss_max_grad_norm": "max_grad_norm",
    "ss_seed": "seed",
    "ss_clip_skip": "clip_skip",
    "ss_prior_loss_weight": "prior_weight",
    "ss_min_snr_gamma": "min_snr_gamma",
    "ss_noise_offset": "noise_offset",
    "ss_caption_dropout_rate": "caption_dropout",
    "ss_tag_frequency": "tags",
}
"""kohya's field -> the fact that it states."""
LYCORIS = "lycoris.kohya"
"""The module of sd-scripts that reads a DoRA's keys; its own pass over the norms."""
ODD_SIZES = "tuner_layers"
"""Which layers were trained with another rank or scale than the rest."""
MAIN_RANK = "tuner_rank"
"""The rest's rank, where there are others; `tuner_alpha` is its alpha."""
MAX_BYTES = 2**20
"""Metadata above this makes browsers slow; the tag counts are cut first, then the recipe."""


def diffusers_header(layers: Sequence[Pair], about: About, *, rank: int, alpha: float) -> dict[str, str]:
    """Header of the file for diffusers. Holds no date, no path and no run name."""
    header = {"format": "pt", "lora_adapter_metadata": adapter_config(layers)}
    if about.metadata == "none":
        return header
    fields = {
        "modelspec.title": about.title,
        "modelspec.trigger_phrase": about.activation or None,
        **_own_fields(about),
        "tuner_alpha": float(alpha),
        **_odd_sizes(layers, rank, alpha),
    }
    return header | {key: _text(value) for key, value in fields.items() if value is not None}


def adapter_config(layers: Sequence[Pair]) -> str:
    """Peft's LoraConfig of each component as diffusers 0.42.1 packs it: alpha = rank, for B holds the scale already,
    and the rank is the largest of all layers, which the others are filled up to.

    Only keys that every peft since 0.10 takes; a newer one fills in the rest.
    """
    from .lora import targets

    config: dict[str, Any] = {}
    rank = max((pair.down.shape[0] for pair in layers), default=0)
    for component, names in targets(layers).items():
        values = {
            "bias": "none",
            "init_lora_weights": True,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": rank,
            "target_modules": sorted(names),
            # a loader that knows no `dora_scale` then breaks off, rather than drawing without the norms
            "use_dora": any(p.magnitude is not None for p in layers),
            "use_rslora": False,
        }
        config |= {f"{component}.{key}": value for key, value in values.items()}
    return json.dumps(config, indent=2, sort_keys=True)


def kohya_header(
    tensors: Mapping[str, Tensor], about: About, *, rank: int, alpha: float, layers: Sequence[Pair] = ()
) -> dict[str, str]:
    """Header of the file with kohya's keys. Holds no date, no path and no run name, so equal runs give equal bytes."""
    if about.metadata == "none":
        return {"format": "pt"}
    network = {"dim": rank, "alpha": float(alpha), "args": _network_args(layers)}
    fields = _browser_fields(about) | {f"ss_network_{key}": value for key, value in network.items()}
    if any(pair.magnitude is not None for pair in layers):
        fields["ss_network_module"] = LYCORIS
    fields["tuner_alpha"] = float(alpha)
    fields |= _odd_sizes(layers, rank, alpha)
    if about.metadata == "full":
        fields |= _training_fields(about)
    header = {key: _text(value) for key, value in fields.items() if value is not None}
    header = _hashed(tensors, _capped(header))
    return {"format": "pt", **header}


def told_header(
    tensors: Mapping[str, Tensor], layers: Sequence[Pair], about: About, *, rank: int, alpha: float
) -> dict[str, str]:
    """Header of a file with diffusers' keys that is read by every tool, so that it tells all there is to tell.

    Holds no date, no path and no run name.
    """
    header = kohya_header(tensors, about, rank=rank, alpha=rank, layers=layers)  # B holds the scale already
    header = {key: text for key, text in header.items() if key not in (ODD_SIZES, MAIN_RANK)}
    if about.metadata != "none":
        header |= {key: _text(value) for key, value in _odd_sizes(layers, rank, alpha).items()}
        header["tuner_alpha"] = str(float(alpha))
    header.pop("ss_network_module", None)  # sd-scripts does not read these keys
    return header | {"lora_adapter_metadata": adapter_config(layers)}


def _network_args(layers: Sequence[Pair]) -> dict[str, str]:
    """What kohya's scripts and LyCORIS are told of convolutions and of a DoRA."""
    args: dict[str, str] = {}
    wide = {(p.down.shape[0], p.scale) for p in layers if p.down.ndim == 4 and p.down.shape[-1] > 1}
    if len(wide) == 1:
        ((rank, scale),) = wide
        args |= {"conv_dim": str(rank), "conv_alpha": f"{scale * rank:g}"}
    dora = next((pair for pair in layers if pair.magnitude is not None), None)
    if dora is not None:
        args |= {"algo": "lora", "dora_wd": "True", "wd_on_output": str(dora.axis == "output")}
    return args


def _odd_sizes(layers: Sequence[Pair], rank: int, alpha: float) -> dict[str, Any]:
    """Rank and scale in training of each layer that has others than the rest; files hold ranks filled up."""
    odd = {
        f"{p.component}.{p.layer}": [p.down.shape[0], p.scale]
        for p in layers
        if p.down.shape[0] != rank or not math.isclose(p.scale, alpha / rank)
    }
    return {MAIN_RANK: rank, ODD_SIZES: odd} if odd else {}


def run_header(about: About, kind: str) -> dict[str, str]:
    """What a file that is no LoRA says of the run that made it. Holds no date, no path and no run name.

    Args:
        kind: modelspec's word for it, such as `textual-inversion`.
    """
    if about.metadata == "none":
        return {"format": "pt"}
    fields = {key: value for key, value in _browser_fields(about).items() if not key.startswith("ss_network_")}
    fields["modelspec.architecture"] = FAMILIES[about.family].architecture.replace("/lora", f"/{kind}")
    if about.metadata == "full":
        fields |= _training_fields(about)
    return {"format": "pt", **_capped({key: _text(value) for key, value in fields.items() if value is not None})}


def converted_header(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], style: str, layers: Sequence[Pair], family: str
) -> dict[str, str]:
    """Header of a file whose tensors were given other keys: what the source said, less what is no longer so."""
    stale = ("lora_adapter_metadata", "modelspec.hash_sha256", "sshs_", "ss_network_")
    header = {key: text for key, text in metadata.items() if not key.startswith(stale)}
    header |= {"format": "pt", "tuner_backbone": family}
    rank = max(pair.down.shape[0] for pair in layers)
    if style == "diffusers":
        return header | {"lora_adapter_metadata": adapter_config(layers)}
    own = {"ss_network_module": FAMILIES[family].network_module, "ss_network_dim": str(rank)}
    return _hashed(tensors, header | own | {"ss_base_model_version": FAMILIES[family].version, "ss_v2": "False"})


def _browser_fields(about: About) -> dict[str, Any]:
    """What browsers of models sort by."""
    from .. import __version__

    family = FAMILIES[about.family]
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": family.architecture,
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": about.title,
        "modelspec.resolution": f"{about.resolution}x{about.resolution}",
        "modelspec.prediction_type": about.prediction,
        "modelspec.trigger_phrase": about.activation or None,
        "modelspec.usage_hint": f"for {about.base}" if about.base else None,
        "ss_base_model_version": family.version,
        "ss_v2": "False",
        "ss_sd_model_name": about.base or None,
        "ss_network_module": family.network_module,
        "tuner_version": __version__,
        **_own_fields(about),
    }


def _own_fields(about: About) -> dict[str, Any]:
    """By which `tuner` finds the base again."""
    return {
        "tuner_backbone": about.family,
        "tuner_base": about.base or None,
        "tuner_base_identity": about.base_identity,
        "tuner_weights": about.weights,
        **text_fields(about.facts),
    }


def _training_fields(about: About) -> dict[str, Any]:
    """How it was trained, down to the recipe."""
    facts = about.facts
    fields = {key: facts.get(fact) for key, fact in FULL.items()}
    fields["ss_resolution"] = f"({about.resolution}, {about.resolution})"
    fields["ss_enable_bucket"] = facts.get("crop", "buckets") == "buckets"
    precision = facts.get("precision")
    fields["ss_mixed_precision"] = "no" if precision == "fp32" else precision
    buckets = facts.get("buckets")
    if buckets:
        sizes = sorted(([int(side) for side in name.split("x")], count) for name, count in buckets.items())
        listed = {str(i): {"resolution": size, "count": count} for i, (size, count) in enumerate(sizes)}
        fields["ss_bucket_info"] = {"buckets": listed}
    prompt = about.prompt if about.prompt != about.activation else None
    fields["modelspec.description"] = f"trained on: {prompt}" if prompt else None
    fields |= level_fields(facts)
    fields["tuner_recipe"] = about.recipe or None
    return fields


def _text(value: Any) -> str:
    """A header's values are texts; tables are JSON, as kohya writes them."""
    if isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return str(value)


def _capped(header: dict[str, str]) -> dict[str, str]:
    for key in ("ss_tag_frequency", "tuner_recipe"):
        if sum(len(text.encode()) for text in header.values()) > MAX_BYTES and key in header:
            header[key] = f"left out: {len(header[key].encode()):,} bytes"
    return header


def _hashed(tensors: Mapping[str, Tensor], header: dict[str, str]) -> dict[str, str]:
    """The hashes by which sites know a file: of its numbers, and A1111's old one of 64 KiB behind the first MiB."""
    digest = hashlib.sha256(container.payload(tensors)).hexdigest()
    old = container.pack(tensors, {key: text for key, text in header.items() if key.startswith("ss_")})
    legacy = hashlib.sha256(old[0x100000:0x110000]).hexdigest()[:8]
    return {
        **header,
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        "sshs_legacy_hash": legacy,
    }
