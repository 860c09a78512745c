"""What is said of other tools, held against the lists of names that their own code maps for the true models."""

from __future__ import annotations

import re

import pytest
from key_lists import FAMILIES as ARCHITECTURES
from key_lists import READERS as TOOLS
from key_lists import all_names, expanded, mapped, told, written

from tuner.backbones import Backbone
from tuner.formats.container import Entry, Header
from tuner.formats.families import FAMILIES
from tuner.formats.inspect import DTYPES
from tuner.formats.kinds import recognise
from tuner.formats.lora import on_disk
from tuner.formats.lora_kind import loads_in
from tuner.formats.readers import READERS, looked_up
from tuner.formats.spellings import SPELLINGS, respelled, spelling_of

ENDINGS = {"diffusers": (".lora_A.weight", ".lora_B.weight"), "kohya": (".lora_down.weight", ".lora_up.weight")}
BACKBONES = {
    "sd15": {"name": "sd15", "model": "nobody/nothing-like-this"},
    "sd35_medium": {"name": "sd35", "model": "stabilityai/stable-diffusion-3.5-medium"},
    "sd35_large": {"name": "sd35", "model": "stabilityai/stable-diffusion-3.5-large"},
}


def trained(architecture: str) -> dict[str, list[str]]:
    """Every layer that a LoRA of ours can sit on, whatever its `where`, by component, as files spell it."""
    backbone = Backbone.read(BACKBONES[architecture])
    layout, family = backbone.layout(), FAMILIES[ARCHITECTURES[architecture]]
    layers = {part: backbone.matching_text(layout.linears[part]) for part in family.names.prefixes}
    layers[family.denoiser] = [*layout.linears[family.denoiser], *layout.convs]
    return {part: [on_disk(part, layer) for layer in own] for part, own in layers.items()}


def ours(style: str, architecture: str) -> dict[str, list[str]]:
    """The names that we write, by component."""
    names = FAMILIES[ARCHITECTURES[architecture]].names
    return {
        part: list(dict.fromkeys(str(names.key(part, x)) if style == "kohya" else f"{part}.{x}" for x in layers))
        for part, layers in trained(architecture).items()
    }


def header(names, endings, **metadata: str) -> Header:
    """Of a file whose tensors fit together; only names matter here."""
    rows = {ending: (12, 4) if ending.endswith(("up.weight", "B.weight")) else (4, 8) for ending in endings}
    tensors = {
        f"{name}{ending}": Entry("F32", () if ending == ".alpha" else rows[ending], 0, 0)
        for name in names
        for ending in endings
    }
    return Header(metadata, tensors, 0)


