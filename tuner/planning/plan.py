"""What a run will do, before it does it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.held_out import ROLE as HELD_OUT
from ..errors import StorageError, TunerError, UsageError
from ..identifier import advice
from . import disk, settings
from .cache_cost import CacheCost, cache_costs
from .cards import Card, cards
from .length import Exposure, Length, exposures, length
from .load import load_of, resume_bytes, saved_parameters
from .machine import Machine, find_machine
from .memory import Load, Memory, memory
from .pictures import Bucket, Captions, bucket_table, caption_facts
from .sides import beyond_positions, beyond_pretraining, idle_positions, largest_sizes
from .validation_cost import ValidationCost, validation_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..adapters.base import Count
    from ..data.scan import Scan
    from ..recipe import Recipe

ITEMSIZES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a run before it starts. `str(plan)` is the page for people."""

    title: str
    length: Length
    exposures: Sequence[Exposure]
    buckets: Sequence[Bucket]
    captions: Captions
    generate: int
    """Class pictures that are still to be drawn, at most."""
    caches: Sequence[CacheCost]
    """What each choice of data.cache costs; the recipe's own first."""
    counts: Sequence[Count]
    """Trained parameters by pattern."""
    adapter_bytes: Mapping[str, int]
    """Size of one adapter file by dtype."""
    save_dtype: str
    state_bytes: int
    """Optimizer moments and average of the weights, float32."""
    machine: Machine
    memory: Mapping[str, Memory]
    """Estimate on a GPU with 16-bit weights (`gpu`), on a CPU in fp32 (`cpu`), and on the machine at hand (`here`)."""
    places: Sequence[disk.Place]
    """Where the run writes, and how much."""
    steps_a_second: float | None
    """Measured, never guessed."""
    refused: Sequence[tuple[str, str]]
    """Files that cannot be used, and why."""
    notes: Sequence[str]
    validation: ValidationCost | None = None
    """What the held-out pictures cost; None without them."""
    cards: Sequence[Card] = ()
    """What fits the usual cards, where the model itself trains."""
    advice: Sequence[str] = ()
    """Settings that will do less than they seem to."""
    refusals: list[str] = field(default_factory=list)
    """Why this run cannot be done here; empty where it can."""

    @property
    def trainable(self) -> int:
        return sum(count.parameters for count in self.counts)

    @property
    def seconds(self) -> float | None:
        """Of training alone; None without a measured rate."""
        return self.length.steps / self.steps_a_second if self.steps_a_second else None

    @property
    def validation_seconds(self) -> float | None:
        """Of all measurements on held-out pictures, an estimate; None without a measured rate."""
        steps = self.validation.steps if self.validation else 0.0
        return steps / self.steps_a_second if self.steps_a_second else None

    def __str__(self) -> str:
        from .page import page

        return page(self)

    def to_json(self) -> dict[str, Any]:
        """The same facts for a machine: plain values, bytes and pixels."""
        tree = asdict(self)
        tree["length"] |= {"epochs": self.length.epochs, "units_seen": self.length.units_seen}
        tree["trainable"], tree["seconds"] = self.trainable, self.seconds
        tree["validation_seconds"] = self.validation_seconds
        tree["refused"] = [{"name": name, "reason": reason} for name, reason in self.refused]
        tree["memory"] = {
            name: {
                "peak": {"phase": m.peak.name, "bytes": m.peak.total},
                "phases": {p.name: dict(p.parts) for p in m.phases},
            }
            for name, m in self.memory.items()
        }
        tree["disk"] = {
            p.name: {"path": str(p.path), "bytes": p.total, "parts": dict(p.parts), "free": p.free()}
            for p in self.places
        }
        del tree["places"]
        return tree


