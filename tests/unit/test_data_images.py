"""The decoder against pictures made here, one test a row of what can be wrong with a file. Numbers are traps.md's."""

import contextlib
import io
import logging
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from tuner.data import images
from tuner.errors import DataError

PHOTOS = Path(os.environ.get("TUNER_TEST_PHOTOS", Path(__file__).parents[3] / "shared/data/dreambooth"))
ORIENTATION = 0x0112


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def noise(width=48, height=32, mode="RGB", seed=0):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "CMYK": (4,), "LA": (2,)}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8), mode)


def arrow(width=48, height=32):
    """A picture that no turn or mirror leaves the same: smooth enough for lossy formats."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, (x * y) * 255 // (width * height)], -1).astype(np.uint8)
    )


def decode(data, background="white"):
    return np.asarray(images.decode(data, "x", background)).astype(int)


def refused(data, *words):
    """It is refused, in one line that names the file and the reason."""
    with pytest.raises(DataError) as caught:
        images.decode(data, "folder/x.png", "white")
    assert caught.value.message.startswith("folder/x.png: ")
    assert "\n" not in caught.value.message
    for word in words:
        assert word in str(caught.value), caught.value
    return caught.value


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *chunks):
    """A PNG written by hand, for what Pillow cannot write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_upright_before_any_size_is_read(kind, turn):  # trap 16
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    best = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}.get(
        kind, {}
    )
    given = {"tiffinfo": {ORIENTATION: turn}} if kind == "TIFF" else {"exif": exif}
    data = encoded(arrow(), kind, **best, **given)
    stored = np.asarray(arrow()).astype(int)
    # EXIF 2.3: what the 0th row and the 0th column of the stored picture are
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.transpose(1, 0, 2), 6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2), 8: stored[:, ::-1].transpose(1, 0, 2),
    }[turn]  # fmt: skip
    assert images.read_header(data, "x").size == ((48, 32) if turn < 5 else (32, 48))
    assert decode(data).shape == upright.shape
    assert abs(decode(data) - upright).mean() < 3


