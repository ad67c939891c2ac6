"""A driver of a scoring job, with the fast scorer or the real one, in a process of its own: see `--help`.

Prints the summary as JSON, and ends with the exit code of the error that the job ends with.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys

from skinvae.config import load_config
from skinvae.errors import SkinvaeError
from skinvae.pipelines import lost_nodes
from skinvae.pipelines.image_scorer import make_vae_scorer
from skinvae.pipelines.score import score
from tests.fast_scorer import fast_scorer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archives", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="assignments")
    parser.add_argument("--seconds-per-image", type=float, default=0.0)
    parser.add_argument("--broken-model", action="store_true", help="whose scorer kills its process at any image")
    parser.add_argument("--vae", action="store_true", help="score with the bundle's network instead")
    parser.add_argument("--journal", default="", help="file that tells of every scored batch")
    parser.add_argument("--patience", type=float, default=lost_nodes.PATIENCE_SECONDS, help="with lost nodes")
    arguments = parser.parse_args()
    lost_nodes.PATIENCE_SECONDS = arguments.patience
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command does
    try:
        summary = score(
            arguments.archives,
            model=arguments.model,
            table=arguments.table,
            config=load_config(assignments=arguments.assignments),
            make_scorer=make_vae_scorer
            if arguments.vae
            else fast_scorer(
                seconds_per_image=arguments.seconds_per_image,
                is_broken=arguments.broken_model,
                journal=arguments.journal,
            ),
        )
    except SkinvaeError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(summary.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
