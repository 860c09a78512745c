"""Each command once, as somebody would use it: what it prints, and that its JSON is one document."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from tuner import __version__, load_recipe
from tuner.cli import OVERVIEW, call
from tuner.rundir import RunDir
from tuner.status import of_this_process, write_status


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(here):
    (here / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (90 + 30 * number, 100), (80 * number, 10, 10)).save(here / "photos" / f"{number}.png")
    return here / "photos"


@pytest.fixture
def tuner(capsys):
    def run(*words, code=0):
        assert call(list(words)) == code
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in words else out

    return run


RECIPE = ["lora", "data.images.path=photos", "data.images.caption=a photo"]


def test_no_words_is_a_short_welcome(tuner):
    assert tuner().strip() == OVERVIEW
    assert len(OVERVIEW.splitlines()) <= 10


def test_the_welcome_names_commands_that_exist(tuner):
    helped = tuner("--help")
    for line in OVERVIEW.splitlines():
        if line.startswith("  tuner "):
            assert line.split()[1] in helped


def test_version(tuner):
    assert tuner("--version") == f"tuner {__version__}\n"


def test_ls_lists_every_recipe_with_what_it_is_for(tuner):
    listed = tuner("ls", "--json")
    assert {one["name"] for one in listed} >= {"dreambooth_lora", "lora"}
    assert all(one["about"] for one in listed)
    assert all(one["name"] in tuner("ls") for one in listed)


def test_cat_is_the_file(tuner):
    for one in tuner("ls", "--json"):
        assert tuner("cat", one["name"]) == Path(one["path"]).read_text("utf-8")


def test_cp_makes_a_recipe_that_reads_the_same(tuner, here):
    said = tuner("cp", "lora", "mine")
    assert "tuner plan mine.yaml" in said
    shipped = {recipe["name"]: Path(recipe["path"]) for recipe in tuner("ls", "--json")}
    assert (here / "mine.yaml").read_bytes() == shipped["lora"].read_bytes()
    assert load_recipe(here / "mine.yaml") == load_recipe("lora")
    tuner("cp", "lora", "mine.yaml", code=2)  # never over a file that is there
    tuner("cp", "lora", "mine.yaml", "--force")
    (here / "folder").mkdir()
    tuner("cp", "lora", "folder")
    assert (here / "folder" / "lora.yaml").is_file()
    tuner("cp", "lora", "nowhere/mine.yaml", code=2)


def test_show_reads_back_as_the_same_recipe(tuner, here, photos):
    for options in ([], ["--bare"]):
        text = tuner("show", *RECIPE, *options)
        (here / "shown.yaml").write_text(text)
        assert load_recipe(here / "shown.yaml") == load_recipe("lora", RECIPE[1:])
    assert "Rank of the update" in tuner("show", *RECIPE)
    assert "#" not in tuner("show", *RECIPE, "--bare")
    assert tuner("show", *RECIPE, "--json")["train"]["steps"] == 1000


def test_schema_is_json(tuner, here):
    tree = json.loads(tuner("schema"))
    assert "train" in tree["properties"]
    tuner("schema", "--out", "schema.json")
    assert json.loads((here / "schema.json").read_text()) == tree


def test_check_says_what_can_be_used(tuner, photos):
    assert "images: 3 pictures can be used" in tuner("check", *RECIPE)
    whole = (photos / "0.png").read_bytes()
    (photos / "broken.png").write_bytes(whole[: len(whole) // 2])
    said = tuner("check", *RECIPE)
    assert "refused: " in said
    assert "broken.png" in said
    assert "1 file cannot be used" in said
    found = tuner("check", *RECIPE, "--json")
    assert found["pictures"] == {"images": 3}
    assert [Path(one["name"]).name for one in found["refused"]] == ["broken.png"]


def test_check_without_a_usable_picture_is_65(tuner, photos):
    for file in photos.iterdir():
        file.write_bytes(b"")
    tuner("check", *RECIPE, code=65)
    assert tuner("check", *RECIPE, "--json", code=65)["error"]["kind"] == "data"


def test_plan_as_text_and_as_json(tuner, photos):
    assert "1,000 steps" in tuner("plan", *RECIPE)
    tree = tuner("plan", *RECIPE, "--json")
    assert tree["length"]["steps"] == 1000
    assert tree["memory"]["gpu"]["peak"]["bytes"] <= 11e9


def test_a_rehearsal_needs_no_recipe_and_no_pictures(tuner, here):
    assert tuner("plan", "--rehearse", "train.steps=7", "--json")["length"]["steps"] == 7
    assert "can be used" in tuner("check", "--rehearse")


def run_in(root, name, **status):
    run = RunDir(root / name)
    run.path.mkdir(parents=True)
    run.write_recipe("", "")
    write_status(run.status_file, of_this_process(name, **status))
    return run


def test_runs_and_their_states(tuner, here):
    assert "no runs" in tuner("runs")
    assert tuner("runs", "--json") == []
    run_in(here / "runs", "dog-1", state="training", phase="training", step=40, total=100)
    run_in(here / "runs", "dog-2", state="done", step=100, total=100)
    said = tuner("runs")
    assert "dog-1" in said
    assert "40 of 100" in said
    assert {one["name"]: one["state"] for one in tuner("runs", "--json")} == {"dog-1": "training", "dog-2": "done"}


@pytest.mark.parametrize(
    ("words", "command"),
    [(["stop"], "stop"), (["stop", "--now"], "stop-now"), (["save"], "save"), (["sample"], "sample")],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_running_run_is_asked(tuner, here, words, command):
    run = run_in(here / "runs", "dog-1", state="training", step=4, total=9)
    for which in ([], ["dog-1"], ["runs/dog-1"], [str(run.path)]):
        assert "asked" in tuner(words[0], *which, *words[1:])
        assert run.control.take() == [command]


def test_what_does_not_run_is_not_asked(tuner, here):
    run_in(here / "runs", "dog-1", state="done", step=9, total=9)
    for words in (["stop"], ["stop", "dog-1"], ["save", "dog-2"], ["sample", "."]):
        tuner(*words, code=2)
    gone = of_this_process("dog-3", state="training")
    run = run_in(here / "runs", "dog-3", state="training")
    write_status(
        run.status_file, type(gone)(**{f: getattr(gone, f) for f in gone.__slots__} | {"pid_create_time": 1.0})
    )
    tuner("stop", "dog-3", code=2)  # its process is gone


def test_two_running_runs_need_a_name(tuner, here):
    run_in(here / "runs", "a", state="training")
    run_in(here / "runs", "b", state="training")
    tuner("stop", code=2)


def test_cache_commands(tuner, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    import numpy as np

    from tuner.data.cache import Cache

    Cache().put("latents", {"k" * 8: {"mean": np.zeros(4, "f4"), "logvar": np.zeros(4, "f4")}})
    assert "latents" in tuner("cache", "ls")
    assert tuner("cache", "ls", "--json")["entries"][0]["count"] == 1
    assert "as it was written" in tuner("cache", "verify")
    assert tuner("cache", "verify", "--json") == {"ok": True, "problems": []}
    (pack,) = (tmp_path / "cache" / "packs" / "latents").iterdir()
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    os.chmod(pack, 0o644)
    pack.write_bytes(data)
    tuner("cache", "verify", code=74)
    assert tuner("cache", "verify", "--json", code=74)["ok"] is False
    assert "would free" in tuner("cache", "gc", "--dry-run")
    assert pack.exists()
    assert "freed" in tuner("cache", "gc")
    assert not pack.exists()


def test_doctor_answers(tuner):
    assert "this machine is ready" in tuner("doctor")
    assert tuner("doctor", "--json")["ok"] is True


def test_inspect_tells_what_a_file_is(tuner, here):
    import numpy as np
    from safetensors.numpy import save_file

    prefix = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{prefix}.lora_A.weight": np.zeros((4, 768), "f4"), f"{prefix}.lora_B.weight": np.zeros((320, 4), "f4")}
    save_file(tensors, here / "pytorch_lora_weights.safetensors")
    said = tuner("inspect", ".")
    assert "Stable Diffusion 1" in said
    assert "1 in the unet" in said
    assert tuner("inspect", ".", "--json")["rank"] == 4
    (here / "bad.safetensors").write_bytes(b"nothing")
    tuner("inspect", "bad.safetensors", code=65)
    tuner("inspect", "nowhere", code=65)
