"""Every part of the bench at a tiny size: it measures, checks what it compares, and judges its floors."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import evaluation, export
from benchmarks.arithmetic import forward_flops
from benchmarks.dropped import FourPhases
from skinvae.model.vae import ModelSettings


def run_part(name: str, out: Path) -> dict[str, Any]:
    """The part as bench.json has it."""
    assert bench.main([name, "--small", "--out", str(out)]) == 0
    (part,) = json.loads((out / "bench.json").read_text())["parts"]
    assert part["name"] == name
    assert part["rows"]
    if part["bars"]:
        label, value = part["bars"]
        assert any(row.get(value) for row in part["rows"])
        assert all(row[label] for row in part["rows"])
    return part


def test_the_networks_cost_is_the_papers() -> None:
    encode, decode = forward_flops(ModelSettings())
    assert encode == pytest.approx(2 * 0.559e9, rel=0.01)
    assert decode == pytest.approx(2 * 0.554e9, rel=0.01)


def test_decode(tmp_path: Path) -> None:
    part = run_part("decode", tmp_path)
    assert all(row["skinvae"] > 0 and row["skinvae isolated"] > 0 for row in part["rows"])


@pytest.mark.slow
def test_export(capsys: pytest.CaptureFixture[str]) -> None:
    export.main(["200000"])
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.slow
def test_peers(tmp_path: Path) -> None:
    part = run_part("peers", tmp_path)
    ways = " ".join(row["way"] for row in part["rows"])
    assert "DataLoader loop" in ways
    assert "Ray Data documentation's way" in ways
    assert "authors' way" in ways
    assert any("scores agree" in note for note in part["notes"])
    has_daft = importlib.util.find_spec("daft") is not None
    assert ("Daft" in ways) == has_daft
    if not has_daft:
        assert any("Daft is not installed" in note for note in part["notes"])
        pytest.skip("Daft is not installed: all other ways were compared")


@pytest.mark.slow
def test_growth(tmp_path: Path) -> None:
    part = run_part("growth", tmp_path)
    assert all(row["first row in the table s"] > row["first scored s"] - 1 > 0 for row in part["rows"])
    assert len(part["floors"]) == 3


@pytest.mark.slow
def test_training(tmp_path: Path) -> None:
    part = run_part("training", tmp_path)
    assert all(0 < row["waits for input"] < 1 for row in part["rows"])
    assert all(0 < row["of the limit"] < 1 for row in part["rows"])


@pytest.mark.parametrize("name", ["kernel", "layers", "dropped", "accuracy", "lhs"])
def test_parts_of_the_model_alone(name: str, tmp_path: Path) -> None:
    """That they measure; their floors are for the paper's model."""
    part = run_part(name, tmp_path)
    ways = " ".join(str(row.get("way")) for row in part["rows"])
    if name == "dropped":
        assert all(row[way] > 0 for row in part["rows"] for way in ("transposed", "four 2x2", "one 3x3 to four phases"))
    if name == "kernel":
        assert "without overlap add, float32" in ways
        assert "authors' way" in ways
        assert {row["of limit"] > 0 for row in part["rows"] if "of limit" in row} == {True}
    if name == "accuracy":
        assert all(row["rank correlation"] > 0.9 for row in part["rows"] if row["score"] != "ess")
    if name == "lhs":
        assert [row["score"] for row in part["rows"]] == ["vae", "vae_reconst", "iwae", "iwae_reconst", "iwae_kl"]


def test_what_was_dropped_is_the_same_function() -> None:
    """Otherwise it would have been dropped for nothing."""
    torch.manual_seed(0)
    layer, h = torch.nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1), torch.randn(2, 6, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(FourPhases(layer)(h), layer(h))


@pytest.mark.parametrize("options", [[], ["--no-lesions"]])
def test_evaluation(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """It ends with an error where a count, or an AUROC, is not what the rows were drawn with."""
    evaluation.main(["3000", *options])
    assert "3,000 rows" in capsys.readouterr().out