def plan(
    recipe: Recipe,
    scan: Scan | None = None,
    *,
    run_dir: Path | None = None,
    machine: Machine | None = None,
    processes: int = 1,
    steps_a_second: float | None = None,
) -> Plan:
    """Work out what `recipe` will do. Imports no torch and loads no weights.

    Args:
        recipe: what is to be run.
        scan: its pictures; None looks at them now, reading headers only.
        run_dir: where the run will write; None stands for `runs/`.
        machine: device and memory; None asks the operating system.
        processes: how many train together.
        steps_a_second: a measured rate, where there is one.

    Raises: DataError where a role that needs pictures has none.
    """
    if scan is None:
        from ..data.scan import scan as look
        from ..watch import Watcher

        scan = look(recipe, decode=False, watcher=Watcher())
    layout = recipe.backbone.layout()
    roles = recipe.task.roles(recipe.sources)
    generate = to_generate(recipe, scan)
    pictures = {
        role.name: tuple(n + generate.get(role.name, 0) for n in count(scan, role.name))
        for role in roles
        if not role.mirrors
    }
    first = roles[0].name
    total = length(recipe.train, max(1, pictures[first][1]), processes)
    seen = exposures(total, pictures, {role.name: role.mirrors for role in roles if role.mirrors})  # type: ignore[arg-type]
    buckets = bucket_table(scan.examples.get(first, ()), recipe.data)
    everyone = [example for examples in scan.examples.values() for example in examples]
    captions = caption_facts(everyone, (layout.caption_tokens or layout.tokens) - 2, fits(layout.shared_tokens))
    counts = [count for adapter in recipe.adapters for count in adapter.count(recipe.backbone, layout)]
    held = len(scan.examples.get(HELD_OUT, ()))
    caches = cache_costs(recipe, layout, buckets, seen, captions, total, held_out=held)
    machine = machine or find_machine(recipe.train)

    def load_at(given: Recipe) -> Load:
        train = sum(c.parameters for adapter in given.adapters for c in adapter.count(given.backbone, layout))
        return load_of(given, layout, buckets, len(roles), train, bool(generate))

    load = load_at(recipe)
    saved = saved_parameters(recipe, layout)
    in_use = {bucket.size: bucket.pictures for bucket in buckets}
    drawn = (recipe.sample.size or recipe.data.resolution) if recipe.sample.every is not None else None
    sizes = largest_sizes(recipe.data.resolution, in_use, drawn)
    state = resume_bytes(recipe, layout)
    result = Plan(
        title=title(recipe),
        length=total,
        exposures=seen,
        buckets=buckets,
        captions=captions,
        generate=sum(generate.values()),
        caches=caches,
        counts=counts,
        adapter_bytes={dtype: saved * itemsize for dtype, itemsize in ITEMSIZES.items()},
        save_dtype=recipe.save.dtype,
        state_bytes=state,
        machine=machine,
        memory={
            "gpu": memory(load, 2, shared=False),
            "cpu": memory(load, 4, shared=True),
            "here": memory(load, machine.itemsize, shared=machine.shared),
        },
        places=places(recipe, total, saved, state, caches[0].bytes, sum(generate.values()), run_dir),
        steps_a_second=steps_a_second,
        refused=[(item.name, item.reason) for item in scan.refused],
        notes=[
            *advice(recipe),
            *scan.notes,
            *beyond_pretraining(layout, sizes),
            *recipe.bound_objective.notes(layout.scheduler),
        ],
        validation=validation_cost(recipe, held, total.units_a_step * len(roles), total),
        cards=cards(recipe, lambda given: memory(load_at(given), 2, shared=False).peak.total),
        advice=settings.advice(recipe.train, total),
    )
    if recipe.train.optimizer_in_backward and processes > 1:
        text = f"gradients of {processes} processes cannot be added up once they are used; start one process"
        result.refusals.append(f"train.optimizer_in_backward: {text}, or switch it off")
    starts = [line for adapter in recipe.adapters for line in adapter.initial_problems(recipe.backbone)]
    starts += [line for adapter in recipe.adapters for line in adapter.layer_problems(recipe.backbone, layout)]
    trained = in_use or [(recipe.data.resolution, recipe.data.resolution)]
    idle = [*settings.idle(recipe.train, total), *idle_positions(recipe, layout, trained)]
    result.refusals.extend([*refusals(result), *beyond_positions(recipe, layout, sizes), *idle, *starts])
    return result


