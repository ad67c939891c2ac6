"""A proxy between this process and the S3 server, a quick policy of retries for what must fail for good, and jobs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skinvae.storage import retries
from skinvae.storage.filesystem import Location
from skinvae.storage.s3 import s3_filesystem
from tests.fault_proxy import Traffic, fault_proxy
from tests.faults.world import Images, Job
from tests.s3_server import S3Server
from tests.unit.storage.test_bundle import write

MakeJob = Callable[[Images, str], Job]


@pytest.fixture
def traffic(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """What this process asks of S3 goes through a proxy of the test's own."""
    with fault_proxy(s3.endpoint) as running, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", running.endpoint)
        s3_filesystem.cache_clear()  # a client keeps the endpoint that it was made for
        yield running
    s3_filesystem.cache_clear()


@pytest.fixture
def folder(traffic: Traffic, request: pytest.FixtureRequest) -> Location:
    """A prefix that no other test uses, behind the proxy; the same in each run, for faults are drawn by path."""
    return Location.parse(f"s3://tests/faults-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> int:
    """Few attempts and short pauses; how many attempts."""
    monkeypatch.setattr(retries, "MAX_ATTEMPTS", 4)
    monkeypatch.setattr(retries, "FIRST_PAUSE_SECONDS", 0.01)
    return 4


@pytest.fixture
def make_job(s3: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> MakeJob:
    """A job on these images and on the cluster at this address, its archive and table on S3, its model on disk."""

    def make(images: Images, ray_address: str) -> Job:
        folder = f"tests/{request.node.name.split('[')[0]}-{random.randrange(2**32):08x}"
        s3.filesystem().pipe(f"{folder}/images.zip", images.zip_bytes())
        write(Location.parse(str(tmp_path / "model")))
        return Job(
            images, s3, ray_address, f"s3://{folder}/images.zip", str(tmp_path / "model"), f"s3://{folder}/scores"
        )

    return make
