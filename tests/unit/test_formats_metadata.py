"""What the files say of a run: enough, no more than asked, nothing private, nothing that differs between equal runs."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file

from tuner.errors import DataError, StorageError
from tuner.formats.about import About, base_name, count_tags, without_private
from tuner.formats.container import read_header
from tuner.formats.lora import DIFFUSERS_FILE, write_lora

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
STATE = {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 768), f"unet.{LAYER}.lora_B.weight": torch.ones(8, 4)}
FACTS = {
    "step": 800,
    "max_steps": 1000,
    "epoch": 2.5,
    "images": 5,
    "prior_images": 200,
    "buckets": {"512x512": 3, "448x576": 2},
    "tags": {"instance": {"a photo of sks dog": 5}},
    "precision": "bf16",
    "seconds": 12.5,
    "device": "a machine",
    "lr": 1e-4,
    "text_encoder_lr": 5e-6,
    "seed": 7,
    "prior_weight": 1.0,
    "crop": "buckets",
}
ABOUT = About(
    "dog-run-3",
    base="stable-diffusion-v1-5/stable-diffusion-v1-5",
    base_identity="ab" * 32,
    prompt="a photo of sks dog",
    trigger="sks dog",
    recipe="backbone: {name: sd15}\ntrain: {steps: 800}\n",
    facts=FACTS,
    made="2026-03-04T05:06:07",
)
NAMED = "dog-run-3.safetensors"
SPEC = {"modelspec.sai_model_spec", "modelspec.architecture", "modelspec.implementation", "modelspec.title"}
BROWSERS = {
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
}


def write(folder, about=ABOUT, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    return write_lora(folder, STATE, rank=4, scale=0.5, about=dataclasses.replace(about, **changes))


def test_full_metadata(tmp_path):
    write(tmp_path)
    found = read_header(tmp_path / NAMED).metadata
    assert found.keys() >= SPEC | BROWSERS
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["modelspec.title"] == found["modelspec.trigger_phrase"] == "sks dog"
    assert found["modelspec.prediction_type"] == "epsilon"
    assert (found["ss_network_dim"], float(found["ss_network_alpha"])) == ("4", 2.0)
    assert (found["ss_steps"], found["ss_seed"], found["ss_num_train_images"], found["ss_num_reg_images"]) == (
        "800",
        "7",
        "5",
        "200",
    )
    assert (found["ss_unet_lr"], found["ss_text_encoder_lr"]) == ("0.0001", "5e-06")
    assert json.loads(found["ss_tag_frequency"]) == {"instance": {"a photo of sks dog": 5}}
    assert json.loads(found["ss_bucket_info"])["buckets"]["0"] == {"resolution": [448, 576], "count": 2}
    assert found["tuner_recipe"] == ABOUT.recipe
    assert found["tuner_base"] == ABOUT.base
    assert found["tuner_base_identity"] == ABOUT.base_identity


def test_minimal_metadata_is_what_browsers_need(tmp_path):
    write(tmp_path, metadata="minimal")
    found = read_header(tmp_path / NAMED).metadata
    assert found.keys() >= SPEC | BROWSERS
    assert not {"tuner_recipe", "ss_tag_frequency", "ss_seed", "ss_steps"} & found.keys()


def test_no_metadata_is_what_loading_needs(tmp_path):
    files = write(tmp_path, metadata="none")
    assert read_header(tmp_path / NAMED).metadata == {"format": "pt"}
    assert read_header(tmp_path / DIFFUSERS_FILE).metadata.keys() == {"format", "lora_adapter_metadata"}
    assert {file.name for file in files} == {DIFFUSERS_FILE, NAMED, "README.md"}
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "Training" not in card
    assert "train: {steps" not in card


def test_the_hash_in_the_header_is_that_of_the_numbers(tmp_path):
    import hashlib

    write(tmp_path)
    data = (tmp_path / NAMED).read_bytes()
    numbers = data[8 + int.from_bytes(data[:8], "little") :]
    found = read_header(tmp_path / NAMED).metadata
    assert found["modelspec.hash_sha256"] == "0x" + hashlib.sha256(numbers).hexdigest()
    assert found["sshs_model_hash"] == hashlib.sha256(numbers).hexdigest()


def test_adapter_metadata_reads_as_diffusers_writes_it(tmp_path):
    """diffusers' own reader turns it into a LoraConfig with alpha = rank; the scale is in B."""
    from diffusers.utils.state_dict_utils import _load_sft_state_dict_metadata
    from peft import LoraConfig

    write(tmp_path)
    told = _load_sft_state_dict_metadata(str(tmp_path / DIFFUSERS_FILE))
    config = LoraConfig(**{key.removeprefix("unet."): value for key, value in told.items()})
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 4, {LAYER})
    tensors = load_file(tmp_path / DIFFUSERS_FILE)
    assert torch.equal(tensors[f"unet.{LAYER}.lora_B.weight"], torch.full((8, 4), 0.5))
    assert torch.equal(tensors[f"unet.{LAYER}.lora_A.weight"], torch.ones(4, 768))