def fits(tokens: int | None) -> int | None:
    """Of a window of tokens, those between its marks."""
    return None if tokens is None else tokens - 2


def title(recipe: Recipe) -> str:
    """What is trained, in a line."""
    adapters = " + ".join(adapter.key for adapter in recipe.adapters)
    return f"{recipe.task.key} x {adapters} on {recipe.backbone.key} ({recipe.backbone.model})"


def to_generate(recipe: Recipe, scan: Scan) -> dict[str, int]:
    """Class pictures to draw by role: what `generate` asks for beyond the pictures that are there."""
    from ..data.sources import PriorSource

    wanted: dict[str, int] = {}
    for name, sources in recipe.sources.items():
        brought = len(scan.examples.get(name, ()))
        for source in sources:
            if isinstance(source, PriorSource) and source.generate:
                own = brought if source.path or source.dataset else 0
                wanted[name] = wanted.get(name, 0) + max(0, source.generate - own)
    return {name: number for name, number in wanted.items() if number}


def count(scan: Scan, role: str) -> tuple[int, int]:
    """(pictures, units) of a role."""
    examples = scan.examples.get(role, ())
    return len(examples), sum(example.repeats for example in examples)


def places(
    recipe: Recipe, total: Length, saved: int, state: int, cache_bytes: int, generate: int, run_dir: Path | None
) -> list[disk.Place]:
    """What the run directory and the cache will take, at most."""
    from ..cache_root import cache_root

    files = saved * ITEMSIZES[recipe.save.dtype] * 2  # two formats
    saves = visits_of(recipe.save.every, total) + 1
    states = min(recipe.save.keep, saves) + 1  # one more while the newest is written
    whole = any(adapter.saves_whole_models for adapter in recipe.adapters)  # whose files go with the states
    what = "models" if whole else "adapter files"
    in_run = {"resume states": states * (saved * 4 + state), what: ((states if whole else saves) + 1) * files}
    if recipe.sample.every is not None and recipe.sample.prompts:
        side = recipe.sample.size or recipe.data.resolution
        drawn = (visits_of(recipe.sample.every, total) + 1) * len(recipe.sample.prompts)
        in_run["samples"] = int(drawn * side * side * disk.PNG_BYTES_A_PIXEL)
    in_cache = {"encodings": cache_bytes}
    if generate:
        in_cache["class pictures"] = int(generate * recipe.data.resolution**2 * disk.PNG_BYTES_A_PIXEL)
    return [disk.Place("run", run_dir or Path("runs"), in_run), disk.Place("cache", cache_root(), in_cache)]


def visits_of(every: Any, total: Length) -> int:
    """How often an interval comes round; 0 for None."""
    if every is None:
        return 0
    return total.steps // (every if isinstance(every, int) else every.epochs * total.steps_per_epoch)


def refusals(plan: Plan) -> list[str]:
    """Each reason why the run cannot be done here, with what to change."""
    lines = [
        f"adapters: {count.part} matches no layer; `tuner plan` lists what there is"
        for count in plan.counts
        if not count.modules
    ]
    lines += [
        f"{line}; lower save.keep, set TUNER_CACHE to a larger disk or free some"
        for line in disk.shortages(plan.places)
    ]
    peak, total = plan.memory["here"].peak, plan.machine.memory
    if total is not None and peak.total > total:
        lines.append(
            f"memory: {peak.name} needs about {disk.size(peak.total)} and {plan.machine.name} has {disk.size(total)}; "
            "set train.gradient_checkpointing=true, lower train.batch (and raise train.accumulate) or data.resolution"
        )
    return lines


def require(plan: Plan) -> None:
    """Refuse a run that cannot be done here.

    Raises: StorageError for the disk, UsageError for what the recipe could change.
    """
    if not plan.refusals:
        return
    kind: type[TunerError] = StorageError if any(line.startswith("disk") for line in plan.refusals) else UsageError
    raise kind("\n".join(plan.refusals), "nothing was started; `tuner plan` shows where it goes")
