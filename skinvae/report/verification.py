"""What `verify` found, as lines for a terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from skinvae.audit.verification import Verification


def verification_lines(found: Verification) -> list[str]:
    """What was checked, then every difference by kind, the first of each in words."""
    archives = (
        f"; {found.num_archives:,} archives counted again, {found.num_images:,} images"
        if found.num_archives
        else "; archives not counted again"
    )
    lines = [
        f"{found.noun} {found.uri}, version {found.version}: {found.num_rows:,} rows, {found.num_slices:,} slices, "
        f"{found.num_files:,} files{archives}"
    ]
    for difference in found.differences:
        lines.append(f"{difference.title}:")
        lines += [f"  {example}" for example in difference.examples]
        if difference.count > len(difference.examples) > 1:
            lines.append("  ...")
    lines += [f"cannot be read: {one}" for one in found.unreadable]
    lines += [f"note: {one}" for one in found.notes]
    if not found.differences and not found.unreadable:
        lines.append("all is right" if found.num_archives else "all is right, as far as the table itself tells")
    return lines


def verification_document(found: Verification) -> dict[str, Any]:
    """For JSON."""
    differences = {one.kind.value: {"count": one.count, "examples": one.examples} for one in found.differences}
    return asdict(found) | {
        "differences": differences,
        "num_differences": found.num_differences,
        "is_right": not (found.differences or found.unreadable),
    }
