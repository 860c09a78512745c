"""Any shape of picture: the positions it gets, buckets that fit the patches, and what lies beyond the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sd35 import TRANSFORMER, load_sd35, write_sd35

import tuner
from tuner.data.buckets import buckets
from tuner.errors import UsageError
from tuner.planning import plan, require
from tuner.recipe import Recipe
from tuner.types import Cond

MOST = TRANSFORMER["pos_embed_max_size"]
WIDTH = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]


def table(most: int, base: int, width: int) -> torch.Tensor:
    """(most, most, width): sines and cosines of the column, then of the row (Vaswani et al. 2017), interpolated so that
    `base` patches of pretraining span what `most` do (Esser et al. 2024, sec. 5.3.2)."""
    places = torch.arange(most, dtype=torch.float64) * base / most
    rates = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = places[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], -1)  # (most, width / 2)
    across, down = line[None].expand(most, -1, -1), line[:, None].expand(-1, most, -1)
    return torch.cat([across, down], -1).float()


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (7, 4), (16, 1), (15, 16), (16, 16)])
@torch.no_grad()
def test_a_picture_gets_the_middle_of_the_table(sd35_folder, size):
    """Down to the floor of an odd margin, whatever the shape."""
    embed = load_sd35(sd35_folder).denoiser.pos_embed
    rows, columns = size
    latents = torch.randn(1, 16, 2 * rows, 2 * columns, generator=torch.manual_seed(0))
    found = (embed(latents) - embed.proj(latents).flatten(2).transpose(1, 2))[0].view(rows, columns, WIDTH)
    top, left = (MOST - rows) // 2, (MOST - columns) // 2
    want = table(MOST, TRANSFORMER["sample_size"] // 2, WIDTH)[top : top + rows, left : left + columns]
    assert torch.allclose(found, want, atol=2e-6)


@pytest.mark.parametrize("px", [(16, 16), (16, 256), (80, 144), (240, 112)])
@torch.no_grad()
def test_every_multiple_of_16_px_is_predicted_as_the_transformer_does(sd35_folder, px):
    model = load_sd35(sd35_folder, t5_length=8)
    width, height = px
    latents = model.encode_images(torch.rand(1, 3, height, width) * 2 - 1).mean
    assert latents.shape == (1, 16, height // 8, width // 8)
    cond = Cond({"text": torch.randn(1, 85, 48), "pooled": torch.randn(1, 40)})
    said = model.denoise(latents, torch.tensor([500.0]), cond)
    assert said.shape == latents.shape
    assert model.decode_latents(latents).shape == (1, 3, height, width)


@pytest.mark.parametrize("step", [16, 64])
def test_buckets_are_whole_patches_and_no_larger_than_asked(step):
    for side in (64, 256, 1024, 1440):
        found = buckets(side, step)
        assert all(w % 16 == h % 16 == 0 and w * h <= side * side for w, h in found)
        assert max(max(size) for size in found) <= 3072, "the shortest published table covers them all"


def recipe(model: Path, pictures: Path, *, resolution: int, **sections) -> Recipe:
    return Recipe.model_validate(
        {
            "backbone": {"name": "sd35", "model": str(model), "t5_length": 8},
            "adapters": {"name": "lora", "rank": 2},
            "task": "finetune",
            "data": {
                "resolution": resolution,
                "bucket_step": 16,
                "images": {"path": str(pictures), "caption": "a dog"},
            },
            "train": {"steps": 2, "device": "cpu", "precision": "fp32"},
            **sections,
        }
    )


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, size in enumerate([(250, 100), (96, 200), (64, 64)]):
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(values).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def test_a_run_trains_and_draws_in_odd_shapes(sd35_folder, pictures, tmp_path):
    sample = {"every": 2, "prompts": ["a dog"], "steps": 1, "size": 80, "guidance": 1.0}
    made = recipe(sd35_folder, pictures, resolution=96, sample=sample)
    sizes = {bucket.size for bucket in plan(made).buckets}
    assert len(sizes) == 3
    assert any(side % 64 for size in sizes for side in size)
    assert tuner.run(made, run_dir=tmp_path / "run").step == 2


def test_sizes_beyond_the_table_are_refused_before_anything_is_loaded(sd35_folder, pictures, tmp_path):
    """16 patches of 16 px: 256 px a side."""
    assert not plan(recipe(sd35_folder, pictures, resolution=160)).refusals
    planned = plan(recipe(sd35_folder, pictures, resolution=192))
    (line,) = planned.refusals
    assert "data.resolution: pictures of" in line
    assert "end at 256 px a side" in line
    assert "an adapter cannot" in line
    with pytest.raises(UsageError, match="end at 256 px a side"):
        require(planned)
    sample = {"every": 1, "prompts": ["a dog"], "size": 272}
    (line,) = plan(recipe(sd35_folder, pictures, resolution=64, sample=sample)).refusals
    assert line.startswith("sample.size: pictures of 272 x 272 px")
    with pytest.raises(UsageError, match="sample.size"):
        tuner.run(recipe(sd35_folder, pictures, resolution=64, sample=sample), run_dir=tmp_path / "run")


def test_published_sizes_end_where_their_tables_do(pictures):
    """SD3.5 large at 3072 px, medium at 6144; more than it was pretrained on is noted."""
    for name, most, usual in (("large", 3072, 1024), ("medium", 6144, 1440)):
        model = Path(f"stabilityai/stable-diffusion-3.5-{name}")
        layout = recipe(model, pictures, resolution=1024).backbone.layout()
        assert (layout.max_side_px, layout.pretrained_px) == (most, usual)
        notes = {side: plan(recipe(model, pictures, resolution=side)).notes for side in (usual, usual + 64)}
        assert not any("pretrained on" in note for note in notes[usual])
        assert any(f"({usual} x {usual} px in area)" in note for note in notes[usual + 64])


def test_a_larger_table_covers_more(tmp_path, pictures):
    folder = write_sd35(tmp_path / "wide", pos_embed_max_size=20)
    assert not plan(recipe(folder, pictures, resolution=192)).refusals
