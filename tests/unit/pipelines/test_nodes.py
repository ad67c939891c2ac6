"""A job that asks for more than is there waits for it, asks an autoscaler for it, and does not wait for ever."""

from __future__ import annotations

from typing import Any

import pytest

from skinvae.config import RaySettings
from skinvae.errors import UsageError
from skinvae.pipelines import nodes as nodes_module
from skinvae.pipelines.nodes import Node, await_nodes

HEAD, GPU_NODE = Node(2), Node(4, 1)


class Cluster:
    """Grows by a node with a GPU every 10 s, up to `at_most` nodes, by its own clock."""

    def __init__(self, *, at_most: int) -> None:
        self.seconds = 0.0
        self._at_most = at_most
        self.requests: list[dict[str, Any]] = []

    def look(self) -> list[Node]:
        return [HEAD, *[GPU_NODE] * min(self._at_most, int(self.seconds // 10))]

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def request(self, **what: Any) -> None:
        self.requests.append(what)

    def awaited(self, **settings: Any) -> list[Node]:
        settings = {"address": "auto", **settings}
        await_nodes(RaySettings(**settings), look=self.look, clock=lambda: self.seconds, sleep=self.sleep)
        return self.look()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    growing = Cluster(at_most=3)
    monkeypatch.setattr(nodes_module, "request_resources", growing.request)
    return growing


def test_what_is_there_is_taken_at_once(cluster: Cluster) -> None:
    assert cluster.awaited() == cluster.awaited(min_cpus=2) == [HEAD]
    assert cluster.requests == []


def test_gpus_are_asked_for_and_waited_for(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    assert cluster.awaited(min_gpus=2, min_cpus=8) == [HEAD, GPU_NODE, GPU_NODE]
    assert cluster.seconds == 20
    *asked, withdrawn = cluster.requests
    assert asked == [{"num_cpus": 8, "bundles": [{"GPU": 1}, {"GPU": 1}]}] * 20, "Ray Data withdraws it every 20 s"
    assert withdrawn == {"num_cpus": 0, "bundles": []}, "or the nodes would stay for ever"
    assert "waiting for 8 CPUs and 2 GPUs: the cluster has 2 CPUs and 0 GPUs" in capfd.readouterr().err


def test_nodes_that_do_not_come_end_the_job(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match=r"did not grow to 4 GPUs within 60 s .*, it has 14 CPUs and 3 GPUs"):
        cluster.awaited(min_gpus=4, wait_seconds=60)
    assert cluster.requests[-1] == {"num_cpus": 0, "bundles": []}


def test_a_local_ray_does_not_grow(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"this machine has no 1 GPU, for which .* ask: 2 CPUs and 0 GPUs"):
        cluster.awaited(address=None, min_gpus=1)
    assert cluster.seconds == 0


def test_who_waits_long_is_told_every_minute(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        cluster.awaited(min_gpus=4, wait_seconds=150)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("waiting for 4 GPUs")]
    assert [line.rpartition(" and ")[2] for line in said] == ["0 GPUs", "3 GPUs", "3 GPUs"]
