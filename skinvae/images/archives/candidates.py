"""Which members of an archive count as images, decided by name and, where the name does not tell, by content."""

from __future__ import annotations

import re
from enum import Enum

_IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "tif", "tiff", "webp"}
    # Not decoded, but images all the same: each becomes a row with a reason instead of vanishing.
    | {"gif", "heic", "heif", "avif", "jp2"}
)
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".tzst", ".gz", ".bz2", ".zst", ".parquet")
_SEPARATOR = re.compile(r"[/\\]")  # some Windows tools write '\\' against APPNOTE.TXT 4.4.17.1

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
)
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"})
_BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # bytes 14..17; "BM" alone begins many a text


class Candidacy(Enum):
    """Whether a member is an image, as far as its name tells."""

    IMAGE = "image"
    BY_CONTENT = "by content"
    SKIPPED = "skipped"


def candidacy(name: str) -> Candidacy:
    """Directories, hidden files, macOS resource forks and foreign suffixes are skipped; no suffix leaves it open."""
    folders = _SEPARATOR.split(name)
    last = folders.pop()
    if not last or last.startswith(".") or "__MACOSX" in folders:
        return Candidacy.SKIPPED
    suffix = last.rpartition(".")[2].lower() if "." in last else ""
    if not suffix:
        return Candidacy.BY_CONTENT
    return Candidacy.IMAGE if suffix in _IMAGE_SUFFIXES else Candidacy.SKIPPED


def names_an_archive(name: str) -> bool:
    """Whether the name is that of an archive, whose images a folder or list does not look into."""
    return name.lower().endswith(_ARCHIVE_SUFFIXES)


def image_id(name: str) -> str:
    """The file stem of the last path component: 'ISIC2018/ISIC_0024306.jpg' -> 'ISIC_0024306'."""
    last = _SEPARATOR.split(name)[-1]
    return last.rpartition(".")[0] or last


def image_format(data: bytes) -> str | None:
    """The image format that the first bytes claim, in Pillow's spelling where Pillow has one; None for no image."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "HEIF"
    return None
