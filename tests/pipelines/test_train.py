"""train: a bundle that says what it was made from."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skinvae.errors import BundleError, LabelsError, TrainingError, UsageError
from skinvae.pipelines.train import train
from skinvae.records import SCORES
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from tests.conftest import COUNTS, ArchiveFiles, config, train_config
from tests.pipelines.processes import skinvae_command
from tests.s3_server import S3Server


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
    assert list(validation.index) == [1, 2, 3, 4]
    assert validation[4] < validation[1]
    assert training["best_epoch"] == validation.idxmin()
    assert training["validation_loss"] == pytest.approx(validation.min())
    assert history["loss"].to_numpy() == pytest.approx(history["reconst"] + 0.01 * history["kl"], rel=1e-6)


def test_every_epoch_says_how_long_it_took_and_how_much_of_that_it_waited_for_images(model: str) -> None:
    history = pd.read_csv(f"{model}/history.csv").query("split == 'train'")
    assert (history["input_seconds"] > 0).all()
    assert (history["input_seconds"] < history["seconds"]).all()


def test_the_bundle_has_a_card_and_pictures(model: str) -> None:
    card = Path(model, "MODEL_CARD.md").read_text()
    assert "no diagnosis" in card
    assert "| trained on | 4" in card
    assert "Licence of the images: not stated" in card
    assert "![Losses by epoch](training_curve.png)" in card
    assert "Objective: the evidence lower bound by one draw of z an image. loss = reconst + sigma^2 * kl;" in card
    for picture in ("training_curve.png", "reconstructions.png"):
        assert Path(model, picture).read_bytes().startswith(b"\x89PNG")


def test_the_status_of_a_model_is_what_it_was_trained_on(model: str) -> None:
    command = skinvae_command("status", model, "--json")
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (found["kind"], found["model_id"]) == ("model", read_bundle(Location.parse(model)).model_id)
    assert found["training"]["best_epoch"] >= 1


def test_tensorboard_s_logs_are_beside_the_model(model: str) -> None:
    history = pd.read_csv(f"{model}/history.csv").query("split == 'validation'")
    (folder,) = Path(model, "tensorboard").iterdir()
    (file,) = folder.iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    curve = {event.step: event.value for event in events.Scalars("loss/validation")}
    assert curve == pytest.approx(dict(zip(history["epoch"], history["loss"], strict=True)), rel=1e-6)
    assert "images_per_second" in events.Tags()["scalars"]


def test_the_same_command_again_does_nothing_and_other_settings_are_refused(model: str, archive: ArchiveFiles) -> None:
    before = Path(model, "config.json").read_bytes()
    arguments = {"labels": archive.labels, "normal": ["NV"], "out": model, "groups": archive.groups}
    summary = train([archive.zip], config=config(), **arguments)
    assert summary.model_id == read_bundle(Location.parse(model)).model_id
    assert summary.files == files_in(Path(model))
    with pytest.raises(BundleError, match="other settings or images"):
        train([archive.zip], config=train_config(num_epochs=3), **arguments)
    assert Path(model, "config.json").read_bytes() == before


def test_a_dry_run_opens_the_archives_and_has_no_loss(archive: ArchiveFiles, tmp_path: Path) -> None:
    summary = train(
        [archive.zip],
        labels=archive.labels,
        normal=["NV"],
        out=f"{tmp_path}/m",
        groups=archive.groups,
        config=config(),
        dry_run=True,
    )
    assert summary.num_train + summary.num_validation == COUNTS["NV"]
    assert json.loads(json.dumps(summary.as_dict(), allow_nan=False))["validation_loss"] is None
    assert summary.files == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_no_epochs_write_an_untrained_bundle(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "model")
    on_sigint = signal.getsignal(signal.SIGINT)
    summary = train(
        [archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=None, config=train_config(num_epochs=0)
    )
    assert signal.getsignal(signal.SIGINT) is on_sigint
    bundle = read_bundle(Location.parse(out))
    assert bundle.config.training["best_epoch"] == 0
    assert bundle.config.data["split_by"] == "image"
    assert bundle.weights["decoder.0.1.num_batches_tracked"] == 0
    assert summary.files == files_in(Path(out))
    assert summary.validation_loss == bundle.config.training["validation_loss"]
    assert "training: 0 of 0" not in capsys.readouterr().err


def test_more_workers_than_training_images_are_refused_before_anything_is_decoded(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = train_config(num_workers=64)
    with pytest.raises(UsageError, match=r"64 training workers are more than .*: lower train\.num_workers"):
        train([archive.zip], labels=archive.labels, normal=["NV"], out=f"{tmp_path}/m", groups=None, config=settings)
    assert "normals: " not in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_trained_into_a_bucket(ray_cluster: str, s3: S3Server, archive: ArchiveFiles, model: str) -> None:
    """Checkpoints, logs and bundle on S3; the weights are those of the local run."""
    out = "s3://tests/trained/model"
    arguments = {"labels": archive.labels, "normal": ["NV"], "groups": archive.groups, "config": config()}
    train([archive.zip], out=out, **arguments)
    local, there = read_bundle(Location.parse(model)), read_bundle(Location.parse(out))
    assert all(torch.equal(there.weights[name], tensor) for name, tensor in local.weights.items())
    names = {one.name for one in Location.parse(out).list_objects()}
    assert any(name.startswith("tensorboard/") for name in names)
    assert not Location.parse(f"{out}.training").list_objects()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_training_with_advice(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    settings = train_config(learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"no longer finite in .*epoch 1, .* whose images are ISIC_.*; lower train\.learning_rate"
    ):
        train([archive.zip], labels=archive.labels, normal=["NV"], out=f"{tmp_path}/m", groups=None, config=settings)
    assert not Path(tmp_path, "m", "config.json").exists()


def test_a_format_of_gpus_is_refused_on_cpus_before_anything_is_decoded(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = train_config(precision="tf32")
    with pytest.raises(UsageError, match=r"train\.precision = tf32 is a format of GPUs"):
        train([archive.zip], labels=archive.labels, normal=["NV"], out=f"{tmp_path}/m", groups=None, config=settings)
    assert "normals: " not in capsys.readouterr().err


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


def files_in(folder: Path) -> list[str]:
    """Names relative to the folder, sorted."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
