"""Several captions a picture, drawn by weight: where they are found, how often each is read, what is refused."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tuner.data.batches import Recital
from tuner.data.scan import scan
from tuner.draws import Draws
from tuner.errors import DataError
from tuner.recipe import Recipe
from tuner.types import Role
from tuner.watch import Watcher

HALVES = [{"ending": ".txt", "weight": 0.5}, {"ending": ".synthetic.txt", "weight": 0.5}]
IMAGES = Role("images")


def fill(root, **texts):
    """A picture for each name, and beside it a file for each ending."""
    for seed, (name, beside) in enumerate(texts.items()):
        values = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(values).save(root / f"{name}.png")
        for ending, text in beside.items():
            (root / f"{name}{ending}").write_text(text)


def look(captions=HALVES, options=None, **source):
    images = {"captions": captions, **source}
    return scan(
        Recipe.model_validate(
            {
                "backbone": {"name": "sd15", "model": "toybox"},
                "adapters": ["lora"],
                "task": "finetune",
                "data": {"resolution": 64, "bucket_step": 8, "images": images, **(options or {})},
                "train": {"steps": 1},
            }
        ),
        decode=False,
        watcher=Watcher(),
    )


def captions(found):
    return [dict(zip(e.captions, e.caption_weights, strict=True)) for e in found.examples["images"]]


def test_files_of_several_endings_are_captions_of_one_picture(tmp_path):
    fill(tmp_path, a={".txt": "a dog", ".synthetic.txt": "a brown dog on grass"}, b={".txt": "a cat"})
    (tmp_path / "c.synthetic.txt").write_text("of no picture")
    found = look(path=str(tmp_path), options={"trigger": "sks"})
    assert captions(found) == [{"sks, a dog": 0.5, "sks, a brown dog on grass": 0.5}, {"sks, a cat": 0.5}]
    assert [e.caption_from for e in found.examples["images"]] == ["mix", "mix"]
    notes = "\n".join(found.notes)
    assert "no caption from .synthetic.txt, so the others of captions take its share" in notes
    assert "b.png" in notes
    assert "1 .txt file without a picture of that name: c.synthetic.txt" in notes
    assert "2 drawn by weight from .txt, .synthetic.txt" in notes


def test_columns_of_a_metadata_file_and_a_list_in_one_of_them(tmp_path):
    fill(tmp_path, a={".txt": "by hand"}, b={})
    rows = '{"file_name": "a.png", "short": "s", "long": ["l1", "l2"]}\n{"file_name": "b.png", "long": "l3"}\n'
    (tmp_path / "metadata.jsonl").write_text(rows)
    choices = [{"ending": ".txt", "weight": 2}, {"column": "long", "weight": 1}, {"column": "short", "weight": 1}]
    assert captions(look(choices, path=str(tmp_path))) == [
        {"by hand": 2, "l1": 0.5, "l2": 0.5, "s": 1},
        {"l3": 1},
    ]


def test_one_picture_and_its_files(tmp_path):
    fill(tmp_path, a={".txt": "one", ".long.txt": "another"})
    choices = [{"ending": ".long.txt", "weight": 3}, {"ending": ".txt"}]
    assert captions(look(choices, path=str(tmp_path / "a.png"))) == [{"another": 3, "one": 1}]


def test_columns_of_a_dataset(tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    out = io.BytesIO()
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(out, "PNG")
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [out.getvalue()] * 2, "own": ["x", "y"], "made": ["z", None]}), file)
    choices = [{"column": "own"}, {"column": "made", "weight": 3}]
    assert captions(look(choices, dataset=str(file))) == [{"x": 1, "z": 3}, {"y": 1}]
    with pytest.raises(DataError, match=r"captions: the dataset has no column 'nope'; there is image, own, made"):
        look([{"column": "own"}, {"column": "nope"}], dataset=str(file), caption="x")


def test_a_picture_without_any_takes_the_recipes_caption_or_is_refused(tmp_path):
    fill(tmp_path, a={})
    (example,) = look(path=str(tmp_path), caption="a dog").examples["images"]
    assert (example.captions, example.caption_weights, example.caption_from) == (("a dog",), (), "recipe")
    with pytest.raises(DataError, match="1 picture without a caption"):
        look(path=str(tmp_path))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"captions": [{"weight": 1}]}, "give ending"),
        ({"captions": [{"ending": ".txt", "column": "text"}]}, "give ending"),
        ({"captions": [{"ending": "txt"}]}, "ending"),
        ({"captions": [{"ending": "../x.txt"}]}, "ending"),
        ({"captions": [{"ending": ".txt", "weight": 0}]}, "weight"),
        ({"captions": HALVES + HALVES[:1]}, ".txt more than once"),
        ({"captions": HALVES, "caption_column": "text"}, "has no effect with captions"),
        ({"captions": []}, "captions"),
        ({"captions": HALVES, "path": None, "dataset": "a/b"}, "a dataset has no files"),
    ],
)
def test_what_is_refused(source, words):
    with pytest.raises(ValidationError, match=words):
        look(**{"path": "x", **source})


def test_weights_are_the_shares_and_each_visit_has_a_draw_of_its_own(tmp_path):
    """Over many visits; doubling every weight changes nothing."""
    fill(tmp_path, a={".txt": "own", ".synthetic.txt": "made"})
    (example,) = look([{"ending": ".txt"}, {"ending": ".synthetic.txt", "weight": 3}], path=str(tmp_path)).examples[
        "images"
    ]
    doubled = replace(example, caption_weights=(2.0, 6.0))
    count, draws, recital = 4000, Draws(5), Recital(0.0, {})

    def read(one, visit):
        return recital.caption(IMAGES, one, draws, ("images", one.uid, visit, 0))

    seen = [read(example, visit) for visit in range(count)]
    assert seen == [read(doubled, visit) for visit in range(count)]
    assert abs(Counter(seen)["made"] / count - 0.75) < 4 * (0.75 * 0.25 / count) ** 0.5


@pytest.mark.parametrize("weights", [(1.0,) * 3, (1e-3, 1e3, 1e-3), (0.1, 0.2, 0.7)])
def test_every_draw_names_a_caption(weights):
    """Also at the ends of [0, 1), whatever the sum of the weights rounds to."""

    class Fixed:
        def __init__(self, value):
            self.value = value

        def uniform(self, *_):
            return self.value

    class Example:
        captions, caption_weights = ("a", "b", "c"), weights

    for value, want in ((0.0, "a"), (1 - 2**-53, "c")):
        assert Recital(0.0, {}).caption(IMAGES, Example, Fixed(value), ()) == want
