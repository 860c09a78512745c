"""A run goes on as the run it was, or is refused with every difference shown and nothing touched."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from kill_harness import NO_PROOF, arrays, recipe, unequal, weights


@pytest.fixture(scope="module")
def stopped(fork_server, shared_cache, drawn_pictures, tmp_path_factory):
    """A run that was killed after step 5, with pictures of its own and captions beside them. Copy it."""
    folder = tmp_path_factory.mktemp("stopped")
    photos = folder / "photos"
    shutil.copytree(drawn_pictures, photos)
    for picture in photos.glob("*.png"):
        picture.with_suffix(".txt").write_text(f"a photo of sks dog, number {picture.stem}")
    tree = recipe(photos, **{"train.steps": 9})
    kill = {"group": "steps", "step": 5, "delay_s": 0.0}
    end = fork_server.run(tree, folder, cache=shared_cache, hooks=NO_PROOF, kill=kill)
    assert end.killed
    end = fork_server.run(tree, folder / "whole", cache=shared_cache, hooks=NO_PROOF)
    assert end.code == 0, end
    return folder


@pytest.fixture
def mine(stopped, tmp_path):
    """(folder, photos, recipe) to do with as one likes."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    shutil.copytree(stopped / "photos", tmp_path / "photos")
    return tmp_path, tmp_path / "photos", recipe(tmp_path / "photos", **{"train.steps": 9})


def contents(run):
    """Every file of a run but its log, by name and hash."""
    files = (p for p in run.rglob("*") if p.is_file() and p.name not in ("log.txt", ".lock"))
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def refused(server, tree, folder, cache, *told):
    before = contents(folder / "run")
    end = server.run(tree, folder, cache=cache, hooks=NO_PROOF)
    assert (end.code, end.kind) == (2, "usage"), end
    for part in told:
        assert part in end.error, end.error
    assert contents(folder / "run") == before
    return end.error


CHANGES = [
    ({"train.lr": 0.02}, ["train.lr: 0.01 -> 0.02"]),
    (
        {"train.lr": 0.02, "train.accumulate": 1, "data.flip": False},
        ["train.lr", "train.accumulate: 2 -> 1", "data.flip: true -> false"],
    ),
    ({"train.precision": "bf16"}, ['train.precision: "fp32" -> "bf16"']),
    ({"adapters.0.rank": 3}, ["adapters.0.rank: 2 -> 3"]),
    ({"train.ema": None}, ["train.ema"]),
    ({"train.seed": 4}, ["train.seed: 3 -> 4"]),
    ({"data.instance.caption": "a photo of zwx dog"}, ["caption", "zwx"]),
]


@pytest.mark.parametrize(("changes", "told"), CHANGES)
def test_a_changed_recipe(changes, told, mine, fork_server, shared_cache):
    folder, photos, _ = mine
    refused(fork_server, recipe(photos, **{"train.steps": 9, **changes}), folder, shared_cache, *told)


def test_a_changed_caption_file(mine, fork_server, shared_cache):
    folder, photos, tree = mine
    (photos / "1.txt").write_text("a photo of sks dog, another one")
    refused(fork_server, tree, folder, shared_cache, "pictures.instance", "number 1", "another one")


def test_a_changed_picture(mine, fork_server, shared_cache):
    from PIL import Image

    folder, photos, tree = mine
    picture = Image.open(photos / "2.png")
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(photos / "2.png")
    refused(fork_server, tree, folder, shared_cache, "number 2", "(absent)")


def test_a_picture_more(mine, fork_server, shared_cache):
    from PIL import Image

    folder, photos, tree = mine
    Image.new("RGB", (64, 64), "red").save(photos / "9.png")
    refused(fork_server, tree, folder, shared_cache, "pictures.instance", "(absent) ->")


