"""LoRAs merged into one and made smaller: the sum, exactly, and the best of a rank, as real loaders read them."""

from __future__ import annotations

import math

import odd_loras
import pytest
import torch
from models import load_sd15

from tuner.cli import call
from tuner.drawing import Strong
from tuner.errors import DataError, UsageError
from tuner.files.loras import merge_loras, resize
from tuner.files.low_rank import Wanted
from tuner.formats.container import read_header
from tuner.formats.lora_kind import LoRAKind
from tuner.watch import Watcher

WATCHER = Watcher()


def effects(file) -> dict[tuple[str, str], torch.Tensor]:
    """What a file adds to each layer."""
    found = LoRAKind().deltas(file, read_header(file))
    return {(u.component, u.layer): u.scale * u.up.float() @ u.down.float() for u in found}


def near(found, wanted, tolerance: float = 1e-5) -> bool:
    return found.keys() == wanted.keys() and all(
        float((found[k] - wanted[k]).abs().max()) <= tolerance * max(1.0, float(wanted[k].abs().max())) for k in wanted
    )


@pytest.fixture
def three(tmp_path):
    """Of different ranks, keys and layers, one with an alpha and one in 16 bit."""
    first, second, third = (odd_loras.factors("sd15", seed, rank=rank) for seed, rank in ((1, 4), (2, 3), (3, 2)))
    second = dict(list(second.items())[:20])
    half = {name: tensor.half() for name, tensor in odd_loras.diffusers(third).items()}
    return [
        odd_loras.save(tmp_path / "one.safetensors", odd_loras.kohya(first, alpha=2.0), tuner_base="toybox", mine="1"),
        odd_loras.save(tmp_path / "two.safetensors", odd_loras.diffusers(second), tuner_base="toybox", mine="2"),
        odd_loras.save(tmp_path / "three.safetensors", half, tuner_base="toybox", mine="3"),
    ]


@pytest.mark.parametrize("keys", ["kohya", "diffusers"])
def test_several_become_one_exactly(three, tmp_path, keys):
    strengths = (0.8, -0.5, 1.0)
    out = tmp_path / "sum.safetensors"
    given = [Strong(path, strength) for path, strength in zip(three, strengths, strict=True)]
    made = merge_loras(given, out, WATCHER, style=keys)
    want: dict[tuple[str, str], torch.Tensor] = {}
    for path, strength in zip(three, strengths, strict=True):
        for place, update in effects(path).items():
            want[place] = want.get(place, torch.zeros_like(update)) + strength * update
    assert near(effects(out), want)
    assert made.kept == 1
    assert max(part.ranks[1] for part in made.parts.values()) == 9
    metadata = read_header(out).metadata
    assert metadata["tuner_merged"] == "one.safetensors:0.8, two.safetensors:-0.5, three.safetensors:1"
    assert metadata["tuner_base"] == "toybox"
    assert "mine" not in metadata


@pytest.mark.parametrize("keys", ["kohya", "diffusers"])
def test_diffusers_reads_layers_of_different_ranks_as_they_are_meant(three, tmp_path, keys):
    """Its own loader, without ours before it: layers of ranks 6 and 9 in one file."""
    from peft.tuners.lora.layer import LoraLayer

    out = tmp_path / "sum.safetensors"
    merge_loras([Strong(path, 0.7) for path in three], out, WATCHER, style=keys)
    model = load_sd15("toybox")
    model.pipeline().load_lora_weights(str(tmp_path), weight_name=out.name, adapter_name="sum")
    want, seen = effects(out), 0
    for component in ("unet", "text_encoder"):
        for name, layer in model.components[component].named_modules():
            if isinstance(layer, LoraLayer):
                spelled = f"text_model.{name}" if component == "text_encoder" else name
                assert torch.allclose(layer.get_delta_weight("sum"), want[component, spelled], atol=1e-5), name
                seen += 1
    assert seen == len(want)


