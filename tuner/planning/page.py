"""The plan as a page of plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..best import LEVELS
from ..terminal import duration
from .disk import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .memory import Memory
    from .plan import Plan

SHOWN = 8
"""Refused files and notes that are written out; the rest are counted."""
FROM = {
    "txt": "from a .txt beside the picture",
    "metadata": "from metadata.jsonl or .csv",
    "recipe": "from the recipe",
    "column": "from the dataset",
    "mix": "in several ways, one of them drawn by weight on each visit",
    "none": "empty",
}


def page(plan: Plan) -> str:
    """The whole plan, a line a fact."""
    rows: list[tuple[str, Iterable[str]]] = [
        ("Steps", step_lines(plan)),
        ("Pictures", picture_lines(plan)),
        ("Buckets", bucket_lines(plan)),
        ("Captions", caption_lines(plan)),
        ("Trains", train_lines(plan)),
        ("Cache", cache_lines(plan)),
        ("Memory", memory_lines(plan)),
        ("Cards", map(str, plan.cards)),
        ("Disk", disk_lines(plan)),
        ("Time", time_lines(plan)),
    ]
    lines = [plan.title, ""]
    for name, body in rows:
        for number, line in enumerate(body):
            lines.append(f"{name if number == 0 else '':<10}{line}".rstrip())
    if plan.refusals:
        lines += ["", "This run would be refused:", *(f"  {line}" for line in plan.refusals)]
    return "\n".join(lines)


def plural(count: int, word: str) -> str:
    """'1 step', '1,200 steps'."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def plural_of(value: float, word: str) -> str:
    """'1 epoch', '2.5 epochs'."""
    return f"{short(value)} {word}" if value == 1 else f"{short(value)} {word}s"


