"""Says what is wrong with a cluster.yaml of Ray's launcher or with RayJobs of KubeRay, before a cloud does.

    python -m deploy.check cluster.yaml deploy/rayjob-score.yaml deploy/rayjob-train.yaml

Exit code 0: nothing found; 1: findings, one sentence each; 2: a file that cannot be checked. `YOUR-` marks what a user
fills in: a finding, too, but for --blanks-allowed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy import cluster_rules

_BLANK = re.compile(r"[\w:/.@-]*YOUR-[A-Z-]+")
_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|(?i:aws_secret_access_key|aws_session_token|ray_auth_token)\s*[=:]\s*\S"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--blanks-allowed", action="store_true", help="the file is a template: YOUR-... may stay")
    asked = parser.parse_args(arguments)
    found = 0
    for path in asked.files:
        try:
            text = path.read_text(encoding="utf-8")
            findings = [*mistakes(text), *(() if asked.blanks_allowed else blanks(text))]
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            print(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            print(f"{path}: {error.name} is missing, which its check needs: pip install '.[deploy]'", file=sys.stderr)
            return 2
        found += len(findings)
        print("\n".join(f"{path}: {finding}" for finding in findings) if findings else f"{path}: nothing found")
    return 1 if found else 0


def mistakes(text: str) -> Iterator[str]:
    """A sentence for each mistake in a file's text. Raises YAMLError."""
    for match in _SECRET.finditer(_without_comments(text)):
        line = _without_comments(text)[: match.start()].count("\n") + 1
        yield f"line {line} seems to hold a secret: name a role, a file or a Kubernetes Secret instead"
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    if not documents:
        yield "the file is empty"
    for document in documents:
        yield from _of(document)


def blanks(text: str) -> Iterator[str]:
    """A sentence for each different place that a user has to fill in."""
    for blank in sorted(set(_BLANK.findall(_without_comments(text)))):
        yield f"'{blank}' is to be filled in"


def _of(document: Any) -> Iterator[str]:
    kind = document.get("kind") if isinstance(document, dict) else None
    if kind == "RayJob":
        # Needs Kubernetes' schemas, which who has a cluster.yaml only may lack.
        from deploy import rayjob_rules

        yield from rayjob_rules.mistakes(document)
    elif isinstance(document, dict) and "available_node_types" in document:
        yield from cluster_rules.mistakes(document)
    else:
        yield "it is neither a RayJob nor a cluster of Ray's launcher (with available_node_types)"


def _without_comments(text: str) -> str:
    """Whole lines only: a '#' inside a command is none."""
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
