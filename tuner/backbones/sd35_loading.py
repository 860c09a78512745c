"""Stable Diffusion 3.5 from a folder, the Hub, or a single file for the transformer beside a folder for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import loading
from .clip_tokenizer import fingerprint, load_tokenizer
from .download import locate
from .identity import digest
from .sd15_model import TEXT_SURPLUS
from .sd35 import MULTIPLE_PX, TOYBOX, absent, toybox_folder
from .sd35_model import SD35Model
from .sd35_text import CLIPS, T5, load_t5_tokenizer, t5_fingerprint
from .weights import Weights, read_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from .sd35 import SD35

TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}
PIPELINE = "StableDiffusion3"
"""How the names of diffusers' pipelines for this family begin."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a model consists of, before any weight is read."""

    source: Path
    configs: dict[str, Mapping[str, Any]]
    files: dict[str, tuple[Path, ...]]
    tokenizers: dict[str, Any]
    scheduler: Mapping[str, Any]
    notes: list[str]


def load(backbone: SD35, *, device: torch.device, dtype: torch.dtype, read: Collection[str] | None = None) -> SD35Model:
    """As `Backbone.load`: from the toybox, a folder, the Hub, or a single file."""
    if backbone.model == TOYBOX:
        place = toybox_folder(backbone.key)
    else:
        place = locate(
            backbone.model, backbone.revision, patterns(backbone), lambda folder: _complete(backbone, folder)
        )
    if not place.is_file():
        found = survey(backbone, place)
        return assemble(backbone, found, device=device, dtype=dtype, read=read)
    from .sd35_single_file import default_components, read_config, read_transformer

    config = read_config(place)
    home = backbone.components or default_components(place, config)
    wanted = patterns(backbone, transformer=False)
    folder = locate(home, None, wanted, lambda f: _complete(backbone, f, transformer=False), key="backbone.components")
    if not folder.is_dir():
        raise DataError(f"backbone.components: {home}: not a folder", "give a folder in diffusers' layout or a Hub id")
    found = survey(backbone, folder, transformer=False)
    found.configs["transformer"], found.files["transformer"] = config, (place,)
    found.notes.append(f"{place.name} holds the transformer; VAE and text encoders come from {home}")
    return assemble(
        backbone, found, device=device, dtype=dtype, read=read, transformer=lambda: read_transformer(place)[1]
    )


def wanted_components(backbone: SD35, *, transformer: bool = True) -> list[str]:
    """Components to look for, whether or not the model has them."""
    encoders = [name for name in backbone.text_components if backbone.t5 or name != T5]
    return [*(["transformer"] if transformer else []), "vae", *encoders]


def patterns(backbone: SD35, *, transformer: bool = True) -> list[str]:
    """What is fetched of a Hub id: safetensors and text, nothing that can run code, and no T5 that is not wanted."""
    names = wanted_components(backbone, transformer=transformer)
    words = [f"{TOKENIZERS[name]}/*.{ending}" for name in names if name in TOKENIZERS for ending in ("json", "txt")]
    weights = [f"{name}/*.{ending}" for name in names for ending in ("json", "safetensors")]
    return ["model_index.json", *weights, *words, "scheduler/*.json"]


def _complete(backbone: SD35, folder: Path, *, transformer: bool = True) -> bool:
    index = folder / "model_index.json"
    if not index.is_file():
        return True  # another kind of repository; `survey` says so
    names = wanted_components(backbone, transformer=transformer)
    listed = loading.read_json(index)
    return all(loading.weight_files(folder / name) for name in names if not absent(listed, name))


