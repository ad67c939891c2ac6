"""The process that isolated_scoring.py starts: builds a scorer, proves it on a blank image, scores what it is sent."""

from __future__ import annotations

import contextlib
import pickle
import resource
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from skinvae.model.device_errors import is_device_lost, is_out_of_memory
from skinvae.pipelines.deadline import arm_deadlines, deadline
from skinvae.pipelines.image_scorer import ImageScorer, ScorerRecipe


def main(fd: int) -> None:
    """Serve the line at `fd` until its other end is closed, which a death of the parent does as well."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of each crash would fill the disk
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the driver's to hear
    arm_deadlines()
    line: Connection[Any, Any] = Connection(fd)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            _serve(line)
        except Exception as error:  # noqa: BLE001 the parent decides whether it says anything about the image
            if is_out_of_memory(error) or is_device_lost(error):
                line.send(("died", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
            else:
                line.send(("failed", _picklable(error)))


def _serve(line: Connection[Any, Any]) -> None:
    recipe, image_size, max_seconds = pickle.loads(line.recv())
    assert isinstance(recipe, ScorerRecipe)
    scorer: ImageScorer = recipe.build(recipe.read_bundle())
    scorer.score(np.zeros((1, image_size, image_size, 3), np.uint8))
    line.send(("ready", scorer.batch_size))
    while True:
        pixels = line.recv()
        with deadline(seconds=max_seconds):
            columns = scorer.score(pixels)
        line.send(("scored", columns))


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 an exception may refuse it in any way; its words are what matters
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
