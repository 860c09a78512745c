"""Weights come and go: a component that was away is as if it had never been, and no phase holds what another needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tuner
from tuner import toybox
from tuner.backbones import Backbone
from tuner.recipe import Recipe
from tuner.sampling import Shot, paint, read_ahead
from tuner.watch import Watcher

CPU = torch.device("cpu")


@pytest.fixture(params=["sd15", "sd35"])
def backbone(request, sd35_folder) -> Backbone:
    model = "toybox" if request.param == "sd15" else str(sd35_folder)
    return Backbone.read(
        {"name": request.param, "model": model, **({"t5_length": 20} if request.param == "sd35" else {})}
    )


def held(model) -> dict[str, int]:
    """Bytes in memory by component."""
    return {
        name: sum(v.nbytes for v in module.state_dict().values() if v.device.type != "meta")
        for name, module in model.components.items()
    }


def same(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    buffers, known = dict(one.named_buffers()), dict(other.named_buffers())
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(value, theirs[key]) and value.dtype == theirs[key].dtype for key, value in mine.items())
        and buffers.keys() == known.keys()
        and all(torch.equal(value, known[key]) for key, value in buffers.items())
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_component_that_was_away_is_as_if_it_had_never_been(backbone, dtype):
    plain = backbone.load(device=CPU, dtype=dtype)
    model = backbone.load(device=CPU, dtype=dtype, read=("vae",))
    assert {name for name, size in held(model).items() if size} == {"vae"}
    for name, module in model.components.items():
        first = next(module.parameters())
        assert first.dtype == next(plain.components[name].parameters()).dtype, "its type is known before it is read"
        assert not any(p.requires_grad for p in module.parameters())
        for _ in range(2):
            with model.at_hand([name]):
                assert same(module, plain.components[name])
                assert not any(part.training for part in module.modules())
                if name == "text_encoder_3":
                    assert module.encoder.embed_tokens.weight is module.shared.weight
    assert {name for name, size in held(model).items() if size} == {"vae"}


def test_to_compute_with_what_is_away_is_an_error(backbone):
    model = backbone.load(device=CPU, dtype=torch.float32, read=())
    assert not any(held(model).values())
    with pytest.raises((NotImplementedError, RuntimeError), match="meta|scalarType"):
        model.encode_text(model.tokenize(["a dog"])).to(CPU)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        model.encode_images(torch.zeros(1, 3, 64, 64)).mean.sum().item()


def test_pictures_need_no_text_encoder_for_prompts_that_were_read_ahead(backbone):
    """And they are those that a whole model draws, bit for bit."""
    shots = [Shot("a photo of a dog", "", 0, (64, 64), 2, 3.0), Shot("a cup", "", 1, (64, 64), 2, 1.0)]
    plain = backbone.load(device=CPU, dtype=torch.float32)
    model = backbone.load(device=CPU, dtype=torch.float32, read=(plain.denoiser_name,))
    with model.at_hand(model.text_encoders):
        read_ahead(model, shots, CPU)

    def refuse(*_):
        raise AssertionError("a text encoder was asked")

    encode, model.encode_text = model.encode_text, refuse
    found = paint(model, shots)
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(found, paint(plain, shots), strict=True))
    assert {name for name, size in held(model).items() if size} == {model.denoiser_name}, "the VAE is away again"
    with pytest.raises(AssertionError, match="was asked"):
        paint(model, [Shot("another", "", 0, (64, 64), 2, 3.0)])
    model.encode_text = encode
    model.forget()
    assert not model.remembers(["", "a photo of a dog"], CPU)


class Phases(Watcher):
    """What was in memory in each phase, at every sign of life."""

    def __init__(self) -> None:
        self.model = None
        self.name, self.seen = "", []

    def phase(self, name, *_):
        self.name = name
        self._look()

    def progress(self, *_):
        self._look()

    def metrics(self, *_):
        self._look()

    def _look(self):
        if self.model is not None:
            self.seen.append((self.name, {n: size for n, size in held(self.model).items() if size}))

    def together(self, phase: str) -> set[frozenset[str]]:
        return {frozenset(sizes) for name, sizes in self.seen if name == phase}


def watched(backbone, tmp_path, monkeypatch, *, steps=2, adapters=None, data=None, sample=None) -> Phases:
    watcher, load = Phases(), type(backbone).load

    def keep(self, **keys):
        watcher.model = load(self, **keys)
        return watcher.model

    monkeypatch.setattr(type(backbone), "load", keep)
    images = {"path": str(toybox.pictures()), "caption": "a photo of a dog"}
    recipe = Recipe.model_validate(
        {
            "backbone": backbone,
            "adapters": {"name": "lora", "rank": 2, **(adapters or {})},
            "task": "dreambooth" if data else "finetune",
            "data": {"resolution": 64, "bucket_step": 16, **(data or {"images": images})},
            "train": {"steps": steps, "lr": 1e-3, "device": "cpu", "precision": "fp32"},
            "sample": sample or {},
            "log": {"every": 1},
        }
    )
    tuner.run(recipe, run_dir=tmp_path / "run", watchers=[watcher])
    return watcher


def test_no_two_of_text_encoders_vae_and_denoiser_are_in_memory_together(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    watcher = watched(backbone, tmp_path, monkeypatch)
    model = watcher.model
    texts, vae, denoiser = frozenset(model.text_encoders), frozenset({"vae"}), frozenset({model.denoiser_name})
    assert watcher.together("caching") == {frozenset(), texts, vae}
    assert watcher.together("training") == {denoiser}
    plain = backbone.load(device=CPU, dtype=torch.float32)
    sizes = held(plain)
    largest = max(sum(sizes[n] for n in group) for group in (texts, vae, denoiser))
    peak = max(sum(found.values()) for _, found in watcher.seen)
    lora = sum(found[model.denoiser_name] for _, found in watcher.seen[-1:]) - sizes[model.denoiser_name]
    assert peak <= largest + lora < sum(sizes.values())


def test_what_is_cached_already_is_not_read_again(backbone, tmp_path, monkeypatch):
    """A run that goes on does not wait for a text encoder's weights but to read what it will draw or try."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    first = watched(backbone, tmp_path, monkeypatch)
    monkeypatch.undo()
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    second = watched(backbone, tmp_path, monkeypatch, steps=3)
    assert frozenset({"vae"}) in first.together("caching")
    assert frozenset({"vae"}) not in second.together("caching")


