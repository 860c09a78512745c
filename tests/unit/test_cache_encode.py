"""Encoding: each picture and caption once, alone, under a key that changes with whatever changes the numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tuner.backbones import Backbone
from tuner.data import cache_writer, images
from tuner.data.cache import Cache
from tuner.data.encode import Picture, encode_captions, encode_pictures, load, picture_key
from tuner.data.encode_text import text_identity
from tuner.data.scan import Example
from tuner.errors import DataError, NumbersError, Stopped, StorageError
from tuner.types import Cond, Posterior
from tuner.watch import Watcher

SIZE = (32, 16)


class Log(Watcher):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.phases: list[tuple[str, int | None, int]] = []
        self.done: list[int] = []

    def warn(self, text):
        self.warnings.append(text)

    def phase(self, name, total=None, done=0):
        self.phases.append((name, total, done))

    def progress(self, done):
        self.done.append(done)


class Counting:
    """A model that counts its passes. Everything else is the real one's."""

    def __init__(self, model) -> None:
        self._model, self.images, self.texts = model, 0, 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode_images(self, pixels):
        self.images += len(pixels)
        return self._model.encode_images(pixels)

    def encode_text(self, tokens):
        self.texts += 1
        return self._model.encode_text(tokens)


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNER_CACHE", str(tmp_path_factory.mktemp("toybox")))
        part = Backbone.read({"name": "sd15", "model": "toybox"})
        model = part.load(device=torch.device("cpu"), dtype=torch.float32)
        model.identity("vae")
        model.identity("text_encoder")
    return model


@pytest.fixture
def model(toybox):
    return Counting(toybox)


def png(seed: int, size=(40, 24)) -> bytes:
    noise = np.random.Generator(np.random.Philox(seed))
    out = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


def example(name: str, data: bytes, reads: list[str] | None = None) -> Example:
    def read() -> bytes:
        if reads is not None:
            reads.append(name)
        return data

    digest = hashlib.sha256(data).hexdigest()
    return Example(digest[:16], digest, name, "images", (40, 24), ("a dog",), 1, 1.0, read, "recipe")


def wanted(*examples: Example, flips=(False,), sizes=(SIZE,)) -> list[Picture]:
    return [Picture(one, size, flip) for one in examples for size in sizes for flip in flips]


def fill(model, pictures, cache, background="white", watcher=None, **more):
    return encode_pictures(model, pictures, cache, background=background, watcher=watcher or Watcher(), **more)


def latents(model, cache, picture, background="white"):
    key = picture_key(model.identity("vae"), picture.example.digest, picture.size, picture.flip, background)
    return load(cache, "latents", key)


