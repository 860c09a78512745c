"""The card is read by the Hub and by people, whatever the prompts hold."""

from __future__ import annotations

import ast
import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tuner.formats.about import About
from tuner.formats.card import cell, code, escaped, quoted
from tuner.formats.lora import Pair
from tuner.formats.lora_card import write_card

LAYERS = [Pair("unet", "x", torch.ones(2, 2), torch.ones(2, 2))]
TEXT = [*LAYERS, Pair("text_encoder", "text_model.x", torch.ones(2, 2), torch.ones(2, 2))]
HUB = "stable-diffusion-v1-5/stable-diffusion-v1-5"
ABOUT = About("dog", base=HUB, prompt="a photo of sks dog", recipe="train: {steps: 3}\n", facts={"step": 3, "lr": 1e-4})
NASTY = [
    'quote " and \\ backslash',
    "line\nbreak\r\nand\ttab",
    "---\nlicense: mit\n---",
    "`ticks` and ```fences```\n```python\nraise SystemExit\n```",
    "| cell | ends |",
    "<script>alert(1)</script> [x](http://evil) ![y](z)",
    "{{ template }} {% raw %} ${HOME}",
    "'''\"\"\"' + raise",
    "\u2028\u0085\x00\x7f\ufeff\U0001f600",
    "a: b # c",
    "!!python/object:os.system",
    "`",
]


def card(folder, layers=LAYERS, **changes) -> str:
    folder.mkdir(exist_ok=True)
    return write_card(folder, dataclasses.replace(ABOUT, **changes), rank=4, alpha=2.0, layers=layers).read_text(
        "utf-8"
    )


def front(text: str) -> dict:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found
    return YAML(typ="safe").load(found[1])


def test_the_hub_finds_its_fields(tmp_path):
    told = front(card(tmp_path))
    assert told["base_model"] == HUB
    assert told["base_model_relation"] == "adapter"
    assert told["library_name"] == "diffusers"
    assert told["pipeline_tag"] == "text-to-image"
    assert told["license"] == "creativeml-openrail-m"
    assert told["instance_prompt"] == "a photo of sks dog"
    assert {"text-to-image", "diffusers", "lora", "template:sd-lora", "stable-diffusion", "tuner"} <= set(told["tags"])


def test_the_hub_s_own_reader_reads_it(tmp_path):
    from huggingface_hub import ModelCard

    data = ModelCard(card(tmp_path, prompt=NASTY[0])).data
    assert data.base_model == HUB
    assert data.instance_prompt == NASTY[0]


def test_a_base_of_one_s_own_is_not_called_a_hub_model(tmp_path):
    text = card(tmp_path, base="my.safetensors")
    assert not {"base_model", "license"} & front(text).keys()
    assert "path/to/my.safetensors" in text


def test_the_licence_of_an_unknown_base_is_not_guessed(tmp_path):
    assert front(card(tmp_path, base="ann/model"))["license"] == "other"


def test_what_the_card_owns_up_to(tmp_path):
    text = card(tmp_path, TEXT, weights="ema", name="run")
    assert "UNet and the text encoder" in text
    assert "EMA" in text
    assert "`unet.load_attn_procs` no longer loads LoRA" in text
    assert "| ComfyUI | `run.safetensors`" in text
    assert "| alpha | 2 |" in text
    assert "```yaml\ntrain: {steps: 3}\n```" in text
    assert "EMA" not in card(tmp_path / "raw")


@pytest.mark.parametrize("text", NASTY)
def test_no_prompt_breaks_the_card(tmp_path, text):
    preview = tmp_path / "sample.png"
    written = card(
        tmp_path / "card", TEXT, prompt=text, trigger=None, sample_prompts=(text,), recipe=f"x: {text}", preview=preview
    )
    told = front(written)
    assert told["instance_prompt"] == text
    assert told["widget"][0]["text"] == text
    assert told["tags"][0] == "text-to-image"
    body = written.split("\n---\n", 1)[1]
    shown = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)  # without code blocks
    assert not re.search(r"(?<!\\)<script", re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", shown))
    assert shown.count("\n## ") == 3
    blocks = re.findall(r"^```python\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)[:2]
    assert len(blocks) == 2
    calls = [
        node
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert [call.args[0].value for call in calls if call.func.id == "pipe"] == [text]


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_survives_as_yaml(text):
    text = "".join(char for char in text if not 0xD800 <= ord(char) < 0xE000)
    line = quoted(text)
    assert "\n" not in line
    assert YAML(typ="safe").load(f"a: {line}")["a"] == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab `|\\\n"))
def test_inline_code_is_one_span(text):
    shown = code(text)
    assert "\n" not in shown
    fence = re.match(r"`+", shown)
    if text.strip():
        assert fence
        inner = shown[len(fence[0]) : -len(fence[0])] if text.strip(" \n").strip("`") else ""
        assert fence[0] not in re.findall(r"`+", inner)


def test_cells_keep_their_bars():
    assert cell("a|b\\|c") == "a\\|b\\|c"
    assert escaped("# *a* [b](c) <d>") == r"\# \*a\* \[b\]\(c\) \<d\>"
