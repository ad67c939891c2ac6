"""The proxy itself: what is not spoiled passes unchanged, and every fault is what it says, against the real server."""

from __future__ import annotations

import http.client
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import s3fs
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from deltalake import DeltaTable, write_deltalake

from tests.fault_proxy import Traffic, fault_proxy
from tests.faults_to_inject import (
    BROKEN_OFF,
    CONFLICT_NOW,
    DENIED,
    EXISTS_NOW,
    RESET_AFTER,
    RESET_BEFORE,
    SHORTENED,
    SLOW_DOWN,
    At,
    Fault,
    RandomFaults,
    Request,
)
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server


@pytest.fixture
def traffic(s3: S3Server) -> Iterator[Traffic]:
    with fault_proxy(s3.endpoint) as running:
        yield running


@pytest.fixture
def root() -> str:
    """A prefix that no other test uses."""
    return f"tests/proxy-{uuid.uuid4().hex}"


def client(traffic: Traffic) -> s3fs.S3FileSystem:
    """Tries once: neither s3fs nor botocore hides what happened."""
    found = s3fs.S3FileSystem(
        key=ACCESS_KEY,
        secret=SECRET_KEY,
        endpoint_url=traffic.endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={"retries": {"total_max_attempts": 1}},
    )
    found.retries = 1
    return found


def get(traffic: Traffic, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """A plain request, which the server refuses for its missing signature."""
    connection = http.client.HTTPConnection(urlsplit(traffic.endpoint).netloc, timeout=20)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def test_what_is_not_spoiled_passes_unchanged(traffic: Traffic, root: str) -> None:
    """Small and large bodies, multipart uploads, ranges, HEAD, listings, absence, conditions, deletion."""
    files = client(traffic)
    large = bytes(range(256)) * 4096 * 12
    files.pipe_file(f"{root}/empty", b"")
    files.pipe_file(f"{root}/large", large, chunksize=5 << 20)
    assert files.cat_file(f"{root}/large") == large
    assert files.cat_file(f"{root}/large", start=1000, end=1010) == large[1000:1010]
    assert files.cat_file(f"{root}/empty") == b""
    assert files.info(f"{root}/large")["size"] == len(large)
    assert sorted(files.find(root)) == [f"{root}/empty", f"{root}/large"]
    assert not files.exists(f"{root}/gone")
    with pytest.raises(OSError, match="pre-condition"):
        files.pipe_file(f"{root}/empty", b"x", mode="create")
    files.rm_file(f"{root}/empty")
    assert not files.exists(f"{root}/empty")
    assert not traffic.count_faults()
    assert {one.status for one in traffic.matching("^DELETE")} == {204}
    assert {one.status for one in traffic.matching("^HEAD.*gone")} == {404}
    assert sum(one.num_bytes for one in traffic.matching("^GET .*large")) > len(large)


def test_delta_tables_pass(traffic: Traffic, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", traffic.endpoint)
    options = {"allow_http": "true"}
    for value in range(3):
        write_deltalake(f"s3://{root}", pa.table({"a": [value]}), mode="append", storage_options=options)
    assert sorted(DeltaTable(f"s3://{root}", storage_options=options).to_pyarrow_table()["a"].to_pylist()) == [0, 1, 2]
    creates = [one.request for one in traffic.matching(r"^PUT .*_delta_log/\d+\.json$")]
    assert len(creates) == 3
    assert all(one.is_create for one in creates)


def test_no_secret_is_recorded(traffic: Traffic, root: str) -> None:
    client(traffic).exists(root)
    get(traffic, f"/{root}?X-Amz-Signature=secret-a&X-Amz-Credential=secret-b", Authorization="secret-c")
    assert len(traffic.exchanges) >= 2
    assert "secret-" not in repr(traffic.exchanges)
    assert ACCESS_KEY not in repr(traffic.exchanges)


@pytest.mark.parametrize("fault", [SLOW_DOWN, DENIED])
def test_refusals_have_no_effect(traffic: Traffic, root: str, fault: Fault) -> None:
    files = client(traffic)
    traffic.faults = At("PUT", fault)
    with pytest.raises(OSError) as caught:  # noqa: PT011 what s3fs makes of the code is its business
        files.pipe_file(f"{root}/a", b"x")
    assert isinstance(caught.value.__cause__, ClientError)
    assert fault.code is not None
    assert caught.value.__cause__.response["Error"]["Code"] == fault.code[1]
    assert not files.exists(f"{root}/a")


@pytest.mark.parametrize(("fault", "is_there"), [(RESET_BEFORE, False), (RESET_AFTER, True)])
def test_resets_lose_the_request_or_its_answer(traffic: Traffic, root: str, fault: Fault, is_there: bool) -> None:
    files = client(traffic)
    traffic.faults = At("PUT", fault, times=2)  # aiohttp, below botocore, tries a PUT twice by itself
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        files.pipe_file(f"{root}/a", b"x")
    assert files.exists(f"{root}/a") is is_there
    assert traffic.count_faults() == {fault.name: 2}


@pytest.mark.parametrize("fault", [EXISTS_NOW, CONFLICT_NOW])
def test_a_create_is_refused_though_it_took_effect(traffic: Traffic, root: str, fault: Fault) -> None:
    files = client(traffic)
    traffic.faults = At("PUT", fault)
    with pytest.raises(OSError, match="injected"):
        files.pipe_file(f"{root}/a", b"x", mode="create")
    assert files.cat_file(f"{root}/a") == b"x"


@pytest.mark.parametrize(("fault", "breaks"), [(BROKEN_OFF, True), (SHORTENED, False)])
def test_bodies_end_early(traffic: Traffic, fault: Fault, breaks: bool) -> None:
    whole, body = get(traffic, "/")
    traffic.faults = At("GET", fault)
    if breaks:
        with pytest.raises(http.client.IncompleteRead) as caught:
            get(traffic, "/")
        assert len(caught.value.partial) == len(body) // 2
    else:
        short, half = get(traffic, "/")
        assert (short.status, len(half)) == (whole.status, len(body) // 2)


def test_moments_come_before_and_behind_the_effect(traffic: Traffic, root: str) -> None:
    files, direct = client(traffic), client(traffic)
    there: list[bool] = []

    def look(request: Request) -> None:
        there.append(direct.exists(request.path[1:]))

    traffic.faults = At(r"PUT .*/[ab]$", Fault("moment", before=look, after=look), nth=2)
    files.pipe_file(f"{root}/a", b"1")
    assert there == []
    files.pipe_file(f"{root}/b", b"2")
    assert there == [False, True]


def test_random_faults_follow_from_the_seed() -> None:
    def names(seed: int, requests: list[Request]) -> list[str]:
        plan = RandomFaults(seed, slow_down=0.3, resets=0.05, truncated=0.1, latency=0.1)
        return [plan.decide(one).name for one in requests]

    requests = [Request(n, "GET", f"/tests/{n % 7}", "", {"range": f"bytes=0-{n % 5}"}) for n in range(4000)]
    found = names(1, requests)
    assert names(1, requests) == found != names(2, requests)
    # Clients that run at the same time take turns in any order.
    one_by_one = sorted(range(4000), key=lambda n: (n % 7, n % 5, n))
    assert names(1, [requests[n] for n in one_by_one]) == [found[n] for n in one_by_one]
    shares = {word: sum(word in name for name in found) / 4000 for word in ("slow", "reset", "broken", "shortened")}
    assert shares == pytest.approx({"slow": 0.3, "reset": 0.05, "broken": 0.05, "shortened": 0.05}, abs=0.02)
