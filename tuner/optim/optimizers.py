"""Optimizers as parts: hyperparameters here, the arithmetic in torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ..errors import UsageError
from ..parts import Choice, Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..gauges import Gauge
    from ..recipe import Recipe
    from ..types import ParamGroup
    from .shown import Shown


Beta = Annotated[float, Field(ge=0, lt=1)]


class Rate(NamedTuple):
    """A learning rate next to AdamW's."""

    multiple: float = 1.0
    fixed: float | None = None
    """In place of a multiple."""

    def of(self, rate: float) -> float:
        """The learning rate in place of AdamW's `rate`."""
        return rate * self.multiple if self.fixed is None else self.fixed


class Optimizer(Choice):
    """How a gradient becomes an update."""

    bytes_a_parameter: ClassVar[float]
    """What it remembers of each trained number."""
    files_hold: ClassVar[Literal["raw", "schedule_free"]] = "raw"
    """The trained weights, or what `shown` gives."""
    rate_of_adamw: ClassVar[Rate] = Rate()
    """The learning rate that does about what one does with AdamW."""
    updates_in_backward: ClassVar[bool] = True

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        """What this optimizer cannot do; see `Task.problems`."""
        return ()

    @abstractmethod
    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        """One torch group a ParamGroup, in order. It must honour a `found_inf` tensor as torch's fused ones do.

        Args:
            groups: what trains.
            lr: the run's peak learning rate.
            seed: keys what the optimizer draws.
            in_backward: update each parameter when its gradient is there; see `one_by_one.OneByOne`.
        """

    def shown(self, built: torch.optim.Optimizer, live: Mapping[str, Tensor]) -> Shown | None:
        """The weights for samples, validation and files, where these are not the ones that train.

        Args:
            built: what `build` gave.
            live: the trained tensors by name.
        """
        return None

    def gauges(self, built: torch.optim.Optimizer) -> Sequence[Gauge]:
        """What is logged of it besides the learning rate."""
        return ()


