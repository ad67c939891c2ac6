"""status tells how far a table is from storage alone: during a run, after the driver was killed, and after the end."""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from skinvae.audit.status import ScoringStatus, read_status
from skinvae.audit.verification import require_right
from skinvae.config import Config
from skinvae.errors import ArchiveError, DifferenceFound, InputError
from skinvae.pipelines.score import score
from skinvae.pipelines.slice_job import check_damage
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import RunState
from skinvae.storage.score_table import ScoreTable
from tests.conftest import ArchiveFiles, config
from tests.pipelines.processes import command_environment, skinvae_command, wait_for
from tests.pipelines.test_archive_kinds import tar_of
from tests.pipelines.test_commands import SLOW_SAMPLES
from tests.pipelines.test_verify import verify
from tests.s3_server import S3Server


def command(table: str) -> dict[str, Any]:
    """The only scoring in what the command prints as JSON; fails unless it ends with 0."""
    finished = subprocess.run(
        skinvae_command("status", table, "--json"), env=command_environment(), capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr.decode()
    scoring: dict[str, Any]
    (scoring,) = json.loads(finished.stdout)["scorings"]
    return scoring


def only(table: str, **options: Any) -> ScoringStatus:
    (one,) = read_status(Location.parse(table), **options).scorings
    return one


@contextmanager
def started(command: list[str], ray_address: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env=command_environment(ray_address), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def num_done(table: str) -> int:
    found = ScoreTable.open_if_exists(Location.parse(table))
    return sum(file.num_rows for file in found.live_files()) if found else 0


def slow(slice_size: int = 4) -> Config:
    return config(slice_size=slice_size, commit_seconds=0.2, num_samples=SLOW_SAMPLES)


def test_a_run_on_s3_is_followed_through_its_death_to_its_end(
    ray_cluster: str, s3: S3Server, model: str, archive: ArchiveFiles
) -> None:
    s3.filesystem().put(archive.zip, "tests/status/images.zip")
    table = "s3://tests/status/scores"
    arguments = ["score", "s3://tests/status/images.zip", "--model", model, "--table", table]
    with started(skinvae_command(*arguments, config=slow()), ray_cluster) as process:
        wait_for(lambda: num_done(table) >= 8, process)
        # The run may not come to its end while it is looked at, however busy the machine is.
        process.send_signal(signal.SIGSTOP)
        scoring = command(table)
        assert (scoring["is_alive"], scoring["is_complete"], scoring["num_members"]) == (True, False, 108)
        assert scoring["runs"][-1]["pid"] == process.pid
        assert 8 <= scoring["num_ok"] < 106
        with pytest.raises(DifferenceFound, match=r"incomplete archives \(1\)"):
            require_right(verify(table))
        process.send_signal(signal.SIGKILL)
    committed = num_done(table)
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=31)
    killed = only(table, clock=lambda: later)
    assert not killed.alive
    assert killed.heartbeats[-1].state is RunState.RUNNING
    assert killed.by_status == {"ok": committed}
    subprocess.run(
        skinvae_command(*arguments, config=slow(30)),
        env=command_environment(ray_cluster),
        check=True,
        capture_output=True,
    )
    scoring = command(table)
    assert (scoring["is_complete"], scoring["by_status"]) == (True, {"ok": 106})
    # The killed one may count as alive still: that depends on how long the second took.
    assert [run["state"] for run in scoring["runs"]] == ["running", "done"]
    assert not scoring["runs"][-1]["is_alive"]
    require_right(verify(table))


def test_scorings_of_one_table_are_told_apart(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    """One is complete, the other has a tar that breaks off."""
    table, members = str(tmp_path / "scores"), list(archive.members().items())[:20]
    (tmp_path / "whole.tar").write_bytes(tar_of(members))
    (tmp_path / "cut.tar").write_bytes(tar_of(members)[: -len(members[-1][1]) - 11_000])
    score([str(tmp_path / "whole.tar")], model=model, table=table, config=config())
    summary = score([str(tmp_path / "cut.tar")], model=model, table=table, config=config(num_samples=2))
    with pytest.raises(ArchiveError):
        check_damage(summary)
    whole, cut = sorted(read_status(Location.parse(table)).scorings, key=lambda one: not one.is_complete)
    assert (whole.num_members, whole.num_rows, whole.heartbeats[-1].message) == (20, 20, "")
    assert not cut.is_complete
    assert cut.num_rows == summary.num_images
    assert "cut.tar is damaged" in cut.heartbeats[-1].message
    chosen = read_status(Location.parse(table), scoring_id=cut.scoring_id).scorings
    assert [one.scoring_id for one in chosen] == [cut.scoring_id]
    with pytest.raises(InputError, match=r"what could be read is right, but not all could: .*cut.tar is damaged"):
        require_right(verify(table))
