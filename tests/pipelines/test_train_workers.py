"""Several workers train as one does, and neither they nor the driver are missed when they die."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from skinvae.config import Config
from skinvae.images.decode import decode
from skinvae.model.noise import draw_noise
from skinvae.model.objective import Objective
from skinvae.model.vae import to_unit_range
from skinvae.pipelines.fitting import interruptible
from skinvae.pipelines.train import train
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.training_record import read_training_record
from skinvae.training.trainer import VALIDATION_STREAM
from tests.conftest import COUNTS, ArchiveFiles, config, train_config
from tests.faults.world import QUICK_SIGHT, ray_nodes
from tests.pipelines.processes import command_environment, skinvae_command, wait_for
from tests.s3_server import S3Server


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
        archive.zip, "--labels", archive.labels, "--normal", "NV", config=train_config(num_epochs=100_000)
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


@pytest.mark.slow
def test_three_workers_train_on_every_image_and_validate_the_model_that_is_saved(
    ray_cluster: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    out = str(tmp_path / "model")
    # Two held-out images: one of the three workers has none to validate on.
    settings = train_config(num_workers=3, num_epochs=2, batch_size=8, validation_fraction=0.03)
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
        settings = train_config(num_workers=num_workers, precision="float64")
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
    settings = train_config(num_workers=2, num_epochs=6, batch_size=8)
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
    settings = train_config(num_workers=2, min_workers=1, num_epochs=40, precision="float64")
    calm = str(tmp_path / "calm")
    out = str(tmp_path / "model")
    # Of three CPUs a worker takes two, so that each node has room for one.
    with ray_nodes(s3.environment | QUICK_SIGHT, num_nodes=2, num_cpus=3, num_gpus=0) as nodes:
        command = skinvae_command(
            "train", archive.zip, "--labels", archive.labels, "--normal", "NV", "--groups", archive.groups,
            "--out", out, config=settings,
        )  # fmt: skip
        process = subprocess.Popen(command, env=command_environment(nodes.address), stderr=subprocess.PIPE)
        checkpoints: set[str] = set()

        def is_well_on_its_way() -> bool:
            checkpoints.update(one.parent.name for one in Path(f"{out}.training").glob("*/checkpoint_*/state.json"))
            return len(checkpoints) >= 4

        wait_for(is_well_on_its_way, process)
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


def _signal_under_a_handler_that_exits(number: signal.Signals) -> None:
    with interruptible():
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))  # as Ray Train does
        signal.raise_signal(number)
