"""score --retry: just the rows of the named rejects are replaced, in one commit, whatever stops it on the way."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from skinvae.errors import Interrupted, UsageError
from skinvae.pipelines import retrying
from skinvae.pipelines.retrying import parse_statuses
from skinvae.pipelines.score import score
from skinvae.pipelines.stage_times import Stage
from skinvae.records import SCORE_SCHEMA, SCORES
from skinvae.storage.compaction import swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice
from tests.conftest import ArchiveFiles, config
from tests.pipelines.test_verify import verify

REJECTED = {3: "timeout", 4: "timeout", 30: "crashed", 31: "truncated", 70: "timeout", 100: "crashed"}
"""By member index, in several slices and both large files."""

AGAIN = frozenset({"timeout", "crashed"})


@pytest.fixture
def rejecting(table: str, tmp_path: Path) -> str:
    """The finished table's rows, some of them rejected as if a machine had been in trouble, in two large files."""
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(Path(table).glob("*.parquet"))]).to_pandas()
    bad = rows["member_index"].isin(REJECTED)
    rows.loc[bad, [*SCORES, "ess", "p_value"]] = np.nan
    rows.loc[bad, "status"] = rows.loc[bad, "member_index"].map(REJECTED)
    rows.loc[bad, "error"] = "a machine in trouble"
    location = Location.parse(str(tmp_path / "scores"))
    out = ScoreTable.open_or_create(location)
    for part in ((0, 32, 64), (64, 96, 108)):
        files = []
        for start, stop in pairwise(part):
            one = SliceId(rows["source_id"][0], rows["scoring_id"][0], start, stop)
            chosen = rows[rows["member_index"].between(start, stop - 1)].assign(slice_id=str(one), run_id="before")
            columns = [pa.Array.from_pandas(chosen[field.name], type=field.type) for field in SCORE_SCHEMA]
            its = pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)
            files.append(write_slice(location, one, its, provenance={"run_id": "before"}))
        out.commit_slices(files, provenance={})
        swap_slices_for_parts(out, provenance={}, write_all=lambda parts: [write_part(location, one) for one in parts])
    return location.uri


def read(uri: str) -> pd.DataFrame:
    """What readers of plain Parquet and of Delta see alike, by member."""
    plain = pd.read_parquet(uri).set_index("member").sort_index()
    pd.testing.assert_frame_equal(plain, DeltaTable(uri).to_pandas().set_index("member").sort_index()[plain.columns])
    return plain


def assert_retried(uri: str, reference: str) -> None:
    found, expected = read(uri), read(reference)
    assert Counter(found["status"]) == {"ok": len(expected) - 1, "truncated": 1}
    good = found["status"] == "ok"
    for name in (*SCORES, "ess", "p_value"):
        np.testing.assert_allclose(found.loc[good, name], expected.loc[good, name], rtol=1e-6, err_msg=name)
    again = found["member_index"].isin([index for index, status in REJECTED.items() if status in AGAIN])
    pd.testing.assert_frame_equal(
        found.loc[good & ~again, list(SCORES)], expected.loc[good & ~again, list(SCORES)], check_exact=True
    )
    assert (found.loc[~again, "run_id"] == "before").all(), "no other row is touched"
    assert (found.loc[again, "run_id"] != "before").all()
    assert not list(Path(uri, "_retries").rglob("*.parquet"))
    table = ScoreTable.open(Location.parse(uri))
    source_ids = set(found["source_id"])
    assert table.count_by_status(found["scoring_id"].iloc[0], source_ids=source_ids) == Counter(found["status"])
    assert not verify(uri).differences


def test_just_the_named_rejects_are_replaced_in_one_commit(
    rejecting: str, table: str, model: str, archive: ArchiveFiles
) -> None:
    before = DeltaTable(rejecting).version()
    summary = score([archive.zip], model=model, table=rejecting, config=config(), retry_statuses=AGAIN)
    assert summary.num_images == 0
    assert summary.retried == {"ok": 5}
    assert summary.usage.of(Stage.SCORE) > 0, "what was tried again is in the figures"
    assert 0 < summary.usage.seconds_to_first < summary.usage.run_seconds
    assert summary.in_table == {"ok": len(archive.members()) - 1, "truncated": 1}
    assert DeltaTable(rejecting).version() == before + 1
    assert_retried(rejecting, table)
    again = score([archive.zip], model=model, table=rejecting, config=config(), retry_statuses=AGAIN)
    assert again.retried == {}
    assert DeltaTable(rejecting).version() == before + 1


@pytest.mark.parametrize("stage", ["replace_parts", "rewritten"])
def test_a_stopped_retry_goes_on_where_it_was(
    rejecting: str, table: str, model: str, archive: ArchiveFiles, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Stopped when all is scored again; and when the large files are rewritten, but not yet swapped."""
    really_replace = retrying.replace_parts

    def stopped(*arguments: object, **options: object) -> None:
        if stage == "rewritten":
            monkeypatch.setattr(ScoreTable, "commit", raise_interrupt)
            really_replace(*arguments, **options)
        raise_interrupt()

    def raise_interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(retrying, "replace_parts", stopped)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            score([archive.zip], model=model, table=rejecting, config=config(), retry_statuses=AGAIN)
    monkeypatch.undo()
    scored_before = set(Path(rejecting, "_retries").rglob("_slices/*.parquet"))
    assert scored_before
    assert Counter(DeltaTable(rejecting).to_pandas()["status"])["timeout"] == 3, "nothing is replaced yet"

    def scores_nothing(*_: object) -> None:
        raise AssertionError("what was scored again is not scored once more")

    monkeypatch.setattr("skinvae.pipelines.completing._decoded", scores_nothing)
    score([archive.zip], model=model, table=rejecting, config=config(), retry_statuses=AGAIN)
    assert_retried(rejecting, table)


@pytest.mark.parametrize("statuses", [AGAIN, AGAIN | {"missing"}], ids=["the same", "another"])
def test_two_retries_at_once_replace_each_row_once(
    rejecting: str,
    table: str,
    model: str,
    archive: ArchiveFiles,
    monkeypatch: pytest.MonkeyPatch,
    statuses: frozenset[str],
) -> None:
    """The other, by the same command or another, comes first with everything, between our scoring and our swap."""
    really_replace, overtaken = retrying.replace_parts, []

    def overtake(*arguments: object, **options: object) -> list[str]:
        if not overtaken:
            overtaken.append(True)
            score([archive.zip], model=model, table=rejecting, config=config(), retry_statuses=statuses)
        replaced: list[str] = really_replace(*arguments, **options)
        return replaced

    monkeypatch.setattr(retrying, "replace_parts", overtake)
    summary = score([archive.zip], model=model, table=rejecting, config=config(), retry_statuses=AGAIN)
    assert summary.retried == {}, "the other's"
    assert_retried(rejecting, table)


def test_reasons_are_checked_before_anything_is_done() -> None:
    assert parse_statuses("timeout, crashed") == AGAIN
    for text in ("ok", "timeout,late", ""):
        with pytest.raises(UsageError, match=re.compile(r"--retry: '.*' is no reason .* timeout, crashed")):
            parse_statuses(text)
