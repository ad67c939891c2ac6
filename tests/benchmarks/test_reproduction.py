"""The paper's experiment on a small synthetic archive: resumed, complete, and never under the paper's heading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.reproduction import data
from benchmarks.reproduction.__main__ import main
from benchmarks.reproduction.experiment import MODES, SPLITS, Experiment
from benchmarks.reproduction.page import Cell
from skinvae.images.synthetic import make_archive
from skinvae.model.vae import ModelSettings
from skinvae.records import SCORES
from skinvae.training.settings import TrainSettings

TOML = """
[model]
image_size = 32
base_channels = 4
num_latents = 6
[train]
num_epochs = 2
batch_size = 16
validation_fraction = 0.3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    counts = {label: 90 if label == "NV" else 4 for label in ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")}
    made = make_archive(counts, seed=2)
    (tmp_path / data.ARCHIVE).write_bytes(made.zip_bytes)
    (tmp_path / data.LABELS).write_text(made.labels_csv)
    (tmp_path / data.LESIONS).write_text(made.metadata_csv)
    (tmp_path / "tiny.toml").write_text(TOML)
    return tmp_path


def test_the_whole_experiment_small(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--config", str(folder / "tiny.toml"), "--data", str(folder), "--seeds", "2", "--work", str(folder / "work"),
        "--docs", str(folder / "docs"), "--device", "cpu",
    ]  # fmt: skip
    main(arguments)
    assert capsys.readouterr().out.count("scoring") == 2 * len(SPLITS)
    document = json.loads((folder / "docs" / "results" / "tiny.json").read_text())
    assert [(one["seed"], one["split_by"]) for one in document["results"]] == [
        (seed, split_by) for seed in range(2) for split_by in SPLITS
    ]
    for result in document["results"]:
        assert result["num_train"] + result["num_validation"] == 90
        assert 27 <= result["num_validation"] <= 30
        assert len(result["history"]) == 4
        # Six classes, macro and pooled, in both modes, with and without the leak.
        assert len(result["aurocs"]) == len(SCORES) * 8 * len(MODES) * 2
        by_leak = {row["leak"]: row["num_normal"] for row in result["aurocs"]}
        assert by_leak == {False: result["num_validation"], True: 90}, "all nevi leak here"
    page = (folder / "docs" / "results.md").read_text()
    assert "## The paper's model\n\nNot run yet" in page
    assert "## A smaller model (tiny), not the paper's" in page
    assert page.count("| **vae_reconst** |") == len(SPLITS) * len(MODES) + 1
    for picture in ("tiny-losses.png", "tiny-roc-image.png", "tiny-roc-lesion.png"):
        assert f"results/{picture}" in page
        assert (folder / "docs" / "results" / picture).read_bytes().startswith(b"\x89PNG")
    (kept,) = (folder / "work").glob("tiny-*")
    assert (kept / "reconstructions.png").exists()

    (folder / "docs" / "results" / "tiny.notes.md").write_text("What explains it.\n")
    (kept / "lesion-1.json").unlink()
    main(arguments)
    assert capsys.readouterr().out.count("scoring") == 1, "what is there is not computed again"
    again = json.loads((folder / "docs" / "results" / "tiny.json").read_text())
    for one, other in zip(again["results"], document["results"], strict=True):
        assert one["aurocs"] == other["aurocs"]
    assert (folder / "docs" / "results.md").read_text().endswith("What explains it.\n")


def test_a_missing_file_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / data.LESIONS).unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["--config", str(folder / "tiny.toml"), "--data", str(folder)])
    assert f"{data.LESIONS} is missing: --data names the folder" in capsys.readouterr().err


def test_only_the_paper_s_settings_make_its_experiment() -> None:
    model, train = ModelSettings(), TrainSettings()
    assert Experiment("any name", model, train, num_seeds=1).is_papers
    for changes in ({"num_epochs": 39}, {"precision": "bfloat16"}, {"beta": 0.01}):
        assert not Experiment("paper", model, train.model_copy(update=changes), num_seeds=1).is_papers
    assert not Experiment("paper", ModelSettings(image_size=64), train, num_seeds=1).is_papers


def test_a_cell_is_apart_by_the_errors_of_both_sides() -> None:
    cell = Cell(mean=0.80, between_seeds=0.01, between_draws=0.02, num_seeds=5)
    # hypot(0.01 / sqrt(5), hypot(0.01, 0.02) / sqrt(5)) = 0.011
    assert cell.is_apart(0.80 + 0.023)
    assert not cell.is_apart(0.80 - 0.021)
