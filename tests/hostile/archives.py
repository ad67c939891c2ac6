"""Damaged, odd and malicious archives by name, each with the rows or the sentence that is right for it."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from skinvae.records import Status
from tests.hostile.images import good, lesion, patched

OK, TRUNCATED, TOO_LARGE, CORRUPT = Status.OK, Status.TRUNCATED, Status.TOO_LARGE, Status.CORRUPT_CRC
UNDECODABLE, UNSUPPORTED, ENCRYPTED = Status.UNDECODABLE, Status.UNSUPPORTED_FORMAT, Status.ENCRYPTED
Rows = tuple[tuple[str, Status], ...]

MAX_BYTES = 1 << 20
"""Of one member, in the tests; the bombs are above it."""


@dataclass(frozen=True)
class HostileArchive:
    """`make()` gives the bytes. Expected are `rows` and, behind them, an ArchiveError that matches `error`."""

    name: str
    what: str
    rows: Rows
    error: str | None
    make: Callable[[], bytes]
    uri: str


ARCHIVES: dict[str, HostileArchive] = {}


def archive(
    name: str, what: str, *rows: tuple[str, Status], error: str | None = None, uri: str = "archive.zip"
) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        assert name not in ARCHIVES
        ARCHIVES[name] = HostileArchive(name, what, rows, error, make, uri)
        return make

    return register


JPEG = good("JPEG")
A, B, C = ("a.jpg", OK), ("b.jpg", OK), ("c.jpg", OK)
THREE = {"a.jpg": JPEG, "b.jpg": JPEG, "c.jpg": JPEG}
CENTRAL, END = b"PK\1\2", b"PK\5\6"


def zipped(members: Mapping[str, bytes] = THREE, *, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return stream.getvalue()


def zipped_pairs(pairs: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        for name, data in pairs:
            file.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def entry(data: bytes, ordinal: int) -> int:
    """Where the central file header of a member lies."""
    position = data.index(CENTRAL)
    for _ in range(ordinal):
        position = data.index(CENTRAL, position + 4)
    return position


def deflated_zeros(num_bytes: int) -> bytes:
    deflater, zeros = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 20)
    return b"".join(deflater.compress(zeros) for _ in range(num_bytes >> 20)) + deflater.flush()


# Zip bombs


def bomb(*, declared: int) -> bytes:
    data = zipped({"a.jpg": deflated_zeros(256 << 20), "b.jpg": JPEG})
    data = patched(data, entry(data, 0) + 10, struct.pack("<H", zipfile.ZIP_DEFLATED))
    return patched(data, entry(data, 0) + 24, struct.pack("<L", declared))


archive("zip-bomb", "256 MB of zeros in 255 KB", ("a.jpg", TOO_LARGE), B)(lambda: bomb(declared=256 << 20))
archive("zip-bomb-lying", "the same, declared as 1,000 bytes", ("a.jpg", CORRUPT), B)(lambda: bomb(declared=1000))
archive("zip-nested", "a zip in a zip, named as an image", ("inner.jpg", UNSUPPORTED), A)(
    lambda: zipped({"inner.jpg": zipped(), "a.jpg": JPEG})
)
archive("zip-nested-named-zip", "a zip in a zip: no image", A)(lambda: zipped({"inner.zip": zipped(), "a.jpg": JPEG}))


@archive("zip-overlapping", "two entries over the same bytes", ("a.jpg", UNDECODABLE), ("a.jpg", OK))
def _() -> bytes:
    data = zipped({"a.jpg": JPEG})
    at, end = data.index(CENTRAL), data.index(END)
    directory = data[at:end] * 2
    return data[:at] + directory + struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(directory), at, 0)


@archive("zip-quoted-overlap", "a member inside another's bytes", ("outer.jpg", UNDECODABLE), ("inner.jpg", OK))
def _() -> bytes:
    inner = zipped({"inner.jpg": JPEG})
    local, central = inner[: inner.index(CENTRAL)], inner[inner.index(CENTRAL) : inner.index(END)]
    data = zipped({"outer.jpg": local})
    at, end = data.index(CENTRAL), data.index(END)
    directory = data[at:end] + patched(central, 42, struct.pack("<L", data.index(local)))
    return data[:at] + directory + struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(directory), at, 0)


# Zip members


def with_entry(ordinal: int, offset: int, new: bytes) -> bytes:
    data = zipped()
    return patched(data, entry(data, ordinal) + offset, new)


archive("zip-encrypted", "one member is encrypted", ("a.jpg", ENCRYPTED), B, C)(lambda: with_entry(0, 8, b"\1\0"))
archive("zip-strongly-encrypted", "one member is", A, ("b.jpg", ENCRYPTED), C)(lambda: with_entry(1, 8, b"\x40\0"))
for method, kind in ((12, "bzip2"), (14, "LZMA"), (93, "Zstandard"), (9, "Deflate64"), (999, "nothing known")):
    archive(f"zip-method-{method}", f"compressed by {kind}", A, ("b.jpg", UNSUPPORTED), C)(
        lambda method=method: with_entry(1, 10, struct.pack("<H", method))  # type: ignore[misc]
    )
archive("zip-wrong-crc", "a checksum that does not match", A, ("b.jpg", CORRUPT), C)(
    lambda: with_entry(1, 16, b"\0\0\0\0")
)


@archive("zip-damaged-deflate", "a byte of compressed data", A, ("b.jpg", CORRUPT), C)
def _() -> bytes:
    data = zipped(method=zipfile.ZIP_DEFLATED)
    middle = data.index(b"b.jpg") + 300
    return patched(data, middle, bytes([data[middle] ^ 0xFF]))


archive("zip-offset-beyond-end", "a member outside the file", A, ("b.jpg", TRUNCATED), C)(
    lambda: with_entry(1, 42, b"\0\0\0\x70")
)
archive("zip-offset-wrong", "an offset into the picture's bytes", A, ("b.jpg", UNDECODABLE), C)(
    lambda: with_entry(1, 42, struct.pack("<L", zipped().index(b"b.jpg") + 100))
)
archive("zip-size-beyond-end", "a member longer than the file", A, B, ("c.jpg", TRUNCATED))(
    lambda: with_entry(2, 20, struct.pack("<2L", 500_000, 500_000))
)
archive("zip-local-name-differs", "another name in front of the data", A, ("b.jpg", UNDECODABLE), C)(
    lambda: patched(zipped(), zipped().index(b"b.jpg"), b"z")
)


@archive("zip-data-descriptors", "sizes behind the data, as streaming writers do", A, B, C)
def _() -> bytes:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += data
            return len(data)

    stream = Unseekable()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in THREE.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return bytes(stream.data)


@archive("zip64", "zip64 records where none is needed", A, B, C)
def _() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in THREE.items():
            with file.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    return stream.getvalue()


@archive("zip-70000-members", "more than 65,535 members, all but two no images", A, ("z.jpg", OK))
def _() -> bytes:
    members = {"a.jpg": JPEG} | {f"{index}.txt": b"" for index in range(69_998)} | {"z.jpg": JPEG}
    return zipped(members)


archive("zip-duplicate-names", "three members of one name", A, A, A)(lambda: zipped_pairs([("a.jpg", JPEG)] * 3))
ODD_NAMES = (
    "new\nline.jpg",
    "\x1b[31mred.jpg",
    "<img src=x onerror=alert(1)>.jpg",
    "'; DROP TABLE scores; --.jpg",
    "=cmd|' /C calc'!A0.jpg",
    "😀é漢.jpg",
    "\u202egpj.exe.jpg",
    "n" * 1000 + ".jpg",
    "../../etc/passwd.jpg",
    "/etc/passwd.jpg",
    "C:\\Windows\\a.jpg",
    "a/./b/../c.jpg",
    " .jpg ",
)
IMAGE_NAMES = tuple(name for name in ODD_NAMES if not name.endswith(" "))
archive("zip-odd-names", "newlines, HTML, SQL, emoji, 1 KB, ../, absolute", *((name, OK) for name in IMAGE_NAMES))(
    lambda: zipped_pairs([(name, JPEG) for name in ODD_NAMES])
)
archive("zip-nul-in-name", "a NUL in a name", ("a\0b.jpg", OK))(
    lambda: zipped({"aXb.jpg": JPEG}).replace(b"aXb.jpg", b"a\0b.jpg")
)
archive("zip-name-no-utf8", "a name flagged as UTF-8 that is none", ("\ufffd\ufffd.jpg", OK))(
    lambda: zipped({"é.jpg": JPEG}).replace("é".encode(), b"\xff\xfe")
)
archive("zip-macosx", "resource forks, hidden files, texts and folders: no images", A)(
    lambda: zipped(
        {
            "a.jpg": JPEG,
            "__MACOSX/._a.jpg": b"\0\5\x16\7",
            ".DS_Store": b"\0",
            "LICENSE.txt": b"CC-0",
            "ATTRIBUTION.txt": b"",
            "folder/": b"",
        }
    )
)
archive("zip-no-suffix", "an image and a text without suffix: told by content", ("ISIC_1", OK))(
    lambda: zipped({"ISIC_1": JPEG, "README": b"text"})
)
archive("zip-poison-images", "good images beside bad ones", A, ("bad.jpg", UNSUPPORTED), ("cut.jpg", TRUNCATED), B)(
    lambda: zipped({"a.jpg": JPEG, "bad.jpg": b"no image", "cut.jpg": JPEG[:700], "b.jpg": JPEG})
)

# Zip directories

for share in (10, 50, 99):
    archive(f"zip-cut-at-{share}-percent", "an upload that stopped", error="cut off")(
        lambda share=share: zipped()[: len(zipped()) * share // 100]  # type: ignore[misc]
    )
archive("zip-without-directory", "members, then nothing", error="cut off")(lambda: zipped()[: zipped().index(CENTRAL)])
archive("zip-directory-of-noise", "a directory overwritten", error="cut off|damaged")(
    lambda: patched(zipped(), zipped().index(CENTRAL), b"\xaa" * 100)
)
archive("zip-count-too-high", "an end record that claims 60,000 members", error="damaged")(
    lambda: patched(zipped(), zipped().index(END) + 8, struct.pack("<2H", 60_000, 60_000))
)
archive("zip-several-volumes", "one volume of several", error="volume")(
    lambda: patched(zipped(), zipped().index(END) + 4, b"\1\0\1\0")
)
archive("zip-comment-of-ends", "a comment full of end records", A, B, C)(
    lambda: patched(zipped(), len(zipped()) - 2, b"\xe0\x2e") + (END + bytes(8)) * 1_000
)
archive("zip-empty", "no members")(lambda: zipped({}))
archive("zip-self-extractor", "a program in front", A, B, C)(lambda: b"MZ" + bytes(5_000) + zipped())

# Tar


def tarred(*members: tuple[str, bytes], format_: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format_) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tar_with(kind: bytes, *, linkname: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as file:
        odd = tarfile.TarInfo("odd.jpg")
        odd.type, odd.linkname = kind, linkname
        file.addfile(odd)
        last = tarfile.TarInfo("a.jpg")
        last.size = len(JPEG)
        file.addfile(last, io.BytesIO(JPEG))
    return stream.getvalue()


def three_tarred() -> bytes:
    return tarred(*THREE.items())


def tar_header_patched(data: bytes, header: int, offset: int, new: bytes) -> bytes:
    """One header with other bytes and its checksum right again."""
    block = bytearray(data[header : header + 512])
    block[offset : offset + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return patched(data, header, bytes(block))


TAR = "archive.tar"
MEMBER_BYTES = 512 + -(-len(JPEG) // 512) * 512

archive("tar", "in order", A, B, C, uri=TAR)(three_tarred)
archive("tar-odd-names", "../, absolute, newlines, HTML, emoji, 1 KB", *((n, OK) for n in IMAGE_NAMES), uri=TAR)(
    lambda: tarred(*((name, JPEG) for name in ODD_NAMES))
)
archive("tar-pax", "names in extended headers", *((n, OK) for n in IMAGE_NAMES), uri=TAR)(
    lambda: tarred(*((name, JPEG) for name in ODD_NAMES), format_=tarfile.PAX_FORMAT)
)
archive("tar-symlink", "a link to /etc/passwd", ("odd.jpg", UNSUPPORTED), A, uri=TAR)(
    lambda: tar_with(tarfile.SYMTYPE, linkname="/etc/passwd")
)
archive("tar-hard-link", "a hard link out of the archive", ("odd.jpg", UNSUPPORTED), A, uri=TAR)(
    lambda: tar_with(tarfile.LNKTYPE, linkname="../../x.jpg")
)
for type_, kind_name in ((tarfile.CHRTYPE, "device"), (tarfile.BLKTYPE, "disk"), (tarfile.FIFOTYPE, "pipe")):
    archive(f"tar-{kind_name}", f"a {kind_name} named as an image: no file", A, uri=TAR)(
        lambda type_=type_: tar_with(type_)  # type: ignore[misc]
    )
archive("tar-sparse", "a sparse file", ("odd.jpg", UNSUPPORTED), A, uri=TAR)(lambda: tar_with(tarfile.GNUTYPE_SPARSE))
archive("tar-duplicate-names", "three members of one name", A, A, A, uri=TAR)(lambda: tarred(*[("a.jpg", JPEG)] * 3))
archive("tar-cut-in-member", "an upload that stopped", A, ("b.jpg", TRUNCATED), error="damaged at byte", uri=TAR)(
    lambda: three_tarred()[: MEMBER_BYTES + 900]
)
archive("tar-cut-in-header", "an upload that stopped", A, error="damaged at byte", uri=TAR)(
    lambda: three_tarred()[: MEMBER_BYTES + 100]
)
archive("tar-without-end", "no blocks of zeros at the end", A, B, C, error="ends without an end mark", uri=TAR)(
    lambda: three_tarred()[: 3 * MEMBER_BYTES]
)
archive("tar-bad-checksum-midway", "one bit of the second header", A, error="damaged at byte", uri=TAR)(
    lambda: patched(three_tarred(), MEMBER_BYTES, b"c")
)
archive("tar-negative-size", "a size below zero", A, error="damaged at byte", uri=TAR)(
    lambda: tar_header_patched(three_tarred(), MEMBER_BYTES, 124, b"\xff" * 12)
)
archive("tar-size-no-number", "a size of letters", A, error="damaged at byte", uri=TAR)(
    lambda: tar_header_patched(three_tarred(), MEMBER_BYTES, 124, b"abcdefghijkl")
)
archive("tar-size-8-exabytes", "a size no disk has", A, ("b.jpg", TOO_LARGE), error="damaged at byte", uri=TAR)(
    lambda: tar_header_patched(three_tarred(), MEMBER_BYTES, 124, b"\x80\0\0\0\x7f" + b"\xff" * 7)
)
archive("tar-member-too-large", "a member above the limit", ("big.jpg", TOO_LARGE), A, uri=TAR)(
    lambda: tarred(("big.jpg", bytes(MAX_BYTES + 1)), ("a.jpg", JPEG))
)
archive("tar-gz", "gzip around it", A, B, C, uri="archive.tar.gz")(lambda: gzip.compress(three_tarred(), mtime=0))
archive("tar-gz-cut", "a gzip that stops", A, ("b.jpg", TRUNCATED), error="damaged at byte", uri="archive.tar.gz")(
    lambda: _gzipped_and_cut(three_tarred(), at=MEMBER_BYTES + 900)
)
archive("tar-gz-wrong-crc", "gzip's own checksum is wrong", error="no archive|damaged", uri="archive.tar.gz")(
    lambda: patched(gzip.compress(three_tarred(), mtime=0), len(gzip.compress(three_tarred(), mtime=0)) - 8, bytes(4))
)


def _gzipped_and_cut(data: bytes, *, at: int) -> bytes:
    """The whole compressed form of the first `at` bytes, without the end of the stream."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, 31)
    return deflater.compress(data[:at]) + deflater.flush(zlib.Z_SYNC_FLUSH)


