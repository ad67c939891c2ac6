"""The example notebook runs from top to bottom, and is kept without what it shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from sklearn.metrics import roc_auc_score

from tests.conftest import ArchiveFiles

NOTEBOOK = Path(__file__).parents[2] / "examples" / "scores.ipynb"


def executed(folder: Path) -> NotebookNode:
    """The notebook, run in a folder, with one more cell that prints the pooled AUROC; an error in a cell is raised."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(auroc(unseen))"))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def shown(notebook: NotebookNode) -> tuple[str, int]:
    """All text on stdout, and the number of pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    assert code
    assert not [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None]


def test_it_runs_on_a_finished_demo(model: str, table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    demo = tmp_path / "out" / "demo"
    (demo / "archive").mkdir(parents=True)
    shutil.copy(archive.zip, demo / "archive" / "images.zip")
    shutil.copy(archive.labels, demo / "archive" / "GroundTruth.csv")
    (demo / "evaluation").mkdir()
    (demo / "model").symlink_to(model)
    (demo / "scores").symlink_to(table)
    text, num_pictures = shown(executed(tmp_path))
    assert num_pictures == 2
    assert "106 images scored" in text
    *_, difference, pooled = text.splitlines()
    assert float(difference.split()[-1]) < 1e-6
    labels = pd.read_csv(archive.labels).set_index("image").idxmax(axis=1)
    rows = pd.read_parquet(table).set_index("image_id")
    split = pd.read_parquet(f"{model}/split.parquet").query("split == 'train'")
    rows = rows[~rows.index.isin(split["image_id"])]
    assert float(pooled) == pytest.approx(roc_auc_score(labels[rows.index] != "NV", rows["vae_reconst"]), abs=1e-12)


@pytest.mark.slow
def test_it_makes_the_demo_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINVAE_TRAIN__NUM_EPOCHS", "1")
    text, num_pictures = shown(executed(tmp_path))
    assert num_pictures == 2
    assert 0 < float(text.splitlines()[-1]) < 1