def test_equal_runs_give_equal_bytes_whatever_they_are_called_and_whenever_they_run(tmp_path):
    write(tmp_path / "one")
    other = FACTS | {"seconds": 99.0, "device": "another"}
    write(tmp_path / "two", name="other", made="2027-01-01T00:00:00", facts=other)
    assert (tmp_path / "one" / DIFFUSERS_FILE).read_bytes() == (tmp_path / "two" / DIFFUSERS_FILE).read_bytes()
    assert (tmp_path / "one" / NAMED).read_bytes() == (tmp_path / "two" / "other.safetensors").read_bytes()


def test_no_date_no_path_no_run_name_in_the_tensor_files(tmp_path):
    write(tmp_path)
    for file in (DIFFUSERS_FILE, NAMED):
        text = json.dumps(dict(read_header(tmp_path / file).metadata))
        assert not re.search(r"20\d\d-\d\d|dog-run-3|a machine", text)
        assert str(tmp_path) not in text


SECRET = "hf_" + "a1B2c3D4e5F6g7H8i9J0"
PLACES = (
    "/home/xqann/photos/dog",
    "/Users/xqann/photos/dog",
    r"C:\Users\xqann\photos\dog",
    "~/xqann/dog",
    "/mnt/xqann/dog",
    "file:///home/xqann/dog",
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("metadata", ["full", "minimal", "none"])
def test_no_path_and_no_token_leaves_the_machine(tmp_path, place, metadata):
    text = f"data: {{path: '{place}'}}\ntoken: {SECRET}\n"
    files = write(
        tmp_path,
        metadata=metadata,
        recipe=text,
        base=place,
        prompt=f"photo {place}",
        trigger=f"t {SECRET}",
        facts=FACTS | {"tags": {place: {SECRET: 1}}},
    )
    for file in files:
        written = file.read_bytes()
        assert b"xqann" not in written
        assert SECRET.encode() not in written


def test_what_only_looks_like_a_path_stays():
    for text in (
        "a dog and/or a cat",
        "https://huggingface.co/home/x",
        "4/5 of it",
        "path/to/base",
        "a:b",
        "runwayml/sd",
    ):
        assert without_private(text) == text
    assert without_private("path: /home/xqann/photos/dog, x") == "path: dog, x"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("toybox", "toybox"),
        ("/home/ann/models/sd15", "sd15"),
        ("/home/ann/models/sd15/", "sd15"),
        (r"C:\models\sd15.safetensors", "sd15.safetensors"),
        ("./models/a/sd15.safetensors", "sd15.safetensors"),
        ("~/sd15", "sd15"),
    ],
)
def test_base_names(model, name):
    assert base_name(model) == name


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xqann" / "sd15").mkdir(parents=True)
    assert base_name("xqann/sd15") == "sd15"


def test_tags_are_counted_by_comma():
    assert count_tags(["a, b", "b , c,", ""]) == {"b": 2, "a": 1, "c": 1}


def test_metadata_stays_small(tmp_path):
    write(tmp_path, facts=FACTS | {"tags": {"images": {f"tag {i}": 1 for i in range(100_000)}}})
    found = read_header(tmp_path / NAMED).metadata
    assert found["ss_tag_frequency"].startswith("left out")
    assert found["tuner_recipe"] == ABOUT.recipe


def test_sidecar_has_the_keys_that_a1111_and_invokeai_read(tmp_path):
    write(tmp_path, negative="blurry", weights="ema")
    told = json.loads((tmp_path / "dog-run-3.json").read_text("utf-8"))
    assert told["activation text"] == "sks dog"
    assert told["sd version"] == "SD1"
    assert told["negative text"] == "blurry"
    assert "EMA" in told["notes"]
    assert ABOUT.made in told["notes"]
    assert {"description", "notes", "preferred weight"} <= told.keys()


def test_the_preview_has_the_pixels_and_nothing_else(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "secret words")
    picture = Image.new("RGB", (8, 4), (1, 2, 3))
    source = tmp_path / "sample.png"
    picture.save(source, pnginfo=info, exif=b"Exif\0\0secret", icc_profile=b"secret profile")
    files = write(tmp_path / "adapter", preview=source)
    copy = tmp_path / "adapter" / "dog-run-3.png"
    assert copy in files
    assert b"secret" not in copy.read_bytes()
    with Image.open(copy) as found:
        assert not found.info
        assert found.tobytes() == picture.tobytes()
    card = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    assert "<Gallery />" in card
    assert 'url: "dog-run-3.png"' in card


def test_a_preview_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "sample.png").write_bytes(b"no")
    with pytest.raises(DataError, match="preview"):
        write(tmp_path / "adapter", preview=tmp_path / "sample.png")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(StorageError, match="absent"):
        write_lora(tmp_path / "absent", STATE, rank=4, scale=1.0, about=ABOUT)
