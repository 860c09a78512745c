"""A LoRA on a model: peft's layers, their parameters and what is saved of them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..types import ParamGroup
from .base import Attachment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from ..backbones import DiffusionModel
    from ..draws import Draws
    from ..formats.about import About
    from ..lora_sizes import Place, Size
    from .lora import LoRA

ADAPTER = "tuner"
"""peft's name of the adapter that trains."""
MAGNITUDES = "lora_magnitude_vector"
"""peft's name of the norms that a DoRA trains."""


class LoRAAttachment(Attachment):
    """Injected LoRA layers by component.

    Args:
        adapter: its hyperparameters.
        model: what it sits on.
        targets: by component its module, and the size of each layer of it that trains.
        draws: source of the initial values.
    """

    def __init__(
        self,
        adapter: LoRA,
        model: DiffusionModel,
        targets: Mapping[str, tuple[nn.Module, Mapping[str, Size]]],
        draws: Draws,
    ) -> None:
        self.adapter, self.model = adapter, model
        self.targets = {component: (module, tuple(sizes)) for component, (module, sizes) in targets.items()}
        self.sizes: dict[Place, Size] = {
            (component, name): size for component, (_, sizes) in targets.items() for name, size in sizes.items()
        }
        """Rank and scale by layer."""
        self.params: dict[str, dict[str, nn.Parameter]] = {}
        for component, (module, sizes) in targets.items():
            self._inject(module, sizes)
            own = self.params[component] = {}
            for name in sizes:
                for side, weight in self._weights(module.get_submodule(name)):
                    weight.data = weight.data.float()
                    own[f"{component}.{name}.{side}.weight"] = weight
        self._initialise(draws)

    def _inject(self, module: nn.Module, sizes: Mapping[str, Size]) -> None:
        """Wrap the layers by peft's. An `input` DoRA, which peft has none of, is put in afterwards."""
        from peft import LoraConfig

        rank, scale = next(iter(sizes.values()))
        # a layer's whole name, which peft matches at a name's end
        patterns = {f"^{re.escape(name)}": size for name, size in sizes.items()}
        config = LoraConfig(
            r=rank,
            lora_alpha=scale * rank,  # type: ignore[arg-type]  # peft divides it, whatever it is
            rank_pattern={name: size.rank for name, size in patterns.items() if size.rank != rank},
            alpha_pattern={
                name: size.scale * size.rank  # type: ignore[misc]  # as above
                for name, size in patterns.items()
                if size != (rank, scale)
            },
            lora_dropout=self.adapter.dropout,
            target_modules=list(sizes),  # type: ignore[arg-type]
            use_dora=self.adapter.dora == "output",
        )
        others = [p for p in module.parameters() if p.requires_grad]
        module.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]
        for p in others:  # peft freezes whatever is not its own, such as a new word
            p.requires_grad_(True)
        if self.adapter.dora == "input":
            from ..nn.dora import put_input_norms

            for name in sizes:
                put_input_norms(module.get_submodule(name), ADAPTER)

    def _weights(self, layer: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters of one of peft's layers, by the name of what holds them."""
        yield "lora_A", layer.lora_A[ADAPTER].weight
        yield "lora_B", layer.lora_B[ADAPTER].weight
        if self.adapter.dora:
            yield MAGNITUDES, layer.lora_magnitude_vector[ADAPTER].weight

    def _initialise(self, draws: Draws) -> None:
        """Draw A, zero B; norms are those of the base, in float32 whatever that is held in."""
        import numpy as np
        import torch

        from ..nn.dora import norms

        for component, (module, names) in self.targets.items():
            for layer in names:
                for side, weight in self._weights(module.get_submodule(layer)):
                    name = f"{component}.{layer}.{side}.weight"
                    if side == "lora_B":
                        torch.nn.init.zeros_(weight)
                        continue
                    if side == MAGNITUDES:
                        weight.data = norms(module.get_submodule(layer), ADAPTER)
                        continue
                    shape, width = tuple(weight.shape), weight[0].numel()
                    if self.adapter.init == "gaussian":
                        values = draws.normal(shape, "lora_init", name) / shape[0]  # std 1 / rank, peft's "gaussian"
                    else:
                        bound = 1 / width**0.5  # kaiming_uniform with a = sqrt(5)
                        values = draws.generator("lora_init", name).uniform(-bound, bound, shape).astype(np.float32)
                    with torch.no_grad():
                        weight.copy_(torch.from_numpy(values))

    def param_groups(self) -> Sequence[ParamGroup]:
        """A group a component; LoRA+ sets B apart, and a DoRA its norms, which no decay may draw to 0."""
        groups = []
        for component, own in self.params.items():
            lr = None if component == self.model.denoiser_name else self.adapter.text_encoder_lr
            sides: dict[str, dict[str, nn.Parameter]] = {"": {}, " B": {}, " magnitudes": {}}
            for name, weight in own.items():
                side = " magnitudes" if MAGNITUDES in name else " B" if name.endswith("lora_B.weight") else ""
                sides[side if side != " B" or self.adapter.lora_plus else ""][name] = weight
            groups.append(ParamGroup(component, sides[""], lr=lr))
            if sides[" B"]:
                groups.append(ParamGroup(f"{component} B", sides[" B"], lr=lr, ratio=self.adapter.lora_plus or 1.0))
            if sides[" magnitudes"]:
                groups.append(ParamGroup(f"{component} magnitudes", sides[" magnitudes"], lr=lr, weight_decay=0.0))
        return groups

    def summary(self) -> Sequence[str]:
        lines = []
        for component, (module, names) in self.targets.items():
            from torch import nn

            kinds = {name: isinstance(module.get_submodule(name).get_base_layer(), nn.Conv2d) for name in names}  # type: ignore[operator]
            linears, convs = ([name for name in names if kinds[name] is conv] for conv in (False, True))
            hits = self.adapter.hits(self.model.backbone, component, linears, convs)
            for pattern, matched in hits.items():
                size = sum(w.numel() for n in matched for _, w in self._weights(module.get_submodule(n)))
                lines.append(f"{component} {pattern}: {len(matched)} layers, {size:,} parameters")
        return [*lines, f"begins as {self.adapter.initial()}"] if self.adapter.init_from else lines

    def _layers(self) -> Iterator[Any]:
        for module, names in self.targets.values():
            yield from (module.get_submodule(name) for name in names)

    def train(self, *, on: bool) -> None:
        for layer in self._layers():
            layer.lora_dropout.train(on)
            if self.adapter.dora:
                layer.training = on  # by which a DoRA knows whether its input was dropped

    @contextmanager
    def at_start(self) -> Iterator[None]:
        modes = [(layer, layer.training, layer.lora_dropout.training) for layer in self._layers()]
        self.train(on=False)
        try:
            with super().at_start():
                yield
        finally:
            for layer, own, dropout in modes:
                layer.training = own
                layer.lora_dropout.train(dropout)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        modules = [module for module, _ in self.targets.values()]
        for module in modules:
            module.disable_adapters()  # type: ignore[operator]
        try:
            yield
        finally:
            for module in modules:
                module.enable_adapters()  # type: ignore[operator]

    def export(self, folder: Path, state: Mapping[str, Tensor], about: About) -> Sequence[Path]:
        from ..formats.lora import write_lora

        adapter = self.adapter
        return write_lora(
            folder,
            state,
            rank=adapter.rank,
            scale=adapter.scale,
            about=about,
            sizes=self.sizes,
            dora=adapter.dora,
        )

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify import verify_lora

        verify_lora(self, files, state)
