"""A look at the speed of decoding, where decoding would be done: a few dozen images of a job's own archives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import RayError, RayTaskError

from skinvae.images.archives.base import Missing
from skinvae.pipelines.decoding import DecodedSlice, decode_slices
from skinvae.pipelines.runtime import Resources
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.slicing import ArchivePart, OpenedArchive
from skinvae.pipelines.stage_times import Stage, StageClock
from skinvae.storage.done import Done

_NUM_SAMPLES = 6
"""Places in the archives."""

_SAMPLE_SIZE = 48
"""Members at each of them."""

_ROOM_SECONDS = 120.0


@dataclass(frozen=True)
class DecodingProbe:
    """What reading and decoding some images took."""

    images_per_second: float | None
    """In one task; None where no image could be read."""
    images_per_stream_byte: float | None
    """None where no stream was read."""


def probe_decoding(
    opened: Sequence[OpenedArchive], done: Mapping[str, Done], *, job: SliceJob, resources: Resources
) -> DecodingProbe:
    """Read and decode images at a few places of what is not done, in a task like those of the job."""
    task = ray.remote(max_retries=1, **resources.of_task)(_decode_samples)
    try:
        probe: DecodingProbe = ray.get(task.remote(samples(opened, done), job), timeout=_ROOM_SECONDS)
    except RayTaskError:
        raise
    except RayError:
        return DecodingProbe(None, None)
    return probe


def samples(opened: Sequence[OpenedArchive], done: Mapping[str, Done]) -> list[ArchivePart]:
    """Small parts, spread evenly over the archives' missing members; of streams the beginnings."""
    known: list[tuple[OpenedArchive, int, int]] = []
    streams: list[ArchivePart] = []
    for one in opened:
        missing = one.missing(done.get(one.source.source_id, Done()))
        if one.archive.num_members is not None:
            known += [(one, start, stop) for start, stop in missing.ranges if stop is not None]
        elif missing.ranges:
            parts = one.archive.parts(missing, slice_size=_SAMPLE_SIZE)
            streams += [ArchivePart(one.source, part) for part in parts[:1]]
    num_streams = min(len(streams), _NUM_SAMPLES if not known else _NUM_SAMPLES // 2)
    chosen = [streams[index * len(streams) // num_streams] for index in range(num_streams)]
    return list(_spread(known, _NUM_SAMPLES - num_streams)) + chosen


def _spread(known: Sequence[tuple[OpenedArchive, int, int]], number: int) -> Iterator[ArchivePart]:
    total = sum(stop - start for _, start, stop in known)
    last = None
    for index in range(number if known else 0):
        position = total * index // number
        for one, start, stop in known:
            if position < stop - start:
                begin = start + position
                part = one.archive.parts(Missing(((begin, min(begin + _SAMPLE_SIZE, stop)),)), slice_size=_SAMPLE_SIZE)[
                    0
                ]
                if (one, part.start) != last:
                    yield ArchivePart(one.source, part)
                last = one, part.start
                break
            position -= stop - start


def _decode_samples(parts: Sequence[ArchivePart], job: SliceJob) -> DecodingProbe:
    clock = StageClock()
    # The first images wait for the process that decodes them to start.
    for part in parts[:1]:
        _first_slice(part, job, clock)
    clock.take()
    num_images = num_stream_images = num_stream_bytes = 0
    for part in parts:
        found = _first_slice(part, job, clock)
        if found is None:
            continue
        num_images += len(found.members)
        if part.part.is_stream and found.slice.end.byte_range is not None:
            begin, end = found.slice.end.byte_range
            num_stream_images, num_stream_bytes = num_stream_images + len(found.members), num_stream_bytes + end - begin
    taken = clock.take()
    seconds = taken.get(Stage.READ, 0.0) + taken.get(Stage.DECODE, 0.0)
    return DecodingProbe(
        num_images / seconds if num_images and seconds else None,
        num_stream_images / num_stream_bytes if num_stream_bytes else None,
    )


def _first_slice(part: ArchivePart, job: SliceJob, clock: StageClock) -> DecodedSlice | None:
    """None where the archive is damaged there: the job will say so."""
    for item in decode_slices(part, size=job.image_size, settings=job.decode, clock=clock):
        return item if isinstance(item, DecodedSlice) else None
    return None
