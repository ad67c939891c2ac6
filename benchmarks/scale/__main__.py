"""What a job of 100 million images takes: `python -m benchmarks.scale --help`.

python -m benchmarks.scale driver 100000     the driver's part of a job of so many slices, on local disk
python -m benchmarks.scale requests 2000     whole jobs of a tenth and of all of so many slices, on an S3 server
python -m benchmarks.scale page              docs/scale.md from what both measured, and from the bench
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.harness import Scale, machine
from benchmarks.scale import driver, requests
from benchmarks.scale.measurements import Measurements
from benchmarks.scale.page import page

RESULTS = Path(__file__).parents[1] / "results"
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def read(results: Path) -> Measurements:
    """What was measured: scale.json and bench.json."""
    measured = json.loads((results / "scale.json").read_text())
    return Measurements(measured["driver"], measured["requests"], report.read(RESULTS))


def main(arguments: Sequence[str]) -> None:
    """Measure a part and keep it, or write the page."""
    options = _options(arguments)
    results: Path = options.results
    if options.what == "page":
        options.page.write_text(page(read(results)))
        return
    about = {"command": f"python -m benchmarks.scale {options.what} {options.slices}", **machine()}
    with tempfile.TemporaryDirectory(prefix="scale-", dir=options.scratch) as folder:
        if options.what == "driver":
            found = driver.measure(options.slices, Path(folder), say=_say)
        else:
            found = requests.measure(Scale(small=False, scratch=Path(folder), say=_say), options.slices)
    keep(results, options.what, {"about": about, **found})


def keep(results: Path, name: str, found: dict[str, Any]) -> None:
    """Beside what the other part measured."""
    path = results / "scale.json"
    measured = json.loads(path.read_text()) if path.exists() else {}
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured | {name: found}, indent=1) + "\n")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of scale.json")
    what = parser.add_subparsers(required=True, dest="what")
    for name in ("driver", "requests"):
        one = what.add_parser(name)
        one.add_argument("slices", type=int)
        one.add_argument("--scratch", type=Path, help="where tables are made; a slice takes 20 KB")
    what.add_parser("page").add_argument("--page", type=Path, default=PAGE, help="what to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
