"""Pictures depend on their shot alone, and drawing leaves no trace on the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tuner.errors import NumbersError
from tuner.sampling import Shot, paint, start_noise


def numbers(pictures):
    return [np.asarray(p).astype(int) for p in pictures]


SHOTS = [
    Shot("a photo of a dog", "", 1, (64, 64), 4, 7.5),
    Shot("a cat", "ugly", 2, (64, 64), 4, 7.5),
    Shot("a photo of a dog", "", 1, (64, 64), 4, 7.5),
    Shot("a house", "", 3, (48, 64), 4, 7.5),
    Shot("a house", "", 3, (64, 64), 3, 1.0, "ddim"),
    Shot("a tree", "", 5, (64, 64), 4, 7.5),
]


def test_batch_size_and_neighbours_do_not_matter(sd15_model):
    alone = numbers(paint(sd15_model, SHOTS, batch=1))
    for batch in (2, 4):
        together = numbers(paint(sd15_model, SHOTS, batch=batch))
        assert max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)) <= 1
    backwards = numbers(paint(sd15_model, SHOTS[::-1], batch=1))[::-1]
    assert all((a == b).all() for a, b in zip(alone, backwards, strict=True))
    assert (alone[0] == alone[2]).all()
    assert np.abs(alone[0] - alone[1]).max() > 1
    assert alone[3].shape == (64, 48, 3)


def test_no_guidance_is_one_pass_without_the_negative(sd15_model, monkeypatch):
    sizes = []
    denoise = sd15_model.denoise
    monkeypatch.setattr(sd15_model, "denoise", lambda x, t, c: (sizes.append(len(x)), denoise(x, t, c))[1])
    first = numbers(paint(sd15_model, [Shot("a dog", "one", 0, (64, 64), 2, 1.0)]))
    second = numbers(paint(sd15_model, [Shot("a dog", "two", 0, (64, 64), 2, 1.0)]))
    assert sizes == [1] * 4
    assert (first[0] == second[0]).all()
    paint(sd15_model, [Shot("a dog", "one", 0, (64, 64), 2, 1.5)])
    assert sizes[4:] == [2, 2]


def test_leaves_modes_gradients_and_generators_alone(sd15_model):
    sd15_model.denoiser.train()
    sd15_model.denoiser.mid_block.eval()
    trained = sd15_model.denoiser.conv_in.weight.requires_grad_()
    before = [m.training for c in sd15_model.components.values() for m in c.modules()]
    torch.manual_seed(4)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.enable_grad():
        paint(sd15_model, SHOTS[:1])
        assert torch.is_grad_enabled()
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert before == [m.training for c in sd15_model.components.values() for m in c.modules()]
    assert trained.requires_grad
    assert trained.grad is None
    assert not any(p.is_inference() for c in sd15_model.components.values() for p in c.parameters())


def test_modes_come_back_after_a_failure(sd15_model, monkeypatch):
    sd15_model.denoiser.train()
    monkeypatch.setattr(sd15_model, "denoise", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        paint(sd15_model, SHOTS[:1])
    assert sd15_model.denoiser.training
    assert all(m.training for m in sd15_model.denoiser.modules())


def test_noise_is_keyed_by_the_seed_alone(sd15_model):
    noise = start_noise(sd15_model, SHOTS[0])
    assert noise.shape == (4, 16, 16)
    torch.manual_seed(99)
    assert torch.equal(noise, start_noise(sd15_model, Shot("another", "prompt", 1, (64, 64), 9)))
    assert not torch.equal(noise, start_noise(sd15_model, Shot("another", "", 2, (64, 64))))


def test_numbers_that_are_not_finite_are_no_picture(sd15_model):
    with torch.no_grad():
        sd15_model.denoiser.conv_out.bias.fill_(float("nan"))
    with pytest.raises(NumbersError, match="a photo of a dog"):
        paint(sd15_model, SHOTS[:1])


def test_what_was_cut_off_a_prompt_is_told(sd15_model):
    """Trap 34: the real lost text, in the user's own spelling."""
    fits = " ".join(["Star"] * 75)
    found = sd15_model.tokenize([fits, fits + " Green  TREE, end", "", "a dog"])
    assert found.cut == ("", "Green  TREE, end", "", "")
    assert found.ids["text_encoder"].shape == (4, 77)
    assert found.ids["text_encoder"].dtype == torch.int64
    tokenizer = sd15_model.tokenizers["text_encoder"]
    theirs = tokenizer(
        [fits, fits + " Green  TREE, end", "", "a dog"], padding="max_length", max_length=77, truncation=True
    ).input_ids
    assert found.ids["text_encoder"].tolist() == theirs


def test_an_empty_caption_is_encoded_not_zeroed(sd15_model):
    """Trap 33."""
    text = sd15_model.encode_text(sd15_model.tokenize([""]))["text"]
    assert text.abs().mean() > 0.1