@pytest.mark.parametrize("keys", ["kohya", "diffusers"])
def test_sd3s_layers_as_well(tmp_path, keys):
    one, two = (odd_loras.factors("sd35", seed, rank=rank, text=False) for seed, rank in ((1, 2), (2, 3)))
    paths = [
        odd_loras.save(tmp_path / f"{name}.safetensors", odd_loras.diffusers(pairs))
        for name, pairs in (("a", one), ("b", two))
    ]
    out = tmp_path / "sum.safetensors"
    merge_loras([Strong(path, 0.5) for path in paths], out, WATCHER, style=keys)
    a, b = map(effects, paths)
    assert near(effects(out), {place: 0.5 * a[place] + 0.5 * b[place] for place in a})
    small = tmp_path / "small.safetensors"
    made = resize(out, small, Wanted(rank=3), WATCHER, style=keys)
    assert {part.ranks for part in made.parts.values()} == {(3, 3)}
    assert 0.5 < made.kept < 1


def test_a_smaller_one_is_the_best_and_says_what_it_keeps(three, tmp_path):
    out = tmp_path / "small.safetensors"
    made = resize(three[0], out, Wanted(rank=2), WATCHER)
    whole, small = effects(three[0]), effects(out)
    lost = total = 0.0
    for place, update in whole.items():
        values = torch.linalg.svdvals(update) ** 2
        gap = float(((update - small[place]) ** 2).sum())
        assert math.isclose(gap, float(values[2:].sum()), rel_tol=1e-3, abs_tol=1e-9)
        lost, total = lost + gap, total + float(values.sum())
    assert math.isclose(made.kept, 1 - lost / total, rel_tol=1e-4)
    assert made.style == "kohya"
    assert all(alpha == 2 for alpha in alphas(out))


def alphas(file) -> list[float]:
    from safetensors.torch import load_file

    return [float(tensor) for name, tensor in load_file(file).items() if name.endswith(".alpha")]


def test_by_energy_every_layer_keeps_its_share(tmp_path):
    pairs = odd_loras.factors("sd15", 1, rank=4)
    for number, (down, _) in enumerate(pairs.values()):
        down[0] *= 1 + 3 * (number % 2)  # in every other layer, one direction outweighs the others
    source = odd_loras.save(tmp_path / "one.safetensors", odd_loras.kohya(pairs, alpha=2.0))
    out = tmp_path / "small.safetensors"
    made = resize(source, out, Wanted(energy=0.8), WATCHER)
    whole, small = effects(source), effects(out)
    for place, update in whole.items():
        assert float((small[place] ** 2).sum()) >= 0.8 * float((update**2).sum()) * (1 - 1e-4)
    assert made.kept >= 0.8
    low, high = made.parts["unet"].ranks
    assert low < high
    assert len(set(alphas(out))) == 1


def test_sixteen_bit_stays_and_can_be_asked_for(three, tmp_path):
    assert kinds(resize(three[2], tmp_path / "a.safetensors", Wanted(rank=1), WATCHER).out) == {"F16"}
    assert kinds(resize(three[0], tmp_path / "b.safetensors", Wanted(rank=1), WATCHER).out) == {"F32"}
    made = resize(three[0], tmp_path / "c.safetensors", Wanted(rank=1), WATCHER, dtype="bf16", style="diffusers")
    assert kinds(made.out) == {"BF16"}


def kinds(file) -> set[str]:
    return {entry.dtype for entry in read_header(file).tensors.values() if len(entry.shape) == 2}


