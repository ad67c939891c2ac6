"""Terminal tables of an evaluation, as wide as 80 columns allow, and how numbers stand in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table

from skinvae.metrics.auroc import MACRO, POOLED
from skinvae.metrics.protocols import PAPER_TABLE_2

ROW_ORDER = tuple(PAPER_TABLE_2)
"""The paper's, so that its table and ours are read line by line."""
_MAX_TARGETS = 8
"""Targets side by side in 80 columns; more classes than that go to a further table."""


def score_tables(
    title: str, *, cells: Mapping[tuple[Any, Any], str], sizes: Mapping[str, int], rows: Sequence[str] = ROW_ORDER
) -> list[Table]:
    """Return tables of `rows`, scores, by targets and their number of images, as many as 80 columns ask for."""
    tables = []
    for number, targets in enumerate(_batches(list(sizes))):
        table = titled_table(f"{title} (continued)" if number else title)
        table.add_column("score\n", no_wrap=True)
        for target in targets:
            style = "bold" if target in (MACRO, POOLED) else ""
            table.add_column(f"{target}\nn={sizes[target]}", justify="right", style=style, no_wrap=True)
        for score in rows:
            table.add_row(score, *(cells[score, target] for target in targets))
        tables.append(table)
    return tables


def _batches(targets: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(targets), _MAX_TARGETS):
        yield targets[start : start + _MAX_TARGETS]


def titled_table(title: str) -> Table:
    """Return an empty table in the style of all."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)


def columns_of(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(frame[column].tolist() for column in columns), strict=True)


def short(value: float, digits: int = 3) -> str:
    """'.812' instead of '0.812', as the paper prints it."""
    return f"{value:.{digits}f}".removeprefix("0")


def with_interval(value: float, low: float, high: float) -> str:
    """Two lines; nothing where there is no value."""
    return "" if pd.isna(value) else f"{short(value)}\n{short(low, 2)}-{short(high, 2)}"
