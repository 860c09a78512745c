"""An SD3.5 adapter's files say how prompts were read and which noise levels were trained, and how to draw with it."""

from __future__ import annotations

import ast
import json
import re

import pytest
import torch
from safetensors.torch import save_file

from tuner.adapters import Adapter
from tuner.formats import hypernetwork_card, lycoris_card, word_card
from tuner.formats.about import about_run
from tuner.formats.lora import Pair
from tuner.formats.lora_card import write_card
from tuner.formats.metadata import converted_header, kohya_header, told_header
from tuner.formats.model_card import write_model_card
from tuner.nn.hypernetwork_structure import Structure
from tuner.recipe import Recipe

LAYERS = [Pair("transformer", "transformer_blocks.0.attn.to_q", torch.ones(2, 2), torch.ones(2, 2))]

NETWORK = Structure(layers=(1, 2, 1), activation="linear", activate_output=False, layer_norm=False, dropout=(0.0, 0.0))


def about(metadata="full", objective=None, **backbone):
    tree = {
        "backbone": {"name": "sd35", "model": "stabilityai/stable-diffusion-3.5-medium", **backbone},
        "adapters": "lora",
        "task": "finetune",
        "data": {"resolution": 512, "images": {"path": "pictures", "caption": "a picture in sks style"}},
        "train": {"steps": 9},
        "save": {"metadata": metadata},
    }
    if objective:
        tree["objective"] = {"name": "rectified_flow", **objective}
    return about_run("run", Recipe.model_validate(tree), facts={"step": 9}, recipe_text="x: 1", prediction="velocity")


def header(told) -> dict[str, str]:
    return told_header({}, LAYERS, told, rank=2, alpha=2.0)


def card(folder, told, kind="lora") -> str:
    writers = {
        "lora": lambda: write_card(folder, told, rank=2, alpha=2.0, layers=LAYERS),
        "hypernetwork": lambda: hypernetwork_card.write_card(
            folder, told, "run.hypernetwork.safetensors", NETWORK, [4]
        ),
        "textual_inversion": lambda: word_card.write_card(
            folder, told, "<toy>", "toy.safetensors", ["text_encoder"], 2
        ),
        "full": lambda: write_model_card(folder, told, ["transformer"]),
        "loha": lambda: updates_card(folder, told, "loha"),
        "lokr": lambda: updates_card(folder, told, "lokr"),
    }
    return writers[kind]().read_text("utf-8")


def updates_card(folder, told, method):
    parts = {"loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), "lokr": ("lokr_w1", "lokr_w2")}[method]
    file = folder / "run.safetensors"
    save_file({f"lycoris_transformer_blocks_0_attn_to_q.{part}": torch.ones(2, 2) for part in parts}, file)
    return lycoris_card.write_card(folder, told, file, Adapter.read(method), ["transformer"])


EVERY_KIND = pytest.mark.parametrize("kind", list(Adapter.family))


def called(text: str) -> dict[str, dict]:
    """Keywords of the calls in the card's first piece of code, by the name of what is called."""
    code = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert code
    calls = [node for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Call)]
    return {
        ast.unparse(call.func): {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        for call in calls
    }


def test_the_header_says_what_was_trained():
    said = header(about())
    assert said["tuner_t5"] == "True"
    assert said["tuner_t5_length"] == "256"
    assert json.loads(said["tuner_levels"]) == {"name": "logit_normal", "mean": 0.0, "std": 1.0}
    assert json.loads(said["tuner_shift"]) == {"name": "constant", "value": 3.0}
    assert json.loads(said["tuner_weighting"]) == {"name": "none"}
    kohya = {"weighting_scheme": "logit_normal", "logit_mean": "0.0", "logit_std": "1.0", "discrete_flow_shift": "3.0"}
    assert {f"ss_{name}": value for name, value in kohya.items()}.items() <= said.items()
    assert "ss_mode_scale" not in said


def test_kohyas_names_are_used_where_they_say_the_same():
    mode = header(about(objective={"levels": {"name": "mode", "scale": 0.8}, "shift": "resolution"}))
    assert (mode["ss_weighting_scheme"], mode["ss_mode_scale"]) == ("mode", "0.8")
    assert not {"ss_logit_mean", "ss_logit_std", "ss_discrete_flow_shift"} & mode.keys()
    assert "ss_weighting_scheme" not in header(about(objective={"levels": "cosmap"}))
    assert "ss_logit_mean" not in header(about(objective={"levels": {"name": "logit_normal", "mean": -0.5}}))


def test_less_metadata_still_says_how_prompts_are_read():
    minimal, none = header(about("minimal", t5_length=77)), header(about("none"))
    assert minimal["tuner_t5_length"] == "77"
    assert "tuner_levels" not in minimal
    assert not [key for key in none if key.startswith(("tuner_", "ss_"))]
    moved = converted_header({}, minimal, "kohya", LAYERS, "sd35")
    assert moved["tuner_t5_length"] == "77"


def test_sd15_has_none_of_it():
    tree = {
        "backbone": {"name": "sd15", "model": "a/b"},
        "adapters": "lora",
        "task": "finetune",
        "data": {"images": {"path": "pictures"}},
        "train": {"steps": 9},
    }
    told = about_run("run", Recipe.model_validate(tree), facts={}, recipe_text="")
    said = kohya_header({}, told, rank=2, alpha=2.0)
    assert not [key for key in said if "t5" in key or "shift" in key or "levels" in key or "weighting" in key]
    assert (told.call, told.sampler) == ({"num_inference_steps": 25}, {})


@EVERY_KIND
def test_the_card_draws_as_the_run_did(tmp_path, kind):
    text = card(tmp_path, about(), kind)
    calls = called(text)
    assert "StableDiffusion3Pipeline.from_pretrained" in calls
    assert calls["pipe"] == {
        "num_inference_steps": 28,
        "guidance_scale": 4.5,
        "max_sequence_length": 256,
        "height": 512,
        "width": 512,
    }
    assert "pipe.scheduler.from_config" not in calls  # 3.0 is the base's own shift
    assert "T5 read 256 tokens" in text
    assert "logit_normal (mean 0, std 1) at the shift constant (value 3), weighting none" in text
    assert "| shift of the noise levels | constant \\(value 3\\) |" in text


@EVERY_KIND
@pytest.mark.parametrize(
    ("shift", "value"), [({"name": "constant", "value": 1.5}, 1.5), ("resolution", 2.0)], ids=["constant", "resolution"]
)
def test_another_shift_is_given_to_the_scheduler(tmp_path, shift, value, kind):
    """sqrt(1024 / 256) for the 32 x 32 image tokens of 512 px."""
    calls = called(card(tmp_path, about(objective={"shift": shift}), kind))
    assert calls["pipe.scheduler.from_config"] == {"shift": value, "use_dynamic_shifting": False}


@EVERY_KIND
def test_without_t5_the_pipeline_is_loaded_without_it(tmp_path, kind):
    text = card(tmp_path, about(t5=False), kind)
    assert called(text)["StableDiffusion3Pipeline.from_pretrained"] == {"text_encoder_3": None, "tokenizer_3": None}
    assert "T5 read nothing" in text
    assert "256 zeros" in text


@EVERY_KIND
def test_a_turbo_is_drawn_in_four_steps_without_guidance(tmp_path, kind):
    call = called(card(tmp_path, about(model="stabilityai/stable-diffusion-3.5-large-turbo"), kind))["pipe"]
    assert (call["num_inference_steps"], call["guidance_scale"]) == (4, 0.0)
