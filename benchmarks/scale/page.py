"""docs/scale.md, all of it, from the JSON in benchmarks/results."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from benchmarks.report import table
from benchmarks.scale.arithmetic import H100, L4, Cluster, Job
from benchmarks.scale.measurements import Measurements
from benchmarks.scale.resources import assumptions, resources
from skinvae.pipelines.completing import MAX_INPUT_BLOCKS

WIDTH = 120

SCENARIOS = {
    "64 L4": Cluster(L4),
    "64 H100": Cluster(H100),
    "64 H100, prepared": Cluster(H100, is_prepared=True),
}
"""Jobs that the page works out."""

THEN = {
    "driver's core": "Ray Data hands every slice through the driver's process, which is one core. Larger slices "
    "(`score.slice_size`) cost it no more each. Several drivers on one table, each with its own archives, share the "
    "work: see above.",
    "decoding tasks": f"Ray Data is given {MAX_INPUT_BLOCKS:,} blocks of input at most, and one task decodes a block: "
    "more cores than that stand idle. Several drivers have as many blocks each. `skinvae prepare` decodes once, while "
    "no GPU waits, and later scorings decode nothing.",
    "commits": "A commit takes longer as the table grows, since its snapshot names every file. "
    "`score.commit_seconds=30` makes fewer; larger slices make a smaller table; each command ends with a swap, which "
    "makes few files of many: so a command for each part of the archives keeps the table small.",
    "driver's memory": "It grows with the slices, not with the images: larger slices, a larger head, or several "
    "commands one after the other, each with a part of the archives.",
    "S3 reads of one prefix": "S3 answers `SlowDown`, which storage rides out, and splits a prefix after minutes under "
    "load. Put shards below several prefixes from the start, each named on the command line.",
    "S3 writes of one prefix": "Slice files of a table lie below one prefix. Larger slices make fewer; tables of their "
    "own for parts of the archives have a prefix each.",
    "GPU node's network": "Pixels travel from the nodes that decode to those that score. Decode where the GPUs are, if "
    "their nodes have the cores.",
    "planning": "As a share of the time of scoring: one core walks every directory before the first task starts. "
    "Several drivers walk at the same time; a manifest or a folder has no directory.",
}
"""Limit -> what to do about it."""

OPERATORS = """\
## For those who run it

- Give archives of thousands of images. A folder or prefix of loose images costs a request an image and a listing of
  1,000 names a request: 100 million are 100,000 requests, one after the other. A manifest spares the listing.
- Leave `score.slice_size` alone, or raise it: nearly everything above is counted in slices.
- `status` asks for the log and the runs' records, not for slices: it may be asked as often as one likes.
- Start a job on all archives again, rather than guess what is left: to find that out costs what "half" says above.
- After the swap, slice files stay for `score.retention_hours`, and storage holds the rows twice. The next command on
  the table deletes them, 32 requests at a time.
"""


CHANGED = """\
What was slow or grew faster than the table, and was changed. All measured with 100,000 slices, or as many as the line
says, on 2026-11-25, one run each on this machine with much other work on it:

