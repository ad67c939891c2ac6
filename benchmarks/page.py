"""The tables of docs/performance.md, filled from bench.json between their marks; the words around them are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARK = re.compile(r"<!-- bench: (\w+) -->\n.*?<!-- end -->", re.DOTALL)

PRECISIONS = ("bfloat16", "float32")
TRICKS = {
    "without fold batch norm": "batch norms folded into the convolutions",
    "without latent product": "z -> 4x4 as one matrix product",
    "without overlap add": "layers of 512 channels and more as one matrix product, added up",
    "without phase output": "the last layer as one 3x3 convolution to four phases",
    "without cached draws": "from 8x8 on, as many draws at once as the cache holds",
    "without channels last": "channels last in memory",
    "without a batch for each thread": "a batch for each thread, instead of threads that share operations",
    "no trick at all": "all of them but the last",
}
ACCURATE = ("vae_reconst", "vae_kl", "iwae", "iwae_kl", "ess")

Part = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


def refresh(parts: Mapping[str, Part], page: Path = PAGE) -> None:
    """Fill the tables whose parts were measured; others stay as they are."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        part, rows_of = TABLES[name]
        if part not in parts:
            return match[0]
        return f"<!-- bench: {name} -->\n{table(rows_of(parts[part]))}<!-- end -->"

    page.write_text(MARK.sub(filled, page.read_text()))


def _chosen(columns: Mapping[str, str]) -> Callable[[Part], Rows]:
    """The part's rows with these columns alone, under other names."""
    return lambda part: [{words: row.get(name) for name, words in columns.items()} for row in part["rows"]]


def _kernel(part: Part) -> Rows:
    by_way = {row["way"]: row for row in part["rows"]}
    found = [by_way[f"skinvae, {precision}"] for precision in PRECISIONS]
    return [
        {
            "the scorer alone": row["way"],
            "images/s": row["images/s"],
            "arithmetic limit": row["limit, images/s"],
            "of it": row["of limit"],
        }
        for row in found
    ]


def _tricks(part: Part) -> Rows:
    by_way = {row["way"]: row for row in part["rows"]}
    return [
        {"left out": words} | {one: by_way[f"{way}, {one}"]["to skinvae"] for one in PRECISIONS}
        for way, words in TRICKS.items()
    ]


def _accuracy(part: Part) -> Rows:
    return [
        {
            "precision": row["precision"],
            "score": row["score"],
            "rank correlation": f"{row['rank correlation']:.6f}",
            "largest error, in SD over images": f"{row['largest error / SD']:.1e}",
            "mean error, in SD": f"{row['mean error / SD']:.1e}",
        }
        for row in part["rows"]
        if row["score"] in ACCURATE
    ]


def _floors(part: Part) -> Rows:
    return [
        {
            "floor": floor["what"],
            "value": floor["value"],
            "at least": floor["at_least"],
            "": "kept" if floor["is_kept"] else "**missed**",
        }
        for floor in part["floors"]
    ]


TABLES: Mapping[str, tuple[str, Callable[[Part], Rows]]] = {
    "kernel": ("kernel", _kernel),
    "tricks": ("kernel", _tricks),
    "dropped": (
        "dropped",
        _chosen(
            {
                "layer": "layer",
                "transposed": "transposed convolution",
                "matrix product, added up": "matrix product, added up",
                "four 2x2": "four 2x2 convolutions",
                "one 3x3 to four phases": "one 3x3 to four phases",
            }
        ),
    ),
    "accuracy": ("accuracy", _accuracy),
    "peers": (
        "peers",
        _chosen(
            {
                "way": "way",
                "images/s": "steady images/s",
                "relative to skinvae": "to skinvae in float32",
                "start-up s": "s to the first scores",
                "wall s": "s in all",
                "CPU s / 1,000 images": "CPU s per 1,000",
                "peak MB": "peak MB, all processes",
            }
        ),
    ),
    "floors": ("peers", _floors),
    "growth": (
        "growth",
        _chosen(
            {
                "job": "job",
                "steady ms/image": "steady ms an image",
                "total ms/image": "total ms an image",
                "first scored s": "s to the first scores",
                "first row in the table s": "s to the first committed row",
                "driver MB": "driver MB",
            }
        ),
    ),
    "decode": (
        "decode",
        _chosen(
            {
                "file": "file",
                "KB": "KB",
                "skinvae": "images/s in process",
                "skinvae isolated": "as a job does, isolated",
                "simplejpeg alone": "simplejpeg without resize",
                "Pillow": "Pillow with resize",
            }
        ),
    ),
    "training": (
        "training",
        _chosen(
            {
                "job": "job",
                "images/s": "images/s",
                "of the limit": "of the limit",
                "relative to 1 worker": "to 1 worker",
                "waits for input": "share of waiting for input",
            }
        ),
    ),
}
"""Mark -> the part of the bench and its rows."""
