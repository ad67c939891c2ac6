"""Everything that is timed, in one run: `python -m benchmarks [PART ...] [--small] [--data DIR] [--out DIR]`.

Each part compares in interleaved rounds and gives medians and ratios. Results are bench.json, bench.md and bench.png
in benchmarks/results; a part that is run alone replaces its own there. Floors are judged when all parts have run.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import page, report
from benchmarks.harness import Part, Scale, machine, num_cores
from tests.isic import ISIC

RESULTS = Path(__file__).parent / "results"
PARTS = {
    "kernel": "benchmarks.kernel",
    "layers": "benchmarks.layers",
    "dropped": "benchmarks.dropped",
    "accuracy": "benchmarks.accuracy",
    "lhs": "benchmarks.lhs",
    "decode": "benchmarks.decode",
    "peers": "benchmarks.peers",
    "growth": "benchmarks.growth",
    "training": "benchmarks.training",
}
"""Name -> module with `measure(scale) -> Part`, in the order in which they run and are shown."""


def main(arguments: Sequence[str]) -> int:
    """Run the parts; 1 if a floor was missed or a part failed."""
    options = _options(arguments)
    names = options.parts or list(PARTS)
    out = options.out or (Path("out/bench") if options.small else RESULTS)
    command = shlex.join(["python", "-m", "benchmarks", *options.parts, *["--small"] * options.small])
    measured: dict[str, dict[str, Any]] = report.read(out)
    failures: list[str] = []
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}"),
    )
    with Progress(*columns, console=console) as progress, tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bar = progress.add_task("parts", total=len(names), doing="")
        for name in names:

            def say(words: str, name: str = name) -> None:
                progress.update(bar, doing=f"{name}: {words}")
                if not console.is_terminal:
                    console.print(f"{name}: {words}", highlight=False)

            say("begins")
            scale = Scale(
                small=options.small,
                scratch=Path(scratch) / name,
                data=options.data if options.data.is_dir() else None,
                threads=num_cores(),
                say=say,
            )
            about, started = {"command": command, **machine()}, time.perf_counter()
            try:
                part: Part = importlib.import_module(PARTS[name]).measure(scale)
            except Exception as error:  # noqa: BLE001 the other parts' minutes are not to be lost with this one's
                traceback.print_exc()
                reason = (str(error).strip().splitlines() or ["no reason"])[-1]
                failures.append(f"{name}: failed with {type(error).__name__}: {reason}")
                outcome = "failed"
            else:
                assert part.name == name
                measured[name] = report.document(part, about=about, seconds=time.perf_counter() - started)
                report.write(out, [measured[one] for one in PARTS if one in measured])
                missed = [floor for floor in part.floors if not floor.is_kept]
                failures += [f"{name}: {floor.sentence}" for floor in missed if not options.small]
                outcome = "measured"
            console.print(f"{name:10} {outcome} in {time.perf_counter() - started:,.0f} s", highlight=False)
            progress.advance(bar)
    if out == RESULTS:
        page.refresh(measured)
    console.print(f"results: {out}", highlight=False)
    for sentence in failures:
        console.print(sentence, style="red", highlight=False)
    return 1 if failures else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that all works; numbers mean nothing")
    parser.add_argument("--data", type=Path, default=ISIC, help="folder with the ISIC 2018 archive, if there is one")
    parser.add_argument("--out", type=Path, help="folder of the results; default benchmarks/results, or out/bench")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"there is no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
