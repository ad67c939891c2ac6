"""Each rule for cluster.yaml fires on a copy that breaks it, and none on the file as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.cluster_rules import mistakes

ROOT = Path(__file__).parents[3]
Config = dict[str, Any]


@pytest.fixture
def cluster() -> Config:
    loaded: Config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return copy.deepcopy(loaded)  # anchors make one object of what stands in two places


def test_the_file_as_it_is_has_no_mistake(cluster: Config) -> None:
    assert list(mistakes(cluster)) == []


def _types(cluster: Config) -> Config:
    types: Config = cluster["available_node_types"]
    return types


def _drop(*path: Any) -> Callable[[Config], None]:
    def broken(cluster: Any) -> None:
        *parents, last = path
        for key in parents:
            cluster = cluster[key]
        del cluster[last]

    return broken


def _set(value: Any, *path: str) -> Callable[[Config], None]:
    def broken(cluster: Config) -> None:
        *parents, last = path
        for key in parents:
            cluster = cluster[key]
        cluster[last] = copy.deepcopy(value)

    return broken


def _replace(old: str, new: str, *path: str) -> Callable[[Config], None]:
    def broken(cluster: Config) -> None:
        *parents, last = path
        for key in parents:
            cluster = cluster[key]
        assert any(old in one for one in cluster[last])
        cluster[last] = [one.replace(old, new) for one in cluster[last]]

    return broken


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every key and every item of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


NODE = ("available_node_types", "cpu", "node_config")
SPOT = ("available_node_types", "gpu-spot")
START = "head_start_ray_commands"
BROKEN: list[tuple[Callable[[Config], None], str]] = [
    (_set("four", "max_workers"), "Ray refuses it: 'four' is not of type 'integer'"),
    (_set(4, "max_worker"), "Ray refuses it: Additional properties are not allowed ('max_worker' was unexpected)"),
    (_set("gcp", "provider", "type"), "aws only"),
    (_drop("provider", "region"), "provider.region is missing"),
    (_set({"CPU": 4, "GPU": 0}, "available_node_types", "head", "resources"), "head: resources must say CPU: 0"),
    (_set({"CPU": 0}, "available_node_types", "head", "resources"), "head: resources must say CPU: 0 and GPU: 0"),
    (_drop(*NODE, "InstanceType"), "cpu: InstanceType is missing"),
    (_set("resolve:ssm:/latest", *NODE, "ImageId"), "cpu: ImageId must be the id of an image"),
    (_drop(*NODE, "IamInstanceProfile"), "cpu: IamInstanceProfile is missing"),
    (_set({"HttpTokens": "optional"}, *NODE, "MetadataOptions"), "cpu: MetadataOptions must say HttpTokens: required"),
    (_drop(*NODE, "BlockDeviceMappings"), "cpu: BlockDeviceMappings must name a disk with Encrypted: true"),
    (_set("mine", *NODE, "KeyName"), "cpu: KeyName ties the file to one person's key"),
    (_set("c7i.4xlarge", *NODE, "InstanzType"), 'cpu: EC2 refuses its node_config: Unknown parameter in input: "Inst'),
    (_set({"MarketTyp": "spot"}, *NODE, "InstanceMarketOptions"), "Unknown parameter in InstanceMarketOptions"),
    (_set("150", *NODE, "EbsOptimized"), "cpu: EC2 refuses its node_config: Invalid type for parameter EbsOptimized"),
    (_set({"MarketType": "spot"}, *NODE, "InstanceMarketOptions"), "cpu: spot types, and only those, end in '-spot'"),
    (_drop(*SPOT, "node_config", "InstanceMarketOptions"), "gpu-spot: spot types, and only those"),
    (_set(1, *SPOT, "min_workers"), "gpu-spot: min_workers must be 0"),
    (_set({"CPU": 8, "GPU": 1}, *SPOT, "resources"), "gpu-spot: no on-demand type has its resources"),
    (_set(5, *SPOT, "max_workers"), "gpu-spot: its on-demand twin has a smaller max_workers"),
    (_replace("RAY_enable_autoscaler_v2=0", "", START), "must export RAY_enable_autoscaler_v2=0"),
    (_replace("spot_first.rank", "other.rank", START), "must export RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.rank"),
    (_replace("RAY_AUTH_MODE=token", "X=y", "docker", "run_options"), "RAY_AUTH_MODE=token must be set on all nodes"),
    (_drop("file_mounts", "/home/ray/.ray/auth_token"), "file_mounts must bring ~/.ray/auth_token"),
    (_replace("=30", "=3", "docker", "run_options"), "RAY_JOB_STOP_WAIT_TIME_S must be 30 or more"),
    (_set(["--ulimit nofile=1:1"], "docker", "run_options"), "Ray kills a stopped job after 3 s"),
    (_replace("RAY_USAGE_STATS_ENABLED=0", "", START), "must export RAY_USAGE_STATS_ENABLED=0"),
    (_set("rayproject/ray:latest", "docker", "image"), "docker images must name one version of Ray"),
    (_set("rayproject/ray:2.60.0-py312", "docker", "image"), "docker images must name one version of Ray and one of"),
    (_replace("==2.60.0", "", "setup_commands"), "setup_commands must install ray[default,data,train]==2.60.0"),
    (_replace("--constraint", "--quiet", "setup_commands"), "setup_commands must install under --constraint"),
    (_replace("--head", "--head --dashboard-host=0.0.0.0", START), "--dashboard-host opens the dashboard"),
]


@pytest.mark.parametrize(("broken", "sentence"), BROKEN, ids=[sentence[:60] for _, sentence in BROKEN])
def test_a_rule_fires_on_a_broken_copy(cluster: Config, broken: Callable[[Config], None], sentence: str) -> None:
    broken(cluster)
    found = list(mistakes(cluster))
    assert any(sentence in one for one in found), found


def test_whatever_is_missing_the_check_goes_on_to_its_end(cluster: Config) -> None:
    for path in paths(cluster):
        broken = copy.deepcopy(cluster)
        _drop(*path)(broken)
        assert all(isinstance(one, str) for one in mistakes(broken)), path


def test_a_head_on_spot_is_refused(cluster: Config) -> None:
    _types(cluster)["head"]["node_config"]["InstanceMarketOptions"] = {"MarketType": "spot"}
    assert any("a head on spot takes the whole cluster" in one for one in mistakes(cluster))


def test_without_spot_types_nothing_is_asked_of_the_autoscaler(cluster: Config) -> None:
    del _types(cluster)["gpu-spot"]
    _replace("spot_first.rank", "", START)(cluster)
    assert list(mistakes(cluster)) == []
