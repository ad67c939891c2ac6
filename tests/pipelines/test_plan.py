"""`plan` beside the job it speaks of: the same archives, the same counts, and a time that comes true."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from benchmarks.plan import AT_MOST_OFF, measure
from skinvae.audit.forecast import Origin
from skinvae.audit.plan import Plan
from skinvae.errors import UsageError
from skinvae.pipelines.planning import plan
from skinvae.pipelines.score import score
from tests.conftest import ArchiveFiles, config
from tests.isic import ISIC, WHY_NOT
from tests.pipelines.processes import command_environment, skinvae_command


def planned(archives: list[str], model: str, table: str, **arguments: object) -> Plan:
    return plan(archives, model=model, table=table, config=config(slice_size=0), **arguments)  # type: ignore[arg-type]


def test_a_new_table_is_planned_from_a_probe_and_nothing_is_written(
    model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    table = str(tmp_path / "scores")
    found = planned([archive.zip], model, table)
    num_images = len(archive.members())
    (kind,) = found.by_kind
    assert (kind.kind, kind.num_archives, kind.num_images, kind.num_images_left) == ("zip", 1, num_images, num_images)
    assert kind.num_bytes == Path(archive.zip).stat().st_size
    assert found.num_images_left == found.output.num_rows == num_images
    assert found.speed is not None
    assert found.speed.origin is Origin.PROBE
    assert found.forecast is not None
    assert found.forecast.eta_seconds > found.forecast.start_seconds > 0
    assert found.forecast.decoded_per_second is not None
    assert found.forecast.decoded_per_second > 1
    assert list(tmp_path.iterdir()) == []
    summary = score([archive.zip], model=model, table=table, config=config(slice_size=0), dry_run=True)
    assert (summary.num_members, summary.num_already_done) == (found.num_members, found.num_members_done)


def test_a_tar_is_guessed_at_by_its_beginning(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    tar = tmp_path / "images.tar"
    with tarfile.open(tar, "w") as file:
        for name, data in archive.members().items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    found = planned([str(tar)], model, str(tmp_path / "scores"))
    (kind,) = found.by_kind
    assert kind.num_bytes_unread == tar.stat().st_size
    assert found.is_guess
    assert found.num_images_left == pytest.approx(len(archive.members()), rel=0.3)
    assert found.forecast is not None
    unread = planned([str(tar)], model, str(tmp_path / "scores"), probe=False)
    assert (unread.forecast, unread.num_images_left) == (None, 0)
    assert "leave --no-probe out" in unread.unknown


def test_what_a_table_holds_is_done(table: str, model: str, archive: ArchiveFiles) -> None:
    found = plan([archive.zip], model=model, table=table, config=config(), probe=False)
    num_images = len(archive.members())
    assert found.num_members_done == found.num_members
    assert (found.by_kind[0].num_images, found.num_images_left, found.num_slices) == (num_images, 0, 0)
    assert sum(found.in_table.values()) == num_images


def test_a_cluster_that_is_only_thought_of(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    found = planned([archive.zip], model, str(tmp_path / "s"), num_cpus=48, num_gpus=4, rate=1000.0, probe=False)
    assert "1 node, 48 CPUs, 4 GPUs; 4 scoring actors (1 GPU, 1 CPU each), up to 44 decoding tasks" in found.cluster
    assert found.forecast is not None
    assert found.forecast.images_per_second == 4000.0
    assert found.forecast.gpu_hours == pytest.approx(4 * found.forecast.eta_seconds / 3600)
    unmeasured = planned([archive.zip], model, str(tmp_path / "s"), num_cpus=48, num_gpus=4)
    assert unmeasured.forecast is None
    assert "give --rate, the images/s of one GPU" in unmeasured.unknown
    with pytest.raises(UsageError, match="--gpus needs --cpus"):
        planned([archive.zip], model, str(tmp_path / "s"), num_gpus=4)


def test_the_command_prints_a_page_and_the_same_as_json(
    ray_cluster: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    words = ["plan", archive.zip, "--model", model, "--table", f"{tmp_path}/scores", "--rate", "100", "--no-probe"]
    environment = command_environment(ray_cluster)
    page = subprocess.run(skinvae_command(*words), capture_output=True, text=True, check=True, env=environment)
    assert f"plan for {tmp_path}/scores" in page.stdout.replace("\n", "")
    assert "bound by scoring" in page.stdout
    shown = subprocess.run(
        skinvae_command(*words, "--json"), capture_output=True, text=True, check=True, env=environment
    )
    document = json.loads(shown.stdout)
    assert document["num_images_left"] == len(archive.members())
    assert document["forecast"]["bound_by"] == "scoring"
    assert document["speed"]["origin"] == "given"


@pytest.mark.slow
@pytest.mark.skipif(not ISIC.is_dir(), reason=WHY_NOT)
def test_a_run_takes_about_as_long_as_planned(tmp_path: Path) -> None:
    measured = measure(str(ISIC / "ISIC2018_small.zip"), str(tmp_path), ["--set", "score.num_samples=150"])
    assert abs(measured["ratio"] - 1) <= AT_MOST_OFF, measured
