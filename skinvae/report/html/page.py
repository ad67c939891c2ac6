"""Turns what the report says into one HTML file that needs no network and no script."""

from __future__ import annotations

import datetime
import functools

import jinja2

from skinvae.report.html.contents import AurocCell, ReportContents


def render_report(contents: ReportContents) -> str:
    """The whole file. Texts are escaped; charts and pictures are trusted."""
    return _environment().get_template("report.html").render(report=contents)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skinvae.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "nats": lambda value: f"{value:,.1f}",
        "p_value": _p_value,
        "percent": _percent,
        "rate": lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.1f}",
        "auroc": lambda value: f"{value:.3f}",
        "interval": _interval,
        "minute": _minute,
        "duration": lambda seconds: str(datetime.timedelta(seconds=round(seconds))),
    }
    return environment


def _p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _percent(share: float) -> str:
    """Two digits, and never 0 % or 100 % of what is not."""
    percent = 100 * share
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    return f"{percent:.2g} %" if percent < 99 else f"{percent:.4g} %"


def _interval(cell: AurocCell) -> str:
    assert cell.interval is not None
    return f"{cell.interval[0]:.2f} to {cell.interval[1]:.2f}"


def _minute(moment: datetime.datetime) -> str:
    return f"{moment.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"
