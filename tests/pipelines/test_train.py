"""train: a bundle that says what it was made from, and that a killed run still becomes."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from skinvae.config import Config, build_config
from skinvae.errors import BundleError, LabelsError, TrainingError, UsageError
from skinvae.images.decode import decode
from skinvae.model.noise import draw_noise
from skinvae.model.objective import Objective
from skinvae.model.vae import to_unit_range
from skinvae.pipelines import train_plan
from skinvae.pipelines.fitting import interruptible, require_work_for_all
from skinvae.pipelines.train import train
from skinvae.records import SCORES
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.training_record import read_training_record
from skinvae.training.images import global_batches, share_of
from skinvae.training.trainer import VALIDATION_STREAM, epoch_line
from tests.conftest import COUNTS, SMALL, ArchiveFiles, config
from tests.faults.world import QUICK_SIGHT, ray_nodes
from tests.pipelines.processes import command_environment, skinvae_command
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
        train([archive.zip], config=_config(num_epochs=3), **arguments)
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
        [archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=None, config=_config(num_epochs=0)
    )
    assert signal.getsignal(signal.SIGINT) is on_sigint
    bundle = read_bundle(Location.parse(out))
    assert bundle.config.training["best_epoch"] == 0
    assert bundle.config.data["split_by"] == "image"
    assert bundle.weights["decoder.0.1.num_batches_tracked"] == 0
    assert summary.files == files_in(Path(out))
    assert summary.validation_loss == bundle.config.training["validation_loss"]
    assert "training: 0 of 0" not in capsys.readouterr().err


def test_a_killed_run_resumes_and_ends_with_the_weights_of_an_uninterrupted_one(
    ray_cluster: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    """The uninterrupted one is the model of all other tests."""
    settings = config()
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
    record = read_training_record(Location.parse(str(out)))
    assert record is not None
    assert record.run_id in {one.name for one in Path(f"{out}.training").iterdir()}
    shown = subprocess.run(skinvae_command("status", str(out)), capture_output=True, text=True, check=True).stdout
    assert f"training of {out}, run {record.run_id}".replace(" ", "") in "".join(shown.split())
    epochs_before = [json.loads(f.read_text())["epoch"] for f in Path(f"{out}.training").glob("*/*/state.json")]
    assert max(epochs_before) < 4

    train([archive.zip], labels=archive.labels, normal=["NV"], groups=archive.groups, out=str(out), config=settings)
    resumed, uninterrupted = (read_bundle(Location.parse(uri)) for uri in (str(out), model))
    assert list(pd.read_csv(out / "history.csv").query("split == 'train'")["epoch"]) == [1, 2, 3, 4]
    for name, weights in uninterrupted.weights.items():
        assert (resumed.weights[name] == weights).all(), name
    assert not Path(f"{out}.training").exists(), "what a finished run no longer needs is removed"


INTERRUPTED = """
import signal, sys
from skinvae.cli import main
arguments = sys.argv[1:]
out = "model"
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["skinvae", "train", "--out", out, *arguments]
code = None
try:
    main()
except SystemExit as stop:
    code = stop.code
