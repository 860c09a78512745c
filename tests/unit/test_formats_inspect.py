"""What a file is, told without loading torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from tuner.errors import DataError
from tuner.formats.about import About
from tuner.formats.inspect import inspect_file
from tuner.formats.lora import DIFFUSERS_FILE, write_lora

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "encoder.layers.0.self_attn.q_proj"
STATE = {
    f"unet.{LAYER}.lora_A.weight": torch.ones(4, 768),
    f"unet.{LAYER}.lora_B.weight": torch.ones(8, 4),
    f"text_encoder.{TEXT}.lora_A.weight": torch.ones(4, 6),
    f"text_encoder.{TEXT}.lora_B.weight": torch.ones(6, 4),
}
ABOUT = About(
    "dog", base="ann/base", trigger="sks", recipe="train: 1\n", facts={"step": 12}, dtype="fp16", weights="ema"
)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "run" / "adapter"
    place.mkdir(parents=True)
    write_lora(place, STATE, rank=4, scale=1.5, about=ABOUT)
    return place


def test_both_files_are_told_apart(folder):
    ours, kohya = inspect_file(folder / DIFFUSERS_FILE), inspect_file(folder / "dog.safetensors")
    assert (ours["format"], kohya["format"]) == ("diffusers", "kohya")
    assert (ours["alpha"], kohya["alpha"]) == (4, 6.0)
    for found in (ours, kohya):
        assert found["family"] == "Stable Diffusion 1"
        assert found["rank"] == 4
        assert found["dtype"] == "fp16"
        assert found["targets"] == {"unet": 1, "text_encoder": 1}
        assert found["parameters"] == sum(t.numel() for t in STATE.values())
        assert found["base"] == "ann/base"
        assert found["trigger"] == "sks"
        assert found["weights"] == "ema"
        assert found["problem"] is None
        json.dumps(found)
    assert (kohya["recipe"], kohya["steps"], kohya["resolution"]) == ("train: 1\n", 12, 512)
    assert kohya["size_bytes"] == (folder / "dog.safetensors").stat().st_size
    assert "ComfyUI" in kohya["loads_in"]
    assert kohya["loads_in"]["ComfyUI"].startswith("all")
    assert ours["loads_in"]["AUTOMATIC1111"].startswith("not these keys")
    # as it maps names: a text encoder's, and of a UNet those without `.to_`
    assert ours["loads_in"]["ComfyUI"].startswith("PART of it: it leaves out 1 of 1 layers of the unet; take the file")


def test_a_run_directory_is_its_adapter(folder):
    assert inspect_file(folder.parent)["file"] == DIFFUSERS_FILE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_alpha_of_any_float_type(tmp_path, dtype):
    tensors = {
        "lora_unet_x.lora_down.weight": torch.ones(2, 3),
        "lora_unet_x.lora_up.weight": torch.ones(3, 2),
        "lora_unet_x.alpha": torch.tensor(1.5, dtype=dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    assert inspect_file(tmp_path / "x.safetensors")["alpha"] == 1.5


def test_mixed_ranks_and_alphas_are_listed(tmp_path):
    tensors = {}
    for rank in (2, 4):
        tensors |= {
            f"lora_unet_{rank}.lora_down.weight": torch.ones(rank, 3),
            f"lora_unet_{rank}.lora_up.weight": torch.ones(3, rank),
        }
    save_file(tensors | {"lora_unet_2.alpha": torch.tensor(1.0)}, tmp_path / "x.safetensors")
    found = inspect_file(tmp_path / "x.safetensors")
    assert found["rank"] == [2, 4]
    assert found["alpha"] == [1.0, None]


def test_a_stranger_s_file_without_metadata_is_told_by_what_lies_beside_it(folder):
    from safetensors.torch import load_file

    bare = load_file(folder / DIFFUSERS_FILE)
    save_file(bare, folder / "dog.safetensors")
    found = inspect_file(folder / "dog.safetensors")
    assert found["base"] == "ann/base"  # the card's
    assert found["trigger"] == "sks"  # the sidecar's


@pytest.mark.parametrize("damage", ["{", "[1]", '{"activation text": 3}', "[" * 100_000])
def test_a_damaged_sidecar_tells_nothing(folder, damage):
    from safetensors.torch import load_file

    save_file(load_file(folder / DIFFUSERS_FILE), folder / "dog.safetensors")
    (folder / "dog.json").write_text(damage)
    assert inspect_file(folder / "dog.safetensors")["trigger"] is None


def test_words_are_known_and_other_files_described_with_the_reason(tmp_path):
    save_file({"emb_params": torch.ones(2, 768)}, tmp_path / "x.safetensors")
    found = inspect_file(tmp_path / "x.safetensors")
    assert (found["kind"], found["problem"]) == ("textual_inversion", None)
    save_file(
        {
            "lora_unet_x_attn2_to_k.lora_down.weight": torch.ones(2, 2048),
            "lora_unet_x_attn2_to_k.lora_up.weight": torch.ones(3, 2),
        },
        tmp_path / "y.safetensors",
    )
    assert "SDXL" in inspect_file(tmp_path / "y.safetensors")["problem"]


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        inspect_file(tmp_path / "absent.safetensors")
    with pytest.raises(DataError, match="run code"):
        inspect_file(tmp_path / "x.ckpt")
    with pytest.raises(DataError, match="holds no"):
        inspect_file(tmp_path)


def test_no_torch_is_imported(folder):
    program = (
        "import sys; from tuner.formats.inspect import inspect_file; inspect_file(sys.argv[1]);"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'numpy', 'safetensors', 'PIL'} & set(sys.modules); print(sorted(heavy))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(folder / "dog.safetensors")], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"
