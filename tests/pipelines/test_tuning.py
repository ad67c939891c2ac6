"""What a job leaves open is settled by its machines: the precision once for a table, the slice size by speed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from deltalake import DeltaTable

from skinvae.errors import JobError, UsageError
from skinvae.model.precision import fastest_precision
from skinvae.pipelines import tuning
from skinvae.pipelines.score import score
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from tests.conftest import ArchiveFiles, config
from tests.fast_scorer import fast_scorer


def slice_sizes(table: str) -> list[int]:
    """Members of each slice of a table, as its commits name them."""
    slices = ScoreTable.open_if_exists(Location.parse(table))
    assert slices is not None
    return [one.stop - one.start for one in slices.live_slices()]


def test_by_default_the_machine_s_fastest_precision(
    model: str,
    archive: ArchiveFiles,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "NOT_WORTH_MEASURING", 0)
    table = str(tmp_path / "scores")
    summary = score([archive.zip], model=model, table=table, config=config(precision="auto", slice_size=0))
    fastest = fastest_precision(torch.device("cpu"))
    assert set(pd.read_parquet(table)["precision"]) == {fastest}
    assert f"images/s in {fastest}: slices of " in capfd.readouterr().err
    # So small a model scores the archive in no time: the actors' need for several slices each decides.
    sizes = slice_sizes(table)
    assert sum(sizes) == summary.num_members
    assert max(sizes) <= max(tuning.MIN_SLICE_SIZE, summary.num_members // tuning.SLICES_PER_ACTOR)


def test_a_table_goes_on_in_the_precision_it_was_begun_in(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    """float64, which no machine is fastest in."""
    table, pictures = str(tmp_path / "scores"), tmp_path / "pictures"
    pictures.mkdir()
    for name, data in list(archive.members().items())[:3]:
        (pictures / Path(name).name).write_bytes(data)
    score([archive.zip], model=model, table=table, config=config(precision="float64"))
    by_default = config(precision="auto", slice_size=0)
    version = DeltaTable(table).version()
    assert score([archive.zip], model=model, table=table, config=by_default).num_images == 0
    assert DeltaTable(table).version() == version
    assert score([str(pictures)], model=model, table=table, config=by_default).num_images == 3
    rows = pd.read_parquet(table)
    assert set(rows["precision"]) == {"float64"}
    assert rows["scoring_id"].nunique() == 1


def test_slow_scoring_makes_small_slices(
    model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "NOT_WORTH_MEASURING", 0)
    monkeypatch.setattr(tuning, "MIN_SLICE_SIZE", 1)
    table = str(tmp_path / "scores")
    # Five images in a tenth of a second, at most: two batches of two, or one on a busy machine.
    slow = fast_scorer(seconds_per_image=0.02)
    settings = config(precision="float32", slice_size=0, batch_size=2)
    monkeypatch.setattr(tuning, "SLICE_SECONDS", 0.1)
    score([archive.zip], model=model, table=table, config=settings, make_scorer=slow)
    assert set(slice_sizes(table)[:-1]) <= {2, 4}


def test_tf32_without_a_gpu_is_refused_in_one_sentence(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tf32, which was asked for .* is a format of GPUs: add some to the cluster"):
        score([archive.zip], model=model, table=str(tmp_path / "scores"), config=config(precision="tf32"))


@pytest.mark.slow
def test_a_scorer_that_kills_its_process_is_left_to_the_job_to_judge(
    model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "NOT_WORTH_MEASURING", 0)
    recipe = fast_scorer(is_broken=True)
    with pytest.raises(JobError, match="a blank image"):
        score([archive.zip], model=model, table=str(tmp_path / "s"), config=config(slice_size=0), make_scorer=recipe)
