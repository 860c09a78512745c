"""Full fine-tuning: the base's own weights train, all of them or chosen ones, and a whole model is saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from ..backbones.base import Site
from ..backbones.naming import layers_at
from ..data.sources import as_list
from ..errors import RecipeError
from ..types import ParamGroup
from .base import Adapter, Attachment, Count

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor, nn

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..formats.about import About
    from ..parts import Problem
    from ..recipe import Recipe

SITES = get_args(Site)
ITEM_BYTES = {"fp32": 4, "bf16": 2}

Where = str | Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(as_list)]


class Full(Adapter, name="full"):
    """The model itself: learns the most, needs the most memory, and saves a model of the base's size."""

    saves_whole_models = True
    rehearsal = {"train.lr": 2e-4}

    where: Where = "all"
    """Layers of the denoiser: all; a LoRA's sites (cross_attention, attention, attention_mlp, all_linear); a stretch
    (down, middle, up on sd15; image_stream, text_stream on sd35); or a list of names, such as up_blocks.1 or attn2."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=100)
    """Also train the text encoder (on sd35 both CLIPs) whole, at this peak learning rate; null leaves it as it is."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """What the trained weights are kept in: fp32, or bf16 with stochastic rounding, which takes half the memory."""
    max_side_px: int | None = Field(default=None, ge=16, le=16384)
    """Extend the table of positions to pictures of this side, on sd35; null keeps the base's own."""

    def trains_text(self) -> bool:
        return self.text_encoder_lr is not None

    def held_bytes(self, backbone: Backbone, layout: Layout) -> Mapping[str, int]:
        return dict.fromkeys(_trained(self, backbone, layout.linears), ITEM_BYTES[self.weights])

    def longest_side(self) -> int | None:
        return self.max_side_px

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        at, found = f"adapters.{recipe.adapters.index(self)}", []
        others = [adapter.key for adapter in recipe.adapters if adapter is not self and adapter.key in CLASHES]
        if others:
            text = f"full trains the model that {others[0]} would sit on, and saves it whole; train one after the other"
            found.append((at, text, "value_error"))
        wrong = self._wrong_where(recipe.backbone)
        if wrong:
            found.append((f"{at}.where", wrong, "value_error"))
        if self.max_side_px is not None and not recipe.backbone.placed_by_table:
            text = f"has no effect on {recipe.backbone.key}, which takes pictures of any size"
            found.append((f"{at}.max_side_px", text, "no_effect"))
        if self.weights == "bf16" and recipe.train.precision == "fp16":
            text = "bf16 weights hold values that train.precision: fp16 cannot compute with; take bf16 for both"
            found.append((f"{at}.weights", text, "value_error"))
        return found

    def _wrong_where(self, backbone: Backbone) -> str:
        """What is wrong with `where`; empty where nothing is."""
        known = ("all", *(site for site in SITES if site != "context_kv"), *backbone.stretches)
        if not isinstance(self.where, str) or self.where in (*known, "context_kv"):
            return ""
        return f"{backbone.key} has no part named {self.where!r}; there is {', '.join(known)}, or a list of layer names"

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        counts = []
        for component in _trained(self, backbone, layout.linears):
            sizes = layout.layers[component]
            for pattern, names in self._chosen(backbone, component, sizes, layout.linears[component]).items():
                counts.append(Count(f"{component} {pattern}", len(names), sum(sizes[name] for name in names)))
        return counts

    def layers(self, backbone: Backbone, layout: Layout) -> Collection[str] | None:
        if self.where == "all":
            return None
        denoiser = _trained(self, backbone, layout.linears)[0]
        linears = layout.linears[denoiser]
        chosen = self._chosen(backbone, denoiser, layout.layers[denoiser], linears)
        return {name for names in chosen.values() for name in names if name in linears}

    def _chosen(
        self, backbone: Backbone, component: str, layers: Iterable[str], linears: Iterable[str]
    ) -> dict[str, list[str]]:
        """Names of the layers that train, by pattern, each under the first that it fits."""
        if component in backbone.text_components:
            return {"all": list(layers)}
        return layers_at(backbone, self.where, layers, linears)

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> FullAttachment:
        import torch
        from torch import nn

        linears = {
            component: {name: module for name, module in part.named_modules() if isinstance(module, nn.Linear)}
            for component, part in model.components.items()
        }
        chosen = {}
        for component in _trained(self, model.backbone, linears):
            layers = _layers(model.components[component])
            chosen[component] = self._chosen(model.backbone, component, layers, linears[component])
        empty = [pattern for pattern, names in chosen[model.denoiser_name].items() if not names]
        if empty:
            raise RecipeError(
                [
                    f"adapters.full.where: {pattern!r} matches no layer of the {model.denoiser_name}"
                    for pattern in empty
                ],
                "`tuner plan` lists what each pattern matches",
            )
        base = _copies(model, chosen) if keep_base else None
        for component in chosen:
            model.hold(component, torch.float32 if self.weights == "fp32" else torch.bfloat16)
        if self.max_side_px is not None:
            model.extend_positions(self.max_side_px)
        return FullAttachment(self, model, chosen, base)


