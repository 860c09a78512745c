"""Which layers of SD3.5 each preset reaches, on the true block layout."""

from __future__ import annotations

import pytest
from torch import nn

from tuner.adapters import Adapter
from tuner.backbones import Backbone
from tuner.backbones.mmdit_layout import configs, transformer_layers
from tuner.draws import Draws
from tuner.errors import RecipeError
from tuner.recipe import Recipe

PART = Backbone.read({"name": "sd35", "model": "nobody/nothing-like-this"})


def names(size: str) -> list[str]:
    return [name for name, shape, _ in transformer_layers(configs(size)["transformer"]) if len(shape) == 2]


@pytest.mark.parametrize(
    ("where", "medium", "large", "sd3_medium"),
    [
        ("attention", 23 * 8 + 7 + 13 * 4, 37 * 8 + 7, 23 * 8 + 7),
        ("attention_mlp", 243 + 24 * 2 + 23 * 2, 303 + 38 * 2 + 37 * 2, 191 + 24 * 2 + 23 * 2),
        ("all_linear", 337 + 24 * 2, 453 + 38 * 2, 285 + 24 * 2),
        ("cross_attention", 24 * 3, 38 * 3, 24 * 3),
        ("context_kv", 24 * 2, 38 * 2, 24 * 2),
    ],
)
def test_presets_of_the_true_models(where, medium, large, sd3_medium):
    for size, count in (("medium", medium), ("large", large), ("sd3_medium", sd3_medium)):
        hits = PART.matching(where, names(size))
        assert {site: len(found) for site, found in hits.items()} == {where: count}


def test_the_last_block_has_no_text_output():
    """Trap 5."""
    known = names("medium")
    last = [name for name in known if name.startswith("transformer_blocks.23.")]
    assert not any("to_add_out" in name or "ff_context" in name for name in last)
    hits = PART.matching("attention_mlp", last)["attention_mlp"]
    assert {name.split(".", 2)[2] for name in hits} == {
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")),
        "ff.net.0.proj",
        "ff.net.2",
    }


def test_the_second_attention_is_in_the_first_thirteen_blocks():
    hits = PART.matching("attention", names("medium"))["attention"]
    assert {int(name.split(".")[1]) for name in hits if ".attn2." in name} == set(range(13))
    assert not any(".attn2." in name for name in PART.matching("attention", names("large"))["attention"])


def test_patterns_tell_the_streams_apart():
    """Trap 4."""
    hits = PART.matching(["to_k", "attn.to_k", "attn2.to_k", "k_proj", "add_k_proj", "proj_out"], names("medium"))
    counts = {pattern: len(found) for pattern, found in hits.items()}
    assert counts == {"to_k": 37, "attn.to_k": 24, "attn2.to_k": 13, "k_proj": 0, "add_k_proj": 24, "proj_out": 1}


def test_presets_leave_embedders_and_output_alone():
    shared = {"context_embedder", "proj_out", "norm_out.linear"}
    for where in ("attention", "attention_mlp", "all_linear", "cross_attention", "context_kv"):
        found = PART.matching(where, names("large"))[where]
        assert not shared & set(found)
        assert not any(name.startswith("time_text_embed") for name in found)


def test_both_clips_train_and_t5_never(sd35_model):
    adapter = Adapter.read({"name": "lora", "rank": 2, "text_encoder_lr": 1e-4})
    layers = {
        n: [k for k, m in e.named_modules() if isinstance(m, nn.Linear)] for n, e in sd35_model.text_encoders.items()
    }
    hits = {name: PART.matching_text(found) for name, found in layers.items()}
    assert {name: len(found) for name, found in hits.items()} == {
        "text_encoder": 12,
        "text_encoder_2": 12,
        "text_encoder_3": 0,
    }
    assert layers["text_encoder_3"], "it has layers that nothing matched"
    attachment = adapter.attach(sd35_model, keep_base=False, draws=Draws(0))
    assert [group.name for group in attachment.param_groups()] == ["transformer", "text_encoder", "text_encoder_2"]
    counts = adapter.count(sd35_model.backbone, sd35_model.backbone.layout())
    assert [count.part for count in counts] == [
        "transformer attention",
        "text_encoder attention",
        "text_encoder_2 attention",
    ]
    assert not any(p.requires_grad for p in sd35_model.text_encoders["text_encoder_3"].parameters())


