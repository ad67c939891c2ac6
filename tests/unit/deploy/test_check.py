"""The command that users run on their files: findings, exit codes, and nothing hidden by being a template."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from deploy.check import blanks, main, mistakes

ROOT = Path(__file__).parents[3]
TEMPLATES = [ROOT / "cluster.yaml", *sorted((ROOT / "deploy").glob("rayjob-*.yaml"))]


def test_the_templates_have_blanks_and_no_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    files = list(map(str, TEMPLATES))
    assert main(["--blanks-allowed", *files]) == 0
    assert all(line.endswith(": nothing found") for line in capsys.readouterr().out.splitlines())
    assert main(files) == 1
    shown = capsys.readouterr().out
    assert "cluster.yaml: 'ami-YOUR-IMAGE' is to be filled in" in shown
    assert "rayjob-train.yaml: 'YOUR-REGISTRY/skinvae@sha256:YOUR-DIGEST' is to be filled in" in shown


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_that_is_filled_in_passes(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = text.replace("YOUR-DIGEST", "0" * 64).replace("ami-YOUR-IMAGE", "ami-0123456789abcdef0")
    filled = tmp_path / path.name
    filled.write_text(re.sub(r"YOUR-[A-Z-]+", "ours", text), encoding="utf-8")
    assert main([str(filled)]) == 0


def test_a_comment_may_say_what_is_to_be_filled_in() -> None:
    assert list(blanks("# --model s3://YOUR-BUCKET/model\na: b\n")) == []
    assert list(blanks("a: s3://YOUR-BUCKET/model\n")) == ["'s3://YOUR-BUCKET' is to be filled in"]


@pytest.mark.parametrize(
    "line",
    [
        "export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI",
        "aws_secret_access_key: wJalrXUtnFEMI",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "--env RAY_AUTH_TOKEN=abc",
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_is_found_and_not_repeated(line: str) -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    cluster["setup_commands"].append(line)
    (found,) = mistakes(yaml.dump(cluster))
    assert "seems to hold a secret" in found
    assert "wJalr" not in found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("kind: Deployment\n", "it is neither a RayJob nor a cluster"),
        ("- a\n- b\n", "it is neither a RayJob nor a cluster"),
    ],
)
def test_other_files_are_told_apart(text: str, sentence: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(sentence)


@pytest.mark.parametrize("content", [b"a: [1\n", b"\xff\xfe"])
def test_what_is_no_yaml_is_one_sentence(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    assert main([str(tmp_path / "missing.yaml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("cannot be read as YAML" in line for line in lines)


def test_without_the_schemas_of_kubernetes_a_cluster_is_checked_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes_validate", None)
    for name in ("rayjob_form", "rayjob_rules"):
        monkeypatch.delitem(sys.modules, f"deploy.{name}", raising=False)
        monkeypatch.delattr(f"deploy.{name}", raising=False)
    assert main(["--blanks-allowed", str(TEMPLATES[0])]) == 0
    assert main([str(TEMPLATES[1])]) == 2
    assert capsys.readouterr().err.endswith("pip install '.[deploy]'\n")
