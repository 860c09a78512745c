"""What the adapters share whose update of a layer is computed from factors and then multiplied by the layer's input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ..backbones.base import Site
from ..errors import RecipeError
from ..formats.lycoris_shapes import Method
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

Shapes = Mapping[str, tuple[int, ...]]
"""By name of a factor."""


class Injected(Adapter):
    """An update of linear layers made of factors, as LyCORIS names them."""

    method: ClassVar[Method]

    rank: int = Field(default=8, ge=1, le=1024)
    """Rank of each product of two factors."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator: the update is multiplied by alpha / rank; null means alpha = rank."""
    where: Site | Patterns = "attention"
    """Layers of the denoiser: cross_attention (on sd35 the text's projections into the joint attention), attention,
    attention_mlp, all_linear, or a list of name endings."""
    rank_dropout: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the update's rows left out in training, each layer's its own; the others grow to make up for them."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=100)
    """Also train the text encoder's attention, at this peak learning rate; null leaves the text encoder as it is."""

    @abstractmethod
    def shapes(self, rows: int, columns: int) -> Shapes:
        """Of the factors of a layer with a weight of (rows, columns). Imports no torch."""

    @abstractmethod
    def initial_values(self, shapes: Shapes, layer: str, draws: Draws) -> Mapping[str, Tensor]:
        """Float32 factors whose update is 0, drawn by the layer's name."""

    def idle(self, layers: Sequence[Shapes]) -> Sequence[str]:
        """What was asked for and does nothing with factors of these shapes, a line each."""
        return ()

    def settings(self) -> Mapping[str, Any]:
        """What the files say of it besides rank and alpha, as LyCORIS names it."""
        return {}

    def scale_of(self, shapes: Shapes) -> float:
        """By what a layer's update is multiplied."""
        return (self.alpha or self.rank) / self.rank

    def trains_text(self) -> bool:
        return self.text_encoder_lr is not None

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        others = [(index, adapter) for index, adapter in enumerate(recipe.adapters) if adapter is not self]
        clash = [(index, adapter.key) for index, adapter in others if isinstance(adapter, LoRA | Injected)]
        if not clash:
            return ()
        index, key = clash[-1]
        text = f"a run trains one of {self.key} and {key}, for both would train the same layers; take one of them"
        return [(f"adapters.{index}", text, "value_error")]

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        counts = []
        for component, linears in layout.linears.items():
            if component in backbone.text_components:
                names = backbone.matching_text(linears) if self.trains_text() else ()
                hits: Mapping[str, Sequence[str]] = {"attention": names} if names else {}
            else:
                hits = backbone.matching(self.where, linears)
            for pattern, names in hits.items():
                sizes = [self.shapes(out, width) for width, out in (linears[name] for name in names)]
                size = sum(prod(shape) for shapes in sizes for shape in shapes.values())
                counts.append(Count(f"{component} {pattern}", len(names), size))
        return counts

    def layers(self, backbone: Backbone, layout: Layout) -> Collection[str]:
        (linears,) = (own for component, own in layout.linears.items() if component not in backbone.text_components)
        return {name for names in backbone.matching(self.where, linears).values() for name in names}

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> InjectedAttachment:
        from torch import nn

        sizes = {
            component: {name: m.weight.shape for name, m in module.named_modules() if isinstance(m, nn.Linear)}
            for component, module in {model.denoiser_name: model.denoiser, **model.text_encoders}.items()
        }
        denoiser = model.denoiser_name
        matched = model.backbone.matching(self.where, sizes[denoiser])
        if empty := [pattern for pattern, names in matched.items() if not names]:
            raise RecipeError(
                [f"adapters.{self.key}.where: {p!r} matches no linear layer of the {denoiser}" for p in empty],
                "`tuner plan` lists what each pattern matches",
            )
        names = {denoiser: sorted({name for hits in matched.values() for name in hits})}
        if self.trains_text():
            names |= {part: sorted(model.backbone.matching_text(sizes[part])) for part in model.text_encoders}
        shapes = {part: {name: self.shapes(*sizes[part][name]) for name in own} for part, own in names.items() if own}
        # a rehearsal's layers are too small to tell what would act on the real ones
        idle = self.idle([layer for own in shapes.values() for layer in own.values()])
        if idle and model.backbone.model != "toybox":
            raise RecipeError([f"adapters.{self.key}.{line}" for line in idle])
        return InjectedAttachment(self, model, shapes, draws)


class InjectedAttachment(Attachment):
    """Injected layers by component.

    Args:
        shapes: by component and layer, the shapes of its factors.
    """

    def __init__(
        self, adapter: Injected, model: DiffusionModel, shapes: Mapping[str, Mapping[str, Shapes]], draws: Draws
    ) -> None:
        from ..formats.peft_layers import inject

        self.adapter, self.model, self.shapes = adapter, model, shapes
        self.params: dict[str, dict[str, nn.Parameter]] = {}
        self.modules: list[torch.nn.Module] = []
        for component, layers in shapes.items():
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

        shapes = self.shapes[component][name]
        values = self.adapter.initial_values(shapes, f"{component}.{name}", draws)
        return fill(layer, ADAPTER, values, self.adapter.scale_of(shapes), trains=True)

    def injected(self) -> Iterator[tuple[str, str, Any]]:
        """Component, name and peft's layer of each layer that trains."""
        for module, (component, layers) in zip(self.modules, self.shapes.items(), strict=True):
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
        for component, layers in self.shapes.items():
            hits: Mapping[str, Sequence[str]] = {"attention": list(layers)}
            if component == self.model.denoiser_name:
                hits = self.model.backbone.matching(self.adapter.where, layers)
            for pattern, matched in hits.items():
                size = sum(prod(shape) for name in matched for shape in layers[name].values())
                lines.append(f"{component} {pattern}: {len(matched)} layers, {size:,} parameters")
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

        return write_lycoris(folder, state, self.adapter, about)

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify_lycoris import verify_lycoris

        verify_lycoris(self, files, state)
