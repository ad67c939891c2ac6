"""What the parts measured, as bench.json, bench.md, bench.png and profile.png."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.harness import Part

BAR_INCHES, TITLE_INCHES = 0.26, 0.75
MIN_SHARE_NAMED = 0.025
"""Of the longest bar: narrower pieces have no number."""
SHADES = ("#4c72b0", "#9aa7b8")
"""Of what was measured, and of limits and other people's ways."""


def document(part: Part, *, about: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """One part as it stands in bench.json."""
    floors = [
        dataclasses.asdict(floor) | {"is_kept": floor.is_kept, "sentence": floor.sentence} for floor in part.floors
    ]
    return dataclasses.asdict(part) | {"floors": floors, "seconds": round(seconds, 1), "about": dict(about)}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The parts that an earlier run left, by name."""
    path = folder / "bench.json"
    return {part["name"]: part for part in json.loads(path.read_text())["parts"]} if path.exists() else {}


def write(folder: Path, parts: Sequence[dict[str, Any]]) -> None:
    """All files, anew."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps({"parts": parts}, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(parts))
    picture(parts).savefig(folder / "bench.png", dpi=110)
    for part in parts:
        if part["name"] == "layers":
            profile(part).savefig(folder / "profile.png", dpi=110)


def markdown(parts: Sequence[dict[str, Any]]) -> str:
    """A page with a table a part, and the floors at its end."""
    pages = ["# Measured\n", "Written by `make bench`; do not edit. Rates are medians of interleaved rounds.\n"]
    for part in parts:
        pages += [f"## {part['title']}\n", f"{_about(part)}\n", table(part["rows"])]
        pages += ["".join(f"- {note}\n" for note in part["notes"])] if part["notes"] else []
    floors = [
        {
            "part": part["name"],
            "floor": floor["what"],
            "value": floor["value"],
            "must be": f"at least {floor['at_least']:g}"
            if floor["at_most"] is None
            else f"at most {floor['at_most']:g}",
            "": "kept" if floor["is_kept"] else "**missed**",
        }
        for part in parts
        for floor in part["floors"]
    ]
    pages += ["## Floors\n", table(floors)] if floors else []
    return "\n".join(pages)


def picture(parts: Sequence[dict[str, Any]]) -> Figure:
    """Horizontal bars, one panel a part."""
    drawn = [(part, rows) for part in parts if part["bars"] and (rows := _bars(part))]
    heights = [BAR_INCHES * len(rows) + TITLE_INCHES for _, rows in drawn] or [1.0]
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    if not drawn:
        return figure
    panels = figure.subplots(len(drawn), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (part, rows) in zip(panels, drawn, strict=True):
        labels, values = zip(*rows, strict=True)
        colours = [SHADES[0] if "skinvae" in label else SHADES[1] for label in labels]
        if not any("skinvae" in label for label in labels):
            colours = [SHADES[0]] * len(labels)
        bars = panel.barh(range(len(rows)), values, color=colours)
        panel.bar_label(bars, [number(value) for value in values], padding=3, fontsize=8)
        panel.set_yticks(range(len(rows)), labels, fontsize=8)
        panel.invert_yaxis()
        panel.margins(x=0.12)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(f"{part['title']}: {part['bars'][1]}", fontsize=10, loc="left")
    return figure


def profile(layers: dict[str, Any]) -> Figure:
    """Where an image's time goes, a bar a precision, a colour a layer."""
    by_precision: dict[str, dict[str, float]] = {}
    for row in layers["rows"]:
        layer, _, precision = row["layer"].rpartition(", ")
        by_precision.setdefault(precision, {})[layer] = row["ms/image"]
    figure = Figure(figsize=(9, 1.5 + 0.8 * len(by_precision) + 1.3), layout="constrained")
    panel = figure.subplots()
    names = list(next(iter(by_precision.values())))
    for position, name in enumerate(names):
        before = [sum(one[earlier] for earlier in names[:position]) for one in by_precision.values()]
        widths = [one[name] for one in by_precision.values()]
        colour = colormaps["tab20"](position % 20)
        bars = panel.barh(list(by_precision), widths, left=before, label=name, color=colour, edgecolor="white")
        most = max(sum(one.values()) for one in by_precision.values())
        shown = [f"{width:.1f}" if width > MIN_SHARE_NAMED * most else "" for width in widths]
        panel.bar_label(bars, shown, label_type="center", fontsize=8)
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel("ms an image")
    panel.set_title(f"Inside the scorer, {layers['about']['processor']}, {layers['about']['date'][:10]}", loc="left")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure


def number(value: Any) -> str:
    """A value as people read it: three digits that count, thousands apart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _bars(part: dict[str, Any]) -> list[tuple[str, float]]:
    label, value = part["bars"]
    return [(str(row[label]), row[value]) for row in part["rows"] if isinstance(row.get(value), int | float)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown; every column that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    is_number = {name: any(isinstance(row.get(name), int | float) for row in rows) for name in columns}
    lines = [_line(columns), _line("---:" if is_number[name] else "---" for name in columns)]
    lines += [_line(number(row.get(name)) for name in columns) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _about(part: dict[str, Any]) -> str:
    about = part["about"]
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    machine = f"{about['processor']}, {about['cores']} cores ({', '.join(about['flags'])}), {about['memory_gb']} GB"
    return (
        f"`{about['command']}`, {about['date']}, {part['seconds']:,.0f} s, commit {about['commit']}. {machine}; "
        f"{about['gpu'] or 'no GPU'}; load {about['load']} before; Python {about['python']}, {libraries}."
    )
