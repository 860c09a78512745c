"""Kill runs at drawn moments, resume them, and compare what is left with a run that nobody disturbed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fork_server import PLACE_BYTES, SYSCALLS  # noqa: F401

from tuner import atomic

HERE = Path(__file__).parent
GROUPS = ("caching", "steps", "sampling", "saving")
NO_PROOF = {"no_load_back": None}
NOT_COMPARED = {"it_s", "memory_mb"}
"""Metrics that the clock decides."""

SMALL: dict[str, Any] = {
    "backbone": {"name": "sd15", "model": "toybox"},
    "adapters": [{"name": "lora", "rank": 2, "where": "cross_attention", "dropout": 0.1, "text_encoder_lr": 1e-3}],
    "task": "dreambooth",
    "data": {
        "resolution": 32,
        "bucket_step": 8,
        "flip": True,
        "caption_dropout": 0.2,
        "instance": {"caption": "a photo of sks dog"},
        "prior": {"caption": "a photo of a dog", "generate": 3, "steps": 2, "guidance": 1.0},
    },
    "train": {"steps": 14, "lr": 1e-2, "accumulate": 2, "ema": {"decay": 0.8}, "seed": 3},
    "sample": {"every": 5, "prompts": ["a photo of sks dog"], "steps": 2, "guidance": 1.0},
    "save": {"every": 4, "keep": 2},
    "log": {"every": 3},
}
"""DreamBooth with everything random switched on: dropout, flips, caption dropout, text encoder, average, buckets."""


def recipe(pictures: Path, **changes: Any) -> dict[str, Any]:
    """SMALL on `pictures`, with changes by dotted key; a change of None takes the key away."""
    tree = copy.deepcopy(SMALL)
    tree["data"]["instance"]["path"] = str(pictures)
    for dotted, value in changes.items():
        *path, last = dotted.replace("__", ".").split(".")
        part: Any = tree
        for key in path:
            part = part[int(key)] if isinstance(part, list) else part.setdefault(key, {})
        if value is None:
            part.pop(last)
        else:
            part[last] = value
    return tree


@dataclass
class End:
    """How a forked run ended."""

    signal: int | None
    code: int | None
    place: tuple[str, int]
    """Group of phases and steps done."""
    events: dict[str, int] = field(default_factory=dict)
    """How many events each group had; only of runs that ended by themselves."""
    error: str = ""
    kind: str = ""
    log: str = ""

    @property
    def killed(self) -> bool:
        return self.signal == signal.SIGKILL


class Server:
    """A process that runs one job after the other, each in a fork of its own."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        )
        if self._line() != "ready":
            raise RuntimeError("the fork server did not start")

    def run(self, tree: dict, folder: Path, *, cache: Path, **job: Any) -> End:
        """Run `tree` in `folder`/run; notes go to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        note = Path(job.pop("note", folder / "note.json"))
        note.unlink(missing_ok=True)
        job = {"recipe": tree, "run_dir": str(folder / "run"), "cache": str(cache), "note": str(note), **job}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        group, steps = note.with_suffix(".place").read_bytes()[:PLACE_BYTES].split()[:2]
        told = json.loads(note.read_text()) if note.exists() else {}
        log = note.with_suffix(".log").read_text()[-4000:]
        return End(answer["signal"], answer["code"], (group.decode(), int(steps)), log=log, **told)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


# What is compared


def left_behind(run: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was killed, by name, as comparable values."""
    found: dict[str, Any] = {}
    for file in sorted((run / "adapter").rglob("*.safetensors")):
        found |= {f"adapter/{file.name}: {name}": value for name, value in tensors(file).items()}
        if file.name == "pytorch_lora_weights.safetensors":
            found[f"adapter/{file.name}"] = digest(file)
    newest = max(int(p.name) for p in (run / "checkpoints").iterdir() if (p / "manifest.json").is_file())
    for file in sorted((run / "checkpoints" / str(newest)).glob("*.safetensors")):
        found |= {f"checkpoint {newest} {file.name}: {name}": value for name, value in tensors(file).items()}
    for step in sorted(run.glob("checkpoints/*")):
        found[f"checkpoint {step.name}: files"] = tuple(sorted(p.name for p in step.rglob("*.safetensors")))
        for file in step.glob("adapter/*.safetensors"):
            found |= {f"checkpoint {step.name} adapter {file.name}: {k}": v for k, v in tensors(file).items()}
    found |= {f"sample {p.parent.name}/{p.name}": digest(p) for p in sorted(run.glob("samples/*/*.png"))}
    found |= {f"metric {step} {name}": value for (step, name), value in metrics(run).items()}
    return found


