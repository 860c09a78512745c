"""Hypernetworks (AUTOMATIC1111, stable-diffusion-webui): small networks before the keys and values of attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..data.sources import as_list
from ..errors import RecipeError
from ..nn.hypernetwork_structure import Activation, Structure
from ..parts import Problem, problems_error
from ..types import ParamGroup
from .base import Adapter, Attachment, Count

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.activations import Beside
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..formats.about import About
    from ..nn.hypernetwork import Hypernetwork as Network
    from ..recipe import Recipe

ADAPTER = "tuner"
"""Name in the denoiser of the one that trains."""

Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1), BeforeValidator(as_list)]
Layers = Annotated[tuple[Annotated[float, Field(gt=0, le=64)], ...], Field(min_length=2, max_length=32)]
Share = Annotated[float, Field(ge=0, lt=1)]
Shares = Annotated[tuple[Share, ...], Field(min_length=1), BeforeValidator(as_list)]


class Hypernetwork(Adapter, name="hypernetwork"):
    """Small networks that rewrite the tokens from which attention makes keys and values; the base stays as it is.

    On sd15 as AUTOMATIC1111 has them; on sd35, where no other tool has them, before the text's keys and values.
    """

    sizes: Literal["all", "text"] | Sizes = "all"
    """Widths of the tokens to rewrite, a pair of networks each: all that there are, text for the text's alone, or a
    list such as [768, 320] (on SD1.5 768 is the text; 320, 640 and 1280 are the picture)."""
    layer_structure: Layers = (1.0, 2.0, 1.0)  # A1111's default
    """Widths of a network's layers, as multiples of the tokens' own; starts and ends with 1."""
    activation: Activation = "linear"  # A1111's default
    """What follows each linear layer but the last, by A1111's names; linear is nothing. Its swish is the hard swish.
    ComfyUI knows linear, relu, leakyrelu, elu, swish, tanh, sigmoid, softsign and mish."""
    activate_output: bool = False
    """Let the activation follow the last linear layer, too."""
    layer_norm: bool = False
    """Normalise behind every linear layer and its activation."""
    dropout: Shares = (0.0,)
    """Share of hidden values zeroed in training: one number for every inner layer, or a list of one for each; A1111's
    is 0.3."""
    init: Literal["zero", "normal", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"] = "zero"
    """How weights start. A1111's are normal (deviation 0.01), xavier_* and kaiming_*, which all change the pictures
    before anything is learned; zero is normal with the last layer at 0, so that nothing is changed at the start."""

    @model_validator(mode="after")
    def _fits(self) -> Hypernetwork:
        layers, inner = self.layer_structure, len(self.layer_structure) - 2
        if layers[0] != 1 or layers[-1] != 1:
            raise _problem("layer_structure", "must start and end with 1, the tokens' own width")
        if inner and len(self.dropout) not in (1, inner):
            raise _problem("dropout", f"has {len(self.dropout)} shares; give one, or {inner}, one for each inner layer")
        if not inner and any(self.dropout):
            self.refuse_idle({"dropout": "without an inner layer in layer_structure"})
        if self.activation == "linear" and self.activate_output:
            self.refuse_idle({"activate_output": "with the activation linear, which is none"})
        if self.activation != "linear" and not inner and not self.activate_output:
            self.refuse_idle({"activation": "without an inner layer in layer_structure, unless activate_output is on"})
        if self.init == "zero" and self.activate_output and not self.layer_norm:
            raise _problem(
                "init", "cannot be zero with activate_output and without layer_norm: an activation may never leave 0"
            )
        return self

    @property
    def structure(self) -> Structure:
        inner = len(self.layer_structure) - 2
        shares = self.dropout if len(self.dropout) == inner else self.dropout[:1] * inner
        return Structure(
            layers=self.layer_structure,
            activation=self.activation,
            activate_output=self.activate_output,
            layer_norm=self.layer_norm,
            dropout=(*shares, 0.0),
        )

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        others = [index for index, adapter in enumerate(recipe.adapters) if isinstance(adapter, Hypernetwork)]
        if len(others) < 2:
            return ()
        text = "a run trains one hypernetwork; give one more sizes or layers, or train the other one after it"
        return [(f"adapters.{others[-1]}", text, "value_error")]

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        denoiser = next(name for name in layout.linears if name not in backbone.text_components)
        widths = {layer: inner for layer, (inner, _) in layout.linears[denoiser].items()}
        structure = self.structure
        return [
            Count(f"{denoiser} hypernetwork {size}", len(layers), structure.parameters(size))
            for size, layers in self._by_size(backbone, widths).items()
        ]

    def kept_beside(self, backbone: Backbone, layout: Layout, itemsize: int) -> Beside:
        denoiser = next(name for name in layout.linears if name not in backbone.text_components)
        widths = {layer: inner for layer, (inner, _) in layout.linears[denoiser].items()}
        kept: dict[str, tuple[float, float]] = {}
        for size, layers in self._by_size(backbone, widths).items():
            taken, inner = self.structure.kept(size, itemsize)
            for layer in layers:
                # in 32 bit nothing is cast, and both networks keep the same tensor
                shared = itemsize == 4 and layer.endswith("v_proj" if "_proj" in layer else "to_v")
                kept[layer] = ((inner + (0.0 if shared else taken)) / size, 0.0)
        return kept

    def _by_size(self, backbone: Backbone, widths: Mapping[str, int]) -> dict[int, list[str]]:
        """By width of the tokens, the projections that take such tokens; none where no layer takes a wanted width.

        Args:
            widths: of what each linear layer of the denoiser takes, by its full name.
        """
        from ..formats.hypernetwork import places

        where = [layer for layers in places(backbone.key, list(widths)).values() for layer in layers]
        text = {name for names in backbone.matching("context_kv", where).values() for name in names}
        wanted = self.sizes
        if isinstance(wanted, str):
            wanted = tuple(sorted({widths[layer] for layer in where if wanted == "all" or layer in text}))
        return {size: [layer for layer in where if widths[layer] == size] for size in dict.fromkeys(wanted)}

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> HypernetworkAttachment:
        from ..formats.hypernetwork import places
        from ..nn.hypernetwork import Hypernetwork as Network
        from ..nn.key_value_hooks import attach

        where = places(model.backbone.key, [name for name, _ in model.denoiser.named_modules()])
        widths: dict[str, int] = {
            layer: model.denoiser.get_submodule(layer).in_features  # type: ignore[misc]
            for layers in where.values()
            for layer in layers
        }
        sizes = self._by_size(model.backbone, widths)
        if empty := [size for size, layers in sizes.items() if not layers]:
            there = ", ".join(map(str, sorted(set(widths.values()))))
            raise RecipeError(
                [f"adapters.hypernetwork.sizes: no attention takes tokens of {size} values" for size in empty],
                f"the {model.denoiser_name} has those of {there}",
            )
        network = Network(self.structure, sizes)
        network.initialise(self.init, draws)
        attach(model.denoiser, ADAPTER, network, where)
        return HypernetworkAttachment(self, model, network, {size: len(layers) for size, layers in sizes.items()})


def _problem(key: str, text: str) -> Exception:
    return problems_error([(key, text, "value_error")])


class HypernetworkAttachment(Attachment):
    """The networks on the denoiser."""

    def __init__(
        self, adapter: Hypernetwork, model: DiffusionModel, network: Network, layers: Mapping[int, int]
    ) -> None:
        self.adapter, self.model, self.network, self.layers = adapter, model, network, layers
        self.params = {f"hypernetwork.{name}": weight for name, weight in network.weights().items()}

    def param_groups(self) -> Sequence[ParamGroup]:
        return [ParamGroup("hypernetwork", self.params)]

    def summary(self) -> Sequence[str]:
        denoiser, structure = self.model.denoiser_name, self.adapter.structure
        return [
            f"{denoiser} hypernetwork {size}: {count} layers, {structure.parameters(size):,} parameters"
            for size, count in self.layers.items()
        ]

    def train(self, *, on: bool) -> None:
        self.network.train(on)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.network.on = False
        try:
            yield
        finally:
            self.network.on = True

    def export(self, folder: Path, state: Mapping[str, Tensor], about: About) -> Sequence[Path]:
        from ..formats.hypernetwork import write_hypernetwork

        return write_hypernetwork(folder, state, self.adapter.structure, self.adapter.init, about)

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify_hypernetwork import verify_hypernetwork

        verify_hypernetwork(self, files, state)