| what | before | since |
| --- | ---: | ---: |
| to look at what a table covers, as often as `score` does before Ray starts, CPU s | 2.74 | 0.36 |
| a commit after another driver's, CPU s | 0.83 | 0.37 |
| walks through the directory of a zip of 50,000 to 65,535 images before its work begins | 2 | 1 |
| requests to delete an expired slice file | 3, one after the other | 1, 32 at a time |
| slices that an earlier run wrote and did not commit | one after the other | 32 at a time |
| memory of a task that makes a large file of 4,000 slices of 64 rows, MB | 750 | 287 |
"""


def page(measured: Measurements) -> str:
    """The whole page."""
    jobs = {name: Job(measured, cluster) for name, cluster in SCENARIOS.items()}
    nearest = sorted(THEN, key=lambda name: -max(job.limits()[name] for job in jobs.values()))
    return "\n".join(
        [
            "<!-- Written by `python -m benchmarks.scale page`: change what it is made of, not this page. -->",
            "# 100 million images on 64 GPUs\n",
            _paragraph(
                "Every figure is a unit cost that was measured, times a count that follows from the job; the last "
                "column says what measured it. No GPU was at hand: the rate of one is assumed, by the arithmetic "
                "below, and the columns of the two kinds of GPU depend on it. To work with another rate, or another "
                "size of job, change `Cluster` in benchmarks/scale/arithmetic.py and write the page anew."
            ),
            "## What is assumed\n",
            table(assumptions(jobs["64 L4"], jobs["64 H100"])),
            "## What the job takes\n",
            table(resources(jobs)),
            "## What breaks first\n",
            "How much of each limit the job takes. Above 1, GPUs wait for it.\n",
            table([{"limit": name} | {what: job.limits()[name] for what, job in jobs.items()} for name in nearest]),
            _drivers(jobs),
            "What to do, the nearest limit first:\n",
            *[_item(f"**{name}**: {THEN[name]}") for name in nearest],
            "",
            "## The driver's part, measured\n",
            _about(measured.driver),
            table(_phases(measured.driver)),
            *[_item(one) for one in _notes(measured.driver)],
            "",
            CHANGED,
            "## Requests to S3, counted\n",
            _about(measured.jobs),
            table(_requests(measured)),
            _paragraph(
                "Whole jobs on a real Ray and a real S3 server, of "
                f"{measured.jobs['few']['num_slices']:,} and {measured.jobs['many']['num_slices']:,} slices: their "
                "difference is what a slice asks, and the last column what a command asks beside. A slice of a zip is "
                "two reads, its part of the directory and its members' bytes, and one more for every 16 MB. Requests "
                "for the log come with commits, not with slices: each entry since the last checkpoint is one. "
                "A slice's share of a core is the same difference. It holds what a driver and Ray's head take by the "
                "second, in a slow job: an upper bound. So is what the GCS keeps of its tasks, which Ray bounds."
            ),
            OPERATORS,
        ]
    )


def _drivers(jobs: Mapping[str, Job]) -> str:
    needed = ", ".join(f"{job.num_drivers} for {name}" for name, job in jobs.items())
    together = ", ".join(f"{job.seconds_of_all_commits:.2g} s for {name}" for name, job in jobs.items())
    one = jobs["64 L4"]
    return _paragraph(
        f"So many drivers side by side, each with a share of the archives, keep up: {needed}. On one table each finds "
        "the others' commits before its own, which makes a commit "
        f"{one.measured.contended_commit_seconds:.2g} s at the end. A commit of each of them takes {together}: where "
        f"that is more than the {one.cluster.commit_seconds:g} s between commits, raise `score.commit_seconds`, or "
        "give drivers tables of their own, which readers take together."
    )


def _phases(driver: Mapping[str, Any]) -> list[dict[str, Any]]:
    commits = driver["commits"]
    rows = [
        {"what": name, "s": found["seconds"], "peak MB": found["peak_mb"]} for name, found in driver["phases"].items()
    ]
    of_commits = [
        {"what": "commit, median of the first tenth", "s": commits["first_tenth_seconds"]},
        {"what": "commit, median", "s": commits["median_seconds"]},
        {"what": "commit, median of the last tenth", "s": commits["last_tenth_seconds"]},
        {"what": "commit, slowest", "s": commits["slowest_seconds"], "peak MB": commits["mb_behind"]},
    ]
    at = next(index for index, row in enumerate(rows) if row["what"].startswith("half"))
    return [*rows[:at], *of_commits, *rows[at:]]


def _notes(driver: Mapping[str, Any]) -> list[str]:
    log, swap, commits, phases = driver["log"], driver["phases"]["swap"], driver["commits"], driver["phases"]
    parts = swap["parts"]
    return [
        f"{driver['num_slices']:,} slices of {driver['num_archives']:,} zips on local disk, "
        f"{phases['plan']['num_members']:,} members. Plan, commits, swap and clean-up are the product's code. What "
        f"workers do is left out: slice files of {driver['rows_per_slice']} rows are written by the benchmark, one of "
        "each 20, and the others are hard links to it. Archives are links to one zip.",
        f"MB are of a whole process, of which {phases['begin']['mb_behind']:,} are Python, Ray and PyTorch. Half and "
        "done are processes of their own, as another command would be: half with half of the slices committed, done "
        "after the swap.",
        f"{commits['number']:,} commits of {commits['slices_each']:.0f} slices each. A commit takes longer with the "
        "table's files, and with the log's entries since its last checkpoint, which deltalake writes every 100 "
        f"commits. The log came to {log['entry_bytes'] / 1e6:,.3g} MB in {log['num_entries']:,} entries and "
        f"{log['checkpoint_bytes'] / 1e6:,.3g} MB in {log['num_checkpoints']} checkpoints. Who opens the table reads "
        f"the newest of these, {log['newest_checkpoint_bytes'] / 1e6:,.3g} MB, and the entries behind it.",
        f"The swap wrote {swap['num_parts']} large files, of up to {max(one['num_slices'] for one in parts):,} such "
        f"small slices, which took {max(one['peak_mb'] for one in parts):,} MB. Its commit removed "
        f"{swap['num_removed']:,} files in an entry of {swap['entry_bytes'] / 1e6:,.3g} MB.",
        *driver.get("remarks", []),
    ]


def _requests(measured: Measurements) -> list[dict[str, Any]]:
    rows = []
    for command in ("score", "score again", "score when slice files expire", "status"):
        for kind, methods in measured.jobs["many"][command]["requests"].items():
            for method, counts in methods.items():
                each = measured.requests_per_slice(command, kind, method)
                beside = counts["number"] - each * measured.jobs["many"]["num_slices"]
                about = {"command": command, "about": kind, "request": method, "in all": counts["number"]}
                rows.append(about | {"a slice": round(each, 3), "beside": round(beside)})
    return rows


def _about(part: Mapping[str, Any]) -> str:
    about = part["about"]
    libraries = ", ".join(f"{name} {about['libraries'][name]}" for name in ("ray", "deltalake", "pyarrow"))
    return _paragraph(
        f"`{about['command']}`, {about['date']}, commit {about['commit']}. {about['processor']}, {about['cores']} "
        f"cores, {about['memory_gb']} GB, with other work on them: load {about['load']} before, so seconds are upper "
        f"bounds; Python {about['python']}, {libraries}."
    )


def _paragraph(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _item(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
