"""Files as somebody might drop them: small pictures in many formats, and zips of any making."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from PIL import Image


def pixels(seed=0, size=(48, 32)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)


def image(seed=0, size=(48, 32)):
    return Image.fromarray(pixels(seed, size))


def encoded(seed=0, kind="PNG", size=(48, 32), **options):
    out = io.BytesIO()
    image(seed, size).save(out, kind, **options)
    return out.getvalue()


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    """A zip of (name, bytes) pairs, in order, names as they are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members:
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = compression
            archive.writestr(info, data)
    return out.getvalue()


def said(verdicts):
    """What became of each file: (name, accepted)."""
    return [(verdict.name, verdict.accepted) for verdict in verdicts]


def sound(dataset):
    """Every law of a dataset's folder at rest; gives its contents and captions."""
    contents = dataset.contents()
    listed = {picture.file_name for picture in contents.pictures}
    assert {path.name for path in dataset.images.iterdir()} - {"metadata.jsonl"} == listed
    assert {path.name for path in dataset.thumbs.iterdir()} == {picture.thumb_name for picture in contents.pictures}
    assert not list(dataset.incoming.iterdir())
    assert not list(dataset.path.rglob(".tmp-*"))
    assert len({picture.id for picture in contents.pictures}) == len(listed)
    for picture in contents.pictures:
        with Image.open(dataset.images / picture.file_name) as opened:
            opened.load()
            assert opened.size == picture.size
            assert opened.mode == "RGB"
            assert not opened.getexif()
    assert set(dataset.look().rows) <= listed
    return contents, dataset.captions()
