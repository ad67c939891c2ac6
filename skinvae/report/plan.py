"""What a scoring would have to do, as a terminal page and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from skinvae.audit.forecast import Forecast, Origin, Speed
from skinvae.audit.plan import KindOfArchive, Plan
from skinvae.records import Status
from skinvae.report.status import clock

_FEW = 10
"""images/s below which digits behind the point matter."""


def plan_page(plan: Plan) -> Group:
    """What the terminal shows. 80 columns suffice."""
    grid = Table.grid(padding=(0, 3))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, words in _lines(plan):
        grid.add_row(name, words)
    parts: list[RenderableType] = [
        Text(f"plan for {plan.table}, scoring {plan.scoring_id} in {plan.precision}", style="bold"),
        grid,
    ]
    if plan.unknown and plan.num_images_left + plan.num_stream_bytes:
        parts.append(Text(f"no estimate of the time: {plan.unknown}"))
    return Group(*parts)


def plan_document(plan: Plan) -> dict[str, Any]:
    """For JSON: the same, unrounded."""
    document = asdict(plan) | {
        "num_images_left": plan.num_images_left,
        "is_guess": plan.is_guess,
        "num_rejected": plan.num_rejected,
        "by_kind": [asdict(one) | {"num_images_expected": one.num_images_expected} for one in plan.by_kind],
        "output": asdict(plan.output) | {"num_bytes": plan.output.num_bytes},
    }
    if plan.speed is not None:
        document["speed"]["origin"] = plan.speed.origin.name.lower()
    if plan.forecast is not None:
        document["forecast"]["bound_by"] = plan.forecast.bound_by.value
        document["forecast"]["eta_seconds"] = plan.forecast.eta_seconds
    return document


def _lines(plan: Plan) -> Iterator[tuple[str, str]]:
    name = "archives"
    for one in plan.by_kind:
        yield name, _of_kind(one)
        name = ""
    yield "done", _done(plan)
    yield "to do", _to_do(plan)
    yield "cluster", f"{plan.cluster}{' (as given, not there)' if plan.is_hypothetical else ''}"
    if plan.forecast is not None and plan.speed is not None:
        yield "speed", _speed(plan.forecast, plan.speed)
        yield "time", _time(plan)
    yield "output", _output(plan)


def _of_kind(one: KindOfArchive) -> str:
    noun = f"{one.num_archives:,} {one.kind}{'' if one.num_archives == 1 or one.kind == 'parquet' else 's'}"
    known = _images(one.num_images) if one.num_images or not one.num_bytes_unread else ""
    return ", ".join(part for part in (noun, decimal(one.num_bytes), known, _unread(one)) if part)


def _unread(one: KindOfArchive) -> str:
    if not one.num_bytes_unread:
        return ""
    guess = "images not known" if one.num_images_in_streams is None else f"about {_images(one.num_images_in_streams)}"
    return f"{decimal(one.num_bytes_unread)} unread: {guess}"


def _done(plan: Plan) -> str:
    rejected = sorted(((count, name) for name, count in plan.in_table.items() if name != Status.OK.value), reverse=True)
    reasons = ", ".join(f"{count:,} {name}" for count, name in rejected)
    written = f"; {plan.num_slices_written:,} slices are written, not committed" if plan.num_slices_written else ""
    return (
        f"{plan.num_members_done:,} of {plan.num_members:,} members: {plan.in_table.get(Status.OK.value, 0):,} ok, "
        f"{plan.num_rejected:,} rejected{': ' if reasons else ''}{reasons}{written}"
    )


def _to_do(plan: Plan) -> str:
    unknown = sum(one.num_bytes_unread for one in plan.by_kind if one.num_images_in_streams is None)
    about = "about " if plan.is_guess and not unknown else ""
    streams = f" and {decimal(unknown)} of tar" if unknown else ""
    slices = f", in {about}{plan.num_slices:,} slices of up to {plan.slice_size:,}" if not unknown else ""
    return f"{about}{_images(plan.num_images_left)}{streams}{slices}"


def _images(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"


def _speed(expected: Forecast, speed: Speed) -> str:
    decoding = (
        "decoding was not measured"
        if expected.decoded_per_second is None
        else f"tasks decode {_rate(expected.decoded_per_second)}"
    )
    origin = f"run {speed.run_id} on this table" if speed.origin is Origin.FORMER_RUN else speed.origin.value
    return (
        f"{_rate(expected.images_per_second)} images/s, bound by {expected.bound_by.value}: alone, actors score "
        f"{_rate(expected.scored_per_second)}, {decoding} images/s ({origin})"
    )


def _time(plan: Plan) -> str:
    assert plan.forecast is not None
    one = plan.forecast
    gpus = f", {one.gpu_hours:,.3g} GPU-hours" if one.gpu_hours else ""
    return (
        f"{'about ' if plan.is_guess else ''}{clock(one.eta_seconds)}: start {clock(one.start_seconds)}, work "
        f"{clock(one.work_seconds)}, end {clock(one.end_seconds)}{gpus}, {one.cpu_hours:,.3g} CPU-hours"
    )


def _output(plan: Plan) -> str:
    at_least = "at least " if plan.unknown and plan.num_stream_bytes else ""
    how = "as the table's" if plan.output.is_measured else "as in other tables"
    slices = decimal(plan.output.num_slice_bytes)
    commits = "" if plan.num_commits is None else f"; {plan.num_commits:,} commits"
    return (
        f"{at_least}{plan.output.num_rows:,} rows, about {decimal(round(plan.output.num_bytes))} "
        f"({plan.output.bytes_per_row:,.0f} bytes a row, {how}), and slice files of {slices} for a while{commits}"
    )


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= _FEW else f"{per_second:.2g}"
