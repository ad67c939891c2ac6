"""Archives in object storage are read in few, large requests, and no byte twice."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skinvae.storage.filesystem import Location
from tests.conftest import config
from tests.fault_proxy import fault_proxy
from tests.pipelines.processes import command_environment, skinvae_command
from tests.pipelines.test_archive_kinds import tar_of
from tests.s3_server import S3Server

MB = 1 << 20


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    """48 MB that begin as JPEGs do and cost nothing to decode, for they are none."""
    noise = np.random.default_rng(0)
    return {f"{index:03}.jpg": b"\xff\xd8\xff" + noise.bytes(240_000) for index in range(200)}


@pytest.mark.slow
def test_bytes_and_requests_of_a_whole_job(model: str, s3: S3Server, members: dict[str, bytes], tmp_path: Path) -> None:
    """At most 1.05 times the archive's bytes, and one request per 8 MB beside those for the directory."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    images = pa.table({"image": [{"bytes": data, "path": name} for name, data in members.items()]})
    parquet = io.BytesIO()
    pq.write_table(images, parquet, row_group_size=50, compression="none")
    objects = {
        "reads/images.zip": archive.getvalue(),
        "reads/images.tar": tar_of(members.items()),
        "reads/images.parquet": parquet.getvalue(),
    }
    Location.parse("s3://reads").filesystem.mkdir("reads")
    for path, data in objects.items():
        Location.parse(f"s3://{path}").write_bytes(data)
    with fault_proxy(os.environ["AWS_ENDPOINT_URL"]) as traffic:
        environment = command_environment() | {"AWS_ENDPOINT_URL": traffic.endpoint}
        settings = config(slice_size=64, max_rejects=1)
        command = skinvae_command(
            "score", *(f"s3://{path}" for path in objects), "--model", model, "--table", str(tmp_path / "scores"),
            config=settings,
        )  # fmt: skip
        subprocess.run(command, env=environment, check=True, capture_output=True)
    for path, data in objects.items():
        requests = traffic.count_methods(f"/{path}")
        num_bytes = sum(one.num_bytes for one in traffic.exchanges if one.request.path == f"/{path}")
        # Looking an archive up and opening it takes some requests; each slice of a zip reads its own piece of the
        # directory, each row group of a Parquet file the footer.
        directory = 5 + (0 if path.endswith(".tar") else 4)
        assert len(data) < num_bytes <= 1.05 * len(data)
        assert requests.total() <= len(data) / (8 * MB) + directory, (path, dict(requests))
