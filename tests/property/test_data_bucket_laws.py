"""Laws of the aspect-ratio buckets (trap 19)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.data import buckets
from tuner.sections import DataOptions

STEPS = st.sampled_from([8, 16, 32, 64, 128])
RESOLUTIONS = st.integers(2, 256).map(lambda n: 8 * n)
SIDES = st.integers(16, 16384)


def pairs():
    return st.tuples(RESOLUTIONS, STEPS).filter(lambda rs: rs[1] <= rs[0])


@given(pairs())
def test_sides_are_multiples_and_the_area_is_as_large_as_the_step_allows(pair):
    resolution, step = pair
    square = resolution // step * step
    for width, height in buckets.buckets(resolution, step):
        assert width % step == height % step == 0
        assert width * height <= resolution**2
        assert max(width, height) <= buckets.MAX_ASPECT * min(width, height)
        if (width, height) != (square, square) or resolution == square:
            assert (width + step) * height > resolution**2
            assert width * (height + step) > resolution**2


@given(pairs())
def test_the_square_is_there_and_the_list_is_its_own_mirror(pair):
    resolution, step = pair
    found = buckets.buckets(resolution, step)
    square = resolution // step * step
    assert (square, square) in found
    assert {(h, w) for w, h in found} == set(found)
    assert len(set(found)) == len(found)
    assert [w / h for w, h in found] == sorted(w / h for w, h in found)


@given(pairs(), SIDES, SIDES)
def test_every_size_has_a_bucket_and_a_transposed_picture_the_transposed_one(pair, width, height):
    found = buckets.buckets(*pair)
    target = buckets.assign((width, height), found)
    assert target in found
    assert buckets.assign((height, width), found) == target[::-1]


@given(SIDES, SIDES, st.sampled_from([(512, 64), (768, 64), (1024, 64), (512, 32), (64, 8)]))
def test_the_crop_is_bounded(width, height, pair):
    found = buckets.buckets(*pair)
    target = buckets.assign((width, height), found)
    kept = buckets.kept((width, height), target)
    assert kept <= 1 + 1e-9
    aspect, longest = max(width, height) / min(width, height), max(w / h for w, h in found)
    if aspect <= longest:
        # Between two neighbours the nearer one is at most half the gap away, on a log scale.
        shapes = [w / h for w, h in found]
        gap = max(b / a for a, b in itertools.pairwise(shapes))
        assert kept >= gap**-0.5 - 1e-9
    else:
        assert kept == pytest.approx(longest / aspect)


@given(st.integers(1, 40))
def test_a_picture_of_a_buckets_own_shape_goes_there_uncropped(scale):
    for bucket in (found := buckets.buckets(512, 64)):
        assert buckets.assign((bucket[0] * scale, bucket[1] * scale), found) == bucket
        assert buckets.kept((bucket[0] * scale, bucket[1] * scale), bucket) == pytest.approx(1)


def test_sd15_at_512_with_the_usual_step():
    found = buckets.buckets(512, 64)
    assert found == [(320, 768), (384, 640), (448, 576), (512, 512), (576, 448), (640, 384), (768, 320)]


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_fixed_square_where_the_recipe_asks_for_one(crop):
    data = DataOptions(resolution=520, crop=crop, cache="off")
    assert buckets.size_for((300, 1000), data) == (520, 520)
    assert buckets.size_for((300, 1000), DataOptions(resolution=512)) == (320, 768)


def test_no_room_for_one_step():
    with pytest.raises(ValueError, match="smaller than the bucket step"):
        buckets.buckets(32, 64)
