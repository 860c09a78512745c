"""Low-rank adaptation (Hu et al. 2021), through peft."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..backbones.base import Site
from ..data.sources import as_list
from ..errors import RecipeError
from ..places import Place
from ..types import ParamGroup
from .base import Adapter, Attachment, Count

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from ..backbones import Backbone, DiffusionModel
    from ..backbones.base import Layout
    from ..draws import Draws
    from ..formats.about import About

ADAPTER = "tuner"
"""peft's name of the adapter that trains."""

Patterns = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(as_list)]


class LoRA(Adapter, name="lora"):
    """A low-rank update of linear layers: W + alpha / rank * B A. Small files, the base stays as it is."""

    rank: int = Field(default=16, ge=1, le=1024)
    """Rank of the update; capacity and file size grow with it."""
    alpha: float | None = Field(default=None, gt=0, le=4096)
    """Scale numerator: the update is alpha / rank * B A; null means alpha = rank."""
    where: Site | Patterns = "attention"
    """Layers of the denoiser: cross_attention (on sd35 the text's projections into the joint attention), attention,
    attention_mlp, all_linear, or a list of name endings."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the update's inputs zeroed in training."""
    init: Literal["gaussian", "kaiming"] = "gaussian"
    """A starts as gaussian noise of deviation 1 / rank, or as a fresh layer does; B starts at 0 and changes nothing."""
    text_encoder_lr: float | None = Field(default=None, gt=0, le=100)
    """Also train the text encoder's attention, at this peak learning rate; null leaves the text encoder as it is."""
    init_from: Place | None = Field(default=None, min_length=1)
    """Begin as a saved LoRA of the same rank, alpha and layers: its file, its folder, or the run that made it; null
    begins anew."""

    @model_validator(mode="after")
    def _one_start(self) -> LoRA:
        if self.init_from is not None:
            self.refuse_idle({"init": "with init_from, which brings A and B"})
        return self

    rehearsal = {"train.steps": 250, "train.lr": 2e-3}  # said again, for a run that also teaches a word

    @property
    def scale(self) -> float:
        return (self.alpha or self.rank) / self.rank

    def trains_text(self) -> bool:
        return self.text_encoder_lr is not None

    def initial(self) -> Path | None:
        from ..formats.start import start_file

        return None if self.init_from is None else start_file(self.init_from)

    def initial_problems(self, backbone: Backbone) -> Sequence[str]:
        from ..formats.start import start_problems

        file = self.initial()
        return () if file is None else start_problems(file, family=backbone.key, rank=self.rank, scale=self.scale)

    def count(self, backbone: Backbone, layout: Layout) -> Sequence[Count]:
        counts = []
        for component, linears in layout.linears.items():
            if component in backbone.text_components:
                names = backbone.matching_text(linears) if self.trains_text() else ()
                hits = {"attention": names} if names else {}  # not every text encoder trains
            else:
                hits = backbone.matching(self.where, linears)
            for pattern, names in hits.items():
                size = sum(self.rank * sum(linears[name]) for name in names)
                counts.append(Count(f"{component} {pattern}", len(names), size))
        return counts

    def layers(self, backbone: Backbone, layout: Layout) -> Collection[str]:
        (linears,) = (own for component, own in layout.linears.items() if component not in backbone.text_components)
        return {name for names in backbone.matching(self.where, linears).values() for name in names}

    def attach(self, model: DiffusionModel, *, keep_base: bool, draws: Draws) -> LoRAAttachment:
        from peft import LoraConfig
        from torch import nn

        linears = {name for name, m in model.denoiser.named_modules() if isinstance(m, nn.Linear)}
        matched = model.backbone.matching(self.where, linears)
        denoiser = model.denoiser_name
        empty = [pattern for pattern, names in matched.items() if not names]
        if empty:
            raise RecipeError(
                [f"adapters.lora.where: {pattern!r} matches no linear layer of the {denoiser}" for pattern in empty],
                "`tuner plan` lists what each pattern matches",
            )
        targets = {model.denoiser_name: (model.denoiser, sorted({n for names in matched.values() for n in names}))}
        if self.trains_text():
            for component, encoder in model.text_encoders.items():
                names = [name for name, m in encoder.named_modules() if isinstance(m, nn.Linear)]
                if matched_text := sorted(model.backbone.matching_text(names)):
                    targets[component] = (encoder, matched_text)
        for module, names in targets.values():
            config = LoraConfig(
                r=self.rank,
                lora_alpha=self.alpha or self.rank,  # type: ignore[arg-type]  # peft divides it, whatever it is
                lora_dropout=self.dropout,
                target_modules=names,  # type: ignore[arg-type]
            )
            others = [p for p in module.parameters() if p.requires_grad]
            module.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]
            for p in others:  # peft freezes whatever is not its own, such as a new word
                p.requires_grad_(True)
        attachment = LoRAAttachment(self, model, {k: (m, tuple(n)) for k, (m, n) in targets.items()}, draws)
        if (file := self.initial()) is not None:
            from ..formats.start import read_start

            shapes = {name: tensor.shape for name, tensor in attachment.state_dict().items()}
            start = read_start(file, shapes, family=model.backbone.key, rank=self.rank, scale=self.scale)
            attachment.begin_at(start, keep=keep_base)
        return attachment


