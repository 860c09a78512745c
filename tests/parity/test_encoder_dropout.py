"""Leaving text encoders out: zeros as the pipeline has them, in cached embeddings and where the encoders train."""

from __future__ import annotations

import pytest
import torch
from tiny_sd35 import load_sd35

from tuner.backbones import sd35_text
from tuner.data.encoder_dropout import LEFT_OUT, EncoderDropout
from tuner.draws import Draws
from tuner.types import Cond, Tokens

PROMPTS = ["a photo of a red dog", "", "cup on grass"]
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
IDS = [("images", f"picture {i}", 0, 0) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def model(sd35_folder):
    return load_sd35(sd35_folder, t5_length=20)


@torch.no_grad()
def encoded(model, prompts=PROMPTS):
    return model.encode_text(model.tokenize(prompts))


def equal(one: Cond, other: Cond) -> bool:
    return all(torch.equal(one[name], other[name]) for name in ("text", "pooled"))


def test_a_t5_that_is_left_out_is_a_t5_that_is_not_there(model, sd35_folder):
    lost = model.without(encoded(model), {"text_encoder_3": torch.ones(3, dtype=torch.bool)})
    assert equal(lost, encoded(load_sd35(sd35_folder, t5_length=20, t5=False)))


@pytest.mark.parametrize("name", ENCODERS[:2])
@torch.no_grad()
def test_a_clip_that_is_left_out_is_a_clip_that_is_not_there(model, name):
    lost = model.without(encoded(model), {name: torch.ones(3, dtype=torch.bool)})
    config = model.denoiser.config
    others = {key: encoder for key, encoder in model.text_encoders.items() if key != name}
    sizes = {"pooled_width": config["pooled_projection_dim"], "width": config["joint_attention_dim"], "t5_length": 20}
    assert equal(lost, sd35_text.encode(others, model.tokenize(PROMPTS), **sizes))


def test_each_example_loses_its_own(model):
    whole = encoded(model)
    dropped = {name: torch.tensor([i == k for i in range(3)]) for k, name in enumerate(ENCODERS)}
    lost = model.without(whole, dropped)
    for row, name in enumerate(ENCODERS):
        alone = model.without(whole, {name: torch.ones(3, dtype=torch.bool)})
        assert torch.equal(lost["text"][row], alone["text"][row])
        assert torch.equal(lost["pooled"][row], alone["pooled"][row])
        assert not torch.equal(lost["text"][row], whole["text"][row])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_stored_embeddings_and_token_ids_lose_the_same(model, share):
    """Whether text is cached or its encoders train, a visit sees the same."""
    dropout = EncoderDropout(share, ENCODERS, model.without)
    from_cache = dropout(encoded(model), Draws(3), IDS)
    tokens = dropout(model.tokenize(PROMPTS), Draws(3), IDS)
    assert isinstance(from_cache, Cond)
    assert isinstance(tokens, Tokens)
    with torch.no_grad():
        assert equal(model.encode_text(tokens), from_cache)
    assert all(tokens.ids[name].dtype == torch.int64 for name in ENCODERS)
    changed = any((row == LEFT_OUT).all(1).any() for row in tokens.ids.values())
    assert changed == (not equal(from_cache, encoded(model))) == (share > 0)


def test_a_draw_depends_on_the_visit_and_the_encoder_alone(model):
    dropout = EncoderDropout(0.5, ENCODERS, model.without)
    ids = [("images", f"p{i}", 0, 0) for i in range(40)]
    tokens = model.tokenize(["a dog"] * 40)

    def lost(ids, tokens=tokens):
        found = dropout(tokens, Draws(1), ids)
        return {name: (rows[:, 0] == LEFT_OUT).tolist() for name, rows in found.ids.items()}

    straight, backward = lost(ids), lost(ids[::-1])
    assert all(straight[name] == backward[name][::-1] for name in ENCODERS)
    assert len({tuple(column) for column in straight.values()}) == len(ENCODERS), "each encoder has draws of its own"
    assert lost([(role, uid, 1, repeat) for role, uid, _, repeat in ids]) != straight


def test_shares_are_as_asked_and_independent(model):
    """At SD3's 46.3 % for each of three, a tenth of the visits is without any text (Esser et al. 2024)."""
    count, share = 3000, 0.463
    tokens = Tokens({name: torch.ones(count, 2, dtype=torch.int64) for name in ENCODERS})
    found = EncoderDropout(share, ENCODERS, model.without)(
        tokens, Draws(0), [("images", f"p{i}", 0, 0) for i in range(count)]
    )
    lost = [[bool(found.ids[name][i, 0] == LEFT_OUT) for name in ENCODERS] for i in range(count)]
    for column in zip(*lost, strict=True):
        assert abs(sum(column) / count - share) < 4 * (share * (1 - share) / count) ** 0.5
    alone = sum(all(row) for row in lost) / count
    assert abs(alone - share**3) < 4 * (share**3 * (1 - share**3) / count) ** 0.5


def test_a_clip_that_is_left_out_gets_no_gradient_from_that_example(sd35_folder):
    model = load_sd35(sd35_folder, t5_length=20)
    encoder = model.text_encoders["text_encoder"].requires_grad_(requires_grad=True)
    tokens = model.tokenize(PROMPTS)
    ids = {name: rows.clone() for name, rows in tokens.ids.items()}
    ids["text_encoder"][:] = LEFT_OUT
    model.encode_text(Tokens(ids))["text"].square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in encoder.parameters())
    ids["text_encoder"][1] = tokens.ids["text_encoder"][1]
    model.encode_text(Tokens(ids))["text"].square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_a_base_with_one_text_encoder_refuses_to_leave_it_out(sd15_model):
    from pydantic import ValidationError

    from tuner.recipe import Recipe

    tree = {
        "backbone": {"name": "sd15", "model": "toybox"},
        "adapters": "lora",
        "task": "finetune",
        "data": {"encoder_dropout": 0.463, "images": {"path": "x", "caption": "a dog"}},
        "train": {"steps": 1},
    }
    with pytest.raises(ValidationError, match="sd15 has one text encoder, which cannot be left out"):
        Recipe.model_validate(tree)
    with pytest.raises(ValueError, match="sd15 cannot leave out"):
        sd15_model.without(encoded(sd15_model), {"text_encoder": torch.ones(3, dtype=torch.bool)})