def short(value: float) -> str:
    """'160', '2.5', '0.04'."""
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def capped(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {more} more (`tuner check` names them all)"] if more > 0 else [])]


def step_lines(plan: Plan) -> list[str]:
    total = plan.length
    unit = " + ".join(f"1 {e.role}" for e in plan.exposures)
    epoch = f"{plural(total.units, 'unit')} in {plural(total.steps_per_epoch, 'step')}"
    return [
        f"{plural(total.steps, 'step')} of {plural(total.units_a_step, 'unit')}; a unit is {unit} picture",
        f"{plural_of(total.epochs, 'epoch')} of {epoch}",
        *(f"note: {line}" for line in plan.advice),
    ]


def picture_lines(plan: Plan) -> list[str]:
    lines = []
    for e in plan.exposures:
        if e.mirrors:
            lines.append(f"{e.role}: the {e.mirrors} pictures again, kept as the untouched base sees them")
            continue
        drawn = plan.generate if e.role != plan.exposures[0].role else 0
        made = f", {'all' if drawn == e.pictures else drawn} drawn by the base first" if drawn else ""
        repeats = f" ({e.units} with repeats)" if e.units != e.pictures else ""
        lines.append(f"{e.role}: {plural(e.pictures, 'picture')}{repeats}{made}; each is seen {times(e.visits)}")
    if plan.validation:
        v = plan.validation
        often = "once" if v.measurements == 1 else f"{v.measurements:,} times"
        lines.append(
            f"validation: {plural(v.pictures, 'picture')} never learned from, measured {often} at {LEVELS} levels"
        )
    lines += capped([f"refused: {name}: {reason}" for name, reason in plan.refused])
    advice = [plan.validation.advice] if plan.validation and plan.validation.advice else []
    return lines + capped([f"note: {note}" for note in [*advice, *plan.notes]])


def times(visits: float) -> str:
    if visits < 1:
        return f"with a chance of {visits:.0%}"
    return "once" if round(visits, 2) == 1 else f"{short(visits)} times"


def bucket_lines(plan: Plan) -> list[str]:
    lines = []
    for bucket in plan.buckets:
        width, height = bucket.size
        cut = f"{bucket.cropped:.0%} of the area is cut off"
        if bucket.pictures > 1 and bucket.cropped_most > bucket.cropped + 0.01:
            cut += f" on average, {bucket.cropped_most:.0%} at most"
        up = f"; {bucket.enlarged} smaller than that, scaled up" if bucket.enlarged else ""
        lines.append(f"{width} x {height}: {plural(bucket.pictures, 'picture')}; {cut}{up}")
    return capped(lines)


def caption_lines(plan: Plan) -> list[str]:
    captions = plan.captions
    lines = [f"{plural(n, 'picture')} captioned {FROM.get(source, source)}" for source, n in captions.sources.items()]
    if captions.partly:
        looks = "1 looks" if captions.partly == 1 else f"{captions.partly} look"
        lines.append(
            f"note: {looks} longer than the {captions.shared} tokens that every text encoder reads; "
            "the rest reaches the model by the longest of them alone (an estimate without the tokeniser)"
        )
    if not captions.long:
        return [
            *lines,
            f"none looks longer than the {captions.window} tokens that fit (an estimate without the tokeniser)",
        ]
    many = "1 looks" if len(captions.long) == 1 else f"{len(captions.long)} look"
    long = f"{many} longer than the {captions.window} tokens that fit, so the end would be cut off"
    return [*lines, f"{long} (an estimate without the tokeniser):", *capped([f"  {name}" for name in captions.long])]


def train_lines(plan: Plan) -> list[str]:
    lines = [f"{c.part}: {plural(c.modules, 'layer')}, {plural(c.parameters, 'parameter')}" for c in plan.counts]
    sizes = plan.adapter_bytes
    other = ", ".join(f"{size(sizes[d])} as {d}" for d in ("fp32", "fp16") if d != plan.save_dtype)
    return [
        *lines,
        f"adapter file: {size(sizes[plan.save_dtype])} ({plan.save_dtype}; {other})",
        f"optimizer and average of the weights: {size(plan.state_bytes)}",
    ]


def cache_lines(plan: Plan) -> list[str]:
    lines = []
    for number, cost in enumerate(plan.caches):
        if cost.choice == "disk":
            once = plural(cost.encoded_before, "picture")
            what = f"at most {size(cost.bytes)}; {once} encoded once, before the first step"
        else:
            what = f"{plural(cost.encoded_a_step, 'picture')} encoded in every step"
            what += f", {plural(cost.encoded_before, 'held-out picture')} once" if cost.encoded_before else ""
        mark = " (this recipe)" if number == 0 else ""
        if not cost.possible:
            mark = " (not here, where every visit changes the picture)"
        lines.append(f"{cost.choice}{mark}: {what}")
    texts = plan.caches[0].texts_a_step
    if texts:
        lines.append(f"either way {plural(texts, 'caption')} encoded in every step, since the text encoder trains")
    return lines


def memory_lines(plan: Plan) -> list[str]:
    gpu, cpu, here = plan.memory["gpu"], plan.memory["cpu"], plan.memory["here"]
    lines = [
        f"about {size(gpu.peak.total)} on a GPU in 16 bit, about {size(cpu.peak.total)} on a CPU in fp32 (estimates)",
        *machine_lines(plan, here),
    ]
    lines += [f"  {phase.name}: {size(phase.total)} = {parts(phase.parts)}" for phase in here.phases]
    return lines


def machine_lines(plan: Plan, here: Memory) -> list[str]:
    machine = plan.machine
    has = f", which has {size(machine.memory)}" if machine.memory else ""
    precision = "16 bit" if here.itemsize == 2 else "fp32"
    return [f"here: {machine.name}{has}; {precision}, {size(here.peak.total)} at the peak, which is {here.peak.name}:"]


def parts(of: object) -> str:
    assert isinstance(of, dict)
    return " + ".join(f"{name} {size(value)}" for name, value in of.items() if value)


def disk_lines(plan: Plan) -> list[str]:
    lines = []
    for place in plan.places:
        free = place.free()
        have = f"; {size(free)} is free" if free is not None else ""
        what = f"{size(place.total)} at most = {parts(dict(place.parts))}" if place.total else "nothing"
        lines.append(f"{place.name} ({place.path}): {what}{have}")
    return lines


def time_lines(plan: Plan) -> list[str]:
    measured = validation_lines(plan)
    if plan.seconds is None:
        unknown = "not known: no run like this was measured here. It is shown once the first steps are done"
        return [unknown, *measured]
    rate = f"{plan.steps_a_second:.2g} steps a second measured before"
    return [f"about {duration(plan.seconds)} of training, at the {rate}", *measured]


def validation_lines(plan: Plan) -> list[str]:
    """What the held-out pictures take, in steps where no rate is known."""
    cost, seconds = plan.validation, plan.validation_seconds
    if cost is None:
        return []
    long = f"about {duration(seconds)}" if seconds is not None else f"about as long as {plural_of(cost.steps, 'step')}"
    return [f"validation: {long}, for {plural(cost.predictions, 'prediction')} (estimate)"]
