"""score.maps: just the images with the highest scores get an error map, once, whatever stops it or is added later."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

from skinvae.audit.status import read_status
from skinvae.errors import Interrupted, TableError, UsageError
from skinvae.pipelines import completing
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.evaluate import evaluate
from skinvae.pipelines.prepare import prepare
from skinvae.pipelines.score import score
from skinvae.records import MAP_SCHEMA
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.map_table import MapTable, maps_location, read_maps
from tests.conftest import ArchiveFiles, config
from tests.pipelines.processes import command_environment, skinvae_command, wait_for
from tests.pipelines.test_archive_kinds import tar_of
from tests.pipelines.test_verify import verify
from tests.s3_server import S3Server

PERCENT = 20.0
NUM_CHOSEN = 22
"""Of 106 images."""


def maps_config(**settings: Any) -> Any:
    return config(maps=True, maps_percent=PERCENT, maps_size=8, slice_size=10, **settings)


def maps_of(table: str) -> pd.DataFrame:
    return pd.read_parquet(f"{table}/_maps")


def highest(table: str, count: int = NUM_CHOSEN) -> list[str]:
    return sorted(pd.read_parquet(table).nlargest(count, "vae_reconst")["member"])


@pytest.fixture
def scored(table: str, tmp_path: Path) -> str:
    """The finished table, whose maps a test may add."""
    return str(shutil.copytree(table, tmp_path / "scores"))


def test_the_highest_scores_have_maps_that_add_up_to_them(scored: str, model: str, archive: ArchiveFiles) -> None:
    before = pd.read_parquet(scored)
    version = DeltaTable(scored).version()
    summary = score([archive.zip], model=model, table=scored, config=maps_config())
    assert summary.maps is not None
    assert (summary.maps.num_chosen, summary.maps.num_stored, summary.maps.num_before) == (NUM_CHOSEN, NUM_CHOSEN, 0)
    assert summary.num_images == 0

    rows, maps = read_maps(Location.parse(scored))
    assert sorted(rows["member"]) == highest(scored)
    assert summary.maps.threshold_nats == rows["vae_reconst"].min()
    assert list(rows["vae_reconst"]) == sorted(rows["vae_reconst"], reverse=True)
    its = before.set_index("member").loc[rows["member"], "vae_reconst"]
    np.testing.assert_array_equal(rows["vae_reconst"], its)
    bundle = read_bundle(Location.parse(model))
    constant = bundle.config.model.num_pixels / 2 * np.log(2 * np.pi * bundle.config.variance)
    np.testing.assert_allclose(rows["map_nats"], rows["vae_reconst"] - constant, rtol=1e-5)
    assert maps.shape == (NUM_CHOSEN, 8, 8)
    np.testing.assert_allclose(maps.sum((1, 2), dtype=float), rows["map_nats"], rtol=1e-3)
    assert list(maps_of(scored).columns) == MAP_SCHEMA.names

    pd.testing.assert_frame_equal(pd.read_parquet(scored), before)
    assert DeltaTable(scored).version() == version, "the scores are not touched"
    assert not verify(scored).differences
    (status,) = read_status(Location.parse(scored)).scorings
    assert status.num_rows == len(before)
    with pytest.raises(TableError, match="_maps' is a Delta table with other columns than a score table"):
        evaluate(
            f"{scored}/_maps",
            labels=archive.labels,
            out=f"{scored}/evaluation",
            groups=None,
            normal=(),
            protocol="all",
            scoring_id=None,
            config=config(),
        )


def test_it_is_done_once(scored: str, model: str, archive: ArchiveFiles) -> None:
    score([archive.zip], model=model, table=scored, config=maps_config())
    version = DeltaTable(f"{scored}/_maps").version()
    again = score([archive.zip], model=model, table=scored, config=maps_config())
    assert again.maps is not None
    assert (again.maps.num_stored, again.maps.num_before) == (0, NUM_CHOSEN)
    assert DeltaTable(f"{scored}/_maps").version() == version
    planned = score([archive.zip], model=model, table=scored, config=maps_config(), dry_run=True)
    assert planned.maps is not None
    assert (planned.maps.num_chosen, planned.maps.num_before) == (NUM_CHOSEN, NUM_CHOSEN)


def test_a_dry_run_says_how_many_there_would_be(scored: str, model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    exact = score([archive.zip], model=model, table=scored, config=maps_config(), dry_run=True).maps
    assert exact is not None
    assert (exact.num_chosen, exact.num_before, exact.threshold_nats is None) == (NUM_CHOSEN, 0, False)
    assert not Path(scored, "_maps").exists()
    expected = score([archive.zip], model=model, table=str(tmp_path / "none"), config=maps_config(), dry_run=True).maps
    assert expected is not None
    assert (expected.num_chosen, expected.threshold_nats) == (NUM_CHOSEN, None)


def test_an_interrupted_pass_goes_on(
    scored: str, model: str, archive: ArchiveFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind its first slice, when that is committed; the next slice is written and not committed."""
    num_added = 0
    really_add = Committer.add

    def interrupted(self: Committer, file: Any) -> None:
        nonlocal num_added
        num_added += 1
        if num_added == 2:
            raise KeyboardInterrupt
        really_add(self, file)
        self.flush()

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "add", interrupted)
        with pytest.raises(Interrupted, match="_maps"):
            score([archive.zip], model=model, table=scored, config=maps_config())
    committed = DeltaTable(f"{scored}/_maps").to_pandas()
    assert 0 < len(committed) < NUM_CHOSEN
    summary = score([archive.zip], model=model, table=scored, config=maps_config())
    assert summary.maps is not None
    assert summary.maps.num_before == len(committed)
    assert summary.maps.num_stored == NUM_CHOSEN - len(committed)
    rows = maps_of(scored)
    assert sorted(rows["member"]) == highest(scored)
    kept = rows[rows["member"].isin(committed["member"])]
    assert set(kept["run_id"]) == set(committed["run_id"])


