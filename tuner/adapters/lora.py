"""Low-rank adaptation (Hu et al. 2021), through peft, and its variants: convolutions, DoRA, rsLoRA, LoRA+."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..backbones.base import Site
from ..data.sources import as_list
from ..errors import RecipeError
from ..lora_sizes import LayerRank, Size, Sizes
from ..parts import NO_EFFECT, Problem, problems_error
from ..places import Place
from .base import Adapter, Count
from .lora_attachment import ADAPTER, LoRAAttachment

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.activations import Beside
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..recipe import Recipe

__all__ = ["ADAPTER", "LoRA", "LoRAAttachment"]

Patterns = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(as_list)]
CONVOLUTIONS = "convolutions"
"""What the plan calls them beside the sites."""
CONV = {2: 2.6, 4: 0.9}
"""Bytes of each value that goes into a convolution that trains, which keeps a cast of its own; counted, as is the rest,
by bytes of a frozen weight."""
OUTPUT_NORMS = {2: 4.1, 4: 8.0}
"""The same of each value that comes out of a DoRA's layer: what the base and the update give, each times a norm."""
INPUT_NORMS = {2: 2.9, 4: 4.0}
"""The same of each that goes into a linear layer whose norms are of inputs: it times its share."""
CONV_INPUT_NORMS = {2: 7.2, 4: 7.8}
"""The same of a convolution."""


