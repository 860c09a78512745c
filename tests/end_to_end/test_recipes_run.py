"""Every shipped recipe runs as it is, from the command line; a LoRA's files load in plain diffusers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_it_rehearses(recipe, tmp_path, sd15_folder):
    """In a directory with nothing in it, as a newcomer has it."""
    made = load_recipe(recipe, rehearse=True)
    if not toybox.folder(made.backbone.key).is_dir():
        pytest.skip(f"no toybox model of {made.backbone.key} ships yet")
    said = tuner("run", str(recipe), "--rehearse", "--run-dir", "run", "train.steps=6", "save.every=3", cwd=tmp_path)
    assert "loaded back and compared" in said
    run = tmp_path / "run"
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert (run / "adapter" / "README.md").is_file()
    kinds = {adapter.key for adapter in made.adapters}
    kept = ["6"] if "full" in kinds and made.save.keep == 1 else ["3", "6"]
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == kept
    if kinds == {"lora"} and made.backbone.key == "sd15":
        check_lora_files(run / "adapter", sd15_folder)


def check_lora_files(adapter, base):
    """Both files are there and say the same in plain diffusers."""
    assert {p.name for p in adapter.iterdir()} >= {"pytorch_lora_weights.safetensors", "run.safetensors", "run.json"}

    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    words = torch.randn(1, 77, pipe.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([500.0])
    with torch.no_grad():
        plain = pipe.unet(x, t, words).sample
    seen = []
    for name in ("pytorch_lora_weights.safetensors", "run.safetensors"):
        pipe.load_lora_weights(adapter, weight_name=name)
        with torch.no_grad():
            seen.append(pipe.unet(x, t, words).sample)
        pipe.unload_lora_weights()
    assert (seen[0] - plain).abs().max() > 1e-4
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


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
