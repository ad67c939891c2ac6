"""A limit: decoding and resizing bytes that lie in memory, by one process a core."""

from __future__ import annotations

import multiprocessing
import time
import zipfile

import torch

from benchmarks.ways.task import Task, filesystem, mark, pixels_of

SECONDS = 3.0


def run(task: Task) -> None:
    size = task.read_bundle().config.model.image_size
    with zipfile.ZipFile(filesystem().open(task.archive)) as archive:
        jpegs = [archive.read(name) for name in archive.namelist()][:256]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_decode, args=(jpegs, size, task.marks)) for _ in range(task.threads)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def _decode(jpegs: list[bytes], size: int, marks: str) -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    while time.monotonic() - started < SECONDS:
        for start in range(0, len(jpegs), 32):
            some = jpegs[start : start + 32]
            for data in some:
                pixels_of(data, size=size)
            mark(marks, len(some))
