"""What a file is, by its first bytes: one of the formats that are read, or the reason why not."""

from __future__ import annotations

READ = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, HEIC"
"""The formats that are read, in words."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif"}
    | {".tif", ".tiff", ".bmp", ".dib", ".avif", ".heic", ".heif", ".hif"}
)
"""Lower-case suffixes of files that count as pictures; what they hold is decided by their bytes."""

_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw")
_VIDEO = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
_OTHER_SUFFIXES = (
    ".jxl",
    ".jp2",
    ".j2k",
    ".jpx",
    ".ico",
    ".tga",
    ".exr",
    ".hdr",
    ".ppm",
    ".pgm",
    ".psd",
    ".xcf",
    ".svg",
)

UNREAD_SUFFIXES = {
    **dict.fromkeys(_RAW, "raw photos are not read; export it as JPEG or PNG"),
    **dict.fromkeys(_VIDEO, "videos are not read; save the frames you want as PNG"),
    **dict.fromkeys(_OTHER_SUFFIXES, "this format is not read; save it as PNG"),
}
"""Lower-case suffixes of files that a user may take for pictures, and what to do about them."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif")

_OTHER = (
    (b"version https://git-lfs", "a Git LFS pointer, not the picture; run `git lfs pull`"),
    (b"%PDF", "a PDF, not a picture; export its pages as PNG"),
    (b"PK\x03\x04", "a zip archive, not a picture; unpack it"),
    (b"8BPS", "a Photoshop file; export it as PNG"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000, which is not read; save it as PNG"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL, which is not read; save it as PNG"),
    (b"\xff\x0a", "a JPEG XL, which is not read; save it as PNG"),
    (b"\x00\x00\x01\x00", "an icon, which is not read; save it as PNG"),
    (b"\x1f\x8b", "a gzip file, not a picture; unpack it"),
)
_WORDS = (
    (b"<svg", "an SVG, which is not read; export it as PNG"),
    (b"<!doctype html", "a web page, not a picture"),
    (b"<html", "a web page, not a picture"),
    (b"<?xml", "an XML file, not a picture"),
)


def kind(data: bytes) -> str | None:
    """The format of a picture that is read (`HEIF` for HEIC), by its first bytes; None for anything else."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = (data[8:12], *(data[i : i + 4] for i in range(16, min(64, len(data)), 4)))
        if any(brand in _AVIF_BRANDS for brand in brands):
            return "AVIF"
        if any(brand in _HEIF_BRANDS for brand in brands[:1]):
            return "HEIF"
    return None


def why_not(data: bytes) -> str:
    """What a file is that `kind` does not know."""
    if not data.strip(b"\0"):
        return f"the file {'holds only zero bytes' if data else 'is empty (0 bytes)'}; copy it again"
    start = data[:1024].lower()
    known = [reason for magic, reason in _OTHER if data.startswith(magic)]
    known += [reason for word, reason in _WORDS if word in start]
    if known:
        return known[0]
    if data[4:8] == b"ftyp":
        return "a video or another kind of media file, not a picture"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in start):
        return "text, not a picture"
    return f"not a picture in a format that is read ({READ})"
