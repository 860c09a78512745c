"""`check-adapter` names every fault of a file, says which tool would pass over what, and mends what can be mended."""

from __future__ import annotations

import json

import odd_loras
import pytest
import torch
from safetensors.torch import load_file

from tuner.cli import call
from tuner.errors import DataError, UsageError
from tuner.files.check import check
from tuner.files.mend import mend
from tuner.formats.container import read_header
from tuner.formats.lora_kind import LoRAKind

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def pairs():
    return odd_loras.factors("sd15")


def kinds(checked) -> set[str]:
    return {finding.what for finding in checked.problems}


def taken(checked) -> dict[str, int]:
    return {reading.tool: reading.layers for reading in checked.readers}


def effects(file) -> dict[tuple[str, str], torch.Tensor]:
    """What a file adds to each layer."""
    found = LoRAKind().deltas(file, read_header(file))
    return {(u.component, u.layer): u.scale * u.up.float() @ u.down.float() for u in found}


def want(pairs, scale=1.0) -> dict[tuple[str, str], torch.Tensor]:
    return {place: scale * up @ down for place, (down, up) in pairs.items()}


def same(found, wanted) -> bool:
    return found.keys() == wanted.keys() and all(torch.allclose(found[k], wanted[k], atol=1e-6) for k in found)


def test_a_whole_file_is_fine_and_every_tool_takes_all_of_it(tmp_path, pairs):
    checked = check(odd_loras.save(tmp_path / "a.safetensors", odd_loras.kohya(pairs, alpha=2.0)))
    assert not checked.findings
    assert set(taken(checked).values()) == {len(pairs)}
    assert checked.alpha == "stored: 2"
    assert checked.text_prefix == "lora_te_"
    assert checked.ranks == [odd_loras.RANK]
    assert sum(checked.components.values()) == len(pairs)


def test_diffusers_keys_are_fine_for_diffusers_and_others_are_counted(tmp_path, pairs):
    checked = check(odd_loras.save(tmp_path / "a.safetensors", odd_loras.diffusers(pairs)))
    assert not checked.problems
    text = sum(component == "text_encoder" for component, _ in pairs)
    assert taken(checked) == {
        "diffusers": len(pairs), "AUTOMATIC1111": 0, "Forge": text, "ComfyUI": text, "InvokeAI": 0,
    }  # fmt: skip


def test_the_te1_prefix_is_lost_in_one_tool_and_mended(tmp_path, pairs):
    path = odd_loras.save(tmp_path / "a.safetensors", odd_loras.kohya(pairs, 3.0, te="lora_te1"))
    checked = check(path)
    text = sum(component == "text_encoder" for component, _ in pairs)
    assert kinds(checked) == {"partly"}
    assert taken(checked)["InvokeAI"] == len(pairs) - text
    assert taken(checked)["AUTOMATIC1111"] == len(pairs)
    mended = mend(checked, tmp_path / "b.safetensors", drop=False)
    assert not mended.after.problems
    assert mended.after.text_prefix == "lora_te_"
    assert same(effects(mended.out), want(pairs))


def test_an_alpha_in_the_header_alone_is_folded_in(tmp_path, pairs):
    config = {f"{part}.lora_alpha": 6 for part in ("unet", "text_encoder")}
    path = odd_loras.save(tmp_path / "a.safetensors", odd_loras.diffusers(pairs), lora_adapter_metadata=config)
    checked = check(path)
    assert kinds(checked) == {"alpha in the header"}
    assert checked.alpha == "in the header alone"
    mended = mend(checked, tmp_path / "b.safetensors", drop=False)
    assert not mended.after.problems
    assert same(effects(mended.out), want(pairs, 6 / odd_loras.RANK))
    assert any("multiplied into the factors" in line for line in mended.done)


def test_an_alpha_that_some_layers_lack_is_written(tmp_path, pairs):
    tensors = odd_loras.kohya(pairs, alpha=float(odd_loras.RANK))
    del tensors[f"{STEM}.alpha"]
    checked = check(odd_loras.save(tmp_path / "a.safetensors", tensors))
    assert kinds(checked) == {"alpha missing"}
    mended = mend(checked, tmp_path / "b.safetensors", drop=False)
    assert not mended.after.findings
    assert same(effects(mended.out), want(pairs))


