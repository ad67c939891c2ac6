"""Outcomes as JSON, as the table of docs/reliability.md, and as a picture of one history."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.chaos.outcome import Outcome, Timeline
from tests.chaos.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
DOCUMENT = ROOT / "docs" / "reliability.md"
PICTURE = ROOT / "docs" / "chaos-timeline.png"

_BEGIN, _END = "<!-- chaos: written by `make chaos` -->", "<!-- chaos: end -->"
_LIBRARIES = ("ray", "deltalake", "s3fs", "pyarrow")


def save(outcomes: Sequence[Outcome], *, num_images: int, slice_size: int) -> None:
    """Replace what is known of these scenarios, and write the table anew."""
    document: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in dict.fromkeys(outcome.scenario for outcome in outcomes):
        histories = [outcome for outcome in outcomes if outcome.scenario == name]
        document[name] = {
            "date": f"{datetime.date.today():%Y-%m-%d}",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
            "versions": {library: importlib.metadata.version(library) for library in _LIBRARIES},
            "num_images": num_images,
            "slice_size": slice_size,
            "histories": [outcome.as_dict() for outcome in histories],
        }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    pictured = [outcome.timeline for outcome in outcomes if outcome.timeline and outcome.timeline.scored]
    if pictured:
        draw_timeline(pictured[0])
    write_table(document)


def write_table(document: dict[str, Any]) -> None:
    """Into docs/reliability.md, between the marks."""
    table = "\n".join(table_lines(document))
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    text = pattern.sub(lambda _: f"{_BEGIN}\n{table}\n{_END}", DOCUMENT.read_text())
    DOCUMENT.write_text(text)


def table_lines(document: dict[str, Any]) -> list[str]:
    """One line a scenario: what happened how often, and what it cost."""
    lines = [
        "| faults | tables | faults in all | lost | twice | altered | scored again per fault: mean, most | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in SCENARIOS:
        if name not in document:
            continue
        histories = [Outcome(**one) for one in document[name]["histories"]]
        lost, twice, altered = (
            sum(getattr(one, what) for one in histories) for what in ("num_lost", "num_duplicated", "num_altered")
        )
        num_faults = sum(one.num_faults for one in histories)
        rescored = sum(max(0, one.num_scored - one.num_images) for one in histories)
        num_images = document[name]["num_images"]
        mean, most = rescored / num_images / max(1, num_faults), max(one.rescored_share for one in histories)
        again = f"{mean:.2%}, {most:.2%}" if any(one.num_scored for one in histories) else "not counted"
        what = (SCENARIOS[name].__doc__ or "").strip().rstrip(".")
        seeds = f"{histories[0].seed}:{histories[-1].seed + 1}"
        lines.append(
            f"| {what} | {len(histories)} | {num_faults:,} | {lost} | {twice} | {altered} | {again} "
            f"| `python -m tests.chaos {name} --seeds {seeds}` |"
        )
    return lines


def draw_timeline(timeline: Timeline, *, path: Path = PICTURE) -> None:
    """Rows in the table and images scored against time; each kill is a line."""
    start = min([when for when, _ in timeline.scored] + timeline.workers_killed)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    times, counts = zip(*sorted(timeline.scored), strict=True)
    seconds = [when - start for when in times]
    axes.plot([0, *seconds], [0, *accumulate(counts)], color="#888888", label="images scored, by all runs")
    seconds = [when - start for when, _ in timeline.committed]
    rows = [rows for _, rows in timeline.committed]
    axes.step([0, *seconds], [0, *rows], where="post", color="#0b6e4f", linewidth=2, label="rows in the table")
    for kills, colour, label in (
        (timeline.workers_killed, "#f4a261", "a worker killed"),
        (timeline.drivers_killed, "#c1121f", "the driver killed"),
    ):
        for number, when in enumerate(kills):
            label_once = label if number == 0 else None
            axes.axvline(when - start, color=colour, linewidth=1, linestyle="--", label=label_once)
    axes.set(xlabel="seconds", ylabel="images", xlim=(0, None), ylim=(0, None))
    axes.legend(loc="upper left", frameon=True, framealpha=1, edgecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
