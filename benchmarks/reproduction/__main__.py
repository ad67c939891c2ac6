"""`make reproduce`: the paper's experiment, 5 training seeds on 2 splits; writes docs/results.md.

    python -m benchmarks.reproduction                       # the paper's model and training: for a GPU
    python -m benchmarks.reproduction --config benchmarks/reproduction/cpu.toml    # a smaller one, for two cores

It goes on where it was stopped. The archive's images stay out of what it writes into the repository.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.harness import machine
from benchmarks.reproduction.data import load
from benchmarks.reproduction.experiment import SPLITS, Experiment, run
from benchmarks.reproduction.page import write_page
from benchmarks.reproduction.pictures import write_pictures, write_reconstructions
from skinvae.config import load_config
from tests.isic import ISIC

ROOT = Path(__file__).parents[2]
PAPER = "configs/paper.toml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds of all splits, then write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.add_argument("--config", default=PAPER, help=f"settings of model and training; default {PAPER}")
    parser.add_argument("--data", type=Path, default=ISIC, help="folder with the ISIC 2018 Task 3 archive")
    parser.add_argument("--seeds", type=int, default=5, help="training seeds; default 5")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "reproduction", help="where seeds' results are kept"
    )
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of results.md")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    config = load_config(str(options.config))
    name = Path(options.config).stem
    experiment = Experiment(name, config.model, config.train, num_seeds=options.seeds)
    folder = options.work / f"{name}-{experiment.digest}"
    try:
        data = load(options.data, image_size=config.model.image_size, cache=options.work, say=_say)
    except FileNotFoundError as error:
        parser.error(str(error))
    results = [
        run(experiment, data, split_by=split_by, seed=seed, folder=folder, device=options.device, say=_say)
        for seed in range(options.seeds)
        for split_by in SPLITS
    ]
    given = sys.argv[1:] if arguments is None else arguments
    about = machine() | {"command": shlex.join(["python", "-m", "benchmarks.reproduction", *given])}
    document = {
        "name": name,
        "is_papers": experiment.is_papers,
        "model": config.model.model_dump(),
        "train": config.train.model_dump(),
        "about": about,
        "results": results,
    }
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / "results").mkdir(exist_ok=True)
    (options.docs / "results" / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    write_pictures(document, work=folder, docs=options.docs / "results")
    reconstructed = write_reconstructions(experiment, data, work=folder)
    write_page(options.docs)
    _say(f"{options.docs / 'results.md'} is written; {reconstructed} shows images of the archive and stays out of docs")


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


if __name__ == "__main__":
    main()