def tensors(file: Path) -> dict[str, tuple[Any, ...]]:
    from safetensors.numpy import load_file

    loaded = load_file(file)
    return {name: (str(a.dtype), a.shape, hashlib.sha256(a.tobytes()).hexdigest()) for name, a in loaded.items()}


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def metrics(run: Path) -> dict[tuple[int, str], float]:
    """The last value of each (step, name), as readers are told to take it."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):  # a killed writer's half line
            row = json.loads(line)
            if row["name"] not in NOT_COMPARED:
                found[row["step"], row["name"]] = row["value"]
    return found


def unequal(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what differs between two runs."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def weights(run: Path) -> dict[str, Any]:
    """What `left_behind` says of the final adapter, the newest checkpoint and the metrics: all but the samples."""
    found = left_behind(run)
    newest = max(int(p.name) for p in (run / "checkpoints").iterdir() if (p / "manifest.json").is_file())
    kept = ("adapter/", f"checkpoint {newest} ", "metric ")
    return {name: value for name, value in found.items() if name.startswith(kept)}


def arrays(file: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(file)


def leftovers(*places: Path) -> list[str]:
    """Half-written files and folders."""
    return [str(p.relative_to(place)) for place in places for p in place.rglob("*") if atomic.TEMPORARY.match(p.name)]


def finished(run: Path) -> bool:
    return (run / "status.json").is_file() and json.loads((run / "status.json").read_text())["state"] == "done"


# Killing


@dataclass
class Story:
    """One run that was killed once or more and went on to its end."""

    places: list[tuple[str, int]]
    """Where each kill found it: group of phases, steps done."""
    missed: int
    """Draws that the run outlived; they do not count."""
    unequal: list[str]
    leftovers: list[str]

    @property
    def good(self) -> bool:
        return not self.unequal and not self.leftovers


class Killing:
    """A recipe, the run that nobody disturbed, and the killed ones to compare with it.

    Args:
        seed_cache: a cache with nothing in it; every killed run starts from a copy.
    """

    def __init__(self, server: Server, tree: dict, folder: Path, seed_cache: Path, **job: Any) -> None:
        self.server, self.tree, self.folder, self.seed_cache, self.job = server, tree, folder, seed_cache, job
        self.reference = folder / "reference"
        end = server.run(tree, self.reference, cache=self.cache(self.reference), **job)
        if end.code != 0:
            raise RuntimeError(f"the undisturbed run ended with {end}")
        self.events = end.events
        self.expected = left_behind(self.reference / "run")

    def cache(self, folder: Path) -> Path:
        place = folder / "cache"
        if not place.exists():
            shutil.copytree(self.seed_cache, place)
        return place

    def draw(self, group: str, draws: random.Random) -> dict[str, Any]:
        """A moment in a group of phases: an event, and a delay so that it need not be at one."""
        delay = draws.choice([0.0, draws.uniform(0.0, 0.02), draws.uniform(0.0, 0.15)])
        return {"group": group, "event": draws.randrange(self.events[group]), "delay_s": delay}

    def story(self, name: str, group: str, draws: random.Random, chain: int = 1) -> Story:
        """Kill a run in `group`, then maybe anywhere, `chain` times in all; let it end and compare."""
        missed = 0
        while True:
            folder = self.folder / name
            shutil.rmtree(folder, ignore_errors=True)
            places, end = self._kills(folder, group, draws, chain)
            if places and places[0][0] == group:
                break
            missed += 1
        return self.compared(folder, places, missed, end)

    def at(self, name: str, kill: dict[str, Any]) -> Story:
        """Kill at one chosen moment."""
        folder = self.folder / name
        first = self.server.run(self.tree, folder, cache=self.cache(folder), kill=kill, **self.job)
        if not first.killed:
            raise RuntimeError(f"nothing died at {kill}: {first}")
        return self.compared(folder, [first.place], 0, first)

    def compared(self, folder: Path, places: list[tuple[str, int]], missed: int, end: End) -> Story:
        """Let the run go on to its end, where it has not got there yet, and compare."""
        if end.killed and not finished(folder / "run"):  # a kill after the last write leaves nothing to do
            end = self.server.run(self.tree, folder, cache=self.cache(folder), **self.job)
        if end.code not in (0, None):
            return Story(places, missed, [f"the resumed run ended with {end}"], [])
        return Story(places, missed, unequal(self.expected, left_behind(folder / "run")), leftovers(folder / "run"))

    def _kills(self, folder: Path, group: str, draws: random.Random, chain: int) -> tuple[list[tuple[str, int]], End]:
        """Up to `chain` kills, and how the last of these starts ended; the first must hit."""
        places: list[tuple[str, int]] = []
        for number in range(chain):
            kill = self.draw(group if number == 0 else draws.choice(GROUPS), draws)
            end = self.server.run(self.tree, folder, cache=self.cache(folder), kill=kill, **self.job)
            if not end.killed:
                break
            places.append(end.place)
            if finished(folder / "run"):
                break
        return places, end


def summary(stories: list[Story]) -> str:
    first = Counter(story.places[0][0] for story in stories)
    every = Counter(place[0] for story in stories for place in story.places)
    lines = [
        f"runs: {len(stories)}, bitwise equal: {sum(story.good for story in stories)}",
        "first kill in: " + ", ".join(f"{group} {first[group]}" for group in GROUPS),
        f"kills in all: {sum(every.values())} (" + ", ".join(f"{group} {every[group]}" for group in GROUPS) + ")",
        f"runs killed more than once: {sum(len(story.places) > 1 for story in stories)}",
        f"draws that the run outlived, not counted: {sum(story.missed for story in stories)}",
    ]
    return "\n".join(lines)
