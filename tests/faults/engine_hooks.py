"""What a forked run can have done to it: mutants that an exactness test must catch, poisons that it must survive."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any

from tuner.watch import Watcher

HOOKS: dict[str, Callable[[Any], None]] = {}
WATCHERS: list[Watcher] = []
"""Watchers that a hook adds to the run."""


def hook(act: Callable[[Any], None]) -> Callable[[Any], None]:
    HOOKS[act.__name__] = act
    return act


# Mutants: each breaks exact resuming in one way


@hook
def ema_not_restored(_: Any) -> None:
    from tuner.optim.ema import Average

    Average.restore = lambda self, state: None


@hook
def moments_not_restored(_: Any) -> None:
    import torch

    torch.optim.Optimizer.load_state_dict = lambda self, state: None


@hook
def statistics_not_restored(_: Any) -> None:
    from tuner.training import Training

    restore = Training.restore

    def mutant(self, tensors):
        fresh = {name: tensor.clone() for name, tensor in self.guard.state().items()}
        restore(self, tensors)
        self.guard.restore(fresh)
        for total in self.tally.sums.values():
            total.zero_()

    Training.restore = mutant


@hook
def start_at_next_step(_: Any) -> None:
    from tuner import engine

    restore = engine._Run._restore

    def mutant(self, training):
        start = restore(self, training)
        return start + 1 if start else 0

    engine._Run._restore = mutant


@hook
def noise_by_steps_of_this_process(_: Any) -> None:
    from tuner.data.batches import Batches

    stack, calls = Batches._stack, [0]

    def mutant(self, purpose, draw, shape, ids):
        calls[0] += 1
        return stack(self, purpose, draw, shape, [(calls[0], i) for i in range(len(ids))])

    Batches._stack = mutant


@hook
def noise_from_global_generator(_: Any) -> None:
    import torch

    from tuner.data.batches import Batches

    stack = Batches._stack

    def mutant(self, purpose, draw, shape, ids):
        drawn = stack(self, purpose, draw, shape, ids)
        return torch.randn(drawn.shape) if draw.kind == "normal" else drawn

    Batches._stack = mutant


MUTANTS = (
    "ema_not_restored",
    "moments_not_restored",
    "statistics_not_restored",
    "start_at_next_step",
    "noise_by_steps_of_this_process",
    "noise_from_global_generator",
)


# Poisons: what must change nothing


@hook
def poison_generators(seed: Any) -> None:
    """Reseed every global generator, from the operating system's entropy, at each boundary and each phase."""
    import numpy as np
    import torch

    from tuner import boundaries

    def reseed():
        number = int.from_bytes(os.urandom(4), "little")
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        torch.rand(number % 7)

    call = boundaries.Boundary.__call__

    def poisoned(self, done):
        over = call(self, done)
        reseed()
        return over

    boundaries.Boundary.__call__ = poisoned

    class Reseeding(Watcher):
        def phase(self, name, total=None, done=0):
            reseed()

        def progress(self, done):
            reseed()

    WATCHERS.append(Reseeding())
    reseed()


@hook
def no_prefetch(_: Any) -> None:
    from tuner import loop

    def one_after_the_other(batches, steps, device):
        for step in steps:
            yield step, [batch.to(device) for batch in batches[step]]

    loop.prefetched = one_after_the_other


# Signals and commands, sent by the run to itself


@hook
def signal_at(where: Any) -> None:
    """{"group", "event", "signal", "times"}: send this process a signal at an event of a watcher."""
    _at(where, lambda: os.kill(os.getpid(), getattr(signal, where["signal"])))


@hook
def die_once_saved(step: Any) -> None:
    """SIGKILL as soon as the checkpoint and the files of `step` stand."""

    class Dying(Watcher):
        def saved(self, at, files):
            if at == step:
                os.kill(os.getpid(), signal.SIGKILL)

    WATCHERS.append(Dying())


