"""Training does not depend on how many workers share it, nor on where it was interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from skinvae.model.vae import ModelSettings
from skinvae.training import trainer as trainer_module
from skinvae.training.fitting import fit_in_process
from skinvae.training.history import Row
from skinvae.training.images import ImageStore, epoch_order
from skinvae.training.settings import TrainSettings
from skinvae.training.trainer import DivergedError, Trainer
from tests.unit.training.workers import run_workers

MODEL = ModelSettings(image_size=32, base_channels=4, num_latents=6)
NUM_TRAIN, NUM_VALIDATION = 37, 5
GLOBAL_BATCH = 12


def images() -> ImageStore:
    """Smooth pictures in blocks of unequal size."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (NUM_TRAIN + NUM_VALIDATION, 4, 4, 3))
    pixels = np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)
    return ImageStore([pixels[:5], pixels[5:30], pixels[30:]], [f"image {i}" for i in range(len(pixels))])


TRAIN, VALIDATION = np.arange(NUM_TRAIN), np.arange(NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION)


def settings(**changes: Any) -> TrainSettings:
    own = {"num_epochs": 3, "batch_size": GLOBAL_BATCH, "learning_rate": 1e-3, "seed": 4}
    return TrainSettings.model_validate(own | changes)


def make(changes: dict[str, Any]) -> Trainer:
    return Trainer(MODEL, settings(**changes), images(), device=torch.device("cpu"))


def learned(rank: int, num_workers: int, changes: dict[str, Any]) -> dict[str, Any]:
    trainer = make(changes)
    assert (trainer.rank, trainer.num_workers) == (rank, num_workers)
    for epoch in (1, 2, 3):
        trainer.run_epoch(epoch, TRAIN, VALIDATION)
    return {"history": trainer.history, "weights": trainer.module.state_dict()}


def losses(history: list[Row]) -> pd.DataFrame:
    columns = ["epoch", "split", "loss", "reconst", "kl", "num_images", "sigma"]
    return pd.DataFrame(history)[columns]


OBJECTIVES = [
    {},
    {"objective": "iwae", "num_samples": 3, "learn_sigma": True, "clip_grad_norm": 5.0},
]


@pytest.mark.parametrize("changes", OBJECTIVES, ids=["vae", "iwae, learned sigma, clipped"])
def test_one_two_and_three_workers_learn_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    """In float64: losses to 1e-7, weights to 1e-6. 37 images in batches of 9 and 10: shares differ, and cover all."""
    changes = changes | {"precision": "float64"}
    alone = learned(0, 1, changes)
    assert losses(alone["history"])["num_images"].tolist() == [NUM_TRAIN, NUM_VALIDATION] * 3
    for num_workers in (2, 3):
        for worker in run_workers(learned, num_workers, changes, folder=tmp_path):
            pd.testing.assert_frame_equal(losses(worker["history"]), losses(alone["history"]), rtol=1e-7)
            for name, tensor in alone["weights"].items():
                torch.testing.assert_close(worker["weights"][name], tensor, rtol=1e-6, atol=1e-6)


def test_in_float32_the_loss_curves_agree_too(tmp_path: Path) -> None:
    """Weights do not: the biases in front of batch norms have no gradient but noise, which Adam gives whole steps."""
    alone = losses(learned(0, 1, {})["history"])
    for worker in run_workers(learned, 2, {}, folder=tmp_path):
        np.testing.assert_allclose(losses(worker["history"])["loss"], alone["loss"], rtol=1e-4)


def test_two_runs_of_two_workers_are_equal_bit_for_bit(tmp_path: Path) -> None:
    one, another = (run_workers(learned, 2, {}, folder=_made(tmp_path / name)) for name in ("one", "another"))
    assert losses(one[0]["history"]).equals(losses(another[0]["history"]))
    for name, tensor in one[0]["weights"].items():
        assert torch.equal(another[0]["weights"][name], tensor), name
        assert torch.equal(one[1]["weights"][name], tensor), f"{name}: the workers differ"


@pytest.mark.parametrize("changes", OBJECTIVES, ids=["vae", "iwae, learned sigma, clipped"])
def test_a_restored_run_goes_on_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = learned(0, 1, changes)
    first = make(changes)
    first.run_epoch(1, TRAIN, VALIDATION)
    first.save(tmp_path, epoch=1)
    second = make(changes | {"seed": 4})
    assert second.restore(tmp_path) == 1
    for epoch in range(second.next_epoch, 4):
        second.run_epoch(epoch, TRAIN, VALIDATION)
    assert losses(second.history).equals(losses(whole["history"]))
    for name, tensor in whole["weights"].items():
        assert torch.equal(second.module.state_dict()[name], tensor), name