def test_samples_keep_the_vae_and_training_text_keeps_its_encoders(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    sample = {"every": 2, "prompts": ["a photo of a dog"], "steps": 1, "guidance": 1.0}
    watcher = watched(backbone, tmp_path, monkeypatch, sample=sample)
    denoiser = watcher.model.denoiser_name
    assert watcher.together("training") == watcher.together("sampling") == {frozenset({denoiser, "vae"})}
    monkeypatch.undo()
    watcher = watched(backbone, tmp_path / "text", monkeypatch, adapters={"text_encoder_lr": 1e-3}, sample=sample)
    assert watcher.together("training") == {frozenset(watcher.model.components)}
    assert not watcher.model.remembered, "what trains is read anew"


def test_class_pictures_are_drawn_without_the_text_encoders(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    data = {
        "instance": {"path": str(toybox.pictures()), "caption": "a photo of sks dog"},
        "prior": {"generate": 2, "caption": "a photo of a dog", "steps": 1},
    }
    watcher = watched(backbone, tmp_path, monkeypatch, data=data, adapters={"text_encoder_lr": 1e-3})
    both = frozenset({watcher.model.denoiser_name, "vae"})
    assert both in watcher.together("class pictures")
    assert watcher.together("class pictures") <= {both, frozenset()}
    assert not watcher.model.remembered
