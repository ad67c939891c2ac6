"""train: a bundle that says what it was made from, and that a killed run still becomes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skinvae.config import build_config
from skinvae.errors import BundleError, LabelsError, TrainingError
from skinvae.pipelines.train import train
from skinvae.records import SCORES
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from tests.pipelines.conftest import COUNTS, SMALL, ArchiveFiles, config
from tests.pipelines.processes import command_environment, skinvae_command


def test_the_bundle_records_its_data_and_its_training(model: str, archive: ArchiveFiles) -> None:
    bundle = read_bundle(Location.parse(model))
    labels = pd.read_csv(archive.labels).set_index("image")
    split = bundle.split.set_index("image_id")
    assert sorted(split.index) == sorted(labels.index[labels["NV"] == 1.0])
    assert bundle.config.data["num_train"] + bundle.config.data["num_validation"] == COUNTS["NV"]
    lesions = pd.read_csv(archive.groups).set_index("image_id")["lesion_id"]
    sides = split["split"].groupby(lesions.reindex(split.index)).nunique()
    assert sides.max() == 1, "photos of one lesion are on one side"
    assert len(bundle.calibration) == (split["split"] == "validation").sum()
    assert np.isfinite(bundle.calibration[list(SCORES)]).all(axis=None)


def test_the_loss_falls_and_the_best_epoch_is_kept(model: str) -> None:
    history = pd.read_csv(f"{model}/history.csv")
    validation = history[history["split"] == "validation"].set_index("epoch")["loss"]
    training = json.loads(Path(model, "config.json").read_text())["training"]
    assert list(validation.index) == [1, 2]
    assert validation[2] < validation[1]
    assert training["best_epoch"] == validation.idxmin()
    assert training["validation_loss"] == pytest.approx(validation.min())
    assert history["loss"].to_numpy() == pytest.approx(history["reconst"] + 0.01 * history["kl"], rel=1e-6)


def test_the_bundle_has_a_card_and_pictures(model: str) -> None:
    card = Path(model, "MODEL_CARD.md").read_text()
    assert "no diagnosis" in card
    assert "| trained on | 4" in card
    for picture in ("training_curve.png", "reconstructions.png"):
        assert Path(model, picture).read_bytes().startswith(b"\x89PNG")


def test_the_same_command_again_does_nothing_and_other_settings_are_refused(model: str, archive: ArchiveFiles) -> None:
    before = Path(model, "config.json").read_bytes()
    arguments = {"labels": archive.labels, "normal": ["NV"], "out": model, "groups": archive.groups}
    summary = train([archive.zip], config=config(), **arguments)
    assert summary.model_id == read_bundle(Location.parse(model)).model_id
    with pytest.raises(BundleError, match="other settings or images"):
        train([archive.zip], config=_config(num_epochs=3), **arguments)
    assert Path(model, "config.json").read_bytes() == before


def test_no_epochs_write_an_untrained_bundle(ray_cluster: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    out = str(tmp_path / "model")
    train([archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=None, config=_config(num_epochs=0))
    bundle = read_bundle(Location.parse(out))
    assert bundle.config.training["best_epoch"] == 0
    assert bundle.config.data["split_by"] == "image"
    assert bundle.weights["decoder.0.1.num_batches_tracked"] == 0


def test_a_killed_run_resumes_and_ends_with_the_weights_of_an_uninterrupted_one(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    settings = _config(num_epochs=6)
    arguments = {"labels": archive.labels, "normal": ["NV"], "groups": archive.groups, "config": settings}
    out = tmp_path / "killed"
    command = skinvae_command(
        "train", archive.zip, "--labels", archive.labels, "--normal", "NV", "--groups", archive.groups,
        "--out", str(out), config=settings,
    )  # fmt: skip
    process = subprocess.Popen(command, env=command_environment(ray_cluster), stderr=subprocess.PIPE)
    wait_for(lambda: list(Path(f"{out}.training").glob("*/checkpoint_*/state.json")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "config.json").exists(), "the run was killed before it ended"
    epochs_before = [json.loads(f.read_text())["epoch"] for f in Path(f"{out}.training").glob("*/*/state.json")]
    assert max(epochs_before) < 6

    train([archive.zip], out=str(out), **arguments)
    train([archive.zip], out=str(tmp_path / "uninterrupted"), **arguments)
    resumed, uninterrupted = (read_bundle(Location.parse(str(tmp_path / name))) for name in ("killed", "uninterrupted"))
    assert list(pd.read_csv(out / "history.csv").query("split == 'train'")["epoch"]) == [1, 2, 3, 4, 5, 6]
    for name, weights in uninterrupted.weights.items():
        assert (resumed.weights[name] == weights).all(), name
    assert not Path(f"{out}.training").exists(), "what a finished run no longer needs is removed"


def test_two_workers_train_on_every_image(ray_cluster: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    out = str(tmp_path / "model")
    settings = _config(num_workers=2, num_epochs=1, batch_size=8)
    train([archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=archive.groups, config=settings)
    history = pd.read_csv(f"{out}/history.csv")
    assert np.isfinite(history["loss"]).all()
    assert set(history["split"]) == {"train", "validation"}


def test_a_loss_that_is_not_finite_ends_training_with_advice(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    settings = _config(learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"diverged in epoch 1: .* lower train.learning_rate"):
        train([archive.zip], labels=archive.labels, normal=["NV"], out=f"{tmp_path}/m", groups=None, config=settings)
    assert not Path(tmp_path, "m", "config.json").exists()


def test_labels_that_do_not_fit_are_refused_before_anything_is_decoded(archive: ArchiveFiles, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="no image of class NEVUS: --normal takes one of"):
        train([archive.zip], labels=archive.labels, normal=["NEVUS"], out=f"{tmp_path}/m", groups=None, config=config())
    Path(tmp_path, "other.csv").write_text("image_id,dx\nISIC_1,nv\nISIC_2,nv\n")
    with pytest.raises(LabelsError, match="0 of the 2 normal images"):
        train(
            [archive.zip],
            labels=f"{tmp_path}/other.csv",
            normal=["NV"],
            out=f"{tmp_path}/m",
            groups=None,
            config=config(),
        )


def _config(**train_settings: object) -> object:
    return build_config({**SMALL, "train": {**SMALL["train"], **train_settings}})


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Until the condition holds; fails if the process ends before."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "the awaited state did not come about"
        time.sleep(0.02)