def test_gradients_reach_every_layer_but_the_last_text_query(sd35_model):
    """That one has no way to the output."""
    import torch

    attachment = Adapter.read({"name": "lora", "rank": 2, "text_encoder_lr": 1e-4}).attach(
        sd35_model, keep_base=False, draws=Draws(0)
    )
    for own in attachment.param_groups():
        for name, p in own.params.items():
            if "lora_B" in name:
                torch.nn.init.normal_(p)
    x_t = torch.randn(1, 16, 8, 8, generator=torch.manual_seed(0))
    cond = sd35_model.encode_text(sd35_model.tokenize(["a photo of a dog"]))
    sd35_model.denoise(x_t, torch.tensor([500.0]), cond).square().mean().backward()
    dead = {n for g in attachment.param_groups() for n, p in g.params.items() if not p.grad.abs().max() > 0}
    last = "transformer.transformer_blocks.2.attn.add_q_proj"
    # of each CLIP the pooled vector alone passes its last layer, so that layer is alive, too
    assert dead == {f"{last}.lora_A.weight", f"{last}.lora_B.weight"}


def recipe(**keys: object) -> Recipe:
    tree: dict = {
        "backbone": {"name": "sd35", "model": "toybox"},
        "adapters": [{"name": "lora"}],
        "task": "finetune",
        "data": {"images": {"path": "photos", "caption": "a dog"}},
        "train": {"steps": 1},
    }
    for key, value in keys.items():
        section, _, name = key.partition("__")
        if name:
            tree[section] = {**tree.get(section, {}), name: value}
        else:
            tree[section] = value
    return Recipe.model_validate(tree)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"objective": "ddpm"}, ["objective", "rectified_flow"]),
        ({"objective": {"name": "ddpm", "min_snr_gamma": 5.0}}, ["objective", "rectified_flow"]),
        ({"data__resolution": 520}, ["resolution", "520", "16"]),
        ({"data__bucket_step": 24}, ["bucket_step", "24", "16"]),
        ({"sample__size": 520}, ["size", "520", "16"]),
        ({"sample__scheduler": "dpm++"}, ["dpm++", "flow_euler"]),
        ({"adapters": [{"name": "lora", "where": ["SelfAttention.q"]}]}, ["where", "T5", "not trained"]),
        ({"adapters": [{"name": "lora", "where": ["text_encoder_3.encoder"]}]}, ["where", "T5"]),
        ({"backbone__clip_skip": 2}, ["clip_skip", "unknown key"]),
        ({"backbone__t5_length": 513}, ["t5_length", "512"]),
        ({"backbone__components": "a/b"}, ["components", "no effect"]),
        ({"backbone": {"name": "sd35", "model": "a/b", "components": "c/d"}}, ["components", "no effect"]),
    ],
)
def test_what_sd35_cannot_do_is_refused_when_the_recipe_is_read(keys, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        recipe(**keys)
    for word in words:
        assert word in str(caught.value)


def test_a_plain_recipe_is_accepted():
    assert recipe().bound_objective.key == "rectified_flow"
    assert recipe(data__crop="center", data__resolution=1040).data.resolution == 1040


def test_a_pattern_of_clip_matches_nothing_in_the_transformer(sd35_model):
    adapter = Adapter.read({"name": "lora", "where": ["self_attn.q_proj"]})
    with pytest.raises(RecipeError, match="no linear layer of the transformer"):
        adapter.attach(sd35_model, keep_base=False, draws=Draws(0))