def test_an_untrained_model_is_validated_once() -> None:
    store = images()
    fitted = fit_in_process(
        store[np.arange(len(store.names))],
        store.names,
        is_held_out=np.arange(len(store.names)) >= NUM_TRAIN,
        model=MODEL,
        settings=settings(num_epochs=0),
    )
    assert (fitted.best_epoch, len(fitted.history), len(fitted.weights) > 0) == (0, 1, True)


def test_a_learned_sigma_moves_and_is_told() -> None:
    history = learned(0, 1, {"learn_sigma": True, "learning_rate": 1e-2})["history"]
    sigmas = [row["sigma"] for row in history]
    assert sigmas[0] > 0.1, "an untrained model is worse than sigma = 0.1 allows"
    assert len(set(sigmas)) == 3, "the same behind an epoch's training and its validation"


def test_bfloat16_learns_nearly_the_same() -> None:
    exact, short = (losses(learned(0, 1, {"precision": name})["history"]) for name in ("float32", "bfloat16"))
    assert not exact.equals(short)
    np.testing.assert_allclose(short["loss"], exact["loss"], rtol=0.02)  # measured: 0.004


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_learns_the_same() -> None:
    trainer, compiled = make({}), make({"compile": True})
    rows = [one.run_epoch(1, TRAIN, VALIDATION) for one in (trainer, compiled)]
    for plain, other in zip(*rows, strict=True):
        assert other["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_clipping_shortens_the_step() -> None:
    fast = {"learning_rate": 1e-2}
    free, clipped = (losses(learned(0, 1, fast | more)["history"]) for more in ({}, {"clip_grad_norm": 1e-9}))
    # Adam divides by the gradient's size, but for its epsilon of 1e-8.
    assert clipped["loss"].iloc[-2] > 1.05 * free["loss"].iloc[-2]


def poisoned(rank: int, num_workers: int) -> str:
    """The loss of one image is infinite, in whichever worker's share it lies."""
    store = images()
    trainer = Trainer(MODEL, settings(), store, device=torch.device("cpu"))
    gathered = trainer._gathered

    def spoiled(batch: np.ndarray, stream: int) -> Any:
        pixels, eps, num_global = gathered(batch, stream)
        own = trainer_module.share_of(batch, rank=rank, num_workers=num_workers)
        eps[own == 20] = np.inf
        return pixels, eps, num_global

    trainer._gathered = spoiled  # type: ignore[method-assign]
    try:
        trainer.train_epoch(1, TRAIN)
    except DivergedError as error:
        return str(error)
    return "all was well"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_loss_that_is_not_finite_names_its_batch_on_all_workers(num_workers: int, tmp_path: Path) -> None:
    order = epoch_order(TRAIN, seed=4, epoch=1)
    batches = trainer_module.global_batches(order, size=GLOBAL_BATCH)
    (step,) = (step for step, batch in enumerate(batches) if 20 in batch)
    said = run_workers(poisoned, num_workers, folder=tmp_path)
    assert set(said) == {said[0]}
    names = ", ".join(f"image {index}" for index in batches[step][:8])
    assert f"in epoch 1, step {step + 1} of {len(batches)}, whose images are {names} and" in said[0]


def test_a_run_in_this_process_keeps_the_best_epoch() -> None:
    store = images()
    pixels = store[np.arange(len(store.names))]
    told = []
    fitted = fit_in_process(
        pixels,
        store.names,
        is_held_out=np.arange(len(pixels)) >= NUM_TRAIN,
        model=MODEL,
        settings=settings(),
        on_epoch=lambda trained, validated: told.append((trained["epoch"], validated["loss"])),
    )
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert fitted.best["loss"] == min(loss for _, loss in told)
    expected = learned(0, 1, {})
    assert losses(expected["history"]).equals(fitted.history[losses(expected["history"]).columns])
    kept = make({})
    kept.vae.load_state_dict(fitted.weights)
    assert kept.validate(0, VALIDATION)["loss"] == fitted.best["loss"], "the weights are the best epoch's"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