def test_png_whose_exif_stands_at_the_end():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(arrow(), "PNG")
    end = data.index(b"IEND") - 4
    late = data[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[end:]
    assert images.read_header(late, "x").size == (32, 48) == images.decode(late, "x", "white").size


def test_transparent_parts_show_the_background():  # trap 17
    hidden = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    for word, value in (("white", 255), ("black", 0), ("grey", 128)):
        for kind in ("PNG", "WEBP", "TIFF"):
            assert (decode(encoded(hidden, kind), word) == value).all(), kind
    half = decode(encoded(Image.new("RGBA", (32, 32), (200, 100, 0, 128)), "PNG"), "black")
    assert abs(half - [100, 50, 0]).max() <= 1


def test_transparent_palette_and_colour_keys():  # trap 17
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    picture.paste(0, (0, 0, 16, 32))
    for transparency in (0, bytes([0, 255])):
        for kind in ("PNG", "GIF"):
            if kind == "GIF" and isinstance(transparency, bytes):
                continue
            pixels = decode(encoded(picture, kind, transparency=transparency), "white")
            assert (pixels[:, :16] == 255).all()
            assert (pixels[:, 16:] == [0, 0, 255]).all()
    keyed = Image.new("RGB", (32, 32), (1, 2, 3))
    assert (decode(encoded(keyed, "PNG", transparency=(1, 2, 3)), "grey") == 128).all()
    assert (decode(encoded(Image.new("L", (32, 32), 7), "PNG", transparency=7), "grey") == 128).all()


def ramp16():
    return (np.arange(256 * 32, dtype=np.uint32) * 8).astype(np.uint16).reshape(32, 256)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(kind):  # trap 18
    pixels = decode(encoded(Image.fromarray(ramp16()), kind))
    assert abs(pixels - ramp16()[..., None] / 257).max() <= 0.5


def test_16_bit_colour_is_scaled():
    values = ramp16()
    rows = np.stack([values, values[::-1], values // 2], -1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    assert abs(decode(png(256, 32, 16, 2, raw)) - rows.astype(int) / 257).max() <= 1
    gray_alpha = np.stack([values, np.full_like(values, 65535)], -1).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in gray_alpha)
    assert abs(decode(png(256, 32, 16, 4, raw)) - values[..., None] / 257).max() <= 1


def test_16_bit_colour_key_is_compared_at_full_depth():
    raw = b"".join(b"\0" + np.full(32, 300 + (y % 2), ">u2").tobytes() for y in range(32))
    pixels = decode(png(32, 32, 16, 0, raw, png_chunk(b"tRNS", struct.pack(">H", 300))), "white")
    assert (pixels[::2] == 255).all()
    assert (pixels[1::2] == 1).all()


def tiff(width, height, bits, photometric, strip, order="<", samples=1):
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (277, 3, samples)]
    tags += [(278, 3, height), (279, 4, len(strip)), (273, 4, 8 + 2 + 12 * 9 + 4)]
    tags.sort()
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        body = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        out += struct.pack(order + "HHI", tag, kind, 1) + body
    return out + struct.pack(order + "I", 0) + strip


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_byte_orders_and_white_is_zero(order):
    values = ramp16()
    black_is_zero = decode(tiff(256, 32, 16, 1, values.astype(order + "u2").tobytes(), order))
    assert abs(black_is_zero - values[..., None] / 257).max() <= 0.5
    if order == "<":  # Pillow reads no deep white-is-zero picture in the other order
        white_is_zero = decode(tiff(256, 32, 16, 0, values.astype("<u2").tobytes()))
        assert abs(white_is_zero - (255 - values[..., None] / 257)).max() <= 1


def test_12_bit_tiff_is_scaled_by_its_own_white():
    values = np.linspace(0, 4095, 64 * 32).astype(np.uint16).reshape(32, 64)
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    assert abs(decode(tiff(64, 32, 12, 1, packed)) - values[..., None] / 4095 * 255).max() <= 0.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_plain_modes_come_out_as_rgb(mode):
    picture = noise().convert(mode)
    expected = np.asarray(picture.convert("RGBA").convert("RGB")).astype(int)
    assert (decode(encoded(picture, "PNG")) == expected).all()


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_samples_without_an_agreed_white_are_refused(mode):
    refused(encoded(Image.new(mode, (32, 32)), "TIFF"), "save it")


def test_cmyk_without_a_profile_is_converted_and_noted():  # trap 18
    data = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95)
    red, green, blue = decode(data)[0, 0]
    assert red > 220
    assert max(green, blue) < 40
    assert "CMYK without a colour profile" in images.read_header(data, "x").notes[0]


def profile(kind):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()


def swapped_profile():
    """sRGB with the red and the blue primary exchanged, so that using it is plain to see."""
    icc = bytearray(profile("sRGB"))
    tags = {}
    for i in range(struct.unpack_from(">I", icc, 128)[0]):
        name, offset, size = struct.unpack_from(">4sII", icc, 132 + 12 * i)
        tags[name] = (132 + 12 * i, offset, size)
    (red_at, *red), (blue_at, *blue) = tags[b"rXYZ"], tags[b"bXYZ"]
    struct.pack_into(">II", icc, red_at + 4, *blue)
    struct.pack_into(">II", icc, blue_at + 4, *red)
    return bytes(icc).replace(b"s\0R\0G\0B", b"s\0X\0X\0X").replace(b"sRGB", b"sXXX")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_an_embedded_profile_is_used(kind):
    picture = Image.new("RGB", (32, 32), (255, 0, 0))
    data = encoded(picture, kind, icc_profile=swapped_profile())
    red, _, blue = decode(data)[16, 16]
    assert blue > 200 > 60 > red
    assert images.read_header(data, "x").notes == ()
    assert abs(decode(encoded(picture, kind, icc_profile=profile("sRGB"))) - [255, 0, 0]).max() <= 4


