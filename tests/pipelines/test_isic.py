"""The whole job on the real ISIC 2018 Task 3 archive: minutes, and only where the archive is at hand."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from deltalake import DeltaTable

from skinvae.config import Config, build_config
from tests.isic import ISIC, WHY_NOT
from tests.pipelines.processes import command_environment, skinvae_command
from tests.pipelines.test_commands import wait_for_rows
from tests.pipelines.test_score import assert_same_scores
from tests.s3_server import S3Server

ARCHIVE = ISIC / "ISIC2018_Task3_Training_Input.zip"
NUM_IMAGES = 10_015

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.exists(), reason=WHY_NOT),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def real_model(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("isic") / "model")
    command = skinvae_command(
        "train", str(ISIC / "ISIC2018_small.zip"), "--labels", str(ISIC / "ISIC2018_small_GroundTruth.csv"),
        "--normal", "NV", "--out", out, config=_config(),
    )  # fmt: skip
    subprocess.run(command, env=command_environment(ray_cluster), check=True)
    return out


def test_killed_on_s3_and_run_again_it_equals_the_local_table(
    ray_cluster: str, real_model: str, s3: S3Server, tmp_path: Path
) -> None:
    s3.filesystem().put(str(ARCHIVE), "tests/isic/images.zip")
    remote, local = "s3://tests/isic/scores", str(tmp_path / "scores")
    command = skinvae_command(
        "score", "s3://tests/isic/images.zip", "--model", real_model, "--table", remote, config=_config()
    )
    process = subprocess.Popen(command, env=command_environment(ray_cluster), stderr=subprocess.PIPE)
    wait_for_rows(remote, 2000, process)
    repeated = _count_repeated(remote)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert repeated == 0
    _run(command, ray_cluster)
    version = _open(remote).version()
    _run(command, ray_cluster)
    assert _open(remote).version() == version, "nothing was left to do"

    _run(skinvae_command("score", str(ARCHIVE), "--model", real_model, "--table", local, config=_config()), ray_cluster)
    tables = [pd.read_parquet(uri).sort_values("image_id", ignore_index=True) for uri in (local, remote)]
    for rows in tables:
        assert len(rows) == rows["member"].nunique() == NUM_IMAGES
        assert (rows["status"] == "ok").all()
    assert_same_scores(*tables)
    with duckdb.connect() as connection:
        by_duckdb = connection.sql(f"SELECT count(*), avg(vae) FROM read_parquet('{local}/*.parquet')").fetchall()[0]
    assert by_duckdb == (NUM_IMAGES, pytest.approx(DeltaTable(local).to_pandas()["vae"].mean(), rel=1e-12))


def _config() -> Config:
    return build_config(
        {
            "model": {"image_size": 64, "base_channels": 16, "num_latents": 64},
            "train": {"num_epochs": 3, "learning_rate": 1e-3},
            "score": {"commit_seconds": 1.0},
        }
    )


def _run(command: list[str], ray_address: str) -> None:
    subprocess.run(command, env=command_environment(ray_address), check=True)


def _open(uri: str) -> DeltaTable:
    return DeltaTable(uri, storage_options={"allow_http": "true"})


def _count_repeated(table: str) -> int:
    keys = _open(table).to_pandas(columns=["source_id", "member_index"])
    return int(keys.duplicated().sum())
