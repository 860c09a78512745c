"""A loaded Stable Diffusion 1.5: its conventions of scaling, tokens, text layers and pipeline."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..types import Cond, Tokens
from . import loading, vae_latents
from .base import DiffusionModel
from .clip_tokenizer import fingerprint, load_tokenizer, token_rows
from .download import locate
from .identity import digest
from .weights import Weights, read_now

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from torch import Tensor, nn
    from transformers import CLIPTextModel, CLIPTokenizer

    from ..types import Posterior
    from .sd15 import SD15

COMPONENTS = ("unet", "vae", "text_encoder")
FILES = (
    "model_index.json",
    *(f"{name}/*.{ending}" for name in COMPONENTS for ending in ("json", "safetensors")),
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "scheduler/*.json",
)
"""What is fetched of a Hub id: safetensors and text, nothing that can run code."""

TEXT_SURPLUS = ("embeddings.position_ids",)
"""A buffer that old CLIP files carry."""

OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the VAE's attention layers in files written before diffusers 0.13, SD1.5's own among them."""


class SD15Model(DiffusionModel):
    """Stable Diffusion 1.5 in memory."""

    denoiser_name = "unet"

    def __init__(
        self,
        backbone: SD15,
        modules: tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel],
        tokenizer: CLIPTokenizer,
        scheduler: Mapping[str, Any],
        identify: Callable[[str], str],
        notes: Sequence[str] = (),
    ) -> None:
        self.backbone = backbone
        self.denoiser, self.vae, text_encoder = modules
        layers = text_encoder.config.num_hidden_layers
        if backbone.clip_skip > layers:
            raise DataError(
                f"backbone.clip_skip: {backbone.clip_skip}, but the text encoder has {layers} layers", "1 or 2 is usual"
            )
        self.text_encoders = {"text_encoder": text_encoder}
        self.tokenizers = {"text_encoder": tokenizer}
        self.scheduler = scheduler
        self.notes = tuple(notes)
        self.channels, self.factor = vae_latents.channels(self.vae), vae_latents.factor(self.vae)
        self._identify = cache(identify)

    def identity(self, component: str) -> str:
        return self._identify(component)

    def encode_images(self, pixels: Tensor) -> Posterior:
        return vae_latents.encode(self.vae, pixels)

    def decode_latents(self, latents: Tensor) -> Tensor:
        return vae_latents.decode(self.vae, latents)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        import torch

        length = self._text.config.max_position_embeddings
        rows, cut = token_rows(self.tokenizers["text_encoder"], prompts, length)
        return Tokens({"text_encoder": torch.tensor(rows, dtype=torch.int64)}, tuple(cut))

    def encode_text(self, tokens: Tokens) -> Cond:
        """(B, L, D) after the final layer norm: of the layer that `clip_skip` counts from the end."""
        ids = tokens.ids["text_encoder"].to(self._text.device)
        skip = self.backbone.clip_skip  # type: ignore[attr-defined]
        if skip == 1:
            return Cond({"text": self._text(ids).last_hidden_state})
        hidden = self._text(ids, output_hidden_states=True).hidden_states
        return Cond({"text": self._inner.final_layer_norm(hidden[-skip])})

    def denoise(self, x_t: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        dtype: torch.dtype = self.denoiser.conv_in.weight.dtype  # type: ignore[union-attr,assignment]  # `.dtype` walks it
        text = cond["text"].to(dtype)
        return self.denoiser(x_t.to(dtype), timestep, encoder_hidden_states=text, return_dict=False)[0]

    def pipeline(self, scheduler: str = "auto", sampling: Mapping[str, Any] | None = None) -> StableDiffusionPipeline:
        """As in the base class. A prompt is read with clip_skip 1 (diffusers counts from 0; its 1 is 2 here).

        `sampling.paint` heeds the recipe's.
        """
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

        from ..sampling import sampler

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self._text,
            tokenizer=self.tokenizers["text_encoder"],
            unet=self.denoiser,  # type: ignore[arg-type]
            scheduler=sampler(self.scheduler, scheduler, sampling or {}),  # type: ignore[arg-type]
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            image_encoder=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )

    @property
    def _text(self) -> CLIPTextModel:
        return self.text_encoders["text_encoder"]  # type: ignore[return-value]

    @property
    def _inner(self) -> Any:
        """The transformer itself; CLIPTextModel held it under `text_model` before transformers 5."""
        children = dict(self._text.named_children())
        return children.get("text_model", self._text)


