"""Figures as inline SVG: its text and lines take the page's font and colour, in light, in dark and on paper."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the page's text colour; nothing else has it."""

_PAPER = "#040506"
"""Stands for the page's background."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": "medium",
    "axes.labelsize": "small",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.facecolor": _PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.labelcolor": _INK,
    "savefig.facecolor": "none",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
}


def chart(make: Callable[[], Figure], *, name: str, alt: str) -> str:
    """Draw a figure as `<svg>`. `name` keeps its ids apart from others' on the page, `alt` says what it shows."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        make().savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Namespaces, metadata and sizes in points are for files; a style sheet would be the whole page's.
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="([^"]*)"', svg)
    assert size is not None
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = body.replace(_INK, "currentColor").replace(_PAPER, "var(--paper)")
    opening = f'<svg class="chart" role="img" aria-label="{html.escape(alt)}" viewBox="{size[1]}">'
    return opening + body.strip()