@hook
def die_while_rotating(_: Any) -> None:
    """SIGKILL when the first file of an old checkpoint has gone, in the last save of the run."""
    from tuner import checkpoint, engine

    finish, unlink = [False], checkpoint._discard

    def discard(place, outputs):
        if finish[0]:
            (place / "manifest.json").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(place, outputs)

    save = engine._Run._save

    def last(self, saver, step):
        finish[0] = step == self.steps
        save(self, saver, step)

    checkpoint._discard, engine._Run._save = discard, last


@hook
def command_at(where: Any) -> None:
    """{"group", "event", "command", "run_dir"}: put a command into the run's control folder at an event."""
    from pathlib import Path

    from tuner import boundaries
    from tuner.control import request

    boundaries.CONTROL_EVERY_S = 0.0  # look at each boundary, so that the test knows which one takes it
    _at(where, lambda: request(Path(where["run_dir"]), where["command"]))


def _at(where: dict, act: Callable[[], object]) -> None:
    class Acting(Watcher):
        phase_name, seen, acted = "", 0, 0

        def _event(self):
            if self.phase_name == where["phase"]:
                if self.seen >= where["event"] and self.acted < where.get("times", 1):
                    self.acted += 1
                    act()
                self.seen += 1

        def phase(self, name, total=None, done=0):
            self.phase_name = name
            self._event()

        def progress(self, done):
            self._event()

    WATCHERS.append(Acting())


@hook
def hold_at(where: Any) -> None:
    """{"phase", "event", "flag"}: write the file `flag` at an event of a watcher, then wait until it is removed."""
    import time
    from pathlib import Path

    flag = Path(where["flag"])

    def hold():
        flag.write_text("here")
        deadline = time.monotonic() + 120
        while flag.exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    _at(where, hold)


# Bad numbers


@hook
def bad_latents(name: Any) -> None:
    """Read NaN for the latents of the picture whose file name holds `name`."""
    import torch

    from tuner.data import prepared

    posteriors = prepared.CachedPictures.posteriors

    def poisoned(self, looks):
        posterior = posteriors(self, looks)
        for row, look in zip(posterior.mean, looks, strict=True):
            if name in look.example.name:
                row.fill_(torch.nan)
        return posterior

    prepared.CachedPictures.posteriors = poisoned


@hook
def bad_gradients(where: Any) -> None:
    """{"steps": [...], "value": "nan" | "inf"}: one element of one gradient at these steps."""
    import torch

    from tuner import loop

    update = loop.update

    def poisoned(training, sums, *, step, max_grad_norm):
        if step in where["steps"]:
            grad = next(p.grad for p in training.active() if p.grad is not None)
            grad.view(-1)[0] = getattr(torch, where["value"])
        update(training, sums, step=step, max_grad_norm=max_grad_norm)

    loop.update = poisoned


@hook
def record_weights(path: Any) -> None:
    """Write the weights after each step to `path`/<step>.safetensors."""
    from pathlib import Path

    from safetensors.torch import save_file

    from tuner import loop

    update = loop.update

    def recording(training, sums, *, step, max_grad_norm):
        update(training, sums, step=step, max_grad_norm=max_grad_norm)
        tensors = {k: v.detach().clone() for a in training.attachments for k, v in a.state_dict().items()}
        Path(path).mkdir(parents=True, exist_ok=True)
        save_file(tensors, Path(path) / f"{step}.safetensors")

    loop.update = recording


@hook
def record_latents(path: Any) -> None:
    """Write the latents of every micro-batch to `path`/<step>-<n>.safetensors."""
    from pathlib import Path

    from safetensors.torch import save_file

    from tuner.data.batches import Batches

    get = Batches.__getitem__

    def recording(self, step):
        made = get(self, step)
        Path(path).mkdir(parents=True, exist_ok=True)
        for number, batch in enumerate(made):
            save_file({"latents": batch.latents.contiguous()}, Path(path) / f"{step}-{number}.safetensors")
        return made

    Batches.__getitem__ = recording


# Speed


@hook
def no_load_back(_: Any) -> None:
    """Leave out the proof that files load, which takes most of a small run's time and is proved elsewhere."""
    from tuner.adapters.lora import LoRAAttachment

    LoRAAttachment.verify = lambda self, files, state: None
