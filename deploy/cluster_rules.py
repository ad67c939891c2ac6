"""What a cluster.yaml for AWS must say so that skinvae runs on it safely, beyond what Ray asks for."""

from __future__ import annotations

import copy
import functools
import re
import shlex
from collections.abc import Iterator
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

STOP_SECONDS = 30
"""A stopped job commits what is done within 20 s; Ray kills it after RAY_JOB_STOP_WAIT_TIME_S, by default 3."""

_SPOT = "-spot"
_RANK = {"RAY_enable_autoscaler_v2": "0", "RAY_AUTOSCALER_UTILIZATION_SCORER": "spot_first.rank"}

Config = dict[str, Any]


def mistakes(config: Config) -> Iterator[str]:
    """A sentence for each mistake; only Ray's or EC2's, where the file is not of the form that these demand."""
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # noqa: BLE001 Ray raises whatever it comes across
        yield f"Ray refuses it: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        return
    if config["provider"]["type"] != "aws":
        yield f"provider.type is '{config['provider']['type']}', and these rules know aws only"
        return
    of_another_form = list(_ec2_keys(config))
    yield from of_another_form
    if of_another_form:
        return
    for rule in (_region, _head, _node_types, _spot, _environment, _versions, _dashboard):
        yield from rule(config)


def _region(config: Config) -> Iterator[str]:
    if not config["provider"].get("region"):
        yield "provider.region is missing: Ray would take us-west-2, wherever the archives are"


def _head(config: Config) -> Iterator[str]:
    name = config.get("head_node_type")
    head = config["available_node_types"].get(name, {})
    resources = head.get("resources", {})
    if any(resources.get(one) != 0 for one in ("CPU", "GPU")):
        yield f"{name}: resources must say CPU: 0 and GPU: 0, or tasks run on the head and can end the cluster"
    if _is_spot(head):
        yield f"{name}: a head on spot takes the whole cluster with it when it is reclaimed"


def _node_types(config: Config) -> Iterator[str]:
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        if not node_type.get("resources"):
            yield f"{name}: resources are missing: the autoscaler would not know what a node brings"
        if not node.get("InstanceType"):
            yield f"{name}: InstanceType is missing"
        if not str(node.get("ImageId", "")).startswith("ami-"):
            yield f"{name}: ImageId must be the id of an image, ami-...: anything else may be another one tomorrow"
        if not node.get("IamInstanceProfile"):
            yield f"{name}: IamInstanceProfile is missing: Ray gives workers no role, and a head too mighty a one"
        if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
            yield f"{name}: MetadataOptions must say HttpTokens: required, or a forged request gets the credentials"
        disks = [one.get("Ebs", {}) for one in node.get("BlockDeviceMappings", ())]
        if not disks or not all(one.get("Encrypted") for one in disks):
            yield f"{name}: BlockDeviceMappings must name a disk with Encrypted: true; spilled images lie there"
        if node.get("KeyName"):
            yield f"{name}: KeyName ties the file to one person's key: Ray makes one of its own"


def _ec2_keys(config: Config) -> Iterator[str]:
    """Typing errors: Ray hands node_config on as it is."""
    request = _run_instances()
    for name, node_type in config["available_node_types"].items():
        asked = {"MinCount": 1, "MaxCount": 1, **node_type["node_config"]}
        asked.pop("SubnetIds", None)  # Ray's own key
        for line in ParamValidator().validate(asked, request).generate_report().splitlines():
            yield f"{name}: EC2 refuses its node_config: {line.split(', must be one of')[0]}"


@functools.cache
def _run_instances() -> Shape:
    ec2 = ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")
    return ec2.operation_model("RunInstances").input_shape