@pytest.mark.parametrize("tool", [*TOOLS, "onetrainer", "lycoris"])
def test_every_list_says_where_it_is_from(tool):
    source = told(tool)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", source["repository"])
    assert re.fullmatch(r"[0-9a-f]{40}", source["commit"])
    assert all(path.endswith(".py") for path in source["paths"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.source)
def test_the_table_of_readers_says_what_their_code_maps(reader, architecture):
    """Over every name in any list, and those that raw peft and diffusers give the same layers."""
    peft = {f"base_model.model.{layer}" for layers in trained(architecture).values() for layer in layers}
    prefixed = {f"{part}.base_model.model.{x}" for part, layers in trained(architecture).items() for x in layers}
    family, true = ARCHITECTURES[architecture], mapped(reader.source, architecture)
    for name in all_names(architecture) | peft | prefixed:
        if name.startswith("lora_te3_") and reader.source == "forge":
            continue  # T5's layers, which no file here may have
        assert looked_up(reader, family, name) == (name in true), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("style", ENDINGS)
def test_what_is_said_of_our_files_is_true(style, architecture):
    """Every layer that can be trained, in one file: all of it means all, not means none, PART counts the rest."""
    family, names = ARCHITECTURES[architecture], ours(style, architecture)
    endings = (*ENDINGS[style], ".alpha") if style == "kohya" else ENDINGS[style]
    file = header([name for own in names.values() for name in own], endings)
    said = loads_in(recognise(_path(), file))
    assert said.keys() == {"diffusers", *(reader.tool for reader in READERS)}
    for reader in READERS:
        true = mapped(reader.source, architecture)
        lost = {part: sum(name not in true for name in own) for part, own in names.items()}
        answer = said[reader.tool]
        if reader.tool == "AUTOMATIC1111" and (family, style) == ("sd35", "kohya"):
            assert answer.startswith("not: it refuses the file")
            assert "lora_unet_" in next(
                kinds for why, kinds in told("a1111")["refused"][architecture].items() if why.startswith("ValueError")
            )
        elif not any(lost.values()):
            assert answer.startswith("all of it"), (reader.tool, answer)
        elif all(lost[part] == len(own) for part, own in names.items()):
            assert answer.startswith("not"), (reader.tool, answer)
        else:
            for part, count in lost.items():
                text = f"{count} of {len(names[part])} layers of the {part}"
                assert (text in answer) == (count > 0), (reader.tool, answer)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sd_scripts_has_every_name_of_ours_with_kohyas_keys(architecture):
    """It trains no convolution that leads in or out, nor the time's layers of a UNet; those of ours it passes over."""
    names = {name for own in ours("kohya", architecture).values() for name in own}
    beyond = {name.removeprefix("lora_unet_") for name in names - mapped("sd_scripts", architecture)}
    assert beyond <= {"time_embedding_linear_1", "time_embedding_linear_2", "conv_in", "conv_out"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", ["DIFFUSERS", "KOHYA", "LEGACY", "ORIGINAL", "COMFY"])
def test_every_name_that_onetrainer_writes_is_read_as_the_layer_that_it_is(form, architecture):
    family, names = ARCHITECTURES[architecture], FAMILIES[ARCHITECTURES[architecture]].names
    linear = {part: set(layers) for part, layers in trained(architecture).items()}
    keys = written(form, architecture)
    spelling = spelling_of(f"{key}.lora_down.weight" for key in keys)
    found: dict[str, set[str]] = {}
    for name in (
        respelled(_path(), [f"{key}.alpha" for key in keys], spelling) if spelling else [f"{k}.alpha" for k in keys]
    ):
        stem = name.removesuffix(".alpha")
        if stem.startswith("lora_"):
            known = names.layers(stem.replace("lora_te1_", "lora_te_") if family == "sd15" else stem)
            assert known is not None or "x_embedder" in stem, stem
            part, layers = known or ("transformer", ())
        else:
            part, _, layer = stem.partition(".")
            layers = (layer,)
        found.setdefault(part, set()).update(layers)
    for part, layers in linear.items():
        if part in found:
            assert layers <= found[part], sorted(layers - found[part])[:3]
    assert linear.keys() - found.keys() == (
        {"text_encoder", "text_encoder_2"} & linear.keys() if form == "ORIGINAL" else set()
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_name_that_lycoris_writes_is_read_as_the_layer_that_it_is(architecture):
    spelling = next(one for one in SPELLINGS if one.name == "lycoris")
    keys = mapped("lycoris", architecture)
    names, part = FAMILIES[ARCHITECTURES[architecture]].names, FAMILIES[ARCHITECTURES[architecture]].denoiser
    found = set()
    for name in respelled(_path(), [f"{key}.alpha" for key in keys], spelling):
        stem = name.removesuffix(".alpha")
        known = names.layers(stem) if stem.startswith("lora_") else (part, (stem.removeprefix(f"{part}."),))
        assert known is not None
        found |= set(known[1])
    assert len(found) == len(keys)
    assert set(trained(architecture)[part]) <= found


def test_comfyui_turns_the_two_norms_that_we_turn():
    """Where it reads diffusers' names; with kohya's, the file holds them turned."""
    for architecture in ("sd35_medium", "sd35_large"):
        turned = set(expanded(told("comfyui")["halves_swapped"][architecture]))
        width = {"sd35_medium": 1536, "sd35_large": 2432}[architecture]
        names = FAMILIES["sd35"].names
        for layer in trained(architecture)["transformer"]:
            last = layer.startswith(f"transformer_blocks.{ {'sd35_medium': 23, 'sd35_large': 37}[architecture] }.")
            rows = 2 * width if layer == "norm_out.linear" or (last and "norm1_context" in layer) else 6 * width
            assert names.swaps(layer, rows, width) == (f"transformer.{layer}" in turned), layer


def test_lists_expand():
    assert list(expanded(["a_<0-1,4>_(x|y<7>)"])) == ["a_0_x", "a_0_y7", "a_1_x", "a_1_y7", "a_4_x", "a_4_y7"]
    assert "F32" in DTYPES


def _path():
    from pathlib import Path

    return Path("x.safetensors")
