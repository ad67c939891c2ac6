"""What `plan` says beside what `score` then takes: `python -m benchmarks.plan ARCHIVE [--set score.num_samples=45]`.

Both are commands as users run them, one right after the other, with an untrained model of the size of configs/cpu.toml
and a Ray of their own. Then `plan` is asked once more, for another table's worth, and answers from the run's record.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.bundles import make_bundle
from benchmarks.harness import machine
from skinvae.model.vae import ModelSettings

MODEL = ModelSettings(image_size=64, base_channels=32, num_latents=128)

AT_MOST_OFF = 0.25
"""Of the time that the run takes, start and end included."""


def measure(archive: str, folder: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The plan, the run, and how the two compare."""
    make_bundle(f"{folder}/model", MODEL)
    words = [archive, "--model", f"{folder}/model", "--table", f"{folder}/scores", *arguments, "--json"]
    planned, plan_seconds = _command("plan", *words)
    done, score_seconds = _command("score", *words)
    assert done["num_images"] == planned["num_images_left"], "what was planned is what was done"
    after, _ = _command("plan", *words)
    assert after["num_images_left"] == 0
    expected = planned["forecast"]
    rows = done["num_images"]
    return {
        "num_images": rows,
        "planned_seconds": expected["eta_seconds"],
        "seconds": score_seconds,
        "ratio": expected["eta_seconds"] / score_seconds,
        "planned_start_seconds": expected["start_seconds"],
        "start_seconds": done["seconds_to_first"],
        "planned_images_per_second": expected["images_per_second"],
        "images_per_second": rows / (done["seconds"] - done["seconds_to_first"] - done["stage_seconds"]["swap"]),
        "planned_bytes_per_row": planned["output"]["bytes_per_row"],
        "bytes_per_row": after["output"]["bytes_per_row"],
        "swapped_rows_per_second": rows / done["stage_seconds"]["swap"],
        "bound_by": [expected["bound_by"], done["bottleneck"]],
        "plan_took_seconds": plan_seconds,
        "about": machine(),
    }


def _command(*words: str) -> tuple[dict[str, Any], float]:
    started = time.monotonic()
    finished = subprocess.run([sys.executable, "-m", "skinvae", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout), time.monotonic() - started


def main(arguments: Sequence[str]) -> None:
    """Entry point; fails where the plan is too far off."""
    if not arguments:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(arguments[0], folder, arguments[1:])
    print(json.dumps(measured, indent=1))
    if abs(measured["ratio"] - 1) > AT_MOST_OFF:
        raise SystemExit(f"the plan is off by more than {100 * AT_MOST_OFF:.0f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
