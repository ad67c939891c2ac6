"""`python -m tests.hostile` prints what becomes of every hostile file as Markdown; with --json, all that is known."""

from __future__ import annotations

import json
import sys

from tests.hostile.corpus import markdown, run

found = run()
sys.stdout.write(json.dumps(found) if "--json" in sys.argv else markdown(found["outcomes"]))
