"""Every adapter with every task on every backbone: it learns, what it saves acts elsewhere, and going on is exact."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_sd35 import TRANSFORMER

import tuner
from tuner import checkpoint, control, toybox
from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.drawing import Drawing, Strong, load, put_on
from tuner.errors import Stopped
from tuner.recipe import Recipe
from tuner.tasks import Task
from tuner.watch import Watcher

STEPS, STOP = 4, 2
TOKEN = "<sks>"
INVERSION = {"name": "textual_inversion", "token": TOKEN, "init": "dog"}
ADAPTERS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"name": "lora", "rank": 2}],
    "lora and text": [{"name": "lora", "rank": 2, "text_encoder_lr": 1e-3}],
    "loha": [{"name": "loha", "rank": 2}],
    "lokr": [{"name": "lokr", "rank": 2}],
    "full": [{"name": "full"}],
    "textual_inversion": [INVERSION],
    "hypernetwork": [{"name": "hypernetwork"}],
    "pivotal": [{**INVERSION, "until": 0.5}, {"name": "lora", "rank": 2}],
}
SUBJECT, CLASS = f"a photo of {TOKEN} dog", "a photo of a dog"
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "finetune": ({"name": "finetune"}, {"images": {"caption": SUBJECT}}),
    "dreambooth": (
        {"name": "dreambooth"},
        {"instance": {"caption": SUBJECT}, "prior": {"caption": CLASS, "predict": True}},
    ),
    "dpo": ({"name": "dpo"}, {"pairs": {"caption": SUBJECT}}),
}
LAST_QUERY = f"transformer_blocks.{TRANSFORMER['num_layers'] - 1}.attn.add_q_proj"
"""Of the text in SD3.5's last block, which puts out no text: nothing depends on it."""
BACKBONES = tuple(sorted(Backbone.family))


def test_the_table_has_every_member():
    assert {adapter["name"] for adapters in ADAPTERS.values() for adapter in adapters} == set(Adapter.family)
    assert {task["name"] for task, _ in TASKS.values()} == set(Task.family)


class StopAt(Watcher):
    """Asks a run to stop at the end of a step."""

    def __init__(self, run_dir: Path, step: int) -> None:
        self.run_dir, self.step = run_dir, step

    def metrics(self, step: int, values: Any) -> None:
        if step == self.step:
            control.request(self.run_dir, "stop")


@pytest.fixture(scope="module")
def recipe(sd35_folder, tmp_path_factory):
    pictures = tmp_path_factory.mktemp("pictures")
    pairs = pictures / "pairs"
    for number, picture in enumerate(sorted(toybox.pictures().glob("*.png"))[:2]):
        for folder in (pictures / "photos", pairs / "chosen"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(picture.read_bytes())
        (pairs / "rejected").mkdir(exist_ok=True)
        rejected(picture).save(pairs / "rejected" / f"{number}.png")
    models = {"sd15": {"model": "toybox"}, "sd35": {"model": str(sd35_folder), "t5_length": 20}}

    @functools.cache
    def made(adapters: str, task: str, backbone: str) -> Recipe:
        kind, data = TASKS[task]
        role = next(iter(data))
        own = {**data, role: {**data[role], "path": str(pairs if role == "pairs" else pictures / "photos")}}
        return Recipe.model_validate(
            {
                "backbone": {"name": backbone, **models[backbone]},
                "adapters": ADAPTERS[adapters],
                "task": kind,
                "data": {"resolution": 32, "bucket_step": 16, **own},
                "train": {"steps": STEPS, "lr": 1e-2, "device": "cpu", "precision": "fp32"},
                "sample": {"prompts": []},
                "save": {"every": STOP},
                "log": {"every": 1},
            }
        )

    return made


def rejected(path: Path):
    """Another picture of the same size."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        return ImageOps.invert(picture.convert("RGB"))


def learned(run: Path) -> dict[str, torch.Tensor]:
    """The newest state of a run."""
    state, rejected = checkpoint.newest(run / "checkpoints")
    assert state, rejected
    return {f"{group} {name}": tensor for group, own in state.tensors.items() for name, tensor in own.items()}


@torch.no_grad()
def answer(recipe: Recipe, adapter: Path | None) -> torch.Tensor:
    """What the base says of a fixed input, with the files that a run left in `adapter`."""
    if adapter is None:
        model = recipe.backbone.load(device=torch.device("cpu"), dtype=torch.float32)
    else:
        whole = (adapter / "model").is_dir()
        drawing = Drawing.plan([Strong(adapter, 1.0)], None if whole else recipe.backbone.model, "cpu")
        model = load(drawing, Watcher())
        put_on(drawing, model)
    x = torch.randn(1, model.channels, 8, 8, generator=torch.manual_seed(0))
    cond = model.encode_text(model.tokenize([SUBJECT]))
    return model.denoise(x, torch.tensor([500.0]), cond)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_it_learns_acts_elsewhere_and_goes_on_exactly(recipe, tmp_path, monkeypatch, adapters, task, backbone):
    made = recipe(adapters, task, backbone)
    straight, stopped = tmp_path / "straight" / "run", tmp_path / "stopped" / "run"
    done = tuner.run(made, run_dir=straight)
    monkeypatch.setattr("tuner.boundaries.CONTROL_EVERY_S", 0)  # these steps are faster than any look
    with pytest.raises(Stopped):
        tuner.run(made, run_dir=stopped, watchers=[StopAt(stopped, STOP)])
    before = learned(stopped)
    tuner.run(made, run_dir=stopped)
    expected, found = learned(straight), learned(stopped)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    moving = [name for name in expected if name.startswith("adapter")]
    frozen = {name for name in moving if torch.equal(before[name], expected[name])}
    inverted = {name for name in moving if adapters == "pivotal" and name.startswith("adapter.0 ")}
    idle = {name for name in moving if LAST_QUERY in name}
    assert frozen - idle == inverted, "everything moves until its pivot"
    gap = (answer(made, done.adapter) - answer(made, None)).abs().max()
    assert gap > 1e-4, "the files change what the base says"
