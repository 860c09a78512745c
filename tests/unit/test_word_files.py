"""Files of words: their names, their keys, what is told of them, and which are refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tuner.errors import DataError, NumbersError
from tuner.formats.about import About
from tuner.formats.container import read_header
from tuner.formats.find import find_file, find_files, kind_of
from tuner.formats.inspect import inspect_file
from tuner.formats.textual_inversion import write_word
from tuner.formats.word_kind import describe

WIDTHS = {
    "sd15": {"text_encoder": 768},
    "sd35": {"text_encoder": 768, "text_encoder_2": 1280, "text_encoder_3": 4096},
}
KEYS = {"sd15": {"<toy>"}, "sd35": {"clip_l", "clip_g", "t5xxl"}}


def about(family="sd15", **told) -> About:
    return About(**{"name": "run", "family": family, "base": "toybox", "prompt": "a photo of <toy>", **told})


def rows(family="sd15", count=2):
    generator = torch.manual_seed(0)
    return {name: torch.randn(count, width, generator=generator) for name, width in WIDTHS[family].items()}


@pytest.mark.parametrize("family", WIDTHS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_keys_and_values(tmp_path, family, dtype):
    written = rows(family)
    file = write_word(tmp_path, "<toy>", written, about(family, dtype=dtype))[0]
    assert file.name == "toy.safetensors"
    tensors = load_file(file)
    assert set(tensors) == KEYS[family]
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for tensor, own in zip(sorted(tensors.values(), key=lambda t: t.shape[1]), written.values(), strict=True):
        assert torch.equal(tensor, own.to(kind))


@pytest.mark.parametrize("family", WIDTHS)
def test_the_header_tells_the_word_and_the_base(tmp_path, family):
    write_word(tmp_path, "<toy>", rows(family), about(family, metadata="none"))
    told = inspect_file(tmp_path)
    assert (told["kind"], told["token"], told["vectors"]) == ("textual_inversion", "<toy>", 2)
    assert (told["backbone"], told["problem"]) == (family, None)


def test_it_is_some_kilobytes_whatever_the_captions_were(tmp_path):
    tags = {"images": {f"tag {number}": 1 for number in range(5000)}}
    told = about("sd35", facts={"tags": tags}, recipe="backbone: sd35\n" * 300)
    vectors = {name: values for name, values in rows("sd35", count=8).items() if name != "text_encoder_3"}
    assert write_word(tmp_path, "<toy>", vectors, told)[0].stat().st_size <= 100_000


@pytest.mark.parametrize(
    ("token", "run", "alone", "name"),
    [
        ("<toy>", "run", True, "toy"),
        ("<toy>", "toy", True, "toy"),
        ("<toy>", "toy", False, "toy_word"),
        ("<con>", "run", True, "con_word"),
        ("<nul.x>", "run", True, "nul.x_word"),
        ("<pytorch_lora_weights>", "run", True, "pytorch_lora_weights_word"),
    ],
)
def test_no_word_takes_anothers_file(tmp_path, token, run, alone, name):
    assert write_word(tmp_path, token, rows(), about(name=run, alone=alone))[0].stem == name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_values_that_no_file_can_hold_are_refused(tmp_path, value):
    broken = rows()
    broken["text_encoder"][1, 3] = value
    with pytest.raises(NumbersError):
        write_word(tmp_path, "<toy>", broken, about(dtype="fp16"))
    assert not list(tmp_path.iterdir())


def strange(tmp_path, tensors, metadata=None, name="strange"):
    file = tmp_path / f"{name}.safetensors"
    save_file(tensors, file, metadata)
    return file


@pytest.mark.parametrize(
    ("key", "shape", "token"),
    [("emb_params", (3, 768), "strange"), ("charturner", (1, 768), "charturner"), ("<cat-toy>", (768,), "<cat-toy>")],
)
def test_words_of_other_tools(tmp_path, key, shape, token):
    file = strange(tmp_path, {key: torch.randn(shape)})
    word = describe(file, read_header(file))
    assert (word.family, word.token, word.count) == ("sd15", token, shape[0] if len(shape) == 2 else 1)


def test_a_word_of_onetrainer_for_sd35(tmp_path):
    file = strange(
        tmp_path, {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280), "t5": torch.randn(2, 4096)}
    )
    word = describe(file, read_header(file))
    assert (word.family, word.token, set(word.keys)) == ("sd35", "strange", set(WIDTHS["sd35"]))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"emb_params": torch.randn(2, 1024)}, "Stable Diffusion 2"),
        ({"emb_params": torch.randn(2, 2048)}, "SDXL"),
        ({"clip_l": torch.randn(2, 768), "clip_g": torch.randn(3, 1280)}, "different numbers of vectors"),
        ({"clip_l": torch.randn(0, 768)}, "vectors are expected"),
        ({"clip_l": torch.randn(300, 768)}, "at most 256"),
        ({"clip_l": torch.zeros(2, 768, dtype=torch.int32)}, "I32 numbers"),
        ({"a word": torch.randn(2, 768)}, "cannot be one"),
        ({"t5": torch.randn(2, 8), "t5xxl": torch.randn(2, 8)}, "twice"),
    ],
    ids=["sd2", "sdxl", "counts", "empty", "too many", "integers", "spaces", "t5 twice"],
)
def test_what_cannot_be_read_is_named(tmp_path, tensors, said):
    file = strange(tmp_path, tensors)
    assert kind_of(read_header(file)).name == "textual_inversion"
    with pytest.raises(DataError, match=said):
        describe(file, read_header(file))
    assert said in inspect_file(file)["problem"]


def test_a_folder_of_two_kinds_holds_both(tmp_path):
    from tuner.formats.lora import DIFFUSERS_FILE

    write_word(tmp_path, "<toy>", rows(), about(alone=False))
    factors = {f"unet.mid_block.attentions.0.to_q.lora_{side}.weight": torch.randn(4, 4) for side in "AB"}
    for name in (DIFFUSERS_FILE, "run.safetensors"):
        save_file(factors, tmp_path / name)
    assert {file.name for file in find_files(tmp_path)} == {"toy.safetensors", DIFFUSERS_FILE}
    assert find_file(tmp_path, "lora").name == DIFFUSERS_FILE
    assert find_file(tmp_path, "textual_inversion").name == "toy.safetensors"
