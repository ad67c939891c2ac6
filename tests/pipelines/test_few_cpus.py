"""Whole jobs on a Ray of very few CPUs: what asks for one must never wait for what holds the last."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from skinvae.config import build_config
from skinvae.errors import UsageError
from skinvae.pipelines.score import score
from skinvae.pipelines.train import train
from tests.conftest import SMALL, ArchiveFiles
from tests.pipelines.processes import command_environment

SCRIPT = """
import json, sys
import ray
from skinvae.config import build_config
from skinvae.errors import SkinvaeError
from skinvae.pipelines.score import score
from skinvae.pipelines.train import train

num_cpus, settings, archive, labels, out = json.loads(sys.argv[1])
ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=200 << 20)
config = build_config(settings)
try:
    train([archive], labels=labels, normal=["NV"], out=f"{out}/model", groups=None, config=config)
    score([archive], model=f"{out}/model", table=f"{out}/scores", config=config)
except SkinvaeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def run(
    num_cpus: int, archive: ArchiveFiles, out: Path, settings: dict[str, dict[str, object]]
) -> subprocess.CompletedProcess[str]:
    settings = {section: {**SMALL.get(section, {}), **values} for section, values in (SMALL | settings).items()}
    arguments = json.dumps([num_cpus, settings, archive.zip, archive.labels, str(out)])
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, arguments],
        env=command_environment() | {"RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.parametrize(
    "num_cpus", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_training_and_scoring_end(num_cpus: int, archive: ArchiveFiles, tmp_path: Path) -> None:
    finished = run(num_cpus, archive, tmp_path, {"train": {"num_epochs": 1}})
    assert finished.returncode == 0, finished.stderr
    assert len(pd.read_parquet(tmp_path / "scores")) == len(archive.members())
    plural = "s" if num_cpus > 1 else ""
    assert f"cluster: 1 node, {num_cpus} CPU{plural}, " in finished.stderr


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"device": "cuda"}, "ray.device = cuda, but the Ray cluster has no GPU: ask an autoscaler"),
        ({"task_memory_gib": 1e6}, "ray.task_memory_gib = 1e+06, but the largest node"),
    ],
)
def test_what_the_cluster_will_never_have_is_refused_at_once(
    settings: dict[str, object], sentence: str, ray_cluster: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    asked = build_config({**SMALL, "ray": settings})
    with pytest.raises(UsageError, match=re.escape(sentence)):
        score([archive.zip], model=model, table=str(tmp_path / "scores"), config=asked)
    with pytest.raises(UsageError, match=re.escape(sentence)):
        train([archive.zip], labels=archive.labels, normal=["NV"], out=str(tmp_path / "m"), groups=None, config=asked)
