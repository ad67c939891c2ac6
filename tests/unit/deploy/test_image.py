"""The image: the Dockerfile passes hadolint, and what it installs is pinned and what the project asks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.freeze import applies, installed_versions, needed

ROOT = Path(__file__).parents[3]
CONSTRAINTS = (ROOT / "deploy/constraints.txt").read_text(encoding="utf-8")
PINNED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", CONSTRAINTS, flags=re.MULTILINE))


def hadolint(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_hadolint_has_no_objection() -> None:
    linted = hadolint(str(ROOT / "deploy/Dockerfile"))
    assert linted.returncode == 0, linted.stdout


def test_hadolint_would_have_one(tmp_path: Path) -> None:
    careless = tmp_path / "Dockerfile"
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    careless.write_text(text.replace("USER 1000", "USER root"), encoding="utf-8")
    assert "DL3002" in hadolint(str(careless)).stdout


def test_the_build_gets_what_it_copies() -> None:
    copied = re.findall(r"^COPY (?:--chown=\w+ )?(?!--from)(.+) \S+$", _dockerfile(), flags=re.MULTILINE)
    named = {name for line in copied for name in line.split()}
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == named
    assert all((ROOT / name).exists() for name in named)


def test_one_python_everywhere() -> None:
    (made_with,) = re.findall(r"with Python (\d+\.\d+)", CONSTRAINTS)
    image = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["docker"]["image"]
    assert image.endswith(f"-py{made_with.replace('.', '')}")
    assert re.findall(r"python:(\d+\.\d+)", _dockerfile()) == [made_with] * 2
    assert f"sys.version_info[:2] == ({made_with.replace('.', ', ')})" in _dockerfile()


def test_one_ray_everywhere() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    jobs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "deploy").glob("rayjob-*.yaml")]
    assert f":{PINNED['ray']}-" in cluster["docker"]["image"]
    assert {job["spec"]["rayClusterSpec"]["rayVersion"] for job in jobs} == {PINNED["ray"]}


@pytest.mark.parametrize("requirement", needed(), ids=str)
def test_the_constraints_keep_to_the_project_s_bounds(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_every_line_of_the_constraints_pins_one_version() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert len(lines) == len(PINNED)


def test_what_is_frozen_is_installed_and_complete() -> None:
    frozen = installed_versions(needed())
    assert {canonicalize_name(one.name) for one in needed()} <= set(frozen)
    # Each brings others: of ray[default] the job server, of s3fs botocore.
    assert {"aiohttp-cors", "botocore"} <= set(frozen)
    assert "pytest" not in frozen


def test_a_marker_counts_with_the_extra_that_was_asked_for() -> None:
    assert not applies(Requirement("x; extra == 'data'"))
    assert applies(Requirement("x; extra == 'data'"), ["data"])
    assert not applies(Requirement("x; python_version < '3'"), ["data"])


def _dockerfile() -> str:
    return (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
