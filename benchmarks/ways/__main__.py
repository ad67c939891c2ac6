"""`python -m benchmarks.ways WAY TASK`: do the task, a JSON object, in that way."""

from __future__ import annotations

import importlib
import sys

from benchmarks.ways.task import Task

if __name__ == "__main__":
    importlib.import_module(f"benchmarks.ways.{sys.argv[1]}").run(Task.parse(sys.argv[2]))