kept = [signal.getsignal(one) is signal.default_int_handler for one in (signal.SIGINT, signal.SIGTERM)]
print(out, code, *kept, flush=True)
sys.exit(code)
"""


@pytest.mark.slow
def test_sigterm_ends_training_with_5_and_leaves_the_handlers(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    arguments = skinvae_command(
        archive.zip, "--labels", archive.labels, "--normal", "NV", config=_config(num_epochs=100_000)
    )[1:]
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *arguments],
        env=command_environment(ray_cluster),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(lambda: list(tmp_path.glob("model.training/*/checkpoint_*/state.json")), process)
    # Within `fit` SIGTERM takes SIGINT's way: both are tested with one.
    process.send_signal(signal.SIGTERM)
    output, errors = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 5, errors
    assert output.splitlines() == ["model 5 True True"], errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].endswith("run the same command again to resume")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_handler_that_exits_becomes_an_interruption_and_is_removed(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        _signal_under_a_handler_that_exits(number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@given(num_images=st.integers(1, 300), batch_size=st.integers(1, 100), num_workers=st.integers(1, 9))
def test_the_workers_shares_cover_every_image_exactly_once(num_images: int, batch_size: int, num_workers: int) -> None:
    order = np.random.default_rng(0).permutation(num_images)
    batches = global_batches(order, size=batch_size)
    shares = [[share_of(one, rank=rank, num_workers=num_workers) for rank in range(num_workers)] for one in batches]
    taken = np.concatenate([np.concatenate(one) for one in shares])
    assert sorted(taken) == list(range(num_images))
    assert max(map(len, batches)) <= batch_size
    sizes = [len(share) for one in shares for share in one]
    assert max(sizes) - min(sizes) <= 2, "batches differ by one image, and so do the shares of one"
    if min(sizes) == 0:
        settings = _config(batch_size=batch_size).train
        with pytest.raises(UsageError, match=f"{num_workers} training workers are more than"):
            require_work_for_all(num_images, settings=settings, num_workers=num_workers)


def test_more_workers_than_training_images_are_refused_before_anything_is_decoded(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _config(num_workers=64)
    with pytest.raises(UsageError, match=r"64 training workers are more than .*: lower train\.num_workers"):
        train([archive.zip], labels=archive.labels, normal=["NV"], out=f"{tmp_path}/m", groups=None, config=settings)
    assert "decoding" not in capsys.readouterr().err


@pytest.mark.slow
def test_three_workers_train_on_every_image_and_validate_the_model_that_is_saved(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    out = str(tmp_path / "model")
    # Two held-out images: one of the three workers has none to validate on.
    settings = _config(num_workers=3, num_epochs=2, batch_size=8, validation_fraction=0.03)
    train([archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=None, config=settings)
    counted = pd.read_csv(f"{out}/history.csv").set_index(["split", "epoch"])["num_images"]
    assert counted["train"].to_dict() == {1: COUNTS["NV"] - 2, 2: COUNTS["NV"] - 2}
    assert counted["validation"].to_dict() == {1: 2, 2: 2}
    assert _validation_loss(out, archive, settings) == pytest.approx(
        read_bundle(Location.parse(out)).config.training["validation_loss"], rel=1e-5
    )


@pytest.mark.slow
def test_two_workers_learn_what_one_does(ray_cluster: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    """Stated tolerance, in float64: losses 1e-7, weights 1e-6."""
    bundles = []
    for num_workers in (1, 2):
        out = str(tmp_path / f"model-{num_workers}")
        settings = _config(num_workers=num_workers, precision="float64")
        train([archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=archive.groups, config=settings)
        bundles.append((pd.read_csv(f"{out}/history.csv"), read_bundle(Location.parse(out)).weights))
    (one_s, one), (two_s, two) = bundles
    for column in ("loss", "reconst", "kl", "num_images"):
        np.testing.assert_allclose(two_s[column], one_s[column], rtol=1e-7)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_killed_workers_change_nothing(ray_cluster: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    """The same seed with the same workers, undisturbed and with a worker killed behind the first epoch."""
    settings = _config(num_workers=2, num_epochs=6, batch_size=8)
    arguments = {"labels": archive.labels, "normal": ["NV"], "groups": archive.groups, "config": settings}
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    train([archive.zip], out=str(calm), **arguments)
    stop = threading.Event()
    victims: list[int] = []

    def kill_one() -> None:
        while not list(Path(f"{killed}.training").glob("*/checkpoint_*/state.json")):
            if stop.wait(0.02):
                return
        workers = [one for one in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(one.cmdline())]
        victims.append(workers[-1].pid)
        workers[-1].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        train([archive.zip], out=str(killed), **arguments)
    finally:
        stop.set()
        killer.join()
    assert victims, "a worker was killed"
    one, other = (read_bundle(Location.parse(str(out))).weights for out in (calm, killed))
    for name, tensor in one.items():
        assert torch.equal(other[name], tensor), name


@pytest.mark.slow
def test_training_goes_on_with_fewer_workers_where_a_node_is_lost(
    s3: S3Server, archive: ArchiveFiles, tmp_path: Path
) -> None:
    """Batches are the job's, not the workers', so the losses stay the same but for the last digits."""
    settings = _config(num_workers=2, min_workers=1, num_epochs=40, precision="float64")
    calm = str(tmp_path / "calm")
    out = str(tmp_path / "model")
    with ray_nodes(s3.environment | QUICK_SIGHT, num_nodes=2, num_cpus=2, num_gpus=0) as nodes:
        command = skinvae_command(
            "train", archive.zip, "--labels", archive.labels, "--normal", "NV", "--groups", archive.groups,
            "--out", out, config=settings,
        )  # fmt: skip
        process = subprocess.Popen(command, env=command_environment(nodes.address), stderr=subprocess.PIPE)
        wait_for(lambda: list(Path(f"{out}.training").glob("*/checkpoint_*/state.json")), process)
        nodes.kill(next(iter(nodes.cluster.worker_nodes)))
        _, errors = process.communicate(timeout=280)
        assert process.returncode == 0, errors.decode()
        subprocess.run(
            [*command[: command.index("--out")], "--out", calm, *command[command.index("--out") + 2 :],
             "--set", "train.num_workers=1", "--set", "train.min_workers=0"],
            env=command_environment(nodes.address), check=True, capture_output=True,
        )  # fmt: skip
    one, other = (pd.read_csv(f"{path}/history.csv") for path in (calm, out))
    assert sorted(set(other["num_workers"])) == [1, 2], "first there were two, then one"
    np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-6)


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


def _validation_loss(model: str, archive: ArchiveFiles, settings: Config) -> float:
    """The held-out images' loss by the bundle's own weights, with the draws of training's validation."""
    bundle = read_bundle(Location.parse(model))
    held_out = set(bundle.split.query("split == 'validation'")["image_id"])
    decoded = [
        decode(data, size=settings.model.image_size, settings=settings.images)
        for name, data in archive.members().items()
        if Path(name).stem in held_out
    ]
    pixels = np.stack([one.pixels for one in decoded])
    eps = draw_noise(
        pixels,
        seed=settings.train.seed,
        num_samples=1,
        num_latents=settings.model.num_latents,
        stream=VALIDATION_STREAM,
    )
    x = to_unit_range(torch.from_numpy(pixels))
    with torch.inference_mode():
        return float(Objective(settings.train)(bundle.build_model().eval(), x, torch.from_numpy(eps)).total)


