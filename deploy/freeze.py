"""Writes deploy/constraints.txt: the installed versions of what skinvae needs, directly and not.

    python -m deploy.freeze > deploy/constraints.txt

Run it in an environment whose tests have passed, on Linux with the Python of cluster.yaml and deploy/Dockerfile.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def needed() -> list[Requirement]:
    """What pyproject.toml asks for without extras, to run and to be built."""
    table = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    declared = [*table["project"]["dependencies"], *table["build-system"]["requires"]]
    return [one for one in map(Requirement, declared) if applies(one)]


def installed_versions(requirements: Iterable[Requirement]) -> dict[str, str]:
    """The version of each distribution that the requirements bring, by name. Raises PackageNotFoundError."""
    versions: dict[str, str] = {}
    waiting = list(requirements)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        # Of a build of torch, such as 2.14.1+cpu, the index knows the version only.
        versions[name] = importlib.metadata.version(name).split("+")[0]
        waiting += _brought_by(name, extras)
    return versions


def applies(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    """Whether its marker holds here, with one of the extras or none."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _brought_by(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        if applies(requirement, extras):
            yield requirement


def main() -> None:
    print(f"# Written by `python -m deploy.freeze` on {platform.system()} with Python {platform.python_version()}.")
    print("# pip install --constraint deploy/constraints.txt .")
    for name, version in sorted(installed_versions(needed()).items()):
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