@archive("tar-gz-bomb", "a member of 256 MB of zeros", ("a.jpg", TOO_LARGE), B, uri="archive.tar.gz")
def _() -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.size = 256 << 20
    deflater, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(1 << 20)
    parts = [deflater.compress(info.tobuf(tarfile.GNU_FORMAT))]
    parts += [deflater.compress(zeros) for _ in range(256)]
    return b"".join([*parts, deflater.compress(tarred(("b.jpg", JPEG))), deflater.flush()])


# Parquet, manifests and what is no archive

PARQUET = "images.parquet"


def parquet(images: list[bytes | None]) -> bytes:
    stream = io.BytesIO()
    names = [f"{index}.jpg" for index in range(len(images))]
    pq.write_table(pa.table({"path": names, "image": pa.array(images, pa.binary())}), stream)
    return stream.getvalue()


archive("parquet-cut", "no footer", error="damaged Parquet|no Parquet footer", uri=PARQUET)(
    lambda: parquet([JPEG] * 3)[:-100]
)
archive("parquet-footer-of-noise", "a footer overwritten", error="damaged", uri=PARQUET)(
    lambda: patched(parquet([JPEG] * 3), len(parquet([JPEG] * 3)) - 300, b"\xff" * 200)
)
archive("parquet-magic-only", "eight bytes", error="damaged|no Parquet footer", uri=PARQUET)(lambda: b"PAR1PAR1")


