"""What docs/security.md promises: least privilege is enough, every write is encrypted, no secret is left behind."""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skinvae.config import Config, build_config
from skinvae.storage.filesystem import Location
from skinvae.storage.s3 import s3_filesystem
from skinvae.storage.score_table import ScoreTable
from tests.conftest import SMALL, ArchiveFiles, config
from tests.fault_proxy import Exchange, fault_proxy
from tests.faults.jobs import run_command
from tests.faults_to_inject import DENIED, At
from tests.pipelines.processes import command_environment, skinvae_command
from tests.s3_server import ADMIN, ANYBODY, Identity, S3Server, run_s3_server

READER = Identity("reader-key", "reader-secret-4Jx9", ("Read:input", "List:input", "Read:tables", "List:tables"))
WRITER = Identity("writer-key", "writer-secret-8Qw2", (*READER.actions, "Write:tables"))
SECRETS = {"AWS_SECRET_ACCESS_KEY": "telltale-secret-5Zr7mK", "AWS_SESSION_TOKEN": "telltale-token-1Vb3nP"}
TELLTALES = re.compile(rb"(?i)telltale-(secret|token)|x-amz-signature|x-amz-credential")
KEY = "arn:aws:kms:us-east-1:111122223333:key/skinvae"


@pytest.fixture(scope="module")
def guarded(s3: S3Server, archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that tells its clients apart; the archive is in the bucket `input`, another bucket is `tables`."""
    with run_s3_server(tmp_path_factory.mktemp("guarded"), (ADMIN, READER, WRITER, ANYBODY)) as server:
        files = server.filesystem()
        for bucket in ("input", "tables"):
            files.mkdir(bucket)
        files.pipe_file("input/images.zip", Path(archive.zip).read_bytes())
        yield server


@pytest.fixture
def here(guarded: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process looks into the guarded server, as its owner."""
    with monkeypatch.context() as patch:
        for name, value in guarded.environment.items():
            patch.setenv(name, value)
        s3_filesystem.cache_clear()
        yield
    s3_filesystem.cache_clear()


def test_who_may_only_read_is_told_so(guarded: S3Server, model: str) -> None:
    command = skinvae_command("score", "s3://input/images.zip", "--model", model, "--table", "s3://tables/refused")
    environment = command_environment() | guarded.environment_of(READER)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.strip().splitlines()[-1] == (
        "skinvae: cannot create a score table at 's3://tables/refused': access denied; "
        "check the permissions or credentials"
    )
    assert guarded.filesystem().find("tables/refused") == []


@pytest.mark.usefixtures("here")
def test_the_writer_s_policy_is_enough_also_without_deletion(guarded: S3Server, ray_cluster: str, model: str) -> None:
    """Get and list on the input, those and put on the table; what cannot be deleted is said, and costs nothing."""
    table = "s3://tables/scores"
    keys = {name: value for name, value in guarded.environment_of(WRITER).items() if name != "AWS_ENDPOINT_URL"}
    with fault_proxy(guarded.endpoint, At("^DELETE", DENIED, times=math.inf)) as traffic:
        arguments = ("score", "s3://input/images.zip", "--model", model, "--table", table)
        settings = config(slice_size=64, retention_hours=0)
        done = run_command(traffic, ray_cluster, *arguments, config=settings, **keys)
    assert done.returncode == 0, done.stderr
    assert f"note: access denied to delete 2 files of '{table}' that are not needed" in done.stderr
    assert ScoreTable.open(Location.parse(table)).read(["image_id"]).num_rows == 106
    asked = [one.request for one in traffic.exchanges]
    assert {one.method for one in asked if one.path.startswith("/input/")} == {"GET", "HEAD"}
    assert {one.method for one in asked if one.path.startswith("/tables/")} == {"GET", "HEAD", "PUT", "DELETE"}
    assert {"/".join(one.path.split("/")[:2]) for one in asked} == {"/input", "/tables"}
    assert not any(re.search(r"(^|&)(acl|tagging|location|versions|versioning|policy)\b", one.query) for one in asked)
    shared = re.compile(r"/_slices/|/part-|/_delta_log/\d+\.json$")
    assert all(one.is_create for one in asked if one.method == "PUT" and shared.search(one.path))


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_every_write_is_encrypted_and_no_secret_is_left(guarded: S3Server, archive: ArchiveFiles) -> None:
    """train, prepare, score and evaluate, in a Ray of their own, whose logs are searched too."""
    settings = config_with_key()
    out = "s3://tables/secrets"
    commands = {
        "train": (archive.zip, "--labels", archive.labels, "--normal", "NV", "--out", f"{out}/model"),
        "prepare": (archive.zip, "--out", f"{out}/prepared"),
        "score": (f"{out}/prepared", "--model", f"{out}/model", "--table", f"{out}/scores"),
        "evaluate": ("--table", f"{out}/scores", "--labels", archive.labels, "--out", f"{out}/evaluation"),
    }
    hidden = (b"authorization", b"x-amz-security-token", b"x-amz-server-side-encryption")
    with (
        tempfile.TemporaryDirectory(prefix="ray") as ray_folder,
        fault_proxy(guarded.endpoint, hidden=hidden) as traffic,
    ):
        environment = command_environment() | SECRETS
        environment |= {"AWS_ENDPOINT_URL": traffic.endpoint, "AWS_ACCESS_KEY_ID": "any", "RAY_TMPDIR": ray_folder}
        said = b""
        for verb, arguments in commands.items():
            command = skinvae_command(verb, *arguments, config=settings)
            done = subprocess.run(command, env=environment, capture_output=True, timeout=400, check=False)
            assert done.returncode == 0, done.stderr
            said += done.stdout + done.stderr
        left = {"what the commands said": said, **files_below(ray_folder), **objects_below(out)}
    assert any("worker" in name for name in left)
    assert sum(name.endswith(".parquet") for name in left) > 8
    assert [name for name, data in left.items() if TELLTALES.search(data)] == []
    writes = [one for one in traffic.exchanges if makes_an_object(one)]
    made = {re.sub(r"^/tables/secrets/(\w+).*", r"\1", one.request.path) for one in writes}
    assert made == {"model", "prepared", "scores", "evaluation"}
    for one in writes:
        assert one.request.headers.get("x-amz-server-side-encryption") == "aws:kms", one.request
        assert one.request.headers.get("x-amz-server-side-encryption-aws-kms-key-id") == KEY, one.request


def config_with_key() -> Config:
    return build_config({**SMALL, "storage": {"sse": "aws:kms", "sse_kms_key_id": KEY}})


def makes_an_object(one: Exchange) -> bool:
    """A PUT, or what begins a multipart upload: its parts are encrypted as that says."""
    asked = one.request
    return (asked.method == "PUT" and "uploadId" not in asked.query) or (
        asked.method == "POST" and asked.query.startswith("uploads")
    )


def files_below(folder: str) -> dict[str, bytes]:
    paths = (Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
    return {str(path): path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}


def objects_below(uri: str) -> dict[str, bytes]:
    """By name; of Parquet, whose pages are compressed, the values and all metadata."""
    location = Location.parse(uri)
    found = {}
    for entry in location.list_objects():
        data = (location / entry.name).read_bytes()
        if entry.name.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            stream = pa.BufferOutputStream()
            with pa.ipc.new_stream(stream, table.schema) as writer:
                writer.write_table(table)
            data += stream.getvalue().to_pybytes()
        found[entry.name] = data
    return found
