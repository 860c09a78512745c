"""Runs of the engine in forked children: torch is imported once, and each child may be killed at a drawn moment.

`python fork_server.py` reads one job a line (JSON) from stdin and answers with one line each. A job:
    run_dir, cache, recipe    what to run, where, with which TUNER_CACHE
    kill                      {"group", "event" and/or "step", "delay_s"} or null
    hooks                     {name: argument} of engine_hooks.HOOKS, applied in the child before the run
    new                       as engine.run's
    note                      file that takes the counts of events and the error; beside it .place and .log
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

SYSCALLS = ("fsync", "rename", "replace", "mkdir", "unlink")
GROUPS = {"training": "steps", "sampling": "sampling", "saving": "saving"}
"""The engine's phases by group; all others come before the first step and count as caching."""
PLACE_BYTES = 64


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    warm_up()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = run(job)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        answer = {"signal": signalled, "code": None if signalled else os.WEXITSTATUS(status)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def warm_up() -> None:
    """Import everything a run imports. Nothing is computed here: autograd's threads would not survive the fork."""
    import accelerate  # noqa: F401
    import numpy.random  # noqa: F401
    import peft  # noqa: F401
    import PIL.PngImagePlugin  # noqa: F401
    import torch
    from diffusers import (  # noqa: F401
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
    )
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import tuner.data.prepared
    import tuner.data.prior
    import tuner.engine
    import tuner.formats.verify
    import tuner.planning
    import tuner.recipe
    import tuner.training  # noqa: F401
    from tuner.adapters import Adapter
    from tuner.backbones import Backbone
    from tuner.draws import Draws

    model = Backbone.read({"name": "sd15", "model": "toybox"}).load(device=torch.device("cpu"), dtype=torch.float32)
    adapter = Adapter.read({"name": "lora", "rank": 2, "text_encoder_lr": 1e-3})
    adapter.attach(model, keep_base=False, draws=Draws(0))


class Spy:
    """Counts events by group and kills this process at a drawn one; the group stands in a file that outlives it."""

    def __init__(self, kill: dict | None, place: Path) -> None:
        self.kill, self.group, self.counts, self.lock = kill, "caching", {}, threading.RLock()
        self.steps = 0
        with place.open("wb") as file:
            file.write(b" " * PLACE_BYTES)
        self.descriptor = os.open(place, os.O_RDWR)
        self.place = mmap.mmap(self.descriptor, PLACE_BYTES)  # shared: what is in it is there after a SIGKILL too
        self.mark()

    def mark(self) -> None:
        text = f"{self.group} {self.steps}".encode()
        self.place[: len(text) + 8] = text + b" " * 8

    def event(self) -> None:
        """Both sides of a system call and each call of a watcher are events."""
        with self.lock:
            number = self.counts.get(self.group, 0)
            self.counts[self.group] = number + 1
        kill = self.kill
        if (
            kill
            and kill["group"] == self.group
            and kill.get("event", number) == number
            and kill.get("step", self.steps) == self.steps
        ):
            if kill["delay_s"] <= 0:
                die()
            timer = threading.Timer(kill["delay_s"], die)
            timer.daemon = True
            timer.start()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watch_calls(spy: Spy) -> None:
    for name in SYSCALLS:
        setattr(os, name, _counted(getattr(os, name), spy))


def _counted(call, spy):
    def counted(*args, **keys):
        spy.event()
        result = call(*args, **keys)
        spy.event()
        return result

    return counted


def watcher_of(spy: Spy):
    from tuner.watch import Watcher

    class Seen(Watcher):
        def phase(self, name, total=None, done=0):
            spy.group = GROUPS.get(name, "caching")
            if name == "training":
                spy.steps = done
                if done == total:
                    spy.group = "saving"  # what is left is to put the files in their place
            spy.mark()
            spy.event()

        def progress(self, done):
            if spy.group == "steps":
                spy.steps = done
                spy.mark()
            spy.event()

        def metrics(self, step, values):
            spy.event()

        def samples(self, step, pictures):
            spy.event()

        def saved(self, step, files):
            spy.event()

    return Seen()


def run(job: dict) -> int:
    """One run in a child; gives the exit code that the command line would."""
    note = Path(job["note"])
    log = os.open(note.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["TUNER_CACHE"] = job["cache"]
    os.environ.update(job.get("environ", {}))
    import engine_hooks
    import torch

    from tuner import engine
    from tuner.errors import Stopped, TunerError
    from tuner.recipe import Recipe

    torch.set_num_threads(1)
    spy = Spy(job.get("kill"), note.with_suffix(".place"))
    for name, argument in job.get("hooks", {}).items():
        engine_hooks.HOOKS[name](argument)
    recipe = Recipe.model_validate(job["recipe"])
    watchers = [] if job.get("unwatched") else [watcher_of(spy), *engine_hooks.WATCHERS]
    watch_calls(spy)
    error, code, kind = "", 0, ""
    try:
        for _ in range(job.get("times", 1)):
            engine.run(recipe, run_dir=job["run_dir"], new=job.get("new", False), watchers=watchers)
    except Stopped as stopped:
        error, code, kind = str(stopped), stopped.status, stopped.kind
    except TunerError as fault:
        error, code, kind = str(fault), fault.exit_code, fault.kind
    note.write_text(json.dumps({"events": spy.counts, "error": error, "kind": kind}))
    return code


if __name__ == "__main__":
    main()
