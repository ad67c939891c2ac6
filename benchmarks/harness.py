"""What every part of `python -m benchmarks` gives and gets: rows, floors, interleaved rounds and the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "ray", "numpy", "pyarrow", "simplejpeg", "pillow", "s3fs", "deltalake", "daft", "triton")
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Floor:
    """A bound on one measured value, of which missing it fails the bench. Exactly one of the bounds is set."""

    what: str
    """Of what, as the subject of a sentence: 'end to end against Daft'."""
    value: float
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        assert (self.at_least is None) != (self.at_most is None), f"{self.what}: one bound, at_least or at_most"

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}"

    @property
    def is_kept(self) -> bool:
        """NaN keeps no floor."""
        if self.at_least is not None:
            return self.value >= self.at_least
        assert self.at_most is not None
        return self.value <= self.at_most

    @property
    def sentence(self) -> str:
        """What to say where it was missed."""
        return f"{self.what} is {self.value:.3g}, and must be {self.bound}"


@dataclass(frozen=True)
class Part:
    """What one part measured. Rows may have different columns; `bars` names those that the picture shows."""

    name: str
    title: str
    rows: list[dict[str, Any]]
    floors: list[Floor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bars: tuple[str, str] | None = None
    """(column of labels, column of numbers); rows without the number have no bar."""


def _say_nothing(_: str) -> None:
    pass


@dataclass(frozen=True)
class Scale:
    """How large the parts measure, and with what."""

    small: bool
    """Seconds instead of minutes: shows that a part works; its numbers mean nothing and floors are not judged."""
    scratch: Path
    """An empty folder of the run's own."""
    data: Path | None = None
    """Folder with the ISIC 2018 archive; None where there is none."""
    threads: int = 1
    """Cores that this run may use, and threads of whatever computes."""
    say: Callable[[str], None] = _say_nothing
    """Shows a few words of what is being done."""

    @property
    def rounds(self) -> int:
        """Interleaved repetitions."""
        return 1 if self.small else 3

    def folder(self, name: str) -> Path:
        """A folder below `scratch`, made if need be."""
        path = self.scratch / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def isic(self, name: str) -> Path | None:
        """A file of the ISIC data, or None."""
        path = self.data / name if self.data else None
        return path if path is not None and path.is_file() else None


def interleaved(
    ways: Mapping[str, Callable[[], float | None]], rounds: int, *, say: Callable[[str], None] = _say_nothing
) -> dict[str, list[float]]:
    """Every way once a round, each round beginning with another one, so that what drifts on the machine meets all.

    A way gives what it measured itself, or None: then it counts with its seconds.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            say(f"round {number + 1} of {rounds}: {name}")
            started = time.perf_counter()
            value = ways[name]()
            found[name].append(time.perf_counter() - started if value is None else value)
    return found


def medians(measured: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """The median of every way's rounds."""
    return {name: statistics.median(values) for name, values in measured.items()}


def ratio(measured: Mapping[str, list[float]], name: str, against: str) -> float:
    """Median over the rounds of one way's value relative to another's of the same round."""
    return statistics.median(a / b for a, b in zip(measured[name], measured[against], strict=True))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """What the numbers depend on: processor, memory, GPU, libraries; and when and from which code they are."""
    model, flags = _processor()
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "processor": model,
        "cores": num_cores(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": None if gpu is None else f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
        "load": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _processor() -> tuple[str, set[str]]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
