"""What the adapters share whose update of a layer is computed from factors and then multiplied by the layer's input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from ..backbones.base import Site
from ..errors import RecipeError
from ..formats.lycoris_shapes import Method
from ..parts import NO_EFFECT
from ..types import ParamGroup
from .base import Adapter, Attachment, Count
from .lora import LoRA, Patterns

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..formats.about import About
    from ..parts import Problem
    from ..recipe import Recipe

ADAPTER = "tuner"
"""peft's name of the adapter that trains."""

CONVOLUTIONS = "convolutions"
"""What the plan calls them beside the sites."""
Shape = tuple[int, ...]
"""Of a weight: (out, in), or (out, in, height, width) of a convolution."""
Shapes = Mapping[str, Shape]
"""By name of a factor."""


class Injected(Adapter):
    """An update of layers made of factors, as LyCORIS names them."""

    method: ClassVar[Method]

    rank: int = Field(default=8, ge=1, le=1024)
    """Rank of each product of two factors."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator: the update is multiplied by alpha / rank; null means alpha = rank."""
    where: Site | Patterns = "attention"
    """Layers of the denoiser: cross_attention (on sd35 the text's projections into the joint attention), attention,
    attention_mlp, all_linear, or a list of name endings."""
    conv_rank: int | None = Field(default=None, ge=1, le=1024)
    """Also train the UNet's convolutions: 3x3 ones at this rank, 1x1 projections at `rank`; null trains none."""
    conv_alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator of 3x3 convolutions; null gives them the scale of the other layers."""
    rank_dropout: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the update's rows left out in training, each layer's its own; the others grow to make up for them."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=100)
    """Also train the text encoder's attention, at this peak learning rate; null leaves the text encoder as it is."""

    @model_validator(mode="after")
    def _effects(self) -> Injected:
        if self.conv_rank is None:
            self.refuse_idle({"conv_alpha": "without conv_rank, which trains convolutions"})
        return self

    @abstractmethod
    def shapes(self, weight: Shape) -> Shapes:
        """Of the factors of a layer. Imports no torch."""

    @abstractmethod
    def initial_values(self, shapes: Shapes, layer: str, draws: Draws) -> Mapping[str, Tensor]:
        """Float32 factors whose update is 0, drawn by the layer's name."""

    def idle(self, weights: Collection[Shape]) -> Sequence[str]:
        """What was asked for and does nothing in layers of these weights, a line each that begins with its key."""
        return ()

    def settings(self) -> Mapping[str, Any]:
        """What the files say of it besides rank and alpha, as LyCORIS names it."""
        if self.conv_rank is None:
            return {}
        scale = (self.alpha or self.rank) / self.rank
        return {"conv_dim": self.conv_rank, "conv_alpha": self.conv_alpha or scale * self.conv_rank}

    def rank_of(self, weight: Shape) -> int:
        return self.conv_rank if self.conv_rank and _wide(weight) else self.rank

    def scale_of(self, weight: Shape) -> float:
        """By what a layer's update is multiplied."""
        if self.conv_rank and self.conv_alpha and _wide(weight):
            return self.conv_alpha / self.conv_rank
        return (self.alpha or self.rank) / self.rank

    def trains_text(self) -> bool:
        return self.text_encoder_lr is not None

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        others = [(index, adapter) for index, adapter in enumerate(recipe.adapters) if adapter is not self]
        clash = [(index, adapter.key) for index, adapter in others if isinstance(adapter, LoRA | Injected)]
        found: list[Problem] = []
        if clash:
            index, key = clash[-1]
            text = f"a run trains one of {self.key} and {key}, for both would train the same layers; take one of them"
            found.append((f"adapters.{index}", text, "value_error"))
        if self.conv_rank is not None and not recipe.backbone.convolves:
            text = f"has no effect on {recipe.backbone.key}: its transformer convolves nothing but the latents it reads"
            found.append((f"adapters.{recipe.adapters.index(self)}.conv_rank", text, NO_EFFECT))
        return found

    def layer_problems(self, backbone: Backbone, layout: Layout) -> Sequence[str]:
        if backbone.model == "toybox":  # a rehearsal's layers are too small to tell what would act on the real ones
            return ()
        weights = [weights[name] for _, _, names, weights in self._planned(backbone, layout) for name in names]
        return [f"adapters.{self.key}.{line}" for line in self.idle(weights)]

    def hits(self, backbone: Backbone, component: str, weights: Mapping[str, Shape]) -> dict[str, list[str]]:
        """Names of the layers of a component that train, by pattern.

        Args:
            weights: of its linear layers and convolutions, by name.
        """
        linears = [name for name, shape in weights.items() if len(shape) == 2]
        if component in backbone.text_components:
            names = backbone.matching_text(linears) if self.trains_text() else []
            return {"attention": names} if names else {}  # not every text encoder trains
        found = dict(backbone.matching(self.where, linears))
        if self.conv_rank is not None:
            found[CONVOLUTIONS] = backbone.convolutions(name for name, shape in weights.items() if len(shape) == 4)
        return found

    def _planned(
        self, backbone: Backbone, layout: Layout
    ) -> Iterator[tuple[str, str, Sequence[str], Mapping[str, Shape]]]:
        """Component, pattern, names, and shapes by name."""
        for component, linears in layout.linears.items():
            weights: dict[str, Shape] = {name: (out, width) for name, (width, out) in linears.items()}
            if component not in backbone.text_components:
                weights |= {name: (out, width, side, side) for name, (width, out, side) in layout.convs.items()}
            for pattern, names in self.hits(backbone, component, weights).items():
                yield component, pattern, names, weights

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        return [
            Count(f"{component} {pattern}", len(names), sum(self._parameters(weights[name]) for name in names))
            for component, pattern, names, weights in self._planned(backbone, layout)
        ]

    def _parameters(self, weight: Shape) -> int:
        return sum(prod(shape) for shape in self.shapes(weight).values())

    def remade(self, backbone: Backbone, layout: Layout) -> Mapping[str, int]:
        return {
            name: prod(weights[name])
            for component, _, names, weights in self._planned(backbone, layout)
            for name in names
            if component not in backbone.text_components
        }

    def layers(self, backbone: Backbone, layout: Layout) -> Collection[str]:
        (linears,) = (own for component, own in layout.linears.items() if component not in backbone.text_components)
        return {name for names in backbone.matching(self.where, linears).values() for name in names}

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> InjectedAttachment:
        from torch import nn

        targets: dict[str, dict[str, Shape]] = {}
        for component, module in {model.denoiser_name: model.denoiser, **model.text_encoders}.items():
            weights = {
                name: tuple(part.weight.shape)
                for name, part in module.named_modules()
                if isinstance(part, nn.Linear | nn.Conv2d)
            }
            hits = self.hits(model.backbone, component, weights)
            if empty := [pattern for pattern, names in hits.items() if not names]:
                raise RecipeError(
                    [f"adapters.{self.key}.where: {p!r} matches no linear layer of the {component}" for p in empty],
                    "`tuner plan` lists what each pattern matches",
                )
            if names := sorted({name for own in hits.values() for name in own}):
                targets[component] = {name: weights[name] for name in names}
        return InjectedAttachment(self, model, targets, draws)


