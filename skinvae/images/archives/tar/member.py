"""One member of a tar: whether it is an image that may be read at all, and its bytes."""

from __future__ import annotations

from collections.abc import Callable

from skinvae.images.archives.base import Member, RawMember
from skinvae.images.archives.candidates import Candidacy, candidacy, image_format
from skinvae.images.archives.tar.headers import ByteStream, TarEntry, TarKind
from skinvae.records import Status

_REFUSED = {
    TarKind.HARD_LINK: "a hard link; only the file it was made of is scored",
    TarKind.SYMBOLIC_LINK: "a symbolic link; only its target is scored",
    TarKind.SPARSE: "a sparse file, which is not read",
    TarKind.CONTINUATION: "the rest of a file that begins in another volume of the archive",
}
_LINKS = (TarKind.HARD_LINK, TarKind.SYMBOLIC_LINK)


def raw_member(
    stream: ByteStream, entry: TarEntry, index: int, *, max_bytes: int, wanted: Callable[[Member], bool] | None
) -> RawMember | None:
    """The member whose data are next in `stream`, or why they cannot be had; None for what is no image or unwanted."""
    candidate = candidacy(entry.name)
    is_untold = entry.kind in _LINKS and candidate is Candidacy.BY_CONTENT  # has no content to tell by
    if entry.kind is TarKind.NO_FILE or candidate is Candidacy.SKIPPED or is_untold:
        return None
    if wanted is not None and not wanted(Member(index, entry.name, entry.num_bytes)):
        return None
    refusal = _refusal(entry, max_bytes=max_bytes)
    if refusal is not None:
        return RawMember(index, entry.name, None if entry.kind in _LINKS else entry.num_bytes, None, *refusal)
    assert entry.num_bytes is not None
    data = stream.read(entry.num_bytes)
    if candidate is Candidacy.BY_CONTENT and image_format(data) is None:
        return None
    if len(data) < entry.num_bytes:
        reason = f"the archive breaks off inside the member, after {len(data)} of its {entry.num_bytes} bytes"
        return RawMember(index, entry.name, entry.num_bytes, None, Status.TRUNCATED, reason)
    return RawMember(index, entry.name, entry.num_bytes, data, Status.OK, None)


def _refusal(entry: TarEntry, *, max_bytes: int) -> tuple[Status, str] | None:
    """Why none of the member's bytes are to be read."""
    if entry.kind in _REFUSED:
        return Status.UNSUPPORTED_FORMAT, _REFUSED[entry.kind]
    if entry.num_bytes is not None and entry.num_bytes > max_bytes:
        return Status.TOO_LARGE, f"{entry.num_bytes} bytes, more than the {max_bytes} allowed"
    return None