def test_another_base(mine, fork_server, shared_cache):
    from safetensors.numpy import save_file

    from tuner import toybox

    folder, _, tree = mine
    shutil.copytree(toybox.folder("sd15"), folder / "base")
    tree["backbone"]["model"] = str(folder / "base")
    file = folder / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = arrays(file)
    tensors["conv_in.bias"] = tensors["conv_in.bias"] + np.float32(1e-3)
    save_file(tensors, file, metadata={"format": "pt"})
    error = refused(fork_server, tree, folder, shared_cache, "base.unet")
    assert "base.vae" not in error


def test_what_only_has_another_name_is_the_same_run(mine, stopped, fork_server, shared_cache):
    """Renamed pictures, a moved folder, a moved base model, other save, sample and log keys: the same bits."""
    from tuner import toybox

    folder, photos, tree = mine
    for place in sorted(photos.iterdir()):
        place.rename(photos / f"{9 - int(place.stem)}-renamed{place.suffix}")
    photos.rename(folder / "elsewhere")
    shutil.copytree(toybox.folder("sd15"), folder / "base")
    tree["data"]["instance"]["path"] = str(folder / "elsewhere")
    tree["backbone"]["model"] = str(folder / "base")
    tree["save"] = {"every": 7}
    tree["sample"]["prompts"] = ["a dog"]
    end = fork_server.run(tree, folder, cache=shared_cache, hooks=NO_PROOF)
    assert end.code == 0, end
    expected, found = weights(stopped / "whole" / "run"), weights(folder / "run")
    # The file as a whole also says what its base was called.
    assert unequal(expected, found) in ([], ["adapter/pytorch_lora_weights.safetensors"])


# A finished run


@pytest.fixture
def done(undisturbed, tmp_path):
    shutil.copytree(undisturbed / "run", tmp_path / "run")
    return tmp_path


def test_a_finished_run_is_refused(done, drawn_pictures, fork_server, shared_cache):
    for steps in (9, 5):
        tree = recipe(drawn_pictures, **{"train.steps": steps})
        refused(fork_server, tree, done, shared_cache, "is finished, at step 9")
    tree = recipe(drawn_pictures, **{"train.steps": 12, "train.lr": 1e-3})
    refused(fork_server, tree, done, shared_cache, "train.lr")
    assert json.loads((done / "run" / "status.json").read_text())["state"] == "done"


def test_a_finished_run_that_grew_is_the_longer_run(undisturbed, fork_server, shared_cache, drawn_pictures, tmp_path):
    """Its last step, 7, lies inside an interval of the log and between two saves."""
    for steps in (7, 9):
        tree = recipe(drawn_pictures, **{"train.steps": steps})
        end = fork_server.run(tree, tmp_path, cache=shared_cache, hooks=NO_PROOF)
        assert end.code == 0, end
    expected, found = weights(undisturbed / "run"), weights(tmp_path / "run")
    assert not unequal(expected, {k: v for k, v in found.items() if not k.startswith("metric 7 ")})


def test_no_growth_where_the_rate_depends_on_the_length(fork_server, shared_cache, drawn_pictures, tmp_path):
    keys = {"train.schedule": {"name": "cosine"}, "sample": None}
    tree = recipe(drawn_pictures, **{"train.steps": 2, **keys})
    assert fork_server.run(tree, tmp_path, cache=shared_cache, hooks=NO_PROOF).code == 0
    refused(fork_server, recipe(drawn_pictures, **{"train.steps": 4, **keys}), tmp_path, shared_cache, "is finished")


def test_new_sets_the_old_run_aside(done, undisturbed, drawn_pictures, fork_server, shared_cache):
    before = contents(done / "run")
    tree = recipe(drawn_pictures, **{"train.steps": 9})
    end = fork_server.run(tree, done, cache=shared_cache, hooks=NO_PROOF, new=True)
    assert end.code == 0, end
    assert contents(done / "run.old-1") == before
    assert not unequal(weights(undisturbed / "run"), weights(done / "run"))