def test_records_are_what_the_model_says_of_the_picture(model, tmp_path):
    one = example("a.png", png(1))
    pictures = wanted(one, flips=(False, True))
    cache = Cache(tmp_path)
    assert fill(model, pictures, cache) == []
    for picture in pictures:
        pixels = images.fit(images.decode(one.read(), "a.png", "white"), SIZE)
        pixels = pixels[:, ::-1].copy() if picture.flip else pixels
        scaled = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            posterior = model.encode_images(scaled)
        found = latents(model, cache, picture)
        assert found["mean"].shape == (model.channels, SIZE[1] // model.factor, SIZE[0] // model.factor)
        np.testing.assert_allclose(found["mean"], posterior.mean[0].numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(found["logvar"], posterior.logvar[0].numpy(), rtol=0, atol=1e-6)
    plain, mirrored = (latents(model, cache, picture)["mean"] for picture in pictures)
    assert not np.allclose(mirrored, plain[..., ::-1], atol=1e-3), (
        "a mirrored picture is encoded, not a mirrored latent"
    )


def test_each_file_is_read_and_each_variant_encoded_once(model, tmp_path):
    reads: list[str] = []
    examples = [example(f"{n}.png", png(n), reads) for n in range(5)]
    pictures = wanted(*examples, flips=(False, True), sizes=(SIZE, (16, 16)))
    log, cache = Log(), Cache(tmp_path)
    fill(model, pictures + pictures, cache, watcher=log)
    assert sorted(reads) == [one.name for one in examples]
    assert model.images == 20
    assert log.phases == [("caching", 20, 0)]
    assert log.done[-1] == 20
    fill(model, pictures, Cache(tmp_path), watcher=log)
    assert (model.images, len(reads)) == (20, 5), "nothing is encoded, read or decoded again"
    assert log.phases[-1] == ("caching", 20, 20)


def test_an_edited_picture_encodes_only_itself(model, tmp_path):
    examples = [example(f"{n}.png", png(n)) for n in range(4)]
    fill(model, wanted(*examples), Cache(tmp_path))
    before = [latents(model, Cache(tmp_path), picture)["mean"].copy() for picture in wanted(*examples)]
    examples[2] = example("2.png", png(77))
    model.images = 0
    fill(model, wanted(*examples), Cache(tmp_path))
    after = [latents(model, Cache(tmp_path), picture)["mean"] for picture in wanted(*examples)]
    assert model.images == 1
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True]


def test_order_and_names_do_not_matter(model, tmp_path):
    """Files renamed, reordered and swapped: everything is found, and under its own content."""
    examples = [example(f"{n}.png", png(n)) for n in range(4)]
    fill(model, wanted(*examples), Cache(tmp_path))
    before = {one.digest: latents(model, Cache(tmp_path), Picture(one, SIZE, False))["mean"].copy() for one in examples}
    model.images = 0
    renamed = [dataclasses.replace(one, name=f"{9 - n}.png") for n, one in enumerate(reversed(examples))]
    fill(model, wanted(*renamed), Cache(tmp_path))
    assert model.images == 0
    for one in renamed:
        assert np.array_equal(latents(model, Cache(tmp_path), Picture(one, SIZE, False))["mean"], before[one.digest])


def test_numbers_do_not_depend_on_what_else_is_encoded(model, tmp_path):
    """A cache completed after a kill holds the same bits as one filled in one go."""
    examples = [example(f"{n}.png", png(n)) for n in range(6)]
    fill(model, wanted(*examples), Cache(tmp_path / "whole"))
    for chunk in (examples[3:4], examples[1:3], examples):
        fill(model, wanted(*chunk), Cache(tmp_path / "pieces"))
    for picture in wanted(*examples):
        whole, pieces = (latents(model, Cache(tmp_path / name), picture) for name in ("whole", "pieces"))
        assert np.array_equal(whole["mean"], pieces["mean"])
        assert np.array_equal(whole["logvar"], pieces["logvar"])


def test_pictures_that_do_not_decode_are_refused_by_name_and_the_rest_is_there(model, tmp_path):
    whole = png(3)
    gone = dataclasses.replace(example("gone.png", png(8)), read=_gone)
    edited = dataclasses.replace(example("edited.png", png(9)), read=lambda: png(10))
    twins = [example(name, whole[: len(whole) // 2]) for name in ("cut.png", "copy.png")]
    examples = [example("a.png", png(1)), *twins, gone, edited, example("b.png", png(2))]
    cache, log = Cache(tmp_path), Log()
    refused = fill(model, wanted(*examples, flips=(False, True)), cache, watcher=log)
    assert sorted(one.name for one in refused) == ["copy.png", "cut.png", "edited.png", "gone.png"]
    assert all(one.reason and one.name not in one.reason for one in refused)
    assert model.images == 4
    assert log.done[-1] == log.phases[0][1]
    assert all(latents(model, cache, picture) for picture in wanted(examples[0], examples[-1], flips=(False, True)))
    assert cache.get("latents", picture_key(model.identity("vae"), edited.digest, SIZE, False, "white")) is None


def _gone() -> bytes:
    raise DataError("gone.png: no such file")


@pytest.mark.parametrize("part", ["mean", "logvar"])
def test_latents_that_are_not_finite_name_the_picture_and_keep_what_was_done(model, tmp_path, part):
    examples = [example(f"{n}.png", png(n)) for n in range(4)]
    real = model._model.encode_images

    def spoiled(pixels):
        model.images += 1
        posterior = real(pixels)
        tensors = {"mean": posterior.mean, "logvar": posterior.logvar}
        if model.images == 3:
            tensors[part] = torch.where(tensors[part] > tensors[part].mean(), torch.nan, tensors[part])
        return Posterior(**tensors)

    model.encode_images = spoiled
    with pytest.raises(NumbersError, match=r"\d\.png: the VAE of toybox gives it a " + part):
        fill(model, wanted(*examples), Cache(tmp_path))
    assert sum(entry.count for entry in Cache(tmp_path).entries()) == 2


def test_the_vae_stays_in_float32(model, tmp_path):
    seen = []
    real = model._model.encode_images

    def look(pixels):
        seen.append((pixels.dtype, torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()))
        return real(pixels)

    model.encode_images = look
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fill(model, wanted(example("a.png", png(1))), Cache(tmp_path / "autocast"))
    fill(model, wanted(example("a.png", png(1))), Cache(tmp_path / "plain"))
    assert seen == [(torch.float32, False, True)] * 2
    picture = wanted(example("a.png", png(1)))[0]
    one, two = (latents(model, Cache(tmp_path / name), picture) for name in ("autocast", "plain"))
    assert np.array_equal(one["mean"], two["mean"])
    half = SimpleNamespace(
        vae=torch.nn.Linear(2, 2).half(),
        identity=model.identity,
        backbone=model.backbone,
        at_hand=lambda *_: nullcontext(),
    )
    with pytest.raises(ValueError, match="float32"):
        fill(half, wanted(example("a.png", png(1))), Cache(tmp_path / "half"))


def test_stopping_between_pictures_keeps_what_was_done(model, tmp_path):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 4:
            raise Stopped("stopped", 2)

    examples = [example(f"{n}.png", png(n)) for n in range(6)]
    with pytest.raises(Stopped):
        fill(model, wanted(*examples), Cache(tmp_path), check=check)
    assert sum(entry.count for entry in Cache(tmp_path).entries()) == 3
    model.images = 0
    fill(model, wanted(*examples), Cache(tmp_path))
    assert model.images == 3


def test_packs_are_written_as_they_fill(model, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_writer, "PACK_BYTES", 3 * 2 * 4 * 4 * 4 * 8)  # three records
    examples = [example(f"{n}.png", png(n)) for n in range(7)]
    fill(model, wanted(*examples), Cache(tmp_path))
    assert [entry.count for entry in Cache(tmp_path).entries()] == [3, 3, 1]
    monkeypatch.setattr(cache_writer, "PACK_SECONDS", 0.0)
    fill(model, wanted(*examples), Cache(tmp_path / "slow"))
    assert [entry.count for entry in Cache(tmp_path / "slow").entries()] == [1] * 7


def test_a_damaged_record_is_named_and_encoded_again_alone(model, tmp_path):
    examples = [example(f"{n}.png", png(n)) for n in range(4)]
    fill(model, wanted(*examples), Cache(tmp_path))
    (path,) = (tmp_path / "packs" / "latents").iterdir()
    path.write_bytes(path.read_bytes()[:-2] + b"\0\1")
    model.images, log = 0, Log()
    fill(model, wanted(*examples), Cache(tmp_path), watcher=log)
    assert model.images == 1
    assert len(log.warnings) == 1
    assert path.name in log.warnings[0]


def test_a_full_disk_stops_with_a_storage_error(model, tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        fill(model, wanted(example("a.png", png(1))), Cache(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_fifty_edits_and_not_one_stale_hit(model, tmp_path):
    """Whatever of a picture's encoding changes, the old record is not taken for the new one."""
    cache = Cache(tmp_path)
    draw = np.random.Generator(np.random.Philox(5))
    data, size, flip, background = png(0), SIZE, False, "white"
    identity = model.identity("vae")
    seen: set[str] = set()
    for n in range(50):
        match n % 5:
            case 0:
                data = png(100 + n)
            case 1:
                size = (16 * int(draw.integers(1, 4)), 8 * (n + 1))
            case 2:
                flip = not flip
            case 3:
                background = {"white": "black", "black": "grey", "grey": "white"}[background]
            case 4:
                identity = hashlib.sha256(bytes([n])).hexdigest()
        one = example("same.png", data)
        key = picture_key(identity, one.digest, size, flip, background)
        hit = cache.get("latents", key)
        assert (hit is None) == (key not in seen)
        assert key not in seen
        seen.add(key)
        cache.put("latents", {key: {"mean": np.full((1, 2, 2), n, np.float32)}})
    assert len(seen) == 50


def test_captions_are_encoded_once_each_and_found_by_text(model, tmp_path):
    captions = ["a dog", "a cat", "a dog", "", "ein Hund — 犬"]
    log, cache = Log(), Cache(tmp_path)
    keys = encode_captions(model, captions, cache, watcher=log)
    assert keys.keys() == set(captions)
    assert len(set(keys.values())) == model.texts == 4
    assert log.phases == [("caching", 4, 0)]
    with torch.no_grad():
        cond = model.encode_text(model.tokenize(["a cat"]))
    found = load(cache, "text", keys["a cat"])
    assert found.keys() == cond.tensors.keys()
    for name, tensor in cond.tensors.items():
        assert found[name].shape == tuple(tensor.shape[1:])
        np.testing.assert_allclose(found[name], tensor[0].numpy(), rtol=0, atol=1e-6)
    model.texts = 0
    assert encode_captions(model, ["a cat", "a dog", "a bird"], Cache(tmp_path), watcher=log)["a cat"] == keys["a cat"]
    assert model.texts == 1, "only the new caption is encoded"


def test_captions_that_are_cut_are_told_with_what_they_lose(model, tmp_path):
    log = Log()
    long = [f"{word} " * 100 + f"{word} tail" for word in ("dog", "cat", "red", "big", "one", "two", "sun")]
    encode_captions(model, [*long, "short"], Cache(tmp_path), watcher=log)
    assert log.warnings[0].startswith("7 of 8 captions")
    assert "loses" in log.warnings[1]
    assert "2 more" in log.warnings[-1]
    again = Log()
    encode_captions(model, [*long, "short"], Cache(tmp_path), watcher=again)
    assert again.warnings == log.warnings, "a cached caption is cut all the same"


def test_the_text_key_follows_the_encoder_its_dtype_and_the_options(toybox):
    def shaped(**more):
        base = {
            "text_encoders": {"text_encoder": torch.nn.Linear(2, 2)},
            "identity": lambda name: "one",
            "backbone": toybox.backbone,
        }
        return SimpleNamespace(**{**base, **more})

    other_place = Backbone.read({"name": "sd15", "model": "elsewhere/sd15", "revision": "main"})
    other_layer = Backbone.read({"name": "sd15", "model": "toybox", "clip_skip": 2})
    plain = text_identity(shaped())
    assert text_identity(shaped(backbone=other_place)) == plain, "where the model lies does not matter"
    different = [
        text_identity(shaped(backbone=other_layer)),
        text_identity(shaped(identity=lambda name: "two")),
        text_identity(shaped(text_encoders={"text_encoder": torch.nn.Linear(2, 2).bfloat16()})),
    ]
    assert len({plain, *different}) == 4


def test_embeddings_that_are_not_finite_name_the_caption(model, tmp_path):
    model.encode_text = lambda tokens: Cond({"text": torch.full((1, 77, 8), torch.inf)})
    with pytest.raises(NumbersError, match="caption 'a dog'"):
        encode_captions(model, ["a dog"], Cache(tmp_path), watcher=Watcher())


def test_captions_of_a_text_encoder_that_trains_are_not_cached(model, tmp_path):
    model.learns_text = lambda: True
    with pytest.raises(ValueError, match="cannot be cached"):
        encode_captions(model, ["a dog"], Cache(tmp_path), watcher=Watcher())


CHILD = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {here!r})
    import torch
    import test_cache_encode as t
    from tuner.backbones import Backbone
    from tuner.data import cache_writer
    cache_writer.PACK_SECONDS = 0.05
    model = Backbone.read({{"name": "sd15", "model": "toybox"}}).load(device=torch.device("cpu"), dtype=torch.float32)
    class Slow(t.Watcher):
        def progress(self, done):
            print(done, flush=True)
    examples = [t.example(f"{{n}}.png", t.png(n)) for n in range(400)]
    t.fill(model, t.wanted(*examples), t.Cache(Path({root!r})), watcher=Slow())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_while_encoding_and_completed_is_bitwise_the_whole(model, tmp_path):
    examples = [example(f"{n}.png", png(n)) for n in range(400)]
    fill(model, wanted(*examples), Cache(tmp_path / "whole"))
    root = tmp_path / "killed"
    kills = 0
    for stop_at in (20, 90, 200):
        code = textwrap.dedent(CHILD).format(here=os.path.dirname(__file__), root=str(root))
        env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # it may change the last bits
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        for line in child.stdout:
            if int(line) >= stop_at:
                break
        child.kill()
        child.communicate()
        kills += child.returncode == -signal.SIGKILL
    assert kills == 3
    before = sum(entry.count for entry in Cache(root).entries())
    assert 0 < before < 400
    fill(model, wanted(*examples), Cache(root))
    for picture in wanted(*examples):
        one, two = (latents(model, Cache(folder), picture) for folder in (tmp_path / "whole", root))
        assert np.array_equal(one["mean"], two["mean"])