def _wide(weight: Shape) -> bool:
    return prod(weight[2:]) > 1


class InjectedAttachment(Attachment):
    """Injected layers by component.

    Args:
        weights: by component and layer, the shape of the base's weight.
    """

    def __init__(
        self, adapter: Injected, model: DiffusionModel, weights: Mapping[str, Mapping[str, Shape]], draws: Draws
    ) -> None:
        from ..formats.peft_layers import inject

        self.adapter, self.model, self.weights = adapter, model, weights
        self.params: dict[str, dict[str, nn.Parameter]] = {}
        self.modules: list[torch.nn.Module] = []
        for component, layers in weights.items():
            module = model.denoiser if component == model.denoiser_name else model.text_encoders[component]
            others = [p for p in module.parameters() if p.requires_grad]
            injected = inject(module, list(layers), adapter.method, ADAPTER, adapter.rank_dropout)
            for p in others:  # peft freezes whatever is not its own, such as a new word
                p.requires_grad_(True)
            self.modules.append(module)
            self.params[component] = {
                f"{component}.{name}.{leaf}": parameter
                for name, layer in injected.items()
                for leaf, parameter in self._fill(layer, component, name, draws).items()
            }
        self.train(on=False)

    def _fill(self, layer: Any, component: str, name: str, draws: Draws) -> Mapping[str, nn.Parameter]:
        from ..formats.peft_layers import fill

        weight = self.weights[component][name]
        values = self.adapter.initial_values(self.adapter.shapes(weight), f"{component}.{name}", draws)
        return fill(layer, ADAPTER, values, self.adapter.scale_of(weight), trains=True)

    def injected(self) -> Iterator[tuple[str, str, Any]]:
        """Component, name and peft's layer of each layer that trains."""
        for module, (component, layers) in zip(self.modules, self.weights.items(), strict=True):
            for name in layers:
                yield component, name, module.get_submodule(name)

    def param_groups(self) -> Sequence[ParamGroup]:
        text_lr = self.adapter.text_encoder_lr
        return [
            ParamGroup(component, own, lr=None if component == self.model.denoiser_name else text_lr)
            for component, own in self.params.items()
        ]

    def summary(self) -> Sequence[str]:
        lines = []
        for component, layers in self.weights.items():
            for pattern, names in self.adapter.hits(self.model.backbone, component, layers).items():
                size = sum(prod(shape) for name in names for shape in self.adapter.shapes(layers[name]).values())
                lines.append(f"{component} {pattern}: {len(names)} layers, {size:,} parameters")
        return lines

    def train(self, *, on: bool) -> None:
        for _, _, layer in self.injected():
            layer.training = on  # of the layer alone: what it wraps keeps its own mode

    @contextmanager
    def disabled(self) -> Iterator[None]:
        for module in self.modules:
            module.disable_adapters()  # type: ignore[operator]
        try:
            yield
        finally:
            for module in self.modules:
                module.enable_adapters()  # type: ignore[operator]

    def export(self, folder: Path, state: Mapping[str, Tensor], about: About) -> Sequence[Path]:
        from ..formats.lycoris_files import write_lycoris

        scales = {
            f"{component}.{name}": self.adapter.scale_of(weight)
            for component, layers in self.weights.items()
            for name, weight in layers.items()
        }
        return write_lycoris(folder, state, self.adapter, scales, about)

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify_lycoris import verify_lycoris

        verify_lycoris(self, files, state)