class LoRAAttachment(Attachment):
    """Injected LoRA layers by component."""

    def __init__(
        self,
        adapter: LoRA,
        model: DiffusionModel,
        targets: Mapping[str, tuple[nn.Module, tuple[str, ...]]],
        draws: Draws,
    ) -> None:
        self.adapter, self.model, self.targets = adapter, model, targets
        self.params: dict[str, dict[str, nn.Parameter]] = {}
        for component, (module, names) in targets.items():
            own = self.params[component] = {}
            for name in names:
                layer = module.get_submodule(name)
                for side, factor in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):  # type: ignore[attr-defined]
                    weight = factor[ADAPTER].weight  # type: ignore[index]
                    weight.data = weight.data.float()
                    own[f"{component}.{name}.{side}.weight"] = weight
        self._initialise(draws)

    def _initialise(self, draws: Draws) -> None:
        import numpy as np
        import torch

        for own in self.params.values():
            for name, weight in own.items():
                if name.endswith("lora_B.weight"):
                    torch.nn.init.zeros_(weight)
                    continue
                rank, width = weight.shape
                if self.adapter.init == "gaussian":
                    values = draws.normal((rank, width), "lora_init", name) / rank  # std 1 / rank, as peft's "gaussian"
                else:
                    bound = 1 / width**0.5  # kaiming_uniform with a = sqrt(5)
                    values = draws.generator("lora_init", name).uniform(-bound, bound, (rank, width)).astype(np.float32)
                with torch.no_grad():
                    weight.copy_(torch.from_numpy(values))

    def param_groups(self) -> Sequence[ParamGroup]:
        text_lr = self.adapter.text_encoder_lr
        return [
            ParamGroup(component, own, lr=None if component == self.model.denoiser_name else text_lr)
            for component, own in self.params.items()
        ]

    def summary(self) -> Sequence[str]:
        lines = []
        for component, (_, names) in self.targets.items():
            hits: Mapping[str, Sequence[str]] = {"attention": names}
            if component == self.model.denoiser_name:
                hits = self.model.backbone.matching(self.adapter.where, names)
            for pattern, matched in hits.items():
                size = sum(p.numel() for n in matched for p in self._of(component, n))
                lines.append(f"{component} {pattern}: {len(matched)} layers, {size:,} parameters")
        return [*lines, f"begins as {self.adapter.initial()}"] if self.adapter.init_from else lines

    def _of(self, component: str, layer: str) -> Iterator[nn.Parameter]:
        for side in ("lora_A", "lora_B"):
            yield self.params[component][f"{component}.{layer}.{side}.weight"]

    def train(self, *, on: bool) -> None:
        for module, names in self.targets.values():
            for name in names:
                module.get_submodule(name).lora_dropout.train(on)  # type: ignore[attr-defined, operator]

    @contextmanager
    def at_start(self) -> Iterator[None]:
        layers = [m.get_submodule(name).lora_dropout for m, names in self.targets.values() for name in names]
        modes = [layer.training for layer in layers]  # type: ignore[union-attr]
        self.train(on=False)
        try:
            with super().at_start():
                yield
        finally:
            for layer, mode in zip(layers, modes, strict=True):
                layer.train(mode)  # type: ignore[operator, union-attr]

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

        return write_lora(folder, state, rank=self.adapter.rank, scale=self.adapter.scale, about=about)

    def verify(self, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
        from ..formats.verify import verify_lora

        verify_lora(self, files, state)