def survey(backbone: SD35, folder: Path, *, transformer: bool = True) -> Found:
    """Read what a folder in diffusers' layout says of itself.

    Raises: DataError naming what is absent, or saying what kind of model it is instead.
    """
    if not (folder / "model_index.json").is_file():
        raise DataError(
            f"{folder}: not a model in diffusers' layout (it has no model_index.json)",
            "give the folder that holds model_index.json, or a single .safetensors file",
        )
    index = loading.read_json(folder / "model_index.json")
    if not str(index.get("_class_name", "")).startswith(PIPELINE):
        raise DataError(
            f"{folder}: this is a model for {index.get('_class_name')}, not for {PIPELINE}Pipeline",
            "take Stable Diffusion 3.5 or 3, or the backbone of this family",
        )
    names = wanted_components(backbone, transformer=transformer)
    missing = [name for name in names if absent(index, name)]
    names = [name for name in names if name not in missing]
    if not set(CLIPS) & set(names):
        raise DataError(
            f"{folder}: holds no CLIP text encoder, which the pooled vector comes from",
            "download the whole model again",
        )
    if T5 in names and not (folder / T5).is_dir():
        raise DataError(
            f"{folder / T5}: the base model lacks this component",
            "download the whole model again, or set backbone.t5 to false to do without T5",
        )
    configs: dict[str, Mapping[str, Any]] = {n: loading.read_json(folder / n / "config.json") for n in names}
    files = {name: loading.require_weights(folder / name) for name in names}
    words: dict[str, Any] = {}
    for name in names:
        if name in CLIPS:
            words[name] = load_tokenizer(folder / TOKENIZERS[name], configs[name].get("max_position_embeddings", 77))
        elif name == T5:
            words[name] = load_t5_tokenizer(folder / TOKENIZERS[name])
    notes = [f"{name}: this model has none; zeros stand in" for name in missing]
    notes += [
        f"{name}: loaded from the 16-bit variant {path.name}, for the plain file is absent"
        for name, paths in files.items()
        for path in paths
        if ".fp16" in path.name
    ]
    scheduler = loading.read_json(folder / "scheduler" / "scheduler_config.json")
    return Found(folder, configs, files, words, scheduler, notes)


def assemble(
    backbone: SD35,
    found: Found,
    *,
    device: torch.device,
    dtype: torch.dtype,
    read: Collection[str] | None = None,
    transformer: Callable[[], Mapping[str, Tensor]] | None = None,
) -> SD35Model:
    """Build the modules and give them their weights.

    Args:
        backbone: the part that loads it.
        found: what it consists of.
        device, dtype, read: as `Backbone.load`.
        transformer: reads the transformer's tensors; None reads its files.
    """
    import torch

    modules = build(found)
    weights: dict[str, Weights] = {}
    for name, module in modules.items():
        files = found.files[name]
        weights[name] = Weights(
            module,
            transformer if name == "transformer" and transformer else partial(_tensors, name, files),
            files[0] if name == "transformer" and len(files) == 1 else files[0].parent,
            dtype=torch.float32 if name == "vae" else dtype,
            surplus=TEXT_SURPLUS if name in CLIPS else (),
            finish=partial(_finish_t5, module, dtype) if name == T5 else None,
        )
    read_now(weights, read, device)

    def identify(name: str) -> str:
        return digest(found.configs[name], found.files[name], _extra(name, found.tokenizers))

    notes, warnings = describe(found.configs["transformer"], dtype)
    model = SD35Model(backbone, modules, found.tokenizers, found.scheduler, identify, [*notes, *found.notes], warnings)
    model.weights, model.origin = weights, found.source
    return model


def describe(config: Mapping[str, Any], dtype: torch.dtype) -> tuple[list[str], list[str]]:
    """What to say of a transformer, and what to warn about."""
    import torch

    dual = len(config.get("dual_attention_layers") or ())
    blocks = f"transformer: {config['num_layers']} blocks"
    blocks += f", {dual} of them with a second attention" if dual else ""
    if config.get("qk_norm"):
        return [f"{blocks}; queries and keys are normalised (RMSNorm)"], []
    warning = (
        "the transformer does not normalise queries and keys, so its attention logits may grow until 16-bit training "
        "diverges (Esser et al. 2024, sec. 5.3.2); SD3.5 does, and train.precision: fp32 is safe"
    )
    return [f"{blocks}; queries and keys are not normalised"], [warning] if dtype != torch.float32 else []


