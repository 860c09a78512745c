"""The seam to pretrained models: names and conventions, no decision about training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ..parts import Choice, Problem
from ..places import Place
from .habits import Habits

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import Tensor, nn

    from ..objectives import Objective
    from ..recipe import Recipe
    from ..types import Cond, Posterior, Tokens
    from .layout import Layout
    from .vocabulary import Vocabulary
    from .weights import Weights

Site = Literal["cross_attention", "attention", "attention_mlp", "all_linear", "context_kv"]
"""Places that an adapter may touch. Each backbone translates them to module names."""


class Backbone(Choice):
    """A family of pretrained models and where its weights are."""

    model: Place = Field(min_length=1)
    """Folder in diffusers' layout, a single .safetensors file, a Hub id, or `toybox` for the model that ships here."""
    revision: str | None = None
    """Branch, tag or commit of the Hub id."""

    default_objective: ClassVar[str]
    """Name of the objective that the weights were pretrained with."""
    text_components: ClassVar[Sequence[str]]
    """Names of the text encoders."""
    text_settings: ClassVar[Sequence[str]] = ()
    """Names of its whole-number or yes-or-no fields that say how text is read, in pictures as in training."""
    stretches: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Parts of the denoiser that have a name of their own, as patterns of layer names (`layers_at`)."""
    convolves: ClassVar[bool] = False
    """Whether the denoiser has convolutions that a LoRA may train."""
    placed_by_table: ClassVar[bool] = False
    """Whether the denoiser has a table of positions, which ends somewhere."""
    rehearsal: ClassVar[Mapping[str, Any]]
    """What `--rehearse` sets, by key path; a key whose section the recipe lacks is passed over."""
    pipelines: ClassVar[str] = ""
    """Pattern of the names of diffusers' pipelines for this family, as model_index.json has them."""
    file_mark: ClassVar[str] = ""
    """Part of a key that only single files of this family have."""

    @abstractmethod
    def load(self, *, device: torch.device, dtype: torch.dtype, read: Collection[str] | None = None) -> DiffusionModel:
        """Load the model, in eval mode: denoiser and text encoders in `dtype`, the VAE in float32.

        Nothing is downloaded when HF_HUB_OFFLINE is set.

        Args:
            device: where the weights go.
            dtype: of denoiser and text encoders.
            read: components whose weights are read now, by diffusers' name; None reads all. The others' files are
                checked, and their weights come and go by `DiffusionModel.fetch` and `release`.

        Raises: DataError with what to do next (a missing file, a gated or failed download, an unsafe format).
        """

    @abstractmethod
    def layout(self) -> Layout:
        """Sizes, from the model's configuration files where they are on this machine, else the family's usual ones.

        Imports no torch and reads no weights.
        """

    @abstractmethod
    def matching(self, where: Site | Sequence[str], names: Iterable[str]) -> dict[str, list[str]]:
        """Of the denoiser's linear layer names, those at a site, or those that each pattern ends or fully matches.

        One entry a pattern (a site is one pattern), empty where nothing matched.
        """

    @abstractmethod
    def matching_text(self, names: Iterable[str]) -> list[str]:
        """Of a text encoder's linear layer names, those that a text adapter trains."""

    def convolutions(self, names: Iterable[str]) -> list[str]:
        """Of the names of the denoiser's convolutions, those that a LoRA may train; see `convolves`."""
        return []

    def idle_in(self, table_px: int, sizes: Iterable[tuple[int, int]]) -> Sequence[str]:
        """Settings that do nothing for pictures of these (width, height) in pixels, a line each.

        `table_px` is the side of the largest picture that has positions.
        """
        return ()

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        """What this backbone cannot do; see `Task.problems`."""
        return ()

    def vocabularies(self) -> tuple[Sequence[Vocabulary], Sequence[str]]:
        """What its tokenizers know, and the names of those whose files are not on this machine. Imports no torch.

        For the toybox it is what the real model knows: the words of a recipe are for that one.
        """
        from .vocabulary import published_clip

        return (published_clip(),), ()

    def habits(self) -> Habits:
        """How this very base is drawn where nobody says otherwise."""
        return Habits()

    def size_step(self) -> int:
        """Sides of pictures are multiples of this many pixels; a UNet halves its latents three times."""
        return self.layout().factor * 8

    def pipeline_call(self, side: int) -> Mapping[str, Any]:
        """Keywords by which diffusers' pipeline draws squares of `side` pixels as is usual here."""
        return {"num_inference_steps": self.habits().steps}

    def objective(self) -> Objective:
        """The objective that the weights were pretrained with, at its defaults."""
        from ..objectives import Objective

        return Objective.read(self.default_objective)