def several_faults(pairs) -> dict[str, torch.Tensor]:
    tensors = odd_loras.kohya(pairs, alpha=2.0)
    other = STEM.replace("to_q", "to_k")
    third = STEM.replace("to_q", "to_v")
    del tensors[f"{STEM}.lora_up.weight"]
    tensors[f"{other}.lora_up.weight"][0, 0] = float("nan")
    tensors[f"{third}.lora_up.weight"].zero_()
    tensors["lora_unet_no_such_layer.lora_down.weight"] = torch.ones(2, 8)
    tensors["lora_unet_no_such_layer.lora_up.weight"] = torch.ones(8, 2)
    tensors["what.is.this"] = torch.ones(2)
    return tensors


def test_everything_is_said_at_once(tmp_path, pairs):
    checked = check(odd_loras.save(tmp_path / "a.safetensors", several_faults(pairs)))
    assert kinds(checked) >= {"orphan", "values", "unknown", "strange"}
    assert {f.what for f in checked.findings} >= {"dead"}
    named = {name for finding in checked.findings for name in finding.names}
    assert {"unet.no_such_layer", "what.is.this"} <= named
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q" in named


def test_nothing_is_left_out_unless_that_is_said(tmp_path, pairs):
    checked = check(odd_loras.save(tmp_path / "a.safetensors", several_faults(pairs)))
    with pytest.raises(UsageError, match="have to be left out"):
        mend(checked, tmp_path / "b.safetensors", drop=False)
    assert not (tmp_path / "b.safetensors").exists()
    mended = mend(checked, tmp_path / "b.safetensors", drop=True)
    assert not mended.after.problems
    gone = {f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{x}" for x in "qk"}
    assert {name for name in mended.dropped if "mid_block" in name} == {f"unet.{layer}" for layer in gone}
    assert {"unet.no_such_layer", "what.is.this"} <= set(mended.dropped)
    kept = {place: update for place, update in want(pairs, 2 / 3).items() if place[1] not in gone}
    zeroed = ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_v")
    kept[zeroed] = torch.zeros_like(kept[zeroed])
    assert same(effects(mended.out), kept)


def test_two_names_of_one_layer(tmp_path, pairs):
    tensors = odd_loras.kohya(pairs, alpha=3.0)
    text = next(key for key in tensors if key.startswith("lora_te_") and key.endswith("lora_up.weight"))
    tensors[text.replace("lora_te_", "lora_te1_")] = tensors[text].clone()
    checked = check(odd_loras.save(tmp_path / "a.safetensors", tensors))
    assert "twice" in kinds(checked)
    assert same(effects(mend(checked, tmp_path / "b.safetensors", drop=False).out), want(pairs))
    tensors[text.replace("lora_te_", "lora_te1_")] = tensors[text] + 1
    checked = check(odd_loras.save(tmp_path / "c.safetensors", tensors))
    with pytest.raises(DataError, match="twice with other values"):
        mend(checked, tmp_path / "d.safetensors", drop=True)


def test_keys_of_two_tools_in_one_file(tmp_path, pairs):
    unet = {place: both for place, both in pairs.items() if place[0] == "unet"}
    text = {place: both for place, both in pairs.items() if place[0] != "unet"}
    checked = check(odd_loras.save(tmp_path / "a.safetensors", odd_loras.kohya(unet, 3.0) | odd_loras.diffusers(text)))
    assert {"mixed", "partly"} <= kinds(checked)
    assert taken(checked)["diffusers"] == len(text)
    assert taken(checked)["AUTOMATIC1111"] == len(unet)
    mended = mend(checked, tmp_path / "b.safetensors", drop=False)
    assert not mended.after.problems
    assert same(effects(mended.out), want(pairs))


def test_a_file_that_changes_nothing(tmp_path, pairs):
    tensors = {key: torch.zeros_like(t) if "up" in key else t for key, t in odd_loras.kohya(pairs, 3.0).items()}
    assert "dead" in kinds(check(odd_loras.save(tmp_path / "a.safetensors", tensors)))


def test_sd35_with_diffusers_and_with_onetrainers_keys(tmp_path):
    pairs = odd_loras.factors("sd35", text=False)
    checked = check(odd_loras.save(tmp_path / "a.safetensors", odd_loras.diffusers(pairs)))
    assert not checked.problems
    assert {tool: taken(checked)[tool] for tool in ("diffusers", "ComfyUI", "InvokeAI")} == {
        "diffusers": len(pairs), "ComfyUI": len(pairs), "InvokeAI": 0,
    }  # fmt: skip
    tensors = {
        f"lora_transformer_{layer.replace('.', '_')}.lora_{side}.weight": tensor
        for (_, layer), both in pairs.items()
        for side, tensor in zip(("down", "up"), both, strict=True)
    }
    checked = check(odd_loras.save(tmp_path / "b.safetensors", tensors))
    assert checked.keys == ["onetrainer"]
    assert taken(checked)["ComfyUI"] == len(pairs)
    assert taken(checked)["diffusers"] == 0


def test_another_family(tmp_path):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_down.weight": torch.ones(2, 2048), f"{key}.lora_up.weight": torch.ones(1280, 2)}
    checked = check(odd_loras.save(tmp_path / "a.safetensors", tensors))
    assert "family" in kinds(checked)
    with pytest.raises(DataError, match="SDXL"):
        mend(checked, tmp_path / "b.safetensors", drop=True)


def test_a_file_that_is_cut_off_is_a_finding(tmp_path, pairs):
    path = odd_loras.save(tmp_path / "a.safetensors", odd_loras.kohya(pairs, 3.0))
    path.write_bytes(path.read_bytes()[:-7])
    checked = check(path)
    assert kinds(checked) == {"container"}
    with pytest.raises(DataError, match="cannot be mended"):
        mend(checked, tmp_path / "b.safetensors", drop=True)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["fine.safetensors"], 0),
        (["odd.safetensors"], 3),
        (["odd.safetensors", "--fix", "--out", "new.safetensors"], 0),
        (["odd.safetensors", "--fix"], 2),
        (["odd.safetensors", "--out", "new.safetensors"], 2),
        (["fine.safetensors", "--fix", "--out", "new.safetensors"], 2),
        (["odd.safetensors", "--fix", "--out", "fine.safetensors"], 2),
        (["odd.safetensors", "--fix", "--out", "new.pt"], 2),
        (["absent.safetensors"], 65),
        (["pickle.pt"], 65),
    ],
    ids=[
        "fine",
        "odd",
        "fix",
        "fix nowhere",
        "out alone",
        "nothing to fix",
        "overwrite",
        "as pickle",
        "absent",
        "pickle",
    ],
)
def test_exit_codes(tmp_path, monkeypatch, capsys, pairs, words, code):
    monkeypatch.chdir(tmp_path)
    odd_loras.save(tmp_path / "fine.safetensors", odd_loras.kohya(pairs, 3.0))
    odd_loras.save(tmp_path / "odd.safetensors", odd_loras.kohya(pairs, 3.0, te="lora_te1"))
    (tmp_path / "pickle.pt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    before = (tmp_path / "fine.safetensors").read_bytes()
    assert call(["check-adapter", *words]) == code
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "fine.safetensors").read_bytes() == before
    if code == 0 and "--fix" in words:
        said = capsys.readouterr().out
        assert "mended: InvokeAI takes" in said
        assert load_file(tmp_path / "new.safetensors")


def test_json(tmp_path, capsys, pairs):
    path = odd_loras.save(tmp_path / "odd.safetensors", odd_loras.kohya(pairs, 3.0, te="lora_te1"))
    assert call(["check-adapter", str(path), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["fine"] is False
    assert [f["what"] for f in told["findings"] if f["kind"] == "problem"] == ["partly"]
    assert {reader["tool"] for reader in told["readers"]} >= {"diffusers", "ComfyUI", "InvokeAI"}
