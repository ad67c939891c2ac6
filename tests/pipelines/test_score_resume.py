"""score after other drivers: whatever they wrote, committed or left half-done, every member has one row in the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from skinvae.config import build_config
from skinvae.errors import BundleError, InputError, UsageError
from skinvae.pipelines import completing
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.score import score
from skinvae.storage.commit_protocol import plan_parts
from skinvae.storage.compaction import write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceFile, SliceId
from skinvae.storage.slices import write_slice
from tests.conftest import SMALL, ArchiveFiles, config


class OtherDriver:
    """Writes and commits slices of the same archive and model, with the rows of a finished table."""

    def __init__(self, reference: str, table: str) -> None:
        self._rows = pa.concat_tables([pq.read_table(file) for file in sorted(Path(reference).glob("*.parquet"))])
        self._location = Location.parse(table)

    def write(self, start: int, stop: int) -> SliceFile:
        frame = self._rows.to_pandas()
        chosen = frame["member_index"].between(start, stop - 1).to_numpy()
        first = frame.iloc[0]
        slice_id = SliceId(first["source_id"], first["scoring_id"], start, stop)
        rows = self._rows.filter(pa.array(chosen))
        names = pa.array([str(slice_id)] * rows.num_rows, pa.string())
        index = rows.schema.get_field_index("slice_id")
        rows = rows.set_column(index, rows.schema.field(index), names)
        return write_slice(self._location, slice_id, rows, provenance={"driver": "other"})

    def commit(self, *files: SliceFile) -> None:
        ScoreTable.open_or_create(self._location).commit_slices(files, provenance={"driver": "other"})


def assert_complete(table: str, archive: ArchiveFiles) -> None:
    for rows in (pd.read_parquet(table), DeltaTable(table).to_pandas()):
        assert sorted(rows["member"]) == sorted(archive.members())


def test_a_driver_that_was_overtaken_and_outlived_completes_the_table(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While we score, another driver with other borders commits the middle, writes the rest and dies."""
    out = str(tmp_path / "scores")
    really_decoded = completing._decoded
    rounds = []

    def overtaken(*arguments: Any) -> Any:
        if not rounds:
            other = OtherDriver(table, out)
            other.commit(other.write(15, 45))
            other.write(0, 15)
            other.write(45, 108)
        rounds.append(1)
        return really_decoded(*arguments)

    monkeypatch.setattr(completing, "_decoded", overtaken)
    summary = score([archive.zip], model=model, table=out, config=config(slice_size=40))
    assert_complete(out, archive)
    assert summary.num_adopted + summary.num_images < len(archive.members()), "the middle is the other driver's"


def test_slices_written_but_never_committed_are_adopted_not_scored(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    other = OtherDriver(table, out)
    other.write(0, 108)
    summary = score([archive.zip], model=model, table=out, config=config())
    assert (summary.num_images, summary.num_adopted) == (0, len(archive.members()))
    assert_complete(out, archive)


def test_what_another_driver_writes_while_one_adopts_is_adopted_too(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes all that is left, and dies before its commit."""
    out = str(tmp_path / "scores")
    other = OtherDriver(table, out)
    other.write(0, 54)
    really_adopt = Committer.adopt

    def adopt(self: Committer, files: Sequence[SliceFile]) -> None:
        other.write(54, 108)
        really_adopt(self, files)

    monkeypatch.setattr(Committer, "adopt", adopt)
    summary = score([archive.zip], model=model, table=out, config=config())
    assert (summary.num_images, summary.num_adopted) == (0, len(archive.members()))
    assert_complete(out, archive)


def test_a_large_file_that_lost_is_cleaned_up_although_nothing_is_left_to_score(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    """Killed behind the swap's commit, before the cleaning: a part of fewer slices lies beside the one that won."""
    out = str(tmp_path / "scores")
    other = OtherDriver(table, out)
    first = other.write(0, 54)
    other.commit(first)
    lost = plan_parts(ScoreTable.open(Location.parse(out)).live_files())
    write_part(Location.parse(out), lost[0])
    score([archive.zip], model=model, table=out, config=config())
    assert_complete(out, archive)
    write_part(Location.parse(out), lost[0])
    assert len(pd.read_parquet(out)) > len(archive.members())
    score([archive.zip], model=model, table=out, config=config())
    assert_complete(out, archive)


def test_a_table_whose_creation_was_cut_short_is_created(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    (tmp_path / "scores" / "_delta_log").mkdir(parents=True)
    score([archive.zip], model=model, table=str(tmp_path / "scores"), config=config())
    assert_complete(str(tmp_path / "scores"), archive)


def test_an_altered_bundle_is_refused_before_anything_is_written(
    model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    altered = shutil.copytree(model, tmp_path / "model")
    weights = bytearray((altered / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "model.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match="was altered"):
        score([archive.zip], model=str(altered), table=f"{tmp_path}/scores", config=config())
    assert not (tmp_path / "scores").exists()


def test_archives_without_images_and_settings_without_effect_are_refused(
    model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="none of the 1 members"):
        score([f"{tmp_path}/texts"], model=model, table=f"{tmp_path}/scores", config=config())
    settings = build_config({**SMALL, "images": {"max_side": 100}})
    with pytest.raises(UsageError, match=r"images.max_side = 100 differs from the model's 16384"):
        score([archive.zip], model=model, table=f"{tmp_path}/scores", config=settings)
