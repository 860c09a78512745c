"""Mutated pictures and folders: a verdict for each file within seconds, and never anything but a DataError."""

import io
import logging
import random
import re
import struct
import time
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from tuner.data import images
from tuner.data.scan import scan_folder
from tuner.data.sources import Source
from tuner.errors import DataError
from tuner.sections import DataOptions
from tuner.watch import Watcher

LIMIT_S = 5.0


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def whole_pictures():
    """One or more of each format, small, with the parts in them that parsers stumble over."""
    numbers = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    rgb = Image.fromarray(np.stack([x * 4, y * 5, (x * y) % 256], -1).astype(np.uint8))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray((x * 4).astype(np.uint8)))
    deep = Image.fromarray(numbers.integers(0, 65536, (48, 64), np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"sRGB", b"sXXX")
    return {
        "jpeg": encoded(rgb, "JPEG", exif=exif, icc_profile=icc),
        "jpeg progressive": encoded(rgb, "JPEG", progressive=True),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "mpo": encoded(rgb, "MPO", save_all=True, append_images=[rgb.rotate(180)]),
        "png": encoded(rgba, "PNG", exif=exif, icc_profile=icc),
        "png palette": encoded(rgb.quantize(16), "PNG", transparency=3),
        "png 16": encoded(deep, "PNG"),
        "apng": encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "webp": encoded(rgba, "WEBP", exif=exif, icc_profile=icc),
        "webp lossless": encoded(rgb, "WEBP", lossless=True),
        "gif": encoded(rgb.quantize(64), "GIF", transparency=1),
        "gif animated": encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]),
        "tiff": encoded(rgb, "TIFF", tiffinfo={274: 6}, icc_profile=icc),
        "tiff deflate": encoded(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "tiff lzw 16": encoded(deep, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(rgb, "TIFF", compression="jpeg"),
        "avif": encoded(rgba, "AVIF", exif=exif, icc_profile=icc),
        "bmp": encoded(rgb, "BMP"),
        "bmp palette": encoded(rgb.quantize(16), "BMP"),
    }


def mutate(data, draw, others):
    """One to four faults: of bits, bytes, lengths, order, or a piece of another file."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        # Half of the faults hit the first bytes, where the header is.
        at = draw.randrange(min(len(data), 200) if draw.random() < 0.5 else len(data))
        match draw.randrange(8):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                number = draw.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65535, draw.getrandbits(32)))
                data[at : at + 4] = struct.pack(draw.choice("<>") + "I", number)
            case 3:
                data = data[: max(at, 4)]
            case 4:
                del data[at : at + draw.randint(1, 64)]
            case 5:
                data[at:at] = draw.randbytes(draw.randint(1, 64))
            case 6:
                data[at:at] = data[at : at + draw.randint(1, 256)]
            case 7:
                other = draw.choice(others)
                start = draw.randrange(len(other))
                data[at : at + 64] = other[start : start + 64]
        data = data or bytearray(b"\0")
    return bytes(data)


def verdict(data, name):
    """'read' or 'refused'. Raises anything else that happens, and AssertionError for a hang or two minds."""
    started = time.monotonic()
    header = picture = None
    try:
        header = images.read_header(data, name)
        picture = images.decode(data, name, "grey")
    except DataError as error:
        assert error.message.startswith(f"{name}: ")
        assert error.message.isprintable()
    assert time.monotonic() - started < LIMIT_S, f"{name} took too long"
    if picture is None:
        return "refused"
    assert picture.mode == "RGB"
    assert picture.size == header.size
    return "read"


def fuzz(count, first):
    whole = whole_pictures()
    others = list(whole.values())
    verdicts = {"read": 0, "refused": 0}
    for number in range(first, first + count):
        kind = list(whole)[number % len(whole)]
        draw = random.Random(number)
        verdicts[verdict(mutate(whole[kind], draw, others), f"{kind} {number}")] += 1
    return verdicts


def only_libtiff_spoke(capfd):
    """libtiff writes a line about a broken TIFF from C; nothing of Python's may be among them."""
    out, err = capfd.readouterr()
    assert out == ""
    spoken = re.compile(r"(JPEG\w*|ZIPDecode|LZW\w*|TIFF\w*|Fax\w*|\w*\.tif|_TIFF\w*|\w+Decode\w*): .*")
    assert [line for line in err.splitlines() if not spoken.fullmatch(line)] == []


def test_the_whole_pictures_are_what_they_should_be():
    verdicts = {kind: verdict(data, kind) for kind, data in whole_pictures().items()}
    assert {kind for kind, said in verdicts.items() if said == "refused"} == {"apng", "gif animated"}


def test_300_mutated_pictures(capfd):
    filters, handlers = list(warnings.filters), list(logging.getLogger("PIL").handlers)
    verdicts = fuzz(300, first=0)
    assert verdicts["read"] > 30
    assert verdicts["refused"] > 100
    only_libtiff_spoke(capfd)
    assert (list(warnings.filters), list(logging.getLogger("PIL").handlers)) == (filters, handlers)


@pytest.mark.slow
def test_2000_mutated_pictures(capfd):
    verdicts = fuzz(2000, first=300)
    assert sum(verdicts.values()) == 2000
    assert min(verdicts.values()) > 200
    only_libtiff_spoke(capfd)


def test_mutated_folders_are_accounted_for(tmp_path):
    """Pictures, captions and metadata at once: each picture is an example or refused, in any order of faults."""
    whole = list(whole_pictures().values())
    for number in range(20):
        draw = random.Random(number)
        place = tmp_path / str(number)
        place.mkdir()
        (place / "good.png").write_bytes(whole[4])
        for i in range(6):
            (place / f"{i}.png").write_bytes(mutate(draw.choice(whole), draw, whole))
            (place / f"{i}.txt").write_bytes(
                draw.choice((b"", draw.randbytes(20), b"a dog", b"x" * 5000, "é\u202e".encode()))
            )
        rows = [
            b'{"file_name": "%d.png", "text": "row"}' % draw.randrange(9),
            b'["x"]',
            draw.randbytes(30),
            b'{"file_name": "../x"}',
        ]
        (place / "metadata.jsonl").write_bytes(b"\n".join(draw.sample(rows, len(rows))))
        source = Source(path="x", caption="a dog")
        result = scan_folder(place, source, "images", DataOptions(resolution=64), watcher=Watcher(), decode=True)
        used = {example.name for example in result.examples["images"]}
        refused = {item.name for item in result.refused}
        assert not used & refused
        for picture in place.glob("*.png"):
            assert str(picture) in used | refused