@pytest.mark.slow
def test_a_killed_pass_is_completed_by_the_same_command(
    ray_cluster: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    """SIGKILL of the driver after the first commits; so many draws that an image takes tens of milliseconds."""
    out = str(tmp_path / "scores")
    slow = {"num_samples": 300, "maps_size": 8, "maps_percent": 100.0, "batch_size": 4}
    score([archive.zip], model=model, table=out, config=config(num_samples=300))
    settings = config(maps=True, slice_size=4, commit_seconds=0.05, **slow)
    command = skinvae_command("score", archive.zip, "--model", model, "--table", out, config=settings)
    process = subprocess.Popen(command, env=command_environment(ray_cluster), stderr=subprocess.PIPE)
    try:
        wait_for(lambda: num_committed(out) >= 8, process)
    finally:
        process.kill()
        process.communicate()
    committed = DeltaTable(f"{out}/_maps").to_pandas()
    assert 0 < len(committed) < 106
    again = score([archive.zip], model=model, table=out, config=config(maps=True, slice_size=7, **slow))
    assert again.maps is not None
    assert again.maps.num_before + again.maps.num_stored == 106
    rows = maps_of(out)
    assert sorted(rows["member"]) == sorted(archive.members())
    assert len(rows.merge(committed, on=["member", "run_id"])) == len(committed), "none was made again"


def num_committed(table: str) -> int:
    location = maps_location(Location.parse(table))
    maps = MapTable.open(location) if (location / "_delta_log").exists() else None
    return 0 if maps is None else sum(file.num_rows for file in maps.live_files())


def test_with_new_archives_the_newly_chosen_are_added(
    scored: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    score([archive.zip], model=model, table=scored, config=maps_config())
    before = maps_of(scored)
    other = tmp_path / "other.tar"
    ranked = pd.read_parquet(scored).sort_values("vae_reconst")["member"]
    low = {name: archive.members()[name] for name in ranked[:50]}
    other.write_bytes(tar_of(low.items()))
    summary = score([archive.zip, str(other)], model=model, table=scored, config=maps_config())
    assert summary.maps is not None
    assert summary.maps.num_chosen == 32, "20 % of 156"
    assert (summary.maps.num_before, summary.maps.num_stored) == (NUM_CHOSEN, 10), "inside of ranges that were done"
    rows = maps_of(scored)
    assert sorted(rows["member"]) == sorted(ranked[-32:])
    old = rows[rows["run_id"].isin(before["run_id"])].sort_values("member", ignore_index=True)
    pd.testing.assert_frame_equal(old, before.sort_values("member", ignore_index=True))
    fewer = score([str(other)], model=model, table=scored, config=maps_config())
    assert fewer.maps is not None
    assert (fewer.maps.num_chosen, fewer.maps.num_stored) == (10, 10)
    rows, _ = read_maps(Location.parse(scored))
    assert len(rows) == 42, "maps of what is not among the highest any more stay"


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "prepared"])
def test_other_kinds_of_archives_give_the_same_maps(
    scored: str, kind: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    source = str(tmp_path / f"images.{kind}")
    if kind == "prepared":
        prepare([archive.zip], out=source, config=config())
    else:
        Path(source).write_bytes(tar_of(sorted(archive.members().items()), mode="w:gz" if "gz" in kind else "w"))
    score([archive.zip], model=model, table=scored, config=maps_config())
    out = str(tmp_path / "other")
    summary = score([source], model=model, table=out, config=maps_config())
    assert not summary.damaged
    rows, maps = read_maps(Location.parse(out))
    expected_rows, expected = read_maps(Location.parse(scored))
    assert list(rows["image_id"]) == list(expected_rows["image_id"])
    np.testing.assert_allclose(maps, expected, rtol=2e-3, atol=1e-3)


def test_images_that_cannot_be_read_again_cost_no_other(
    scored: str, model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is replaced between the scores and the maps."""
    own = Path(shutil.copy(archive.zip, tmp_path / "images.zip"))
    out = str(tmp_path / "own")
    really_decoded = completing._decoded

    def replaced(job: Any, *arguments: Any) -> Any:
        if job.table.uri.endswith("_maps"):
            own.write_bytes(own.read_bytes() + b"more")
        return really_decoded(job, *arguments)

    monkeypatch.setattr(completing, "_decoded", replaced)
    summary = score([str(own)], model=model, table=out, config=maps_config())
    assert summary.maps is not None
    assert summary.maps.num_stored == 0
    (message,) = summary.damaged
    assert "images.zip" in message
    assert len(pd.read_parquet(out)) == 106, "the scores stay"


def test_of_a_damaged_archive_what_was_scored_is_mapped(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    whole = tar_of(sorted(archive.members().items()))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    out = str(tmp_path / "scores")
    summary = score([str(cut), archive.zip], model=model, table=out, config=maps_config())
    assert summary.maps is not None
    assert summary.maps.num_stored == summary.maps.num_chosen == len(maps_of(out))
    assert str(cut) in set(maps_of(out)["source"])
    (message,) = summary.damaged
    assert "cut.tar is damaged" in message


@pytest.mark.slow
def test_tables_and_maps_on_s3(model: str, archive: ArchiveFiles, s3: S3Server, ray_cluster: str) -> None:
    """By the command line: what it prints, and what it says where there are no scores to look at."""
    Location.parse("s3://maps").filesystem.mkdir("maps")
    Location.parse("s3://maps/images.zip").write_bytes(Path(archive.zip).read_bytes())
    command = skinvae_command(
        "score", "s3://maps/images.zip", "--model", model, "--table", "s3://maps/scores", config=maps_config()
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=command_environment(ray_cluster), capture_output=True, text=True, check=False)

    planned = run(*command, "--dry-run")
    assert "then about 22 error maps would be stored in s3://maps/scores/_maps" in planned.stdout
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "22 error maps stored in s3://maps/scores/_maps" in done.stdout
    rows, maps = read_maps(Location.parse("s3://maps/scores"), limit=5)
    assert (len(rows), maps.shape) == (5, (5, 8, 8))
    for verb in ("verify", "status"):
        assert run(*skinvae_command(verb, "s3://maps/scores")).returncode == 0
        refused = run(*skinvae_command(verb, "s3://maps/scores/_maps"))
        assert refused.returncode == TableError.exit_code
        assert refused.stderr.strip().splitlines()[-1].endswith("name that table, the folder above")
    again = run(*command, "--json")
    assert '"num_stored": 0' in again.stdout


def test_maps_larger_than_the_images_are_refused(scored: str, model: str, archive: ArchiveFiles) -> None:
    with pytest.raises(UsageError, match="maps_size = 64 is more than the 32 pixels"):
        score([archive.zip], model=model, table=scored, config=config(maps=True, maps_size=64))
    assert not Path(maps_location(Location.parse(scored)).uri).exists()
