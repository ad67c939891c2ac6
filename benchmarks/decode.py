"""Decoding and resizing to the model's input: images per second on one core, by skinvae's code and by others'."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks.harness import Part, Scale, interleaved, medians
from benchmarks.images import drawn_jpegs, real_jpegs
from skinvae.images.decode import DecodeSettings, decode
from skinvae.images.isolation import DecoderProcess
from skinvae.records import Status

SIZE = 128
"""Pixels of the resized side."""
NUM_FILES = 16
SECONDS = 1.0
"""Of one timing."""


def measure(scale: Scale) -> Part:
    """One row a kind of file; all on one core, the isolated decoder's child included."""
    rows = []
    with _one_core(), DecoderProcess() as isolated:
        for kind, jpegs in _kinds(scale).items():

            def say(words: str, kind: str = kind) -> None:
                scale.say(f"{kind}, {words}")

            measured = interleaved(_ways(jpegs, isolated, scale), scale.rounds, say=say)
            rows.append(_row(kind, jpegs, medians(measured)))
    return Part(
        name="decode",
        title="Decoding and resizing on one core",
        rows=rows,
        notes=[
            "All rates are images/s on one core, resized to 128x128 but for simplejpeg alone, which only decodes.",
            "skinvae isolated is what a job runs: its decoder is a process of its own, which images may hang or kill.",
            "Drawn images are smoother than photographs: their files are smaller than real ones of the same quality.",
        ],
        bars=("file", "skinvae isolated"),
    )


def _kinds(scale: Scale) -> dict[str, Sequence[bytes]]:
    large = {"width": 600, "height": 450}
    kinds: dict[str, Sequence[bytes]] = {
        "600x450 q85 4:2:0": drawn_jpegs(NUM_FILES, **large, quality=85, subsampling="420"),
        "600x450 q98 4:4:4": drawn_jpegs(NUM_FILES, **large, quality=98, subsampling="444"),
        "600x450 q100 4:4:4": drawn_jpegs(NUM_FILES, **large, quality=100, subsampling="444"),
    }
    if real := real_jpegs(scale, 4 * NUM_FILES):
        kinds["200x150 real"] = [data for _, data in real]
    return kinds | {"128x128 q90 4:2:0": drawn_jpegs(NUM_FILES, width=SIZE, height=SIZE)}


def _ways(jpegs: Sequence[bytes], isolated: DecoderProcess, scale: Scale) -> dict[str, Callable[[], float]]:
    settings = DecodeSettings()

    def in_process(some: Sequence[bytes]) -> None:
        for data in some:
            assert decode(data, size=SIZE, settings=settings).status is Status.OK

    def in_child(some: Sequence[bytes]) -> None:
        for _, image in isolated.decode_all(enumerate(some), size=SIZE, settings=settings):
            assert image is not None
            assert image.status is Status.OK

    def alone(some: Sequence[bytes]) -> None:
        for data in some:
            simplejpeg.decode_jpeg(data, colorspace="RGB")

    def pillow(some: Sequence[bytes]) -> None:
        for data in some:
            with Image.open(io.BytesIO(data)) as image:
                np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    decoders = {"skinvae": in_process, "skinvae isolated": in_child, "simplejpeg alone": alone, "Pillow": pillow}
    seconds = 0.02 if scale.small else SECONDS
    return {name: functools.partial(_rate, decode, jpegs, seconds=seconds) for name, decode in decoders.items()}


def _rate(decode_all: Callable[[Sequence[bytes]], None], jpegs: Sequence[bytes], *, seconds: float) -> float:
    """Images per second, over all files again and again for so long."""
    decode_all(jpegs[:2])
    started, num_images = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        decode_all(jpegs)
        num_images += len(jpegs)
    return num_images / elapsed


def _row(kind: str, jpegs: Sequence[bytes], rates: dict[str, float]) -> dict[str, Any]:
    return {
        "file": kind,
        "KB": sum(map(len, jpegs)) / len(jpegs) / 1000,
        **rates,
        "skinvae isolated / Pillow": rates["skinvae isolated"] / rates["Pillow"],
    }


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """This process on one core with one thread, and what it starts too."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        if cores:
            os.sched_setaffinity(0, cores)
