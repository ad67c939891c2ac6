"""How far a training run is, as a terminal page and as JSON."""

from __future__ import annotations

import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from skinvae.report.status import clock
from skinvae.storage.bundle import BundleConfig
from skinvae.storage.run_records import RunState
from skinvae.storage.training_record import TrainingRecord

_BAR_WIDTH = 40


def training_page(record: TrainingRecord, *, out: str, now: datetime.datetime) -> Group:
    """What the terminal shows of a run under way, or of one that ended without a model. 80 columns suffice."""
    share = record.num_done / record.num_planned if record.num_planned else 1.0
    grid = Table.grid(padding=(0, 1))
    passes = f"epoch {record.epoch} of {record.num_epochs}"
    grid.add_row(
        ProgressBar(total=1.0, completed=min(1.0, share), width=_BAR_WIDTH), f"{int(100 * min(share, 1))} %", passes
    )
    parts: list[RenderableType] = [Text(f"training of {out}, run {record.run_id}", style="bold"), grid]
    parts.append(Text(f"workers   {record.num_workers}"))
    parts.append(Text(f"speed     {_speed(record, now)}"))
    for row in record.last:
        parts.append(Text(f"{row['split']:<10}{_losses(row)} in epoch {row['epoch']}"))
    if record.best is not None:
        parts.append(Text(f"best      epoch {record.best['epoch']}: validation {_losses(record.best)}"))
    parts.append(Text(f"driver    {_driver(record, now)}"))
    return Group(*parts)


def model_page(config: BundleConfig, *, out: str, model_id: str) -> Group:
    """What the terminal shows of a model that is there."""
    training = config.training
    return Group(
        Text(f"model {out}, id {model_id}", style="bold"),
        Text(
            f"trained on {config.data['num_train']:,} images; best of {training['num_epochs']} epochs is epoch "
            f"{training['best_epoch']}, validation loss {training['validation_loss']:,.1f}"
        ),
    )


def training_document(record: TrainingRecord, *, out: str, now: datetime.datetime) -> dict[str, Any]:
    """For JSON."""
    return {
        "out": out,
        "kind": "training",
        **record.model_dump(mode="json"),
        "age_seconds": record.age_seconds(now),
        "is_alive": record.is_alive(now),
        "eta_seconds": record.eta_seconds if record.is_alive(now) else None,
    }


def model_document(config: BundleConfig, *, out: str, model_id: str) -> dict[str, Any]:
    """For JSON."""
    return {"out": out, "kind": "model", "model_id": model_id, "training": config.training, "data": config.data}


def _losses(row: dict[str, int | float | str]) -> str:
    return f"loss {row['loss']:,.1f} (reconst {row['reconst']:,.1f}, kl {row['kl']:,.1f})"


def _speed(record: TrainingRecord, now: datetime.datetime) -> str:
    if not record.is_alive(now):
        return "no driver at work"
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
