"""Runs the hostile corpus: every image through the isolated decoder, every archive through all of its reading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skinvae.errors import ArchiveError
from skinvae.images.archives import Missing, RawMember, SliceEnd, open_archive
from skinvae.images.decode import DecodeSettings
from skinvae.images.isolation import DecoderProcess
from skinvae.records import Status
from tests.hostile.archives import ARCHIVES, MAX_BYTES, HostileArchive
from tests.hostile.images import IMAGES, HostileImage
from tests.unit.images.readers import BytesReader

SIZE = 16
SETTINGS = DecodeSettings(max_seconds=1.0)
"""The progressive bomb would take 12 s."""

SLICE_SIZE = 256


@dataclass(frozen=True)
class Outcome:
    """What became of one file of the corpus."""

    kind: str  # 'image' or 'archive'
    name: str
    what: str
    expected: str
    got: str
    is_right: bool
    child_died: bool
    num_pixels_missing: int = 0
    """Images with status ok and no pixels, or the reverse."""


def run() -> dict[str, Any]:
    """The outcomes of the whole corpus, and how much memory this process and its child took, in bytes."""
    outcomes: list[Outcome] = []
    child_bytes = 0
    with DecoderProcess() as decoder:
        for image in IMAGES.values():
            outcomes.append(decode_image(decoder, image))
            child_bytes = max(child_bytes, _memory("VmHWM", pid=decoder.pid))
        for archive in ARCHIVES.values():
            outcomes.append(read_archive(decoder, archive))
            child_bytes = max(child_bytes, _memory("VmHWM", pid=decoder.pid))
    return {
        "outcomes": [asdict(one) for one in outcomes],
        "self_bytes": _memory("VmHWM"),
        "child_bytes": child_bytes,
        "files_bytes": _memory("RssFile"),
    }


def decode_image(decoder: DecoderProcess, hostile: HostileImage) -> Outcome:
    """One image of the corpus."""
    pid = decoder.pid
    ((_, decoded),) = decoder.decode_all([(None, hostile.make())], size=SIZE, settings=SETTINGS)
    assert decoded is not None
    return Outcome(
        "image",
        hostile.name,
        hostile.what,
        " or ".join(hostile.expected),
        decoded.status.value,
        decoded.status in hostile.expected and (decoded.status is Status.OK or bool(decoded.error)),
        pid not in (None, decoder.pid),
        int((decoded.pixels is not None) != (decoded.status is Status.OK)),
    )


def read_archive(decoder: DecoderProcess, hostile: HostileArchive) -> Outcome:
    """One archive of the corpus."""
    rows: list[tuple[str, Status]] = []
    error, pid, mismatches = None, decoder.pid, 0
    try:
        for item, decoded in decoder.decode_all(_items(hostile), size=SIZE, settings=SETTINGS):
            if isinstance(item, RawMember):
                rows.append((item.name, item.status if decoded is None else decoded.status))
                mismatches += (decoded is not None and decoded.pixels is not None) != (rows[-1][1] is Status.OK)
    except ArchiveError as raised:
        error = str(raised)
    says_so = hostile.error is None if error is None else bool(hostile.error and re.search(hostile.error, error))
    return Outcome(
        "archive",
        hostile.name,
        hostile.what,
        in_words(hostile.rows, hostile.error is not None),
        in_words(tuple(rows), error is not None),
        says_so and tuple(rows) == hostile.rows,
        pid not in (None, decoder.pid),
        mismatches,
    )


def in_words(rows: tuple[tuple[str, Status], ...], has_error: bool) -> str:
    """Rows without their names, and whether the archive is refused behind them."""
    words = [str(status) for _, status in rows]
    if len(set(words)) == 1 and len(words) > 3:
        words = [f"{len(words)} x {words[0]}"]
    return ", ".join(words + ["archive error"] * has_error) or "no rows"


def markdown(outcomes: list[dict[str, Any]]) -> str:
    """Two tables, images and archives: what is in the file, what should come of it, what came."""
    lines = []
    for kind in ("image", "archive"):
        chosen = [one for one in outcomes if one["kind"] == kind]
        lines += [f"## {len(chosen)} {kind}s", "", "| file | what it is | expected | got |", "|---|---|---|---|"]
        lines += ["| `{name}` | {what} | {expected} | {got} |".format(**one) for one in chosen]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _items(hostile: HostileArchive) -> Iterator[tuple[RawMember | SliceEnd, bytes | None]]:
    archive = open_archive(BytesReader(hostile.make(), uri=hostile.uri), max_bytes=MAX_BYTES)
    if archive.num_members == 0:
        return
    for part in archive.parts(Missing(((0, archive.num_members),)), slice_size=SLICE_SIZE):
        for item in archive.read(part):
            yield item, item.data if isinstance(item, RawMember) else None


def _memory(what: str, *, pid: int | None = None) -> int:
    """A line of /proc/PID/status in bytes, of this process if no other is given; 0 where there is none.

    The peak that getrusage knows of a child counts its parent's memory too, from before the child's exec.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{what}:"))