def test_what_cannot_be_meant(three, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="nothing of it is beyond"):
        resize(three[0], out, Wanted(rank=4), WATCHER)
    with pytest.raises(UsageError, match="alone at 1 would be itself"):
        merge_loras([Strong(three[0], 1.0)], out, WATCHER)
    with pytest.raises(UsageError, match="is there already"):
        resize(three[0], three[1], Wanted(rank=1), WATCHER)
    other = odd_loras.save(tmp_path / "sd3.safetensors", odd_loras.diffusers(odd_loras.factors("sd35", text=False)))
    with pytest.raises(UsageError, match="different families"):
        merge_loras([Strong(three[0], 1.0), Strong(other, 1.0)], out, WATCHER)
    wide = {p: (torch.cat([down, down], 1), up) for p, (down, up) in odd_loras.factors("sd15").items()}
    odd_loras.save(tmp_path / "wide.safetensors", odd_loras.diffusers(wide))
    with pytest.raises(DataError, match="different sizes"):
        merge_loras([Strong(three[0], 1.0), Strong(tmp_path / "wide.safetensors", 1.0)], out, WATCHER)
    word = odd_loras.save(tmp_path / "toy.safetensors", {"<toy>": torch.ones(2, 96)})
    with pytest.raises(UsageError, match="adds nothing to a layer"):
        merge_loras([Strong(three[0], 1.0), Strong(word, 1.0)], out, WATCHER)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("merge one.safetensors:0.5 two.safetensors --out new.safetensors", 0),
        ("merge one.safetensors two.safetensors --rank 3 --out new.safetensors --json", 0),
        ("merge one.safetensors --out new.safetensors", 2),
        ("merge one.safetensors:0 two.safetensors --out new.safetensors", 2),
        ("merge one.safetensors two.safetensors --out new.pt", 2),
        ("merge one.safetensors two.safetensors --out two.safetensors", 2),
        ("merge one.safetensors two.safetensors --base toybox --rank 3 --out new.safetensors", 2),
        ("merge one.safetensors two.safetensors --backbone sd15 --out new.safetensors", 2),
        ("merge one.safetensors absent.safetensors --out new.safetensors", 65),
        ("resize one.safetensors --rank 2 --out new.safetensors --json", 0),
        ("resize one.safetensors --out new.safetensors", 2),
        ("resize one.safetensors --rank 2 --energy 0.5 --out new.safetensors", 2),
        ("resize one.safetensors --rank 2 --keys peft --out new.safetensors", 2),
        ("resize one.safetensors --rank 2 --dtype fp8 --out new.safetensors", 2),
    ],
    ids=str,
)
def test_on_the_command_line(three, tmp_path, monkeypatch, capsys, words, code):
    monkeypatch.chdir(tmp_path)
    before = three[1].read_bytes()
    assert call(words.split()) == code, capsys.readouterr()
    assert (tmp_path / "new.safetensors").exists() == (code == 0)
    assert three[1].read_bytes() == before
    assert not list(tmp_path.glob(".tmp*"))
    if code == 0 and "--json" not in words:
        assert "of the energy kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("export two.safetensors --to comfyui --out new.safetensors", 0),
        ("export two.safetensors --to a1111 --out new.safetensors --json", 0),
        ("export one.safetensors --to comfyui --out new.safetensors", 2),
        ("export joint.safetensors --to comfyui --out new.safetensors", 2),
        ("export joint.safetensors --to a1111 --out new.safetensors", 2),
        ("export one.safetensors --to diffusers --dtype fp16 --out new.safetensors", 2),
        ("export one.safetensors --to single-file --out new.safetensors", 2),
        ("export toybox --to single-file --backbone sd15 --out new.safetensors", 0),
        ("export toybox --to single-file --backbone sd35 --dtype fp32 --out new.safetensors", 0),
        ("export toybox --to single-file --out new.safetensors", 2),
    ],
    ids=str,
)
def test_exports_for_tools_by_their_name(three, tmp_path, monkeypatch, capsys, words, code):
    monkeypatch.chdir(tmp_path)
    odd_loras.save(tmp_path / "joint.safetensors", odd_loras.diffusers(odd_loras.factors("sd35", text=False)))
    assert call(words.split()) == code, capsys.readouterr()
    new = tmp_path / "new.safetensors"
    assert new.exists() == (code == 0)
    if "two" in words:
        assert all(key.startswith("lora_") for key in read_header(new).tensors)
        assert near(effects(new), effects(three[1]))
    elif code == 0:
        kinds = {entry.dtype for entry in read_header(new).tensors.values()}
        assert kinds == ({"F32"} if "fp32" in words else {"F16"})