def described(groups: Sequence[ParamGroup], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The groups as torch's optimizers take them."""
    return [
        {
            "params": list(group.params.values()),
            "lr": group.peak(lr),
            "weight_decay": weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in groups
    ]


class AdamW(Optimizer, name="adamw"):
    """AdamW (Loshchilov & Hutter 2019), torch's fused kernel where weights are fp32."""

    bytes_a_parameter = 8

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator."""
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        import torch

        told = described(groups, lr, self.weight_decay)
        narrow = any(p.dtype != torch.float32 for group in groups for p in group.params.values())
        if narrow or in_backward:
            from .one_by_one import SteadyAdamW

            return SteadyAdamW(told, betas=self.betas, eps=self.eps, seed=seed, in_backward=in_backward)
        return torch.optim.AdamW(told, lr=lr, betas=self.betas, eps=self.eps, fused=True)


class AdamW8bit(AdamW, name="adamw8bit"):
    """AdamW that remembers its moments in 8 bits (Dettmers et al. 2022); needs bitsandbytes (extra `cuda`)."""

    known_as = ("paged_adamw_8bit", "adam8bit")
    bytes_a_parameter = 2.1

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .eight_bit import EightBitAdamW

        told = described(groups, lr, self.weight_decay)
        return EightBitAdamW(told, betas=self.betas, eps=self.eps, seed=seed, in_backward=in_backward)


class Adafactor(Optimizer, name="adafactor"):
    """Adafactor (Shazeer & Stern 2018): remembers a row and a column of each matrix, so next to nothing."""

    bytes_a_parameter = 0.05

    beta2_decay: float = Field(default=-0.8, ge=-10, le=0)
    """The second moment forgets as step to this power."""
    clip: float = Field(default=1.0, ge=1, le=1000)
    """Largest root mean square of an update, before the learning rate."""
    relative: bool = False
    """Learning rate relative to the root mean square of each weight, as published; take about 1e-3 then."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .adafactor import AdafactorSteps

        return AdafactorSteps(
            described(groups, lr, self.weight_decay),
            beta2_decay=self.beta2_decay,
            clip=self.clip,
            scaled=self.relative,
            least=1e-3,
            seed=seed,
            in_backward=in_backward,
        )


class Lion(Optimizer, name="lion"):
    """Lion (Chen et al. 2023): the sign of an average of the gradients; a tenth to a third of AdamW's learning rate."""

    known_as = ("lion8bit", "paged_lion_8bit")
    bytes_a_parameter = 4
    rate_of_adamw = Rate(0.2)

    betas: tuple[Beta, Beta] = (0.9, 0.99)
    """Share of the moment in what decides the sign, and of the moment that is kept."""
    weight_decay: float = Field(default=0.1, ge=0, le=10)  # sec. 5 there: 3 to 10 times AdamW's
    """Decoupled weight decay, times the learning rate, which is why it is larger than AdamW's."""

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .lion import LionSteps

        told = described(groups, lr, self.weight_decay)
        return LionSteps(told, betas=self.betas, seed=seed, in_backward=in_backward)


class ScheduleFree(Optimizer, name="schedule_free"):
    """Schedule-free AdamW (Defazio et al. 2024): an average of the weights in place of a falling learning rate."""

    known_as = ("adamwschedulefree", "schedulefree", "adamw_schedulefree", "radamschedulefree", "sgdschedulefree")
    files_hold = "schedule_free"
    bytes_a_parameter = 8

    betas: tuple[Annotated[float, Field(gt=0, lt=1)], Beta] = (0.9, 0.999)
    """Share of the average where gradients are taken (long runs: up to 0.98), and decay rate of the second moment."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator."""
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        train, wrong = recipe.train, []
        if train.schedule.needs_total:
            text = (
                f"schedule_free averages the weights in place of a schedule; {train.schedule.key} would slow it again: "
                "take constant (it may have a warmup)"
            )
            wrong.append(("train.schedule", text, "value_error"))
        if train.ema is not None:
            text = (
                "schedule_free's files hold an average of the weights already; leave out ema, or take another optimizer"
            )
            wrong.append(("train.ema", text, "value_error"))
        return wrong

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .schedule_free import ScheduleFreeSteps

        told = described(groups, lr, self.weight_decay)
        return ScheduleFreeSteps(told, betas=self.betas, eps=self.eps, seed=seed, in_backward=in_backward)

    def shown(self, built: torch.optim.Optimizer, live: Mapping[str, Tensor]) -> Shown | None:
        from .schedule_free import Averaged, ScheduleFreeSteps

        assert isinstance(built, ScheduleFreeSteps)
        return Averaged(live, built)


class Prodigy(Optimizer, name="prodigy"):
    """Prodigy (Mishchenko & Defazio 2024): Adam that finds its learning rate; `lr` is a multiple of it, so 1."""

    known_as = ("prodigyopt", "dadaptation", "dadaptadam", "dadaptadampreprint", "dadaptlion", "dadaptadagrad")
    bytes_a_parameter = 16
    rate_of_adamw = Rate(fixed=1.0)
    updates_in_backward = False

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0, le=1)
    """Added to the denominator, times the estimate."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Decoupled weight decay, times the learning rate."""
    d0: float = Field(default=1e-6, gt=0, le=1)
    """Estimate that it begins with; too small costs steps, too large may overshoot."""
    d_coef: float = Field(default=1.0, gt=0, le=100)
    """Multiple of each new estimate; 0.5 is gentler, 2 is bolder. The key to change first."""
    growth_rate: float | None = Field(default=None, gt=1, le=1000)
    """Most that the estimate grows in a step, as a factor, such as 1.02; null sets no limit."""
    use_bias_correction: bool = False
    """Correct for moments that began as zeros, as Adam does: the first steps are shorter."""
    safeguard_warmup: bool = False
    """Keep the estimate small while the schedule's warmup raises the rate; for runs with a warmup."""

    def problems(self, recipe: Recipe) -> Sequence[Problem]:
        rates = {"train.lr": recipe.train.lr}
        for i, adapter in enumerate(recipe.adapters):
            own = {name: getattr(adapter, name) for name in type(adapter).model_fields}
            rates |= {f"adapters.{i}.{name}": rate for name, rate in own.items() if name.endswith("lr") and rate}
        text = (
            "prodigy finds the learning rate itself and this is a multiple of it, so {} is far off; take 1 (and d_coef)"
        )
        low, high = MULTIPLES
        wrong = [
            (key, text.format(f"{rate:g}"), "value_error") for key, rate in rates.items() if not low <= rate <= high
        ]
        if recipe.train.optimizer_in_backward:
            wrong.append(("train.optimizer_in_backward", PRODIGY_WAITS, "value_error"))
        return wrong

    def build(
        self, groups: Sequence[ParamGroup], lr: float, *, seed: int = 0, in_backward: bool = False
    ) -> torch.optim.Optimizer:
        from .prodigy import Growth, ProdigySteps

        if in_backward:
            raise UsageError(f"train.optimizer_in_backward: {PRODIGY_WAITS}", "leave it out, or take another optimizer")
        return ProdigySteps(
            described(groups, lr, self.weight_decay),
            betas=self.betas,
            eps=self.eps,
            growth=Growth(self.d0, self.d_coef, self.growth_rate or float("inf"), self.safeguard_warmup),
            corrected=self.use_bias_correction,
            seed=seed,
        )

    def gauges(self, built: torch.optim.Optimizer) -> Sequence[Gauge]:
        from .prodigy import Estimate, ProdigySteps

        assert isinstance(built, ProdigySteps)
        return Estimate("prodigy_d", built, times_lr=False), Estimate("effective_lr", built, times_lr=True)


MULTIPLES = (0.1, 10.0)
"""Least and largest learning rate that Prodigy's users can have meant as a multiple."""
PRODIGY_WAITS = "prodigy's estimate needs the gradients of all weights before the first of them moves"