CLASHES = ("full", "lora", "hypernetwork")
"""Adapters that cannot train beside this one."""


def _trained(adapter: Full, backbone: Backbone, linears: Mapping[str, Iterable[str]]) -> list[str]:
    """Components that train: the denoiser, and with `text_encoder_lr` the text encoders that adapters train at all."""
    text = [name for name in backbone.text_components if name in linears and backbone.matching_text(linears[name])]
    denoiser = next(name for name in linears if name not in (*backbone.text_components, "vae"))
    return [denoiser, *(text if adapter.trains_text() else ())]


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that have parameters of their own, by full name."""
    return {
        name: part for name, part in module.named_modules() if next(part.parameters(recurse=False), None) is not None
    }


def _copies(model: DiffusionModel, chosen: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, nn.Parameter]:
    """The base's values of what will train, in what the base computes in, by name."""
    from torch import nn

    return {
        name: nn.Parameter(getattr(owner, leaf).detach().clone(), requires_grad=False)
        for component, patterns in chosen.items()
        for name, (owner, leaf) in _places(model, component, patterns).items()
    }


def _places(
    model: DiffusionModel, component: str, patterns: Mapping[str, Sequence[str]]
) -> dict[str, tuple[nn.Module, str]]:
    """(layer, attribute) of each trained parameter by its full name, component first."""
    module, found = model.components[component], {}
    for layer in (name for names in patterns.values() for name in names):
        owner = module.get_submodule(layer)
        for leaf, _ in owner.named_parameters(recurse=False):
            found[".".join(filter(None, (component, layer, leaf)))] = (owner, leaf)
    return found


class FullAttachment(Attachment):
    """The base's own parameters, unfrozen.

    Args:
        adapter: what to train.
        model: it holds the weights.
        chosen: names of the trained layers by component and pattern.
        base: the values before the first step, by parameter; None where nobody will ask for them.
    """

    saves_whole_models = True

    def __init__(
        self,
        adapter: Full,
        model: DiffusionModel,
        chosen: Mapping[str, Mapping[str, Sequence[str]]],
        base: Mapping[str, nn.Parameter] | None,
    ) -> None:
        self.adapter, self.model, self.chosen, self.base = adapter, model, chosen, base
        self.places = {component: _places(model, component, patterns) for component, patterns in chosen.items()}
        self.params: dict[str, dict[str, nn.Parameter]] = {
            component: {name: getattr(owner, leaf).requires_grad_(True) for name, (owner, leaf) in own.items()}
            for component, own in self.places.items()
        }

    def param_groups(self) -> Sequence[ParamGroup]:
        text_lr = self.adapter.text_encoder_lr
        return [
            ParamGroup(component, own, lr=None if component == self.model.denoiser_name else text_lr)
            for component, own in self.params.items()
        ]

    def summary(self) -> Sequence[str]:
        lines = []
        for component, patterns in self.chosen.items():
            for pattern, names in patterns.items():
                own = _places(self.model, component, {pattern: names})
                size = sum(getattr(owner, leaf).numel() for owner, leaf in own.values())
                lines.append(f"{component} {pattern}: {len(names)} layers, {size:,} parameters")
        return lines

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base's values stand in their layers; the trained parameters are untouched, and back afterwards."""
        if self.base is None:
            raise RuntimeError("attached without keep_base")
        self._put(self.base)
        try:
            yield
        finally:
            self._put({name: p for own in self.params.values() for name, p in own.items()})

    def _put(self, parameters: Mapping[str, nn.Parameter]) -> None:
        # Other parameters, rather than other values in the same ones: autocast remembers its 16-bit copy of each.
        for own in self.places.values():
            for name, (owner, leaf) in own.items():
                setattr(owner, leaf, parameters[name])

    def components(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Every tensor of each trained component by its own name: those of `state`, and the frozen ones beside them."""
        return {
            component: {
                name: state.get(f"{component}.{name}", value.detach())
                for name, value in self.model.components[component].state_dict().items()
            }
            for component in self.chosen
        }

    def export(self, folder: Path, state: Mapping[str, Tensor], about: About) -> Sequence[Path]:
        from ..formats.whole_model import write_model

        return write_model(folder, self.model, self.components(state), about)

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify_model import verify_model

        verify_model(self.model, self.components(state), files)
