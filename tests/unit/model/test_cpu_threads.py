"""CpuThreads: batches side by side give the scores of batches one after the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from skinvae.model.cpu_threads import CpuThreads
from skinvae.model.scorer import NAMES, Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings

IMAGES = np.random.default_rng(5).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("num_items", "num_each"), [(1, 3), (2, 1), (3, 1), (7, 1)])
def test_the_threads_are_shared_out_among_the_items(three_threads: None, num_items: int, num_each: int) -> None:
    threads = CpuThreads()
    assert threads.map(lambda item: (item, torch.get_num_threads()), range(num_items)) == [
        (item, num_each) for item in range(num_items)
    ]
    assert torch.get_num_threads() == 3
    # Also for threads that begin later.
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [3]


def test_two_items_on_five_threads_have_two_each() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        assert CpuThreads().map(lambda _: torch.get_num_threads(), range(2)) == [2, 2]
    finally:
        torch.set_num_threads(before)


def test_items_are_worked_on_at_the_same_time(three_threads: None) -> None:
    everyone = threading.Barrier(3, timeout=20)
    assert sorted(CpuThreads().map(lambda _: everyone.wait(), range(3))) == [0, 1, 2]


def test_an_error_is_raised_when_nothing_runs_any_more(three_threads: None) -> None:
    running = [0]

    def work(item: int) -> None:
        if item == 0:
            raise torch.OutOfMemoryError("the first")
        running[0] += 1
        time.sleep(0.2)
        running[0] -= 1

    with pytest.raises(torch.OutOfMemoryError, match="the first"):
        CpuThreads().map(work, range(3))
    assert running == [0]
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_scores_do_not_depend_on_how_many_threads_work(precision: str) -> None:
    torch.manual_seed(0)
    model = VAE(ModelSettings(image_size=32, base_channels=8, num_latents=16))
    weights = model.state_dict()
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            own = VAE(model.settings)
            own.load_state_dict(weights)
            settings = ScoringSettings.model_validate({"precision": precision})
            scorer = Scorer(own, variance=0.01, settings=settings, batch_size=4, decode_batch_size=20)
            assert scorer.batch_size == (4 if count == 1 else 8 * count)
            found.append(scorer.score(IMAGES))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name in NAMES:
            np.testing.assert_allclose(other[name], found[0][name], rtol=1e-6 if name == "ess" else 1e-9)
