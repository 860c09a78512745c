"""The plan: its arithmetic, the figures it promises, and what makes it refuse."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tuner.data.order import Entry, Order
from tuner.draws import Draws
from tuner.errors import DataError, StorageError, UsageError
from tuner.planning import Machine, Plan, disk, measured_rate, plan, require, size
from tuner.planning.length import exposures, length
from tuner.planning.pictures import token_estimate
from tuner.recipe import Recipe
from tuner.sections import Train
from tuner.toybox import pictures

GB = 10**9


def recipe(folder: Path | str, *, model: str = "sd15-is-not-here/at-all", **sections) -> Recipe:
    """A LoRA run on SD1.5's own layout; `sections` are merged over it."""
    tree = {
        "backbone": {"name": "sd15", "model": model},
        "adapters": [{"name": "lora", "rank": 16}],
        "task": "finetune",
        "data": {"images": {"path": str(folder), "caption": "a photo"}},
        "train": {"steps": 100, "precision": "fp16"},
    }
    for name, section in sections.items():
        tree[name] = (
            {**tree[name], **section} if isinstance(section, dict) and isinstance(tree.get(name), dict) else section
        )
    return Recipe.model_validate(tree)


@pytest.fixture
def folder(tmp_path):
    """Three landscape, one portrait and one square picture, and a file that is none."""
    place = tmp_path / "pictures"
    place.mkdir()
    for number, shape in enumerate([(768, 512)] * 3 + [(512, 768), (600, 600)]):
        Image.new("RGB", shape, (number * 40, 20, 20)).save(place / f"{number}.png")
    (place / "broken.png").write_bytes(b"")
    return place


# Steps, epochs, exposure


@given(
    units=st.integers(1, 60),
    batch=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    steps=st.integers(1, 90),
    others=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None)
def test_the_plan_counts_what_the_order_does(units, batch, accumulate, steps, others):
    train = Train(steps=steps, batch=batch, accumulate=accumulate)
    total = length(train, units)
    roles = {
        "instance": [Entry(f"i{n}", 1, (64, 64) if n % 3 else (48, 80)) for n in range(units)],
        "prior": [Entry(f"p{n}", 1, (64, 64)) for n in range(others)],
    }
    order = Order(Draws(0), roles, batch=batch, unit_count=batch * accumulate)
    assert total.steps_per_epoch == order.steps_per_epoch
    seen = [unit for step in range(steps) for micro in order.step(step) for unit in micro.units]
    whole = steps % order.steps_per_epoch == 0
    if whole:  # within an epoch the short step may come at any place
        assert len(seen) == total.units_seen
    first, second = exposures(total, {"instance": (units, units), "prior": (others, others)}, {})
    if whole:
        assert first.visits == pytest.approx(len(seen) / units)
        assert second.visits == pytest.approx(len(seen) / others)
        assert {sum(1 for u in seen if u["instance"].index == n) for n in range(units)} == {round(total.epochs)}


def test_epochs_are_steps_of_the_first_roles_units():
    assert length(Train(epochs=3, batch=2), 5).steps == 9
    assert length(Train(epochs=3, batch=2), 5, processes=2).steps == 6
    assert length(Train(epochs=3, batch=2), 5).units_seen == 15


def test_exposure_counts_repeats_and_class_pictures(folder, own_cache):
    planned = plan(
        Recipe.model_validate(
            {
                "backbone": {"name": "sd15", "model": "toybox"},
                "adapters": "lora",
                "task": "dreambooth",
                "data": {
                    "resolution": 64,
                    "bucket_step": 16,
                    "instance": {"path": str(folder), "caption": "a photo of sks dog", "repeats": 2},
                    "prior": {"caption": "a photo of a dog", "generate": 20},
                },
                "train": {"steps": 20, "batch": 2},
            }
        )
    )
    instance, prior = planned.exposures
    assert (instance.pictures, instance.units, instance.visits) == (5, 10, 4.0)
    assert (prior.pictures, prior.visits, planned.generate) == (20, 2.0, 20)
    assert "20 pictures, all drawn by the base first; each is seen 2 times" in str(planned)


def test_a_mirrored_role_is_seen_as_often_as_what_it_mirrors(folder):
    data = {
        "instance": {"path": str(folder), "caption": "a photo of sks dog"},
        "prior": {"caption": "a photo of a dog", "predict": True},
    }
    tree = recipe(folder).model_dump(mode="json")
    planned = plan(
        Recipe.model_validate(
            {
                "backbone": tree["backbone"],
                "adapters": "lora",
                "task": "dreambooth",
                "data": data,
                "train": {"steps": 10},
            }
        )
    )
    assert planned.exposures[1].mirrors == "instance"
    assert planned.exposures[1].visits == planned.exposures[0].visits


