"""Memory against size: the driver of a scoring job, and a task that reads a tar. `python -m benchmarks.memory --help`.

python -m benchmarks.memory driver 1000 100000 1000000    members of a zip, whole jobs with a model of no cost
python -m benchmarks.memory tar 20                        gigabytes of a generated tar, read and decoded in one task
python -m benchmarks.memory picture                       the curves of both: docs/memory.png
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.harness import machine
from benchmarks.processes import MB, sampled_memory
from skinvae.images.archives import Missing, SliceEnd, TarArchive
from skinvae.images.decode import DecodeSettings, decode

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "memory.png"


def jpeg(width: int, height: int, *, quality: int, seed: int = 0) -> bytes:
    """A JPEG of noise: about as large as one of that size gets."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def write_zip(path: Path, num_members: int) -> None:
    """The same small JPEG under many names."""
    data = jpeg(16, 16, quality=50)
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(num_members):
            archive.writestr(f"{index:09}.jpg", data)


def measure_driver(sizes: list[int]) -> list[dict[str, Any]]:
    """Score archives of so many members with a model that costs next to nothing; the driver's memory meanwhile."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model = _free_model(Path(folder))
        for size in sizes:
            archive = Path(folder) / f"{size}.zip"
            write_zip(archive, size)
            table = f"{folder}/table-{size}"
            command = [sys.executable, "-m", "skinvae", "score", str(archive), "--model", model, "--table", table]
            command += ["--set", "score.num_samples=1", "--set", "score.slice_size=1024", "--json"]
            command += ["--set", "score.batch_size=1024", "--set", "score.decode_batch_size=1024"]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            with sampled_memory(psutil.Process(process.pid)) as samples:
                output, _ = process.communicate()
            if process.returncode != 0:
                raise SystemExit(f"the job ended with exit code {process.returncode}")
            summary = json.loads(output)
            if summary["in_table"] != {"ok": size}:
                raise SystemExit(f"{size:,} members, but the table holds {summary['in_table']}")
            found.append(
                {"num_members": size, "peak_mb": max(mb for _, mb in samples), "seconds": summary["seconds"]}
                | {"samples": samples}
            )
            print(f"{size:>9,} members: the driver's peak is {found[-1]['peak_mb']:.0f} MB", flush=True)
            archive.unlink()
    return found


def _free_model(folder: Path) -> str:
    archive, labels, model = folder / "normals.zip", folder / "labels.csv", folder / "model"
    names = [f"{index}.jpg" for index in range(16)]
    with zipfile.ZipFile(archive, "w") as normals:
        for index, name in enumerate(names):
            normals.writestr(name, jpeg(16, 16, quality=50, seed=index))
    labels.write_text("image_id,dx\n" + "".join(f"{index},nv\n" for index in range(16)))
    command = [sys.executable, "-m", "skinvae", "train", str(archive), "--labels", str(labels), "--normal", "NV"]
    command += ["--out", str(model), "--set", "train.num_epochs=0", "--set", "model.image_size=32"]
    command += ["--set", "model.base_channels=8", "--set", "model.num_latents=1"]
    subprocess.run(command, check=True)
    return str(model)


class GeneratedTar:
    """A tar of any size, made of one image over and over, byte by byte as it is asked for: a RangeReader."""

    uri = "generated.tar"

    def __init__(self, num_bytes: int) -> None:
        self._data = jpeg(600, 450, quality=95)
        self._padded = -(-len(self._data) // 512) * 512 + 512
        self._num_members = num_bytes // self._padded
        self.size = self._num_members * self._padded + 1024

    def read(self, start: int, stop: int) -> bytes:
        pieces, position = [], start
        while position < stop:
            index, offset = divmod(position, self._padded)
            member = self._member(index) if index < self._num_members else bytes(1024)
            pieces.append(member[offset : offset + stop - position])
            position += len(pieces[-1])
        return b"".join(pieces)

    @functools.lru_cache(maxsize=2)  # noqa: B019 lives as long as the process
    def _member(self, index: int) -> bytes:
        info = tarfile.TarInfo(f"{index:09}.jpg")
        info.size = len(self._data)
        member = info.tobuf() + self._data
        return member + bytes(self._padded - len(member))


def measure_tar(gigabytes: float) -> dict[str, Any]:
    """Read and decode a tar as one task does; the process's memory meanwhile, against the bytes read."""
    reader = GeneratedTar(int(gigabytes * 1e9))
    archive = TarArchive(reader, max_bytes=64 * MB)
    [part] = archive.parts(Missing(((0, None),)), slice_size=256)
    process = psutil.Process()
    samples, num_images = [], 0
    started = time.monotonic()
    for item in archive.read(part):
        if isinstance(item, SliceEnd):
            assert item.byte_range is not None
            samples.append((item.byte_range[1] / 1e9, process.memory_info().rss / MB))
        else:
            assert item.data is not None
            image = decode(item.data, size=128, settings=DecodeSettings())
            num_images += image.pixels is not None
    seconds = time.monotonic() - started
    peak = max(mb for _, mb in samples)
    print(f"{reader.size / 1e9:.1f} GB, {num_images:,} images in {seconds:.0f} s: peak {peak:.0f} MB")
    return {"num_bytes": reader.size, "num_images": num_images, "peak_mb": peak, "seconds": seconds, "samples": samples}


def save(name: str, measured: Any) -> None:
    """Keep what was measured beside the machine and the date."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"memory-{name}.json").write_text(json.dumps({"about": machine(), "measured": measured}, indent=1))


def draw() -> None:
    """Both curves side by side."""
    driver = json.loads((RESULTS / "memory-driver.json").read_text())
    tar = json.loads((RESULTS / "memory-tar.json").read_text())
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for run in driver["measured"]:
        seconds, mb = zip(*run["samples"], strict=True)
        left.plot([100 * one / seconds[-1] for one in seconds], mb, label=f"{run['num_members']:,} members")
    left.set(
        title="Driver of a scoring job", xlabel="% of the job's time", ylabel="MB held by the driver", ylim=(0, None)
    )
    left.legend()
    gigabytes, mb = zip(*tar["measured"]["samples"], strict=True)
    right.plot(gigabytes, mb)
    right.set(title="Task that reads and decodes a tar", xlabel="GB read", ylabel="MB of the process", ylim=(0, 1024))
    figure.savefig(PICTURE, dpi=120)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True, dest="what")
    what.add_parser("driver").add_argument("sizes", type=int, nargs="+")
    what.add_parser("tar").add_argument("gigabytes", type=float)
    what.add_parser("picture")
    arguments = parser.parse_args()
    if arguments.what == "driver":
        save("driver", measure_driver(arguments.sizes))
    elif arguments.what == "tar":
        save("tar", measure_tar(arguments.gigabytes))
    else:
        draw()


if __name__ == "__main__":
    main()
