"""A dataset as a page shows it: what is in it, how it is cut, and all of it soon."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace

import pytest
from dropped import encoded, image, sound

from tuner.dataset import Dataset, editing, intake
from tuner.dataset.crops import options
from tuner.dataset.record import fresh_id
from webui import datasets
from webui.workspace import UnknownId, Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace.open(tmp_path / "w")


def test_an_empty_workspace_and_an_empty_dataset(workspace):
    assert datasets.rows(workspace) == []
    id = datasets.make(workspace, "my dog")
    page = datasets.page(workspace, id, options(512))
    assert (page.name, page.cards, page.words, page.twins, page.advice) == ("my dog", (), (), (), ())
    assert [(row.id, row.name, row.pictures) for row in datasets.rows(workspace)] == [(id, "my dog", 0)]
    for bad in ("", "..", "0" * 16, "../" + id):
        with pytest.raises(UnknownId):
            datasets.page(workspace, bad)


def test_a_page_tells_everything(workspace):
    id = datasets.make(workspace, "my dog")
    dataset = datasets.open_dataset(workspace, id)
    intake(dataset, "a.png", encoded(1, size=(300, 100)))
    intake(dataset, "b.png", encoded(2, size=(128, 128)))
    intake(dataset, "a.txt", b"a dog")
    intake(dataset, "c.txt", b"waits")
    intake(dataset, "d.png", b"broken")
    editing.apply(dataset, editing.Trigger("tok"))
    page = datasets.page(workspace, id, options(128))
    first, second = page.cards
    assert first.thumb == f"/media/thumb/{id}/{first.id}"
    assert first.full == f"/media/picture/{id}/{first.id}"
    assert (first.caption, second.caption) == ("tok, a dog", "tok")
    assert page.uncaptioned == 0
    assert second.crop is None  # all of it is kept
    assert first.crop.left > 0
    assert first.crop.top == 0
    assert first.crop.left + first.crop.width <= 100
    assert page.words[0].text == "tok"
    assert [one.name for one in page.refused] == ["d.png"]
    assert [one.name for one in page.waiting] == ["c.txt"]
    assert page.undo.startswith("insert 'tok'")
    assert page.redo == ""
    assert page.images == str(dataset.images)
    assert datasets.page(workspace, id).cards[0].crop is None
    json.dumps(asdict(page), default=str)


def test_twins_are_shown_together(workspace):
    id = datasets.make(workspace, "d")
    dataset = datasets.open_dataset(workspace, id)
    import io

    for number, quality in enumerate((95, 60)):
        out = io.BytesIO()
        image(1, (16, 16)).resize((256, 256)).save(out, "JPEG", quality=quality)
        intake(dataset, f"{number}.jpg", out.getvalue())
    ((one, other),) = datasets.page(workspace, id).twins
    assert (one.name, other.name) == ("0.jpg", "1.jpg")


def test_a_dataset_that_cannot_be_opened_is_listed_with_the_reason(workspace):
    good, bad = datasets.make(workspace, "good"), datasets.make(workspace, "bad")
    (workspace.dataset(bad) / "dataset.json").write_text("{")
    (workspace.datasets / "a folder").mkdir()
    rows = {row.id: row for row in datasets.rows(workspace)}
    assert rows[good].problem == ""
    assert "dataset.json" in rows[bad].problem
    assert rows["a folder"].problem
    left = [workspace.datasets / f".tmp-x-1-0000000{n}" for n in range(2)]
    for path in left:
        path.mkdir()
    os.utime(left[0], (0, 0))
    datasets.tidy(workspace)
    assert [path.exists() for path in left] == [False, True]


def many(workspace, number):
    """A dataset of that many pictures, whose files are links to one."""
    import random

    id = datasets.make(workspace, "many")
    dataset = Dataset(workspace.dataset(id))
    intake(dataset, "0.png", encoded(1))
    (one,) = dataset.contents().pictures
    draw = random.Random(0)
    pictures = [one]
    for n in range(1, number):
        new = replace(one, id=fresh_id(), name=f"photo {n}.png", dhash=f"{draw.getrandbits(64):016x}")
        os.link(dataset.images / one.file_name, dataset.images / new.file_name)
        os.link(dataset.thumbs / one.thumb_name, dataset.thumbs / new.thumb_name)
        pictures.append(new)
    with dataset.changing() as change:
        change.contents = replace(change.contents, pictures=tuple(pictures))
        for picture in pictures:
            change.set_caption(picture, f"a photo of a dog number {picture.name} " + "with many words " * 10)
        change.save_captions()
        change.save_contents()
    return id


def test_150_pictures_are_there_at_once(workspace):
    """Processor time, the best of five: the wall's clock would measure what else the machine does."""
    id = many(workspace, 150)
    spent = []
    for _ in range(5):
        start = time.process_time()
        page = datasets.page(workspace, id, options(512))
        spent.append(time.process_time() - start)
    assert len(page.cards) == 150
    assert min(spent) < 0.2
    sound(datasets.open_dataset(workspace, id))
