"""`generate` before anything is loaded: which adapter, which base, which file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner import drawing
from tuner.commands.generate import destinations, parse_size
from tuner.drawing import Drawing, Strong, parse_adapter
from tuner.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("dog.safetensors", "dog.safetensors", 1.0),
        ("dog.safetensors:0.8", "dog.safetensors", 0.8),
        ("runs/dog:.5", "runs/dog", 0.5),
        ("runs/dog:-1", "runs/dog", -1.0),
        (r"C:\loras\dog.safetensors", r"C:\loras\dog.safetensors", 1.0),
        (r"C:\loras\dog.safetensors:0.8", r"C:\loras\dog.safetensors", 0.8),
        ("C:8", "C:8", 1.0),  # a file on a drive, not a strength
        ("a:b:2", "a:b", 2.0),
        ("dog:nan", "dog:nan", 1.0),
        ("dog:", "dog:", 1.0),
        (":0.5", ":0.5", 1.0),
        ("dog:1e3", "dog:1e3", 1.0),
    ],
)
def test_a_strength_is_a_number_behind_the_last_colon(text, path, strength):
    assert parse_adapter(text) == Strong(Path(path), strength)


@given(st.from_regex(r"[a-z]{2,8}(/[a-z]{1,8}){0,2}", fullmatch=True), st.floats(-2, 2).map(lambda x: round(x, 3)))
def test_what_is_written_is_read(path, strength):
    assert parse_adapter(f"{path}:{strength:f}") == Strong(Path(path), pytest.approx(strength))


def test_a_file_whose_name_ends_like_a_strength_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        Path("dog:0.8").write_text("")
    except OSError:
        pytest.skip("no colons in names here")
    assert parse_adapter("dog:0.8") == Strong(Path("dog:0.8"), 1.0)


def told(monkeypatch, *facts):
    whole = [
        {
            "problem": None,
            "kind": "lora",
            "backbone": "sd15",
            "family": "Stable Diffusion 1",
            "base": None,
            "base_identity": None,
            "resolution": None,
            "recipe": None,
        }
        | fact
        for fact in facts
    ]
    by_path = {Path(f"{n}.safetensors"): fact for n, fact in enumerate(whole)}
    monkeypatch.setattr(drawing, "all_facts", by_path.__getitem__)
    return [Strong(path, 1.0) for path in by_path]


def test_the_base_is_the_adapters_own(monkeypatch):
    adapters = told(monkeypatch, {"base": "somebody/sd15", "resolution": 768})
    planned = Drawing.plan(adapters, None, "auto")
    assert (planned.base, planned.resolution, planned.chosen) == ("somebody/sd15", 768, False)


def test_the_users_base_wins(monkeypatch):
    planned = Drawing.plan(told(monkeypatch, {"base": "somebody/sd15"}), "other/base", "auto")
    assert (planned.base, planned.chosen) == ("other/base", True)


def test_adapters_of_different_bases_need_a_choice(monkeypatch):
    adapters = told(monkeypatch, {"base": "a/b"}, {"base": "c/d"})
    with pytest.raises(UsageError, match="different bases: a/b, c/d"):
        Drawing.plan(adapters, None, "auto")
    assert Drawing.plan(adapters, "c/d", "auto").base == "c/d"


def test_an_unknown_base_is_asked_for(monkeypatch):
    with pytest.raises(UsageError, match="does not say which base"):
        Drawing.plan(told(monkeypatch, {}), None, "auto")


def test_a_local_base_is_asked_for_by_name(monkeypatch):
    with pytest.raises(UsageError, match="local model named 'mine.safetensors'"):
        Drawing.plan(told(monkeypatch, {"base": "mine.safetensors"}), None, "auto")


def test_another_family_is_refused(monkeypatch):
    with pytest.raises(DataError, match="SDXL"):
        Drawing.plan(told(monkeypatch, {"base": "a/b", "family": "SDXL"}), None, "auto")


def test_what_is_no_adapter_is_refused(monkeypatch):
    with pytest.raises(DataError, match="is a whole checkpoint"):
        Drawing.plan(told(monkeypatch, {"problem": "is a whole checkpoint"}), None, "auto")


def test_clip_skip_is_that_of_the_training(monkeypatch):
    recipe = "backbone:\n  name: sd15\n  model: a/b\n  clip_skip: 2\n"
    planned = Drawing.plan(told(monkeypatch, {"base": "a/b", "recipe": recipe}), None, "auto")
    assert planned.backbone.clip_skip == 2
    broken = Drawing.plan(told(monkeypatch, {"base": "a/b", "recipe": "[: ]]"}), None, "auto")
    assert broken.backbone.clip_skip == 1


def test_paths_stay_out_of_the_names(monkeypatch):
    planned = Drawing.plan(
        [Strong(Path("0.safetensors"), 0.8)] if told(monkeypatch, {"base": "a/b"}) else [], None, "auto"
    )
    assert planned.names == ["0.safetensors:0.8"]


@pytest.mark.parametrize("text", ["512", "512x768", "512X768"])
def test_sizes(text):
    assert parse_size(text)[0] == 512


@pytest.mark.parametrize("text", ["", "x", "5o", "512x", "1x2x3", "-512", "999999", "٥١٢"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError):
        parse_size(text)


def test_a_size_that_the_model_cannot_draw():
    planned = Drawing.plan([], "toybox", "auto")
    with pytest.raises(UsageError, match="multiple of"):
        planned.check_size(70, 64)
    planned.check_size(64, 64)


def test_no_picture_is_ever_replaced(tmp_path):
    assert destinations(tmp_path / "new", 2) == [tmp_path / "new" / "0000.png", tmp_path / "new" / "0001.png"]
    (tmp_path / "0007.png").write_bytes(b"")
    (tmp_path / "notes.png").write_bytes(b"")
    assert destinations(tmp_path, 1) == [tmp_path / "0008.png"]
    with pytest.raises(UsageError, match="there already"):
        destinations(tmp_path / "0007.png", 1)
    with pytest.raises(UsageError, match="one file for 2"):
        destinations(tmp_path / "one.png", 2)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="not a .png"):
        destinations(tmp_path / "file", 1)


@pytest.mark.parametrize(
    ("pipeline", "name"),
    [
        ("StableDiffusionPipeline", "sd15"),
        ("StableDiffusionImg2ImgPipeline", "sd15"),
        ("StableDiffusion3Pipeline", "sd35"),
        ("StableDiffusion3Img2ImgPipeline", "sd35"),
    ],
)
def test_a_base_alone_says_its_family(tmp_path, pipeline, name):
    (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{pipeline}"}}')
    assert Drawing.plan([], str(tmp_path), "auto").backbone.key == name


def test_a_base_of_no_family_is_refused_by_name(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(UsageError, match="a model for StableDiffusionXLPipeline"):
        Drawing.plan([], str(tmp_path), "auto")
    assert Drawing.plan([], str(tmp_path), "auto", backbone="sd15").backbone.key == "sd15"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "sd35"),
        ("joint_blocks.0.x_block.attn.qkv.weight", "sd35"),
        ("model.diffusion_model.input_blocks.0.0.weight", "sd15"),
        ("something.else", "sd15"),  # whose loader says what it is instead
    ],
)
def test_a_single_file_says_its_family_by_its_keys(tmp_path, key, name):
    import torch
    from safetensors.torch import save_file

    save_file({key: torch.zeros(1)}, tmp_path / "base.safetensors")
    assert Drawing.plan([], str(tmp_path / "base.safetensors"), "auto").backbone.key == name


def test_a_hub_model_in_the_cache_says_its_family(tmp_path, monkeypatch):
    from tuner.backbones import recognise

    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    monkeypatch.setattr(recognise, "cached_folder", lambda model, revision: tmp_path)
    assert Drawing.plan([], "somebody/a-base", "auto").backbone.key == "sd35"


def test_the_family_can_be_said(monkeypatch):
    assert Drawing.plan([], "toybox", "auto").backbone.key == "sd15"
    assert Drawing.plan([], "toybox", "auto", backbone="sd35").backbone.key == "sd35"
    with pytest.raises(UsageError, match="unknown backbone 'sdxl'"):
        Drawing.plan([], "toybox", "auto", backbone="sdxl")
    adapters = told(monkeypatch, {"base": "a/b"})
    with pytest.raises(UsageError, match="is for sd15, not for sd35"):
        Drawing.plan(adapters, None, "auto", backbone="sd35")


@pytest.mark.parametrize(
    ("settings", "steps", "guidance"),
    [
        ({"name": "sd15", "model": "a/b"}, 25, 7.5),
        ({"name": "sd15", "model": "toybox"}, 25, 5.0),
        ({"name": "sd35", "model": "stabilityai/stable-diffusion-3.5-medium"}, 28, 4.5),
        ({"name": "sd35", "model": "stabilityai/stable-diffusion-3.5-large"}, 28, 4.5),
        ({"name": "sd35", "model": "stabilityai/stable-diffusion-3.5-large-turbo"}, 4, 0.0),
        ({"name": "sd35", "model": "models/sd3.5_large_turbo.safetensors"}, 4, 0.0),
        ({"name": "sd35", "model": "stabilityai/stable-diffusion-3-medium-diffusers"}, 28, 7.0),
        ({"name": "sd35", "model": "toybox"}, 28, 4.5),
    ],
)
def test_each_base_is_drawn_as_it_was_made_for(settings, steps, guidance):
    from tuner.backbones import Backbone

    own = Backbone.read(settings).habits()
    assert (own.steps, own.guidance) == (steps, guidance)


def test_sizes_of_sd35_are_multiples_of_16_up_to_the_end_of_its_positions():
    planned = Drawing.plan([], "somewhere/sd3", "auto", backbone="sd35")
    planned.check_size(1008, 1040)
    with pytest.raises(UsageError, match="not a multiple of 16"):
        planned.check_size(1000, 1024)
    with pytest.raises(UsageError, match="end at 6144 px"):
        planned.check_size(6160, 1024)


def test_t5s_length_is_that_of_the_training(monkeypatch):
    sd35 = {"base": "a/b", "backbone": "sd35", "family": "Stable Diffusion 3"}
    recipe = "backbone:\n  name: sd35\n  model: a/b\n  t5: false\n  t5_length: 77\n"
    told_by_recipe = Drawing.plan(told(monkeypatch, sd35 | {"recipe": recipe}), None, "auto").backbone
    assert (told_by_recipe.t5, told_by_recipe.t5_length) == (False, 77)
    header = {"tuner_t5": "False", "tuner_t5_length": "128"}
    told_by_header = Drawing.plan(told(monkeypatch, sd35 | {"metadata": header}), None, "auto").backbone
    assert (told_by_header.t5, told_by_header.t5_length) == (False, 128)