def build(found: Found) -> dict[str, nn.Module]:
    """The modules without storage, from configuration alone.

    Raises: DataError where a configuration is not one of this layout, or components do not fit together.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    configs = found.configs
    _require_fit(found)
    try:
        with torch.device("meta"):  # its table of positions, half a gigabyte, is in the file
            modules: dict[str, Any] = {"transformer": SD3Transformer2DModel.from_config(dict(configs["transformer"]))}
        with loading.empty():
            modules["vae"] = AutoencoderKL.from_config(dict(configs["vae"]))
            for name in CLIPS:
                if name in configs:
                    # Files before transformers 4.31 say 2, which pools at the largest id: an added word's, not the end.
                    end = {"eos_token_id": found.tokenizers[name].eos_token_id}
                    modules[name] = CLIPTextModelWithProjection(CLIPTextConfig(**{**configs[name], **end}))
            if T5 in configs:
                modules[T5] = T5EncoderModel(T5Config(**configs[T5]))
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{found.source}: a config.json does not describe an SD3 model: {error}", "download the model again"
        ) from error
    return modules


def _require_fit(found: Found) -> None:
    """Raises: DataError where widths contradict each other."""
    configs = found.configs
    transformer, vae = configs["transformer"], configs["vae"]
    clips = [configs[name] for name in CLIPS if name in configs]
    pooled = sum(config.get("projection_dim", 0) for config in clips)
    both = len(clips) == len(CLIPS)
    pairs = [
        ("the VAE's latent channels", vae.get("latent_channels"), transformer.get("in_channels")),
        ("T5's width", configs[T5].get("d_model") if T5 in configs else None, transformer.get("joint_attention_dim")),
        ("the CLIPs' pooled width", pooled if both else None, transformer.get("pooled_projection_dim")),
    ]
    for what, given, taken in pairs:
        if given is not None and given != taken:
            raise DataError(
                f"{found.source}: {what}: {given}, but the transformer takes {taken}",
                "this is another kind of model, or files of two models are mixed",
            )
    factor = 2 ** (len(vae.get("block_out_channels") or ()) - 1) * transformer.get("patch_size", 1)
    if MULTIPLE_PX % factor:
        raise DataError(
            f"{found.source}: a patch is {factor:g} px wide, which does not divide {MULTIPLE_PX}",
            "this is another kind of model",
        )


def _tensors(component: str, files: Sequence[Path]) -> Mapping[str, Tensor]:
    return _rename(component, loading.read_tensors(files))


def _rename(component: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of files to those of the modules: T5's table of words has two names, and files hold either."""
    if component in CLIPS:
        return {_under_text_model(key): value for key, value in tensors.items()}
    if component != T5:
        return dict(tensors)
    table = tensors.get("shared.weight", tensors.get("encoder.embed_tokens.weight"))
    own = {key: value for key, value in tensors.items() if not key.startswith("decoder.") and key != "lm_head.weight"}
    return own if table is None else {**own, "shared.weight": table, "encoder.embed_tokens.weight": table}


def _under_text_model(key: str) -> str:
    return key if key.startswith(("text_model.", "text_projection.")) else f"text_model.{key}"


def _finish_t5(module: nn.Module, dtype: torch.dtype, tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """One table of words instead of two; and in fp16 the layers that overflow stay float32, as in transformers."""
    import torch

    module.encoder.embed_tokens.weight = module.shared.weight  # type: ignore[union-attr]
    if dtype == torch.float16:
        for name, part in module.named_modules():
            if name.endswith(".wo"):
                wide = tensors[f"{name}.weight"].to(device, torch.float32, copy=True)
                part.weight = torch.nn.Parameter(wide, requires_grad=False)  # type: ignore[assignment]


def _extra(component: str, tokenizers: Mapping[str, Any]) -> str:
    """What besides its weights decides a text encoder's output: the words it knows."""
    if component not in tokenizers:
        return ""
    return t5_fingerprint(tokenizers[component]) if component == T5 else fingerprint(tokenizers[component])