# Pictures and captions


def test_buckets_name_sizes_crops_and_refused_files(folder):
    planned = plan(recipe(folder))
    assert sum(bucket.pictures for bucket in planned.buckets) == 5
    assert len(planned.buckets) == 3
    assert all(0 <= bucket.cropped <= bucket.cropped_most < 1 for bucket in planned.buckets)
    assert [name for name, _ in planned.refused if name.endswith("broken.png")]
    assert "broken.png" in str(planned)


def test_no_picture_is_a_data_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        plan(recipe(tmp_path / "empty"))


def test_long_captions_are_named_as_an_estimate(folder):
    (folder / "0.txt").write_text("extraordinarily " * 60)
    planned = plan(recipe(folder))
    assert [Path(name).name for name in planned.captions.long] == ["0.png"]
    assert "1 look longer" in str(planned) or "1 looks longer" in str(planned)
    assert "estimate" in str(planned)


@given(st.text(max_size=200), st.text(max_size=200))
def test_the_token_estimate_grows_with_the_text(a, b):
    assert token_estimate(a) <= token_estimate(f"{a} {b}") <= token_estimate(a) + token_estimate(b)


def test_the_token_estimate_is_near_the_truth():
    from transformers import CLIPTokenizer

    from tuner.backbones.bundled import clip_vocabulary

    vocabulary, merges = clip_vocabulary()
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges)
    for text in (
        "a photo of sks dog in a bucket",
        "a cat, a dog and 3 birds",
        "one two three four five six seven",
        "masterpiece, best quality, 1girl, long hair, looking at viewer",
        "an extraordinarily photorealistic watercolour of a rhododendron in the Netherlands",
    ):
        true = len(tokenizer(text)["input_ids"]) - 2
        assert abs(token_estimate(text) - true) <= max(2, true // 4), text


# Memory


def peak(folder, **sections) -> float:
    planned = plan(recipe(folder, **sections), machine=Machine("cuda", "a GPU", 24 * GB, 2))
    return planned.memory["gpu"].peak.total / GB


def test_lora_at_512_in_fp16_fits_11_gb_without_8_bit_tricks(folder):
    for batch in (1, 2):
        assert 2 < peak(folder, train={"batch": batch}) <= 11
    assert plan(recipe(folder)).memory["cpu"].peak.total > plan(recipe(folder)).memory["gpu"].peak.total


def test_shipped_recipes_fit_11_gb_too(folder):
    from tuner import load_recipe

    for name, key in (("dreambooth_lora", "data.instance.path"), ("lora", "data.images.path")):
        planned = plan(load_recipe(name, [f"{key}={folder}", "train.precision=fp16"]))
        assert planned.memory["gpu"].peak.total <= 11 * GB


def test_memory_follows_what_a_step_holds(folder):
    def training(**sections):
        planned = plan(recipe(folder, **sections))
        phase = next(p for p in planned.memory["gpu"].phases if p.name == "training")
        return phase.total

    base = training()
    assert training(train={"batch": 4}) > base
    assert training(train={"gradient_checkpointing": True}) < base
    assert training(train={"ema": {}}) > base
    assert training(adapters=[{"name": "lora", "rank": 64}]) > base
    assert training(adapters=[{"name": "lora", "text_encoder_lr": 1e-5}]) > base
    assert training(data={"cache": "off"}) > base
    assert training(data={"resolution": 768}) > base


def test_checkpointing_saves_most_of_the_activations(folder):
    def activations(checkpointing):
        planned = plan(recipe(folder, train={"gradient_checkpointing": checkpointing}))
        phase = next(p for p in planned.memory["gpu"].phases if p.name == "training")
        return next(v for k, v in phase.parts.items() if k.startswith("activations"))

    assert 0.2 < activations(True) / activations(False) < 0.26


def test_the_trained_parameters_are_those_of_the_layout(folder):
    planned = plan(recipe(folder, adapters=[{"name": "lora", "rank": 4}]))
    assert planned.trainable == 797_184
    assert planned.adapter_bytes["fp32"] == 3_188_736
    assert planned.adapter_bytes["fp16"] * 2 == planned.adapter_bytes["fp32"]
    assert planned.state_bytes == 797_184 * 8


# Refusals


def test_too_little_memory_is_refused_with_what_to_change(folder):
    planned = plan(recipe(folder), machine=Machine("cuda", "a small GPU", 2 * GB, 2))
    assert planned.refusals
    with pytest.raises(UsageError, match=r"a small GPU has 2.0 GB.*gradient_checkpointing"):
        require(planned)


def test_too_little_disk_is_refused(folder, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(StorageError, match="1.0 MB is free"):
        require(plan(recipe(folder)))


def test_a_pattern_without_a_layer_is_refused(folder):
    with pytest.raises(UsageError, match="nonsense matches no layer"):
        require(plan(recipe(folder, adapters=[{"name": "lora", "where": ["nonsense"]}])))


def test_what_fits_passes(folder):
    planned = plan(recipe(folder), machine=Machine("cuda", "a GPU", 24 * GB, 2))
    assert planned.refusals == []
    require(planned)


def test_a_machine_of_unknown_memory_is_not_refused(folder):
    require(plan(recipe(folder), machine=Machine("cuda", "a GPU", None, 2)))


# The rest of the page


def test_time_is_known_only_from_a_measurement(folder):
    planned = plan(recipe(folder))
    assert planned.seconds is None
    assert "not known" in str(planned)
    assert plan(recipe(folder), steps_a_second=2.0).seconds == 50


def test_the_rate_of_a_run_like_this_is_found(folder, tmp_path, monkeypatch):
    from tuner.lines import LineWriter, metric_rows
    from tuner.resolved import resolved_yaml
    from tuner.rundir import RunDir
    from tuner.status import of_this_process, write_status

    here = recipe(folder)
    run = RunDir.create(tmp_path / "runs", "a")
    run.write_recipe("", resolved_yaml(here))
    write_status(run.status_file, of_this_process("a", state="done"))
    for step, rate in ((10, 1.0), (20, 3.0), (30, 2.0)):
        LineWriter(run.metrics_file).append_json(metric_rows(step, {"loss": 1.0, "it_s": rate}))
    assert measured_rate(here, tmp_path / "runs") == 2.0
    assert measured_rate(recipe(folder, train={"steps": 7}), tmp_path / "runs") == 2.0
    assert measured_rate(recipe(folder, train={"batch": 2}), tmp_path / "runs") is None
    assert measured_rate(here, tmp_path / "nowhere") is None


def test_cache_choices_say_what_each_costs(folder):
    first, second = plan(recipe(folder)).caches
    assert (first.choice, first.encoded_before, first.encoded_a_step) == ("disk", 5, 0)
    assert (second.choice, second.encoded_before, second.encoded_a_step) == ("off", 0, 1)
    assert first.bytes > second.bytes
    assert plan(recipe(folder, data={"flip": True})).caches[0].encoded_before == 10
    jitter = plan(recipe(folder, data={"cache": "off", "color_jitter": 0.1})).caches
    assert (jitter[0].choice, jitter[1].possible) == ("off", False)


def test_the_cache_is_estimated_to_the_byte_of_its_tensors(folder):
    planned = plan(recipe(folder, data={"crop": "center"}))
    latents = 5 * 2 * 4 * 64 * 64 * 4
    text = 1 * 77 * 768 * 4
    assert planned.caches[0].bytes == latents + text


def test_json_holds_the_same_facts_and_nothing_that_json_lacks(folder):
    planned = plan(recipe(folder))
    tree = json.loads(json.dumps(planned.to_json(), allow_nan=False))
    assert tree["length"]["steps"] == 100
    assert tree["memory"]["gpu"]["peak"]["bytes"] == planned.memory["gpu"].peak.total
    assert tree["disk"]["run"]["bytes"] == planned.places[0].total
    assert tree["trainable"] == planned.trainable


def test_the_python_api_gives_a_plan(folder):
    import tuner

    assert isinstance(tuner.plan(recipe(folder)), Plan)


def test_the_bundled_pictures_make_a_page():
    page = str(plan(recipe(pictures(), model="toybox", data={"resolution": 64, "bucket_step": 16})))
    for word in ("Steps", "Pictures", "Buckets", "Captions", "Trains", "Cache", "Memory", "Disk", "Time"):
        assert f"\n{word}" in page
    assert max(map(len, page.splitlines())) < 240


@given(st.floats(0, 1e15))
def test_sizes_are_short(count):
    assert len(size(count)) <= 9 or math.isnan(count) or count >= 1e15 - 1
