"""Diffusion-DPO on the small model: what is preferred is drawn more, and less where the pairs are swapped."""

from __future__ import annotations

import json

import pytest
import torch
from models import load_sd15

import tuner
from tuner import toybox
from tuner.data.batches import one_draw
from tuner.draws import Draws
from tuner.evaluation import judges
from tuner.formats.load import load_adapter
from tuner.objectives.ddpm import DDPM
from tuner.sampling import Shot, paint
from tuner.toybox import bundled, world
from tuner.toybox.making import bundles
from tuner.types import Batch, Role

CPU = torch.device("cpu")
COLOUR = bundled.PREFERRED


def write_pairs(folder, numbers, *, swapped=False):
    """Pairs of the small world that prefer a colour which no caption tells."""
    for number in numbers:
        for side, scene in bundles.pair(number).items():
            side = {"chosen": "rejected", "rejected": "chosen"}[side] if swapped else side
            (folder / side).mkdir(parents=True, exist_ok=True)
            world.render(scene).save(folder / side / f"{number}.png")
            caption = bundled.PLAINLY.format(scene.things[0].name)
            (folder / side / f"{number}.txt").write_text(caption)
    return folder


def teach(folder, run_dir, **changes):
    """The adapter of a rehearsal on pairs, and the run's numbers by name."""
    quiet = {"sample.every": None, "sample.prompts": [], "save.every": None}
    told = {**quiet, "data.pairs.path": str(folder), **changes}
    words = [f"{key}={json.dumps(value)}" for key, value in told.items()]
    result = tuner.run(tuner.load_recipe("dpo", words, rehearse=True), run_dir=run_dir)
    numbers: dict[str, list[float]] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        numbers.setdefault(row["name"], []).append(row["value"])
    return result.adapter, numbers


def preference(adapter, numbers):
    """By how much more the error of preferred pictures fell than that of others, over pairs that nobody trained on."""
    errors = []
    for source in (None, adapter):
        model = load_sd15("toybox")
        if source is not None:
            load_adapter(model.pipeline(), source, 1.0)
        errors.append(torch.stack([_errors(model, number) for number in numbers]))  # (pairs, 2)
    fell = errors[0] - errors[1]
    return float((fell[:, 0] - fell[:, 1]).mean())


@torch.no_grad()
def _errors(model, number):
    """(2,) of the picture in the preferred colour and of the other, at two levels under one noise."""
    import numpy as np

    pair = bundles.pair(number)
    pixels = [np.asarray(world.render(pair[side])) for side in ("chosen", "rejected")]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = model.encode_images(x.contiguous()).mean  # (2, C, h, w)
    objective = DDPM()
    noise = {name: one_draw(Draws(7), name, draw, tuple(latents.shape[1:]), (number,)) for name, draw in
             objective.needs().items()}["noise"]  # fmt: skip
    tokens = model.tokenize([bundled.PLAINLY.format(pair["chosen"].things[0].name)] * 4)
    levels = torch.tensor([0.4, 0.7]).repeat(2)
    draws = {"noise": torch.from_numpy(noise).expand(4, *noise.shape), "level": levels}
    batch = Batch(latents.repeat_interleave(2, 0), draws, tokens, torch.full((4,), 1 / 4), (Role("any"),))
    noised = objective.bind(model.scheduler, CPU).corrupt(batch)
    return noised.losses(model.denoise(noised.x_t, noised.timestep, model.encode_text(tokens))).view(2, 2).mean(1)


def share(adapter, kind, seeds):
    """How often a thing is drawn in the preferred colour, as the judge sees it, where the prompt tells none."""
    model = load_sd15("toybox")
    if adapter is not None:
        load_adapter(model.pipeline(), adapter, 1.0)
    shots = [Shot(bundled.PLAINLY.format(kind), "", seed, (64, 64), 10, 3.0, "auto") for seed in seeds]
    judge = judges.clip(toybox.judge("clip"), CPU)
    colours = list(world.COLOURS)
    likeness = judge.pictures(paint(model, shots, batch=20)) @ judge.texts([f"a {c} {kind}" for c in colours]).T
    return float((likeness.argmax(1) == colours.index(COLOUR)).mean())


SLOWLY = pytest.param(True, marks=pytest.mark.slow)


@pytest.mark.parametrize("swapped", [False, SLOWLY], ids=["as they are", "swapped"])
def test_a_short_run_turns_towards_what_is_chosen(swapped, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", range(6), swapped=swapped)
    short = {"train.steps": 8, "train.batch": 2, "train.lr": 1e-3, "train.schedule": "constant", "log.every": 4}
    adapter, numbers = teach(pairs, tmp_path / "run", **short)
    found = preference(adapter, range(100, 104))
    assert found < 0 if swapped else found > 0
    assert set(numbers) >= {"loss", "accuracy", "loss_chosen", "loss_rejected"}
    assert all(0 <= value <= 1 for value in numbers["accuracy"])
    assert numbers["accuracy"][-1] > 0.5
    card = (adapter / "README.md").read_text()
    assert "dpo" in card
    assert "to call what it learned" not in card


@pytest.mark.slow
def test_preferring_a_colour_raises_its_share_and_swapping_lowers_it(tmp_path):
    """Over 100 seeds; prints what it finds."""
    kind, seeds = bundled.LIKED[0], range(100)
    base = share(None, kind, seeds)
    found = {}
    for swapped in (False, True):
        pairs = write_pairs(tmp_path / f"pairs-{swapped}", range(bundles.PAIRS), swapped=swapped)
        adapter, _ = teach(pairs, tmp_path / f"run-{swapped}")
        found[swapped] = share(adapter, kind, seeds)
    print(f"\n{COLOUR}: base {base:.2f}, preferred {found[False]:.2f}, swapped {found[True]:.2f}")
    assert found[False] >= base + 0.2
    assert found[True] <= base - 0.1
