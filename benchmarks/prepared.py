"""Pixels from a prepared archive against decoding the originals: `python -m benchmarks.prepared ARCHIVE`.

Both are read by the code that a job's tasks run, in one process and in turns; what a GPU's scores wait for is this.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness import interleaved, machine, ratio
from skinvae.config import build_config
from skinvae.images.decode import PREPROCESSING_VERSION
from skinvae.pipelines.decoding import DecodedSlice, decode_slices
from skinvae.pipelines.prepare import prepare
from skinvae.pipelines.slicing import missing_parts, open_archives
from skinvae.storage.pixel_table import Preparation

NUM_ROUNDS = 3
RATIO_FLOOR = 2.0
"""A prepared image is a copy of 48 KB; the smallest JPEGs of dermoscopy cost several times that."""


def measure(archive: str, out: str) -> dict[str, object]:
    """Images per second from both, their ratio, and the bytes an image takes."""
    torch.set_num_threads(1)
    config = build_config({})
    size = config.model.image_size
    preparation = Preparation(image_size=size, preprocessing_version=PREPROCESSING_VERSION, decode=config.images)
    summary = prepare([archive], out=out, config=config)

    def seconds(source: str) -> float:
        opened = open_archives([source], config=config, preparation=preparation)
        started, num_images = time.perf_counter(), 0
        for part in missing_parts(opened, slice_size=256):
            for item in decode_slices(part, size=size, settings=config.images):
                assert isinstance(item, DecodedSlice), item
                num_images += len(item.stacked_pixels(size=size))
        assert num_images == summary.in_table["ok"]
        return time.perf_counter() - started

    ways = {"decoded": lambda: seconds(archive), "prepared": lambda: seconds(out)}
    measured = interleaved(ways, NUM_ROUNDS)
    num_images = summary.in_table["ok"]
    return {
        "num_images": num_images,
        "image_size": size,
        "prepare_seconds": summary.seconds,
        "decoded_per_second": num_images / min(measured["decoded"]),
        "prepared_per_second": num_images / min(measured["prepared"]),
        "ratio": ratio(measured, "decoded", "prepared"),
        "prepared_bytes_per_image": sum(path.stat().st_size for path in Path(out).glob("*.parquet")) / num_images,
        "about": machine(),
    }


def main() -> None:
    """Entry point; fails below the floor."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(sys.argv[1], f"{folder}/prepared")
    print(json.dumps(measured, indent=1))
    if float(str(measured["ratio"])) < RATIO_FLOOR:
        raise SystemExit(f"below the floor of {RATIO_FLOOR}")


if __name__ == "__main__":
    main()
