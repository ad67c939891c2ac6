"""What docs/operations.md tells operators to do, done."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from skinvae.audit.status import read_status
from skinvae.audit.verification import verify_table
from skinvae.pipelines.score import score
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice
from tests.conftest import ArchiveFiles, config
from tests.fast_scorer import fast_scorer

GUIDE = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")


def delete_as_the_guide_says(table: str, *scoring_ids: str) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)
    ours = f"place, doomed = {table!r}, {set(scoring_ids)!r}"
    filled, number = re.subn(r"^place, doomed = .*$", ours, script, flags=re.MULTILINE)
    assert number == 1
    exec(compile(filled, "docs/operations.md", "exec"), {})


def differences(table: str) -> list[str]:
    found = verify_table(Location.parse(table), settings=StorageSettings(), with_archives=True, on_step=lambda *_: None)
    return [sentence for one in found.differences for sentence in one.examples]


@pytest.fixture
def two_scorings(model: str, archive: ArchiveFiles, tmp_path: Path) -> tuple[str, list[str]]:
    """A table with one scoring for each of two seeds, as two models would leave it; and their ids in order."""
    table = str(tmp_path / "scores")
    scoring_ids = []
    for seed in (0, 1):
        score([archive.zip], model=model, table=table, config=config(seed=seed), make_scorer=fast_scorer())
        rows = pd.read_parquet(table, columns=["scoring_id"])
        scoring_ids += sorted(set(rows["scoring_id"]) - set(scoring_ids))
    return table, scoring_ids


def test_a_deleted_scoring_is_gone_and_can_be_made_anew(
    two_scorings: tuple[str, list[str]], model: str, archive: ArchiveFiles
) -> None:
    table, (old, new) = two_scorings
    before = pd.read_parquet(table)
    delete_as_the_guide_says(table, old)

    left = pd.read_parquet(table)
    assert set(left["scoring_id"]) == {new}
    kept = before[before["scoring_id"] == new]
    pd.testing.assert_frame_equal(_ordered(left), _ordered(kept))
    assert len(DeltaTable(table).to_pandas()) == len(kept)
    assert [one.scoring_id for one in read_status(Location.parse(table)).scorings] == [new]
    assert differences(table) == []
    # Nothing in storage holds its rows, whatever a reader looks at.
    files = [path for path in Path(table).rglob("*.parquet") if "split" not in path.name]
    assert all(old not in set(pd.read_parquet(path)["scoring_id"]) for path in files)

    score([archive.zip], model=model, table=table, config=config(seed=0), make_scorer=fast_scorer())
    again = pd.read_parquet(table)
    columns = [name for name in before if name not in ("run_id", "scored_at")]
    pd.testing.assert_frame_equal(_ordered(again)[columns], _ordered(before)[columns])
    assert differences(table) == []


def test_a_file_of_two_scorings_is_not_torn(tmp_path: Path) -> None:
    location = Location.parse(str(tmp_path))
    table = ScoreTable.open_or_create(location)
    old, new = (SliceId("a" * 16, letter * 16, 0, 4) for letter in "bc")
    table.commit_slices([write_slice(location, one, _rows(one), provenance={}) for one in (old, new)], provenance={})
    swap_slices_for_parts(table, provenance={}, write_all=lambda parts: [write_part(location, one) for one in parts])
    before = pd.read_parquet(tmp_path)
    with pytest.raises(SystemExit, match=f"nothing was deleted: .* also holds rows of {new.scoring_id}"):
        delete_as_the_guide_says(str(tmp_path), old.scoring_id)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path), before)
    delete_as_the_guide_says(str(tmp_path), old.scoring_id, new.scoring_id)
    assert DeltaTable(tmp_path).file_uris() == []
    assert not list(tmp_path.rglob("*.parquet"))


def _rows(slice_id: SliceId) -> pa.Table:
    """Rows of the slice as far as files of a table are concerned: its keys, and nothing else that is true."""
    length = slice_id.stop - slice_id.start
    ids = {"source_id": slice_id.source_id, "scoring_id": slice_id.scoring_id, "slice_id": str(slice_id)}
    columns = []
    for field in SCORE_SCHEMA:
        value = ids.get(field.name, "ok" if field.name == "status" else None)
        filler = "x" if pa.types.is_string(field.type) else 1
        columns.append(pa.array([filler if value is None else value] * length).cast(field.type))
    return pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["scoring_id", "member_index"]).reset_index(drop=True)
