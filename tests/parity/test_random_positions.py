"""`positions: random`: a training picture lies anywhere in the table of positions; a drawn one in its middle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_sd35_positions import MOST, WIDTH, recipe
from tiny_sd35 import load_sd35

import tuner
from tuner.planning import plan
from tuner.types import Cond

ROWS, COLUMNS = 14, 15


@pytest.fixture
def one_picture(tmp_path):
    (tmp_path / "one").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "one" / "picture.png")
    return tmp_path / "one"


def added(model, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    """(rows x columns, D) what the transformer adds to the patches of a picture for their places."""
    embed = model.denoiser.pos_embed
    latents = torch.randn(1, 16, 2 * rows, 2 * columns, generator=torch.manual_seed(0))
    return (embed(latents) - embed.proj(latents).flatten(2).transpose(1, 2))[0]


@torch.no_grad()
def test_every_place_of_the_table_is_met_as_often(sd35_folder):
    model = load_sd35(sd35_folder, positions="random")
    table = model.denoiser.pos_embed.pos_embed.reshape(MOST, MOST, WIDTH)
    places = {
        (top, left): table[top : top + ROWS, left : left + COLUMNS].reshape(-1, WIDTH)
        for top in range(MOST - ROWS + 1)
        for left in range(MOST - COLUMNS + 1)
    }
    met = dict.fromkeys(places, 0)
    for seed in range(120):
        with model.varied(seed):
            found = added(model)
        (place,) = [place for place, want in places.items() if torch.allclose(found, want, atol=1e-5)]
        met[place] += 1
    assert len(met) == 6
    assert min(met.values()) >= 8, "20 each, give or take"


@torch.no_grad()
def test_a_micro_batch_has_one_place_whoever_asks_and_nothing_is_left_of_it(sd35_folder):
    """As a teacher, a reference model and a student need it, of any picture of a size."""
    model = load_sd35(sd35_folder, positions="random", t5_length=8)
    centre = added(model, 3, 5)
    with model.varied(7):
        first, second, other = added(model, 3, 5), added(model, 3, 5), added(model, 5, 3)
    assert torch.equal(first, second)
    assert not torch.allclose(first, centre, atol=1e-3)
    assert other.shape == first.shape
    assert torch.equal(added(model, 3, 5), centre)
    assert "cropped_pos_embed" not in vars(model.denoiser.pos_embed)

    cond = Cond({"text": torch.randn(1, 85, 48), "pooled": torch.randn(1, 40)})
    latents, level = torch.randn(1, 16, 6, 10), torch.tensor([500.0])
    plain = model.denoise(latents, level, cond)
    with model.varied(7):
        varied = model.denoise(latents, level, cond)
    assert not torch.equal(plain, varied)
    with pytest.raises(ZeroDivisionError), model.varied(7):
        raise ZeroDivisionError
    assert torch.equal(model.denoise(latents, level, cond), plain)


@torch.no_grad()
def test_without_the_option_nothing_varies(sd35_folder):
    model = load_sd35(sd35_folder)
    centre = added(model)
    with model.varied(7):
        assert torch.equal(added(model), centre)


def test_a_run_learns_under_it_and_repeats_itself(sd35_folder, one_picture, tmp_path):
    def train(name: str, positions: str) -> bytes:
        backbone = {"name": "sd35", "model": str(sd35_folder), "t5_length": 8, "positions": positions}
        made = recipe(sd35_folder, one_picture, resolution=64, backbone=backbone)
        file = next(tuner.run(made, run_dir=tmp_path / name).adapter.glob("*.safetensors"))
        return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(load_file(file).items()))

    learned = {name: train(name, name.split("-")[0]) for name in ("random-1", "random-2", "center")}
    assert learned["random-1"] == learned["random-2"]
    assert learned["random-1"] != learned["center"]


def test_it_is_refused_where_pictures_fill_the_table(sd35_folder, one_picture):
    backbone = {"name": "sd35", "model": str(sd35_folder), "t5_length": 8, "positions": "random"}
    assert not plan(recipe(sd35_folder, one_picture, resolution=240, backbone=backbone)).refusals
    (line,) = plan(recipe(sd35_folder, one_picture, resolution=256, backbone=backbone)).refusals
    assert line.startswith("backbone.positions: random has no effect")