def test_a_damaged_or_foreign_profile_is_not_used_and_noted():
    for icc, word in ((b"no profile at all" * 20, "damaged"), (profile("LAB"), "not for RGB")):
        data = encoded(Image.new("RGB", (32, 32), (255, 0, 0)), "PNG", icc_profile=icc)
        assert (decode(data) == [255, 0, 0]).all()
        assert word in images.read_header(data, "x").notes[0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_and_pages_are_refused(kind):  # trap 18
    frames = [noise(seed=i) for i in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    refused(data, "pages" if kind == "TIFF" else "animated", "save the")
    with pytest.raises(DataError):
        images.read_header(data, "x")
    assert decode(encoded(frames[0], kind)).shape == (32, 48, 3)


def test_a_phone_jpeg_with_a_second_view_is_one_picture():
    data = encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert images.read_header(data, "x").format == "JPEG"
    assert decode(data).shape == (32, 48, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_truncated_files_are_refused_whole(kind):  # trap 18
    data = encoded(noise(128, 128), kind)
    for share in (0.1, 0.5, 0.9):
        refused(data[: int(len(data) * share)], "x.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty (0 bytes)"),
        (b"\0" * 100, "only zero bytes"),
        (b"a photo of a dog", "text"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b'<?xml version="1.0"?><svg></svg>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04 rest", "zip"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0qt  ", "video"),
        (b"\x01\x02\x03\x80\xff" * 9, "not a picture in a format that is read"),
        (b"\xff\xd8\xff\xe0", "broken JPEG"),
        (b"\x89PNG\r\n\x1a\n", "broken PNG"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data, word):
    refused(data, word)


def test_heic_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif.as_plugin", None)
    error = refused(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(64), "HEIC")
    assert "pip install 'diffusion-tuner[data]'" in error.hint


def test_heic_is_read_where_its_package_is_there():
    pillow_heif = pytest.importorskip("pillow_heif")
    before = list(Image.OPEN)
    out = io.BytesIO()
    pillow_heif.from_pillow(arrow(64, 48)).save(out, quality=95)
    assert images.read_header(out.getvalue(), "x") == images.Header(64, 48, "HEIF")
    assert abs(decode(out.getvalue()) - np.asarray(arrow(64, 48)).astype(int)).mean() < 4
    assert list(Image.OPEN) == before, "Pillow was changed for the whole process"


@pytest.mark.parametrize(
    ("size", "word"),
    [
        ((9000, 9000), "64 MP"),
        ((30000, 30000), "64 MP"),
        ((17000, 3000), "16384"),
        ((15, 40), "16 pixels"),
        ((400, 40), "8 times"),
    ],
)
def test_sizes_beyond_the_limits_are_refused_by_the_header(size, word):
    bomb = png(*size, 8, 2, b"")  # no pixels at all: only the header can have been read
    refused(bomb, word)
    with pytest.raises(DataError, match=word):
        images.read_header(bomb, "x")


def test_limits_are_the_last_sizes_that_pass():
    for size in ((16, 16), (16, 128), (8192, 8192), (16384, 4096)):
        assert images.read_header(png(*size, 8, 2, b""), "x").size == size


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(noise(), "JPEG", progressive=True)
    scan = data[data.index(b"\xff\xda") : -2]
    refused(data[:-2] + scan * 300 + b"\xff\xd9", "scans")


DAMAGED_EXIF = (
    b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x0f\0\x02\0\0\x10\0\0\0\xff\xff\0\0\0\0"
)


def test_damaged_exif_is_refused_for_up_is_unknown():
    refused(encoded(noise(), "JPEG", exif=DAMAGED_EXIF), "EXIF", "which way is up")


def test_exif_without_its_end_mark_still_says_which_way_is_up():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    assert images.read_header(encoded(noise(), "JPEG", exif=exif), "x").size == (32, 48)


def test_a_file_over_the_byte_limit_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    refused(encoded(noise(), "PNG"), "limit")


def test_nothing_global_is_left_changed_and_nothing_is_printed(capfd):
    before = (list(warnings.filters), Image.MAX_IMAGE_PIXELS, list(logging.getLogger("PIL").handlers))
    for data in (
        encoded(noise(), "PNG"),
        png(9600, 9600, 8, 2, b""),
        encoded(noise(128, 128), "TIFF")[:-100],
        b"II*\0junk",
    ):
        with contextlib.suppress(DataError):
            images.decode(data, "x", "white")
    assert before == (list(warnings.filters), Image.MAX_IMAGE_PIXELS, list(logging.getLogger("PIL").handlers))
    assert capfd.readouterr() == ("", "")


def test_warnings_are_refusals_whatever_the_filters_are():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        refused(png(9600, 9600, 8, 2, b""), "64 MP")
        refused(encoded(noise(), "JPEG", exif=DAMAGED_EXIF), "EXIF")
    assert heard == []


def test_threads_decode_at_once_without_losing_a_warning_filter():
    before = list(warnings.filters)
    good, bomb, outcomes = encoded(noise(256, 256), "PNG"), png(9600, 9600, 8, 2, b""), []

    def work():
        for _ in range(20):
            images.decode(good, "x", "white")
            try:
                images.read_header(bomb, "x")
            except DataError as error:
                outcomes.append("64 MP" in error.message)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 80
    assert list(warnings.filters) == before


def test_a_header_does_not_decode(monkeypatch):
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(noise(), kind)
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
        assert images.read_header(data, "x").size == (48, 32)
        monkeypatch.undo()


def test_fit_without_scaling_cuts_exact_pixels():
    picture = noise(49, 32)
    pixels = np.asarray(picture)
    for place, left in ((0.0, 0), (0.5, 8), (1.0, 17)):
        assert (images.fit(picture, (32, 32), (place, 0.5)) == pixels[:, left : left + 32]).all()
    assert (images.fit(picture, (49, 32)) == pixels).all()


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 32), (17, 5)])
def test_fit_covers_exactly_and_keeps_the_shape_of_things(size):
    y, x = np.mgrid[:200, :300]
    picture = Image.fromarray(np.stack([x * 255 // 300, y * 255 // 200, x * 0], -1).astype(np.uint8))
    pixels = images.fit(picture, size)
    assert pixels.shape == (size[1], size[0], 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    scale = max(size[0] / 300, size[1] / 200)
    across = (int(pixels[0, -1, 0]) - int(pixels[0, 0, 0])) / 255 * 300 * scale
    down = (int(pixels[-1, 0, 1]) - int(pixels[0, 0, 1])) / 255 * 200 * scale
    assert abs(across - (size[0] - 1)) < 3
    assert abs(down - (size[1] - 1)) < 3


def test_jitter_is_drawn_from_its_generator_alone():
    from tuner.draws import Draws

    picture = noise()
    first, second = (images.jitter(picture, 0.3, Draws(1).generator("color", "a")) for _ in range(2))
    assert (np.asarray(first) == np.asarray(second)).all()
    assert (np.asarray(first) != np.asarray(images.jitter(picture, 0.3, Draws(2).generator("color", "a")))).any()
    assert (np.asarray(images.jitter(picture, 0.0, Draws(1).generator("color", "a"))) == np.asarray(picture)).all()


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no folder of real photos")
def test_real_photos_read_as_pillow_reads_them():
    for file in sorted(PHOTOS.glob("*/*.jpg"))[::6]:
        data = file.read_bytes()
        with Image.open(file) as plain:
            expected = np.asarray(plain.convert("RGB")).astype(int)
            wide = "icc_profile" in plain.info
        assert images.read_header(data, file.name).size == expected.shape[1::-1]
        assert abs(decode(data) - expected).mean() < (12 if wide else 1e-9)