def test_an_epoch_is_told_in_one_line() -> None:
    line = epoch_line(
        12,
        40,
        trained={"loss": 43.08, "reconst": 40.1, "kl": 298.5, "num_images": 9},
        validated={"loss": 45.6, "reconst": 42.64, "kl": 292.5, "num_images": 3},
    )
    assert line == (
        "epoch 12 of 40: train loss 43.1 (reconst 40.1, kl 298.5), validation loss 45.6 (reconst 42.6, kl 292.5)"
    )


def test_a_run_s_name_stands_for_all_that_the_bundle_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    split = pd.DataFrame({"image_id": ["a", "b"], "split": ["train", "validation"]})

    def digest(*, settings: Config | None = None, normal: tuple[str, ...] = ("NV", "BKL")) -> str:
        return train_plan.run_digest(["source"], split=split, normal=normal, config=settings or config())

    same = [digest(), digest(normal=("BKL", "NV")), digest(settings=config(slice_size=7))]
    assert len({*same, digest(settings=_config(max_failures=7, num_workers=2, mlflow="http://host"))}) == 1
    others = [
        digest(settings=_config(num_epochs=3)),
        digest(settings=config(num_samples=77)),
        digest(settings=config(seed=5)),
        digest(normal=("NV",)),
    ]
    monkeypatch.setattr(train_plan, "PREPROCESSING_VERSION", "another")
    others.append(digest())
    for one, another in itertools.combinations([same[0], *others], 2):
        assert one != another


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_training_with_advice(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    settings = _config(learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"no longer finite in .*epoch 1, .* whose images are ISIC_.*; lower train\.learning_rate"
    ):
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


def _signal_under_a_handler_that_exits(number: signal.Signals) -> None:
    with interruptible():
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))  # as Ray Train does
        signal.raise_signal(number)


def _config(**train_settings: object) -> Config:
    return build_config({**SMALL, "train": {**SMALL["train"], **train_settings}})


def files_in(folder: Path) -> list[str]:
    """Names relative to the folder, sorted."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Until the condition holds; fails if the process ends before."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < deadline, "the awaited state did not come about"
        time.sleep(0.02)
