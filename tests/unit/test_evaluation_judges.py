"""Judges: what they see of a picture, and every way in which their files can be unfit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tuner import toybox
from tuner.errors import DataError, NumbersError
from tuner.evaluation import judge_files, judges

CPU = torch.device("cpu")


def noisy(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.fixture
def clip_folder(tmp_path) -> Path:
    """A copy of the shipped judge, to be spoilt."""
    return Path(shutil.copytree(toybox.judge("clip"), tmp_path / "clip"))


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory) -> Path:
    """A vision transformer of DINO's first generation: published without the pooling layer that transformers adds."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("vit")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ViTModel(ViTConfig(image_size=64, patch_size=8, **shape), add_pooling_layer=False)
    model.save_pretrained(folder)
    shutil.copy(toybox.judge("dino") / "preprocessor_config.json", folder)
    return folder


def test_directions_have_length_1_and_do_not_depend_on_neighbours():
    judge = judges.clip(toybox.judge("clip"), CPU)
    pictures = [noisy(n) for n in range(judges.BATCH + 3)]
    rows = judge.pictures(pictures)
    assert rows.shape[0] == len(pictures)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert judge.pictures(pictures[-1:])[0] == pytest.approx(rows[-1], abs=1e-5)


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_a_picture_is_prepared_as_its_settings_say(name):
    """Shortest side to 64 (bicubic), the middle cut out, mean and deviation 0.5: written out here."""
    picture = noisy(3, (200, 120))
    judge = getattr(judges, name)(toybox.judge(name), CPU)
    found = judge.processor(images=[picture], return_tensors="pt")["pixel_values"][0].numpy()
    wide = int(64 * 200 / 120)
    left = (wide - 64) // 2
    small = picture.resize((wide, 64), Image.Resampling.BICUBIC).crop((left, 0, left + 64, 64))
    wanted = (np.asarray(small, np.float32) / 255 - 0.5) / 0.5
    assert found == pytest.approx(wanted.transpose(2, 0, 1), abs=1e-5)


def test_another_transformer_is_read_at_its_class_token(vit_folder):
    """Its pooling layer has random weights, and other ones at every loading."""
    from transformers import ViTModel

    one, two = (judges.dino(vit_folder, CPU).pictures([noisy(1)]) for _ in range(2))
    assert (one == two).all()
    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval()
    values = torch.from_numpy((np.asarray(noisy(1), np.float32) / 255 - 0.5).transpose(2, 0, 1) / 0.5)
    with torch.inference_mode():
        token = model(pixel_values=values[None]).last_hidden_state[0, 0]
    assert one[0] == pytest.approx((token / token.norm()).numpy(), abs=1e-4)


def test_what_is_too_long_is_cut_whatever_the_tokenizer_says(clip_folder):
    settings = clip_folder / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf-8"))
    del told["model_max_length"]
    settings.write_text(json.dumps(told), encoding="utf-8")
    said = "a red star " * 100
    assert judges.clip(clip_folder, CPU).texts([said, said + "a blue house"]).shape[0] == 2


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def headless(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "projection" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def other_kind(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(toybox.judge("dino") / name, folder)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGE = {
    "cut weights": (cut_weights, "cannot be loaded"),
    "no heads": (headless, "weights are missing: text_projection.weight"),
    "another kind of model": (other_kind, "cannot be loaded"),
    "weights that can run code": (pickled, "has no model.safetensors"),
    "no settings": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "settings cut": (lambda folder: (folder / "config.json").write_text('{"model_type":'), "cannot be loaded"),
    "no words": (lambda folder: (folder / "vocab.json").unlink(), "has no tokenizer.json or vocab.json"),
    "no preparation": (lambda folder: (folder / "preprocessor_config.json").unlink(), "has no preprocessor_config"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_unfit_files_are_refused_by_name(clip_folder, name):
    spoil, said = DAMAGE[name]
    spoil(clip_folder)
    with pytest.raises(DataError, match=said) as caught:
        judges.clip(clip_folder, CPU)
    assert str(clip_folder) in caught.value.message
    assert "--clip" in caught.value.message


def test_numbers_that_are_not_finite_are_no_measure(clip_folder):
    weights = load_file(clip_folder / "model.safetensors")
    spoilt = {name: value * float("nan") for name, value in weights.items()}
    save_file(spoilt, clip_folder / "model.safetensors", metadata={"format": "pt"})
    judge = judges.clip(clip_folder, CPU)
    with pytest.raises(NumbersError, match="not finite"):
        judge.pictures([noisy(0)])
    with pytest.raises(NumbersError, match="not finite"):
        judge.texts(["a star"])


def test_code_that_comes_with_a_model_is_not_run(clip_folder):
    marker = clip_folder / "ran"
    (clip_folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n", encoding="utf-8")
    settings = clip_folder / "config.json"
    told = json.loads(settings.read_text(encoding="utf-8")) | {"auto_map": {"AutoModel": "own.Own"}}
    settings.write_text(json.dumps(told), encoding="utf-8")
    judges.clip(clip_folder, CPU)
    assert not marker.exists()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty Hub cache and no network; asking it is an error that says so."""
    from huggingface_hub import constants

    place = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return place


def test_a_model_that_is_not_here_is_named_with_what_to_do(cache):
    with pytest.raises(
        DataError, match=r"--dino facebook/dinov2-small: .* not on this machine, and HF_HUB_OFF"
    ) as caught:
        judges.dino(judges.DINO, CPU)
    assert "hf download facebook/dinov2-small" in caught.value.hint
    assert "--dino" in caught.value.hint


def test_a_model_in_the_cache_needs_no_network(cache, monkeypatch):
    import huggingface_hub

    repository = cache / "models--somebody--clip"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(toybox.judge("clip"), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert judge_files.find("somebody/clip", "--clip", reads=True) == snapshot
    assert judges.clip("somebody/clip", CPU).texts(["a star"]).shape[0] == 1


@pytest.mark.parametrize("source", ["/nowhere/model", "nothing", "a/b/c", "../up", Path("relative/folder")])
def test_what_is_neither_a_folder_nor_an_id_is_refused(source, cache):
    with pytest.raises(DataError, match="no such folder"):
        judges.find_clip(source)