def _spot(config: Config) -> Iterator[str]:
    types = config["available_node_types"]
    for name, node_type in types.items():
        if _is_spot(node_type) != name.endswith(_SPOT):
            yield f"{name}: spot types, and only those, end in '{_SPOT}': the autoscaler prefers them by that name"
        if not _is_spot(node_type):
            continue
        if node_type.get("min_workers", 0):
            yield f"{name}: min_workers must be 0: nodes that a minimum asks for have no fall-back"
        twins = [
            other
            for other in types.values()
            if not _is_spot(other) and other.get("resources") == node_type.get("resources")
        ]  # fmt: skip
        if not twins:
            yield f"{name}: no on-demand type has its resources, {node_type.get('resources')}, so nothing replaces it"
        elif all(other.get("max_workers", 0) < node_type.get("max_workers", 0) for other in twins):
            yield f"{name}: its on-demand twin has a smaller max_workers, so it cannot replace all of them"
    start = _variables(config.get("head_start_ray_commands", []))
    wanted = {name: value for name, value in _RANK.items() if start.get(name) != value}
    if wanted and any(map(_is_spot, types.values())):
        missing = " ".join(f"{name}={value}" for name, value in wanted.items())
        yield f"head_start_ray_commands must export {missing}, or refused spot nodes are asked for for ever"


def _environment(config: Config) -> Iterator[str]:
    everywhere = _variables(config.get("docker", {}).get("run_options", []))
    head = everywhere | _variables(config.get("head_start_ray_commands", []))
    worker = everywhere | _variables(config.get("worker_start_ray_commands", []))
    if any(one.get("RAY_AUTH_MODE") != "token" for one in (head, worker)):
        yield "RAY_AUTH_MODE=token must be set on all nodes (docker.run_options): who reaches Ray's ports runs code"
    if not any(path.endswith("/.ray/auth_token") for path in config.get("file_mounts", {})):
        yield "file_mounts must bring ~/.ray/auth_token to the nodes: Ray does not start without the token"
    seconds = head.get("RAY_JOB_STOP_WAIT_TIME_S", "3")
    if not seconds.isdigit() or int(seconds) < STOP_SECONDS:
        yield (
            f"RAY_JOB_STOP_WAIT_TIME_S must be {STOP_SECONDS} or more on the head: Ray kills a stopped job after "
            f"{seconds} s, before it has committed what is done"
        )
    # Ray's launcher sets it from the machine it runs on, in front of the start commands.
    if _variables(config.get("head_start_ray_commands", [])).get("RAY_USAGE_STATS_ENABLED") != "0":
        yield "head_start_ray_commands must export RAY_USAGE_STATS_ENABLED=0, or Ray reports its use to its makers"


def _versions(config: Config) -> Iterator[str]:
    docker = config.get("docker", {})
    images = [docker.get("image", "")]
    images += [
        one["docker"]["worker_image"]
        for one in config["available_node_types"].values()
        if "worker_image" in one.get("docker", {})
    ]
    found = [re.search(r":(\d+\.\d+\.\d+)-(py3\d+)", image) for image in images]
    if not all(found) or len({match.groups() for match in found if match}) != 1:
        yield f"docker images must name one version of Ray and one of Python (ray:X.Y.Z-py311), not {', '.join(images)}"
        return
    version = found[0][1] if found[0] else ""
    setup = "\n".join(config.get("setup_commands", []))
    if not re.search(rf"\bray\[[\w,]+\]=={re.escape(version)}\b", setup):
        yield f"setup_commands must install ray[default,data,train]=={version}, as the image does, or pip moves it"
    if "--constraint" not in setup:
        yield "setup_commands must install under --constraint deploy/constraints.txt: later nodes get the same"


def _dashboard(config: Config) -> Iterator[str]:
    commands = "\n".join([*config.get("head_start_ray_commands", []), *config.get("head_setup_commands", [])])
    if re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)", commands):
        yield "--dashboard-host opens the dashboard to the network: leave it out and use `ray dashboard cluster.yaml`"


def _is_spot(node_type: Config) -> bool:
    market = node_type.get("node_config", {}).get("InstanceMarketOptions", {})
    return bool(market.get("MarketType") == "spot")


def _variables(commands: list[str]) -> dict[str, str]:
    """NAME=VALUE words of shell commands or of docker's options; the last one counts, as in a shell."""
    words = (word.rstrip(";") for command in commands for word in shlex.split(command))
    return dict(word.split("=", 1) for word in words if re.match(r"[A-Za-z_]\w*=", word))
