"""Every shipped recipe runs as it is, from the command line; a LoRA's files load in plain diffusers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toyboxes

from tuner import load_recipe, toybox

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def tuner(*words: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def sd15(folder: Path):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    words = numbers(1, 77, pipe.unet.config.cross_attention_dim)

    @torch.no_grad()
    def predict() -> torch.Tensor:
        return pipe.unet(numbers(1, 4, 16, 16), torch.tensor([500.0]), words).sample

    return pipe, predict


def sd35(folder: Path):
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(folder)
    config = pipe.transformer.config
    words, pooled = numbers(1, 20, config.joint_attention_dim), numbers(1, config.pooled_projection_dim)

    @torch.no_grad()
    def predict() -> torch.Tensor:
        return pipe.transformer(numbers(1, 16, 16, 16), words, pooled, torch.tensor([500.0])).sample

    return pipe, predict


PREDICTIONS = {"sd15": sd15, "sd35": sd35}
"""A plain pipeline of each family, and what its denoiser says."""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_it_rehearses(recipe, tmp_path, own_cache):
    """In a directory with nothing in it, as a newcomer has it."""
    made = load_recipe(recipe, rehearse=True)
    family = made.backbone.key
    toyboxes.require(family)
    said = tuner("run", str(recipe), "--rehearse", "--run-dir", "run", "train.steps=6", "save.every=3", cwd=tmp_path)
    assert "loaded back and compared" in said
    assert "scheduler says" not in said  # a rehearsal has the small model's own shift
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert (run / "adapter" / "README.md").is_file()
    kinds = {adapter.key for adapter in made.adapters}
    kept = ["6"] if "full" in kinds and made.save.keep == 1 else ["3", "6"]
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == kept
    if kinds == {"lora"}:
        check_lora_files(run / "adapter", family)


def check_lora_files(adapter, family):
    """Both files are there and say the same in plain diffusers."""
    assert {p.name for p in adapter.iterdir()} >= {"pytorch_lora_weights.safetensors", "run.safetensors", "run.json"}

    pipe, predict = PREDICTIONS[family](toybox.folder(family))
    plain = predict()
    seen = []
    for name in ("pytorch_lora_weights.safetensors", "run.safetensors"):
        pipe.load_lora_weights(adapter, weight_name=name)
        seen.append(predict())
        pipe.unload_lora_weights()
    assert (seen[0] - plain).abs().max() > 1e-4
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_its_memory_is_what_the_plan_says(recipe):
    """The numbers in the comments of a recipe are those of `tuner plan` on its base, as published."""
    text = recipe.read_text(encoding="utf-8")
    for changes, found in (
        ((), re.search(r"about (\d+) GB on a GPU in 16 bit", text)),
        (("train.gradient_checkpointing=false",), re.search(r"in less memory: (\d+) GB without", text)),
    ):
        if found:
            planned = plan_of(recipe, *changes)
            assert planned == int(found[1]), changes
    assert ("GB on a GPU" in text) == ("sd35" in recipe.stem)


def plan_of(recipe: Path, *changes: str) -> int:
    """GB at the peak on a GPU."""
    from tuner import plan
    from tuner.toybox.bundled import BUNDLES

    role = next(role for role in ("pairs", "instance", "images") if getattr(load_recipe(recipe).data, role))
    planned = plan(load_recipe(recipe, [f"data.{role}.path={BUNDLES[role].folder}", *changes]))
    return round(planned.memory["gpu"].peak.total / 1e9)


def test_a_rehearsal_of_sd35_has_the_shift_of_its_model():
    toyboxes.require("sd35")
    shift = load_recipe("lora_sd35_medium", rehearse=True).bound_objective.shift
    scheduler = json.loads((toybox.folder("sd35") / "scheduler" / "scheduler_config.json").read_text())
    assert (shift.key, shift.value) == ("constant", scheduler["shift"])


def test_it_goes_on_where_it_was_made_longer(tmp_path, sd15_folder):
    short = ("run", "lora", "--rehearse", "--run-dir", "a", "sample.every=null", "train.schedule=constant")
    tuner(*short, "train.steps=3", cwd=tmp_path)
    tuner(*short, "train.steps=6", cwd=tmp_path)
    tuner(
        "run",
        "lora",
        "--rehearse",
        "--run-dir",
        "b",
        "sample.every=null",
        "train.schedule=constant",
        "train.steps=6",
        cwd=tmp_path,
    )
    from safetensors.torch import load_file

    grown, whole = (load_file(tmp_path / n / "adapter" / "pytorch_lora_weights.safetensors") for n in "ab")
    assert all(torch.equal(grown[k], whole[k]) for k in whole)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, sd15_folder, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "runs/rehearsal/adapter/rehearsal.safetensors").is_file()


def test_the_mistake_of_the_readme_is_named_as_it_says():
    text = (ROOT / "README.md").read_text()
    command, answer = re.search(r"```console\n\$ tuner (.*?)\n(.*?)\n```", text, re.DOTALL).groups()
    done = subprocess.run(
        [sys.executable, "-m", "tuner", *command.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert answer in done.stderr


def test_the_tree_of_the_readme_is_on_the_disk():
    text = (ROOT / "README.md").read_text()
    tree = text.split("## The tree")[1]
    for name in re.findall(r"^(\w+)/ ", tree, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_links_of_the_documents_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", ["recipe", "combinations"])
def test_the_pages_made_from_the_types_are_current(page):
    maker = [sys.executable, str(ROOT / f"docs/{page}_page.py")]
    done = subprocess.run(maker, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / f"docs/{page}.md").read_text(), "run `make schema`"