@archive("parquet-bomb", "300 MB of zeros in a column chunk of 26 KB", error="as only a bomb does", uri=PARQUET)
def _() -> bytes:
    stream, zeros = io.BytesIO(), pa.array([bytes(1 << 20)], pa.binary())
    table = pa.table({"image": pa.chunked_array([zeros] * 300)})  # which hold the same memory
    pq.write_table(table, stream, compression="zstd", use_dictionary=False)
    return stream.getvalue()


archive("manifest-of-garbage", "noise named .csv", error="no archive that skinvae reads", uri="list.csv")(
    lambda: b"\0\xff" * 500
)
archive("manifest-without-uris", "a CSV of something else", error="no manifest", uri="list.csv")(
    lambda: b"name,age\nada,36\n"
)
archive("manifest-html", "URIs that cannot be read", error="only paths", uri="list.txt")(
    lambda: b"http://example.org/a.jpg\n"
)
archive("empty-object", "0 bytes", error="empty")(lambda: b"")
archive("noise", "noise", error="no archive that skinvae reads")(lambda: lesion().tobytes()[:5000])
archive("rar", "another archiver", error="no archive that skinvae reads")(lambda: b"Rar!\x1a\7\1\0" + bytes(2000))
archive("7z", "another archiver", error="no archive that skinvae reads")(lambda: b"7z\xbc\xaf\x27\x1c" + bytes(2000))
