"""One Ray, one S3 server, one synthetic archive and one small trained model, for all tests that ask for them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from skinvae.config import Config, build_config
from skinvae.images.synthetic import make_archive
from tests.s3_server import S3Server, run_s3_server

COUNTS = {"MEL": 8, "NV": 64, "BCC": 8, "AKIEC": 6, "BKL": 8, "DF": 6, "VASC": 6}
SMALL = {
    "model": {"image_size": 32, "base_channels": 8, "num_latents": 16},
    "train": {"num_epochs": 4, "batch_size": 16, "learning_rate": 1e-3, "validation_fraction": 0.3},
    "score": {"slice_size": 32, "commit_seconds": 0.5, "batch_size": 16, "precision": "float32"},
}


@dataclass(frozen=True)
class ArchiveFiles:
    """A synthetic archive on local disk."""

    folder: Path

    @property
    def zip(self) -> str:
        return str(self.folder / "images.zip")

    @property
    def labels(self) -> str:
        return str(self.folder / "GroundTruth.csv")

    @property
    def groups(self) -> str:
        return str(self.folder / "metadata.csv")

    def members(self) -> dict[str, bytes]:
        """The images by member name."""
        with zipfile.ZipFile(io.BytesIO(Path(self.zip).read_bytes())) as archive:
            return {name: archive.read(name) for name in archive.namelist() if name.endswith(".jpg")}


def config(**score_settings: object) -> Config:
    """The small settings, with changes to the section [score]."""
    return build_config({**SMALL, "score": {**SMALL["score"], **score_settings}})


def train_config(**train_settings: object) -> Config:
    """The small settings, with changes to the section [train]."""
    return build_config({**SMALL, "train": {**SMALL["train"], **train_settings}})


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        os.environ.update(server.environment)
        yield server


@pytest.fixture(scope="session")
def ray_cluster(s3: S3Server) -> Iterator[str]:
    """A local Ray whose workers know the S3 server; its address, for commands run as subprocesses."""
    import ray

    from skinvae.pipelines.runtime import ray_session

    os.environ["RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S"] = "120"
    with ray_session(config().ray):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveFiles:
    files = ArchiveFiles(tmp_path_factory.mktemp("archive"))
    made = make_archive(COUNTS, seed=1)
    Path(files.zip).write_bytes(made.zip_bytes)
    Path(files.labels).write_text(made.labels_csv)
    Path(files.groups).write_text(made.metadata_csv)
    return files


@pytest.fixture(scope="session")
def model(ray_cluster: str, archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model bundle, trained for four epochs."""
    from skinvae.pipelines.train import train

    out = str(tmp_path_factory.mktemp("models") / "model")
    train([archive.zip], labels=archive.labels, normal=["NV"], out=out, groups=archive.groups, config=config())
    return out


@pytest.fixture(scope="session")
def table(model: str, archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished score table of the archive; tests must not write to it."""
    from skinvae.pipelines.score import score

    uri = str(tmp_path_factory.mktemp("tables") / "scores")
    score([archive.zip], model=model, table=uri, config=config())
    return uri