class DiffusionModel(ABC):
    """A pretrained model. Holds modules, is none."""

    denoiser: nn.Module
    vae: AutoencoderKL
    text_encoders: Mapping[str, nn.Module]
    """By diffusers' component name (`text_encoder`, `text_encoder_2`)."""
    tokenizers: Mapping[str, Any]
    """By the name of their text encoder."""
    scheduler: Mapping[str, Any]
    """The base's own scheduler configuration."""
    denoiser_name: ClassVar[str]
    """diffusers' component name: `unet` or `transformer`."""
    factor: int
    channels: int
    notes: Sequence[str] = ()
    """What the user should know about how it was loaded, such as a 16-bit variant that stood in; said once."""
    warnings: Sequence[str] = ()
    """What may spoil a run with this model; warned about once."""
    weights: Mapping[str, Weights] = MappingProxyType({})
    """By component, weights that can leave memory; a component that is not here stays, and waits on the CPU."""
    logits_may_grow: bool = False
    """Whether nothing bounds its attention logits and 16-bit training of its kind has diverged by them."""
    reads_on: str = "another one"
    """The text encoder that reads on where the shortest one ends, in words."""
    remembered: Mapping[tuple[str | bool, ...], Cond] = MappingProxyType({})
    """What `read_ahead` has read."""
    origin: Path | None = None
    """The folder in diffusers' layout that its components lie in; None where they lie in a single file."""
    compute: torch.dtype | None = None
    """What the denoiser computes in where it is held in another type; None where it is held in what it computes in."""

    @property
    def components(self) -> dict[str, nn.Module]:
        """Every module by diffusers' component name."""
        return {self.denoiser_name: self.denoiser, "vae": self.vae, **self.text_encoders}

    def fetch(self, names: Iterable[str], device: torch.device | None = None) -> None:
        """Bring components into memory and onto `device`; None leaves those that are in memory where they are.

        Raises: DataError where a file is not what it was when the model was loaded.
        """
        import torch

        for name in names:
            module = self.components[name]
            if device_of(module).type == "meta":
                self.weights[name].fetch(device or torch.device("cpu"))
            elif device is not None:
                module.to(device)

    def release(self, names: Iterable[str]) -> None:
        """Take components out of memory, to the CPU where they cannot be read again. Nothing is attached to them."""
        for name in names:
            if name in self.weights:
                self.weights[name].release()
            else:
                self.components[name].to("cpu")

    @contextmanager
    def at_hand(self, names: Iterable[str], device: torch.device | None = None) -> Iterator[None]:
        """Within it components are in memory and on `device`; afterwards each is where it was before."""
        homes = {name: device_of(self.components[name]) for name in names}
        try:
            self.fetch(homes, device)
            yield
        finally:
            for name, home in homes.items():
                if home.type == "meta":
                    self.release([name])
                else:
                    self.components[name].to(home)

    def read(self, prompts: Sequence[str], device: torch.device) -> Cond:
        """The conditioning of prompts on `device`, from memory where `read_ahead` has read these very prompts."""
        known = self.remembered.get(_key(prompts, device))
        return (known or self.encode_text(self.tokenize(prompts).to(device))).to(device)

    def read_ahead(self, prompts: Sequence[str], device: torch.device) -> None:
        """Read prompts now, so that `read` will need no text encoder for them. For text encoders that do not train."""
        import torch

        cond = self.read(prompts, device).to(torch.device("cpu"))
        self.remembered = {**self.remembered, _key(prompts, device): cond}

    def hold(self, name: str, dtype: torch.dtype) -> None:
        """Keep a component's weights in `dtype` from now on, read anew where they were narrowed. Nothing is attached.

        The denoiser goes on computing in what it was loaded in.
        """
        module = self.components[name]
        here = next(module.parameters())
        if here.dtype == dtype:
            return
        if name == self.denoiser_name:
            self.compute = self.compute or here.dtype
        if name not in self.weights:
            module.to(dtype)
            return
        self.weights[name].dtype = dtype
        if here.device.type == "meta":
            self.weights[name].release()
        else:
            self.weights[name].fetch(here.device)

    def varied(self, seed: int) -> AbstractContextManager[None]:
        """Within it `denoise` varies what this backbone varies in training, if anything: the same for equal seeds."""
        return nullcontext()

    def extend_positions(self, side_px: int) -> None:
        """Give the denoiser positions for pictures of this side, for a model that places by a table.

        Raises: ValueError where there is no table; DataError where it cannot be continued.
        """
        raise ValueError(f"{self.backbone.key} has no table of positions")

    def forget(self) -> None:
        """Drop what `read_ahead` has read, as before text encoders begin to train."""
        self.remembered = MappingProxyType({})

    def remembers(self, prompts: Sequence[str], device: torch.device) -> bool:
        """Whether `read` needs no text encoder for these prompts."""
        return _key(prompts, device) in self.remembered

    def learns_text(self) -> bool:
        """Whether embeddings change during the run, so that they cannot be cached."""
        return any(p.requires_grad for e in self.text_encoders.values() for p in e.parameters())

    def checkpoint_gradients(self) -> None:
        """Recompute the denoiser's activations in the backward pass; a text encoder's are small beside them."""
        self.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]

    @abstractmethod
    def identity(self, component: str) -> str:
        """sha256 over a component's configuration and weights as they lie on disk; the same wherever they lie."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Posterior:
        """(B, 3, H, W) float32 in [-1, 1] -> the posterior, scaled to unit variance."""

    @abstractmethod
    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) of unit variance -> (B, 3, H, W) in [-1, 1]."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Ids on the CPU, and the text that was cut off each prompt."""

    @abstractmethod
    def encode_text(self, tokens: Tokens) -> Cond:
        """(B, L) ids -> conditioning, differentiable in whatever trains.

        A text encoder whose row of ids is -1 throughout is left out for that example, as in `without`.
        """

    def without(self, cond: Cond, dropped: Mapping[str, Tensor]) -> Cond:
        """The conditioning as if text encoders were not there, for a model with several.

        Args:
            cond: from `encode_text`, or stored.
            dropped: by name of a text encoder, (B,) bool: the examples that do without it.

        Raises: ValueError where there is one text encoder, which nothing stands in for.
        """
        raise ValueError(f"{self.backbone.key} cannot leave out its text encoder")

    @abstractmethod
    def denoise(self, x_t: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
        """(B, C, h, w), (B,) in [0, 1000) -> the prediction, (B, C, h, w)."""

    backbone: Backbone
    """The part that loaded it; owns the names of sites."""

    def site(self, where: Site | Sequence[str]) -> dict[str, nn.Linear]:
        """The linear layers of the denoiser at a site or under patterns, by their full name."""
        from torch import nn

        linears = {name: m for name, m in self.denoiser.named_modules() if isinstance(m, nn.Linear)}
        hits = self.backbone.matching(where, linears)
        return {name: linears[name] for names in hits.values() for name in names}

    @abstractmethod
    def pipeline(self, scheduler: str = "auto", sampling: Mapping[str, Any] | None = None) -> DiffusionPipeline:
        """A diffusers pipeline over these very modules.

        Args:
            scheduler: `auto`, or one that `sampling.choose` takes for this base.
            sampling: overrides of the base's scheduler configuration (`BoundObjective.sampling`).
        """


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are; `meta` where they are not in memory."""
    return next(module.parameters()).device


def _key(prompts: Sequence[str], device: torch.device) -> tuple[str | bool, ...]:
    """Embeddings made under autocast are others."""
    import torch

    return torch.is_autocast_enabled(device.type), *prompts
