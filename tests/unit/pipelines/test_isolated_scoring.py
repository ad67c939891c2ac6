"""Scoring in fresh processes: real ones, which really die, hang and run out of memory."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from skinvae.errors import JobError
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines import isolated_scoring
from skinvae.pipelines.bisection import Death
from skinvae.pipelines.image_scorer import Columns, MakeScorer, Placement, ScorerRecipe
from skinvae.pipelines.isolated_scoring import score_isolated
from skinvae.records import SCORES
from skinvae.storage.bundle import ModelBundle
from skinvae.storage.filesystem import Location
from tests.fast_scorer import FastScorer, Mischief, fast_scorer, mischievous_image
from tests.unit.storage.test_bundle import write

SIZE = 32
GOOD = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)


def recipe(folder: Path, make_scorer: MakeScorer, *, batch_size: int = 4) -> ScorerRecipe:
    location = Location.parse(str(folder / "model"))
    return ScorerRecipe(location, write(location), ScoringSettings(), Placement("cpu", 1, batch_size, 4), make_scorer)


def isolated(
    folder: Path, images: np.ndarray, make_scorer: MakeScorer, *, batch_size: int = 4, max_seconds: float = 60.0
) -> tuple[Columns, dict[int, Death]]:
    """The scores, NaN where there are none, and the killers."""
    columns = {name: np.full(len(images), np.nan) for name in (*SCORES, "ess")}

    def keep(positions: np.ndarray, scores: Columns) -> None:
        for name, values in scores.items():
            assert np.isnan(columns[name][positions]).all(), "each image is scored once"
            columns[name][positions] = values

    killers = score_isolated(
        images,
        recipe=recipe(folder, make_scorer, batch_size=batch_size),
        max_seconds=max_seconds,
        on_scored=keep,
    )
    return columns, killers


def with_mischief(**places: int) -> np.ndarray:
    images = GOOD.copy()
    for name, place in places.items():
        images[place] = mischievous_image(Mischief[name], size=SIZE)
    return images


def assert_others_are_scored(columns: Columns, killers: dict[int, Death]) -> None:
    expected = FastScorer().score(GOOD)
    others = np.delete(np.arange(len(GOOD)), sorted(killers))
    for name, values in expected.items():
        assert np.array_equal(columns[name][others], values[others]), "bit for bit"
        assert np.isnan(columns[name][sorted(killers)]).all()


def test_each_killer_is_named_with_its_signal_and_its_neighbours_are_scored(tmp_path: Path) -> None:
    columns, killers = isolated(tmp_path, with_mischief(SIGKILL=1, MEMORY_ERROR=8), fast_scorer(), batch_size=1)
    assert {place: death.reason.split(":")[0] for place, death in killers.items()} == {1: "SIGKILL", 8: "MemoryError"}
    assert not any(death.is_overdue for death in killers.values())
    assert_others_are_scored(columns, killers)


def test_what_hangs_in_native_code_is_overdue(tmp_path: Path) -> None:
    columns, killers = isolated(tmp_path, with_mischief(HANG=5), fast_scorer(), max_seconds=0.5)
    assert killers == {5: Death("scoring takes more than 0.5 seconds", is_overdue=True)}
    assert_others_are_scored(columns, killers)


class _KilledOnce(FastScorer):
    """Dies by chance at the third image: where the file is not yet there."""

    def __init__(self, marker: Path) -> None:
        super().__init__(batch_size=1)
        self._marker = marker

    def score(self, images_BHWC: np.ndarray) -> Columns:
        if (images_BHWC == GOOD[2]).all() and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(images_BHWC)


def test_an_image_whose_process_was_killed_by_chance_is_scored(tmp_path: Path) -> None:
    def make_killed_once(_: ModelBundle, __: ScoringSettings, ___: Placement) -> _KilledOnce:
        return _KilledOnce(tmp_path / "marker")  # a function that only its value can bring into another process

    columns, killers = isolated(tmp_path, GOOD, make_killed_once, batch_size=1)
    assert (tmp_path / "marker").exists()
    assert killers == {}
    assert_others_are_scored(columns, killers)


class _Broken(FastScorer):
    def score(self, images_BHWC: np.ndarray) -> Columns:
        if images_BHWC.any():
            raise ValueError("our own mistake")
        os.kill(os.getpid(), signal.SIGKILL)
        return super().score(images_BHWC)


def _make_broken(_: ModelBundle, __: ScoringSettings, ___: Placement) -> _Broken:
    return _Broken()


def test_a_process_that_cannot_score_a_blank_image_blames_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_scoring, "NUM_STARTS", 2)
    with pytest.raises(JobError, match=r"scores a blank image, 2 times: SIGKILL; this is the machine's fault"):
        isolated(tmp_path, GOOD, _make_broken)


def _make_mistaken(bundle: ModelBundle, _: ScoringSettings, __: Placement, *, message: str) -> FastScorer:
    assert bundle.config.sigma == 0.125
    raise ValueError(message)


def test_an_error_of_the_scorer_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="our own mistake"):
        isolated(tmp_path, GOOD, functools.partial(_make_mistaken, message="our own mistake"))


def test_no_images_take_no_process(tmp_path: Path) -> None:
    assert isolated(tmp_path, GOOD[:0], _make_broken)[1] == {}