class LoRA(Adapter, name="lora"):
    """A low-rank update of linear layers: W + alpha / rank * B A. Small files, the base stays as it is."""

    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the update; capacity and file size grow with it."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator: the update is alpha / rank * B A; null means alpha = rank."""
    where: Site | Patterns = "attention"
    """Layers of the denoiser: cross_attention (on sd35 the text's projections into the joint attention), attention,
    attention_mlp, all_linear, or a list of name endings."""
    conv_rank: int | None = Field(default=None, ge=1, le=1024)
    """Also train the UNet's convolutions (LoCon): 3x3 at this rank, 1x1 projections at `rank`; null trains none."""
    conv_alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator of 3x3 convolutions; null gives them the scale of the other layers."""
    ranks: tuple[LayerRank, ...] = ()
    """Other ranks for parts of the model, such as [{layers: down_blocks.0, rank: 4}, {layers: attn2, rank: 32}]; of
    several that fit a layer, the first counts."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (Kalajdzievski 2023), so that a high rank learns as fast as a low one."""
    dora: Literal["output", "input"] | None = None
    """Train each weight's norms beside its direction (DoRA, Liu et al. 2024): a norm for each output, as peft and
    diffusers do, or for each input, as ComfyUI, Forge and A1111 read it exactly; null trains a plain LoRA."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the update's inputs zeroed in training."""
    init: Literal["gaussian", "kaiming"] = "gaussian"
    """A starts as gaussian noise of deviation 1 / rank, or as a fresh layer does; B starts at 0 and changes nothing."""
    lora_plus: float | None = Field(default=None, gt=0, le=1000)
    """LoRA+ (Hayou et al. 2024): B learns at this multiple of A's rate, 16 in the paper; null gives both the same."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=100)
    """Also train the text encoder's attention, at this peak learning rate; null leaves the text encoder as it is."""
    init_from: Place | None = Field(default=None, min_length=1)
    """Begin as a saved LoRA of the same rank, alpha and layers: its file, its folder, or the run that made it; null
    begins anew."""

    @model_validator(mode="after")
    def _effects(self) -> LoRA:
        if self.init_from is not None:
            self.refuse_idle({"init": "with init_from, which brings A and B"})
        if self.conv_rank is None:
            self.refuse_idle({"conv_alpha": "without conv_rank, which trains convolutions"})
        if self.rslora and self.alpha is None:
            text = "needs alpha: without it alpha is the rank, and the scale alpha / sqrt(rank) would grow with it"
            raise problems_error([("rslora", text, "needs_alpha")])
        return self

    rehearsal = {"train.steps": 250, "train.lr": 2e-3}  # said again, for a run that also teaches a word

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            self.rank, self.alpha or self.rank, self.rslora, self.conv_rank, self.conv_alpha, tuple(self.ranks)
        )

    @property
    def scale(self) -> float:
        """Of the layers that no other key speaks of."""
        return self.sizes.of(("", ""), wide=False).scale

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        if self.conv_rank is None or recipe.backbone.convolves:
            return ()
        text = f"has no effect on {recipe.backbone.key}: its transformer convolves nothing but the latents it reads"
        return [(f"adapters.{recipe.adapters.index(self)}.conv_rank", text, NO_EFFECT)]

    def trains_text(self) -> bool:
        return self.text_encoder_lr is not None

    def initial(self) -> Path | None:
        from ..formats.start import start_file

        return None if self.init_from is None else start_file(self.init_from)

    def initial_problems(self, backbone: Backbone) -> Sequence[str]:
        from ..formats.start import start_problems

        file = self.initial()
        return () if file is None else start_problems(file, family=backbone.key, sizes=self.sizes, dora=self.dora)

    def layer_problems(self, backbone: Backbone, layout: Layout) -> Sequence[str]:
        trained = [
            (component, name)
            for component, linears in layout.linears.items()
            for names in self.hits(backbone, component, linears, layout.convs).values()
            for name in names
        ]
        return self.sizes.idle(trained)

    def hits(
        self, backbone: Backbone, component: str, linears: Iterable[str], convs: Iterable[str]
    ) -> dict[str, list[str]]:
        """Names of the layers of a component that train, by pattern.

        Args:
            linears: names of the component's linear layers.
            convs: names of the denoiser's convolutions.
        """
        if component in backbone.text_components:
            names = backbone.matching_text(linears) if self.trains_text() else []
            return {"attention": names} if names else {}  # not every text encoder trains
        found = dict(backbone.matching(self.where, linears))
        if self.conv_rank is not None:
            found[CONVOLUTIONS] = backbone.convolutions(convs)
        return found

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        counts = []
        for component, linears in layout.linears.items():
            shapes = {name: (*sides, 1) for name, sides in linears.items()}
            if component not in backbone.text_components:
                shapes |= layout.convs
            for pattern, names in self.hits(backbone, component, linears, layout.convs).items():
                size = sum(self._parameters((component, name), shapes[name]) for name in names)
                counts.append(Count(f"{component} {pattern}", len(names), size))
        return counts

    def _parameters(self, place: tuple[str, str], shape: tuple[int, int, int]) -> int:
        """Trained numbers of a layer of (in, out, side of its kernel)."""
        inputs, outputs, side = shape
        magnitudes = {"output": outputs, "input": inputs}.get(self.dora or "", 0)
        return self.sizes.of(place, wide=side > 1).rank * (inputs * side * side + outputs) + magnitudes

    def layers(self, backbone: Backbone, layout: Layout) -> Collection[str]:
        (component,) = (component for component in layout.linears if component not in backbone.text_components)
        hits = self.hits(backbone, component, layout.linears[component], layout.convs)
        return {name for names in hits.values() for name in names}

    def kept_beside(self, backbone: Backbone, layout: Layout, itemsize: int) -> Beside:
        kept: dict[str, tuple[float, float]] = {}
        for name in self.layers(backbone, layout):
            conv = name in layout.convs
            inputs = CONV[itemsize] if conv else 0.0
            outputs = OUTPUT_NORMS[itemsize] if self.dora == "output" else 0.0
            if self.dora == "input":
                inputs += (CONV_INPUT_NORMS if conv else INPUT_NORMS)[itemsize]
            if inputs or outputs:
                kept[name] = inputs, outputs
        return kept

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> LoRAAttachment:
        targets: dict[str, tuple[nn.Module, Mapping[str, Size]]] = {}
        for component, module in {model.denoiser_name: model.denoiser, **model.text_encoders}.items():
            if sizes := self._targets(model, component, module):
                targets[component] = (module, sizes)
        self._require_ranks(targets)
        attachment = LoRAAttachment(self, model, targets, draws)
        if (file := self.initial()) is not None:
            from ..formats.start import read_start

            if problems := self.initial_problems(model.backbone):
                raise RecipeError(problems)
            shapes = {name: tensor.shape for name, tensor in attachment.state_dict().items()}
            start = read_start(file, shapes, attachment.sizes, family=model.backbone.key, dora=self.dora)
            attachment.begin_at(start, keep=keep_base)
        return attachment

    def _targets(self, model: DiffusionModel, component: str, module: nn.Module) -> dict[str, Size]:
        """Size of each layer of a component that trains, in order of their names.

        Raises: RecipeError where a pattern matches nothing.
        """
        from torch import nn

        linears = {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}
        convs = {name: m for name, m in module.named_modules() if isinstance(m, nn.Conv2d)}
        matched = self.hits(model.backbone, component, linears, convs)
        empty = [pattern for pattern, names in matched.items() if not names]
        if empty:
            raise RecipeError(
                [f"adapters.lora.where: {pattern!r} matches no linear layer of the {component}" for pattern in empty],
                "`tuner plan` lists what each pattern matches; convolutions train with conv_rank",
            )
        wide = {name for name, conv in convs.items() if prod(conv.kernel_size) > 1}
        names = sorted({name for found in matched.values() for name in found})
        return {name: self.sizes.of((component, name), wide=name in wide) for name in names}

    def _require_ranks(self, targets: Mapping[str, tuple[nn.Module, Mapping[str, Size]]]) -> None:
        """Raises: RecipeError where an entry of `ranks` is about no layer."""
        places = [(component, name) for component, (_, names) in targets.items() for name in names]
        if problems := self.sizes.idle(places):
            raise RecipeError(problems, "`tuner plan` lists what trains")
