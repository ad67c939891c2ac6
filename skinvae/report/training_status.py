"""How far a training run is, as a terminal page and as JSON."""

from __future__ import annotations

import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from skinvae.audit.training import Training
from skinvae.report.status import clock
from skinvae.storage.run_records import RunState
from skinvae.storage.training_record import TrainingRecord

_BAR_WIDTH = 40


def training_page(training: Training) -> RenderableType:
    """What the terminal shows. 80 columns suffice."""
    if training.record is not None:
        return _run_page(training.record, out=training.out, now=training.now)
    assert training.model is not None
    facts = training.model.training
    return Group(
        Text(f"model {training.out}, id {training.model_id}", style="bold"),
        Text(
            f"trained on {training.model.data['num_train']:,} images; best of {facts['num_epochs']} epochs is epoch "
            f"{facts['best_epoch']}, validation loss {facts['validation_loss']:,.1f}"
        ),
    )


def training_document(training: Training) -> dict[str, Any]:
    """For JSON."""
    record, model, now = training.record, training.model, training.now
    if record is not None:
        is_alive = record.is_alive(now)
        return {
            "out": training.out,
            "kind": "training",
            **record.model_dump(mode="json"),
            "age_seconds": record.age_seconds(now),
            "is_alive": is_alive,
            "eta_seconds": record.eta_seconds if is_alive else None,
        }
    assert model is not None
    return {
        "out": training.out,
        "kind": "model",
        "model_id": training.model_id,
        "training": model.training,
        "data": model.data,
    }


def _run_page(record: TrainingRecord, *, out: str, now: datetime.datetime) -> Group:
    share = record.num_done / record.num_planned if record.num_planned else 1.0
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=1.0, completed=min(1.0, share), width=_BAR_WIDTH)
    grid.add_row(bar, f"{int(100 * min(share, 1))} %", f"epoch {record.epoch} of {record.num_epochs}")
    parts: list[RenderableType] = [Text(f"training of {out}, run {record.run_id}", style="bold"), grid]
    parts.append(Text(f"workers   {record.num_workers}"))
    parts.append(Text(f"speed     {_speed(record, now)}"))
    for row in record.last:
        parts.append(Text(f"{row['split']:<10}{_losses(row)} in epoch {row['epoch']}"))
    if record.best is not None:
        parts.append(Text(f"best      epoch {record.best['epoch']}: validation {_losses(record.best)}"))
    parts.append(Text(f"driver    {_driver(record, now)}"))
    return Group(*parts)


def _losses(row: dict[str, int | float | str]) -> str:
    return f"loss {row['loss']:,.1f} (reconst {row['reconst']:,.1f}, kl {row['kl']:,.1f})"


def _speed(record: TrainingRecord, now: datetime.datetime) -> str:
    if not record.is_alive(now):
        return "no driver at work"
    if record.phase != "training":
        return f"{record.phase} images"
    if record.images_per_second <= 0:
        return "not known yet"
    eta = record.eta_seconds
    return f"{record.images_per_second:,.0f} images/s{'' if eta is None else f', ETA {clock(eta)}'}"


def _driver(record: TrainingRecord, now: datetime.datetime) -> str:
    ago = f"{clock(record.age_seconds(now))} ago"
    who = f"on {record.host}, pid {record.pid}"
    if record.is_alive(now):
        return f"at work, last heartbeat {ago}: {who}"
    if record.state is RunState.RUNNING:
        return f"dead or cut off, last heartbeat {ago}: {who}; run the same command to go on"
    said = f": {record.message}" if record.message else ""
    return f"{record.state.value} {ago}: {who}{said}"
