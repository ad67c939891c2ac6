"""What Ray's autoscalers start of cluster.yaml's node types when EC2 refuses some: Ray's own code decides, offline."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler as SchedulerV2
from ray.autoscaler.v2.scheduler import SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

ROOT = Path(__file__).parents[3]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
TYPES: dict[str, Any] = CLUSTER["available_node_types"]
FOUR_GPUS = [{"CPU": 1}] * 80 + [{"GPU": 1}] * 4
"""As a job asks for them with ray.min_cpus=80 and ray.min_gpus=4 (pipelines/nodes.py)."""


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's environment, as cluster.yaml sets it."""
    (start,) = (command for command in CLUSTER["head_start_ray_commands"] if "--head" in command)
    variables = dict(word.rstrip(";").split("=", 1) for word in start.split() if word.startswith(("RAY_", "PYTHON")))
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", variables["RAY_AUTOSCALER_UTILIZATION_SCORER"])
    (mount,) = (place for place, source in CLUSTER["file_mounts"].items() if source == ".")
    monkeypatch.syspath_prepend(str(ROOT / Path(variables["PYTHONPATH"]).relative_to(mount)))
    monkeypatch.delitem(sys.modules, "spot_first", raising=False)


def started(*refused: str) -> dict[str, int]:
    """Nodes that autoscaler v1 would start of each type, after EC2 has refused these."""
    tracker = NodeProviderAvailabilityTracker()
    for name in refused:
        tracker.update_node_availability(name, int(time.time()), NodeLaunchException("InsufficientCapacity", "", None))
    scheduler = ResourceDemandScheduler(None, TYPES, CLUSTER["max_workers"], "head", 1.0)
    nodes, _ = scheduler.get_nodes_to_launch([], {}, [], {}, [], {}, FOUR_GPUS, tracker.summary())
    return {name: number for name, number in nodes.items() if name != "head"}


@pytest.mark.usefixtures("scorer")
@pytest.mark.parametrize(
    ("refused", "gpus"),
    [
        ((), "gpu-spot"),
        (("gpu-spot",), "gpu-on-demand"),
        (("gpu-on-demand",), "gpu-spot"),
        # Both are asked for again: spot first, once its record has expired.
        (("gpu-spot", "gpu-on-demand"), "gpu-spot"),
    ],
)
def test_gpus_are_spot_ones_unless_ec2_refused_them(refused: tuple[str, ...], gpus: str) -> None:
    nodes = started(*refused)
    # A fifth CPU node where no GPU node is sure to bring its four.
    assert nodes in ({"cpu": 4, gpus: 4}, {"cpu": 5, gpus: 4})


@pytest.mark.usefixtures("scorer")
def test_work_without_gpus_gets_no_gpu_node_though_the_others_are_refused() -> None:
    tracker = NodeProviderAvailabilityTracker()
    tracker.update_node_availability("cpu", int(time.time()), NodeLaunchException("InsufficientCapacity", "", None))
    scheduler = ResourceDemandScheduler(None, TYPES, CLUSTER["max_workers"], "head", 1.0)
    nodes, _ = scheduler.get_nodes_to_launch([], {}, [], {}, [], {}, [{"CPU": 1}] * 16, tracker.summary())
    assert nodes["cpu"] == 1
    assert not {"gpu-spot", "gpu-on-demand"} & set(nodes)


def test_ray_by_itself_asks_for_the_refused_type_again() -> None:
    assert started("gpu-spot") == {"cpu": 4, "gpu-spot": 4}


def started_by_v2(event: int | None) -> dict[str, int]:
    monitor = CloudResourceMonitor()
    if event is not None:
        monitor.notify([InstanceUpdateEvent(instance_type="gpu-spot", new_instance_status=event)])
    constraint = ClusterResourceConstraint(
        resource_requests=ResourceRequestUtil.group_by_count(list(map(ResourceRequestUtil.make, FOUR_GPUS)))
    )
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={
            name: NodeTypeConfig(name, 0, one["max_workers"], resources=one["resources"]) for name, one in TYPES.items()
        },
        max_num_nodes=CLUSTER["max_workers"] + 1,
        cluster_resource_constraints=[constraint],
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    return {one.instance_type: one.count for one in SchedulerV2(event_logger=None).schedule(request).to_launch}


def test_autoscaler_v2_does_not_notice_that_ec2_refused() -> None:
    """Should this fail with a new Ray, cluster.yaml may go back to its default autoscaler."""
    assert started_by_v2(Instance.ALLOCATION_FAILED) == started_by_v2(None)
    assert "gpu-spot" not in started_by_v2(Instance.ALLOCATION_TIMEOUT)