def load(backbone: SD15, *, device: torch.device, dtype: torch.dtype, read: Collection[str] | None = None) -> SD15Model:
    """As `Backbone.load`: from the toybox, a folder, a single file or the Hub."""
    from .. import toybox
    from .sd15 import TOYBOX

    if backbone.model == TOYBOX:
        place = toybox.folder(backbone.key)
    else:
        place = locate(backbone.model, backbone.revision, FILES, _complete)
    if place.is_file():
        from .single_file import load_file

        return load_file(backbone, place, device=device, dtype=dtype, read=read)
    return load_folder(backbone, place, device=device, dtype=dtype, read=read)


def _complete(folder: Path) -> bool:
    return all(loading.weight_files(folder / name) for name in COMPONENTS)


def load_folder(
    backbone: SD15, folder: Path, *, device: torch.device, dtype: torch.dtype, read: Collection[str] | None = None
) -> SD15Model:
    """From diffusers' layout."""
    if not (folder / "model_index.json").is_file():
        raise DataError(
            f"{folder}: not a model in diffusers' layout (it has no model_index.json)",
            "give the folder that holds model_index.json, or a single .safetensors file",
        )
    configs = {name: loading.read_json(folder / name / "config.json") for name in COMPONENTS}
    files = {name: loading.require_weights(folder / name) for name in COMPONENTS}
    tokenizer = load_tokenizer(folder / "tokenizer", configs["text_encoder"].get("max_position_embeddings", 77))
    modules = build(configs, folder)
    weights = {}
    for name, module in zip(COMPONENTS, modules, strict=True):

        def tensors(name: str = name, expected: tuple[str, ...] = tuple(module.state_dict())) -> Mapping[str, Tensor]:
            return rename(name, loading.read_tensors(files[name]), expected)

        weights[name] = component(name, module, tensors, folder / name, dtype)

    def identify(name: str) -> str:
        return digest(configs[name], files[name], extra(backbone, name, tokenizer))

    notes = [
        f"{name}: loaded from the 16-bit variant {path.name}, for the plain file is absent"
        for name, paths in files.items()
        for path in paths
        if ".fp16." in path.name
    ]
    scheduler = loading.read_json(folder / "scheduler" / "scheduler_config.json")
    read_now(weights, read, device)
    model = SD15Model(backbone, modules, tokenizer, scheduler, identify, notes)
    model.weights, model.origin = weights, folder
    return model


def component(
    name: str, module: nn.Module, read: Callable[[], Mapping[str, Tensor]], source: Path, dtype: torch.dtype
) -> Weights:
    """The weights of one component; the VAE's are float32 always."""
    import torch

    kind = torch.float32 if name == "vae" else dtype
    return Weights(module, read, source, dtype=kind, surplus=TEXT_SURPLUS if name == "text_encoder" else ())


def extra(backbone: SD15, component: str, tokenizer: CLIPTokenizer) -> str:
    """What besides its weights decides a text encoder's output: the words it knows and the layer that is read."""
    return f"{fingerprint(tokenizer)} clip_skip={backbone.clip_skip}" if component == "text_encoder" else ""


def build(
    configs: Mapping[str, Mapping[str, Any]], source: Path
) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """The modules without storage, from configuration alone.

    Raises: DataError where a configuration is not one of SD1.5's layout.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    unet, text = configs["unet"], configs["text_encoder"]
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        raise DataError(
            f"{source}: the text encoder is {text.get('hidden_size')} wide, "
            f"the UNet takes {unet.get('cross_attention_dim')}",
            "this is another kind of model, or files of two models are mixed",
        )
    if unet.get("in_channels") != configs["vae"].get("latent_channels"):
        raise DataError(
            f"{source}: the UNet takes {unet.get('in_channels')} channels, "
            f"the VAE has {configs['vae'].get('latent_channels')}",
            "inpainting and depth models cannot be trained here; take the plain text-to-image model",
        )
    try:
        with loading.empty():
            return (
                UNet2DConditionModel.from_config(dict(unet)),  # type: ignore[return-value]
                AutoencoderKL.from_config(dict(configs["vae"])),
                CLIPTextModel(CLIPTextConfig(**text)),
            )
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{source}: a config.json does not describe an SD1.5 model: {error}", "download the model again"
        ) from error


def rename(component: str, tensors: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Keys of older or newer files to those of the modules as they are here."""
    if component == "vae":
        return {_modern(key): value for key, value in tensors.items()}
    if component == "text_encoder":
        here = "text_model." if any(key.startswith("text_model.") for key in expected) else ""
        return {here + key.removeprefix("text_model."): value for key, value in tensors.items()}
    return dict(tensors)


def _modern(key: str) -> str:
    layer, _, leaf = key.rpartition(".")
    head, _, last = layer.rpartition(".")
    return f"{head}.{OLD_ATTENTION[last]}.{leaf}" if last in OLD_ATTENTION and ".attentions." in head + "." else key
