"""An export is complete once it says so, and one that was killed is begun anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skinvae.errors import JobError, UsageError
from skinvae.storage.export import Export
from skinvae.storage.filesystem import Location

SCHEMA = pa.schema([pa.field("number", pa.int64(), metadata={"meaning": "counts", "unit": "sheep"})])


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(numbers)], schema=SCHEMA)


def started(folder: Path, **changes: object) -> Export:
    return Export(Location.parse(str(folder)), SCHEMA, **{"format_": "parquet", "about": {"table": "t"}, **changes})


def test_it_is_complete_once_it_says_so(tmp_path: Path) -> None:
    one = started(tmp_path / "out")
    assert (tmp_path / "out" / "_unfinished.json").exists()
    one.add(batch(1, 2))
    assert not (tmp_path / "out" / "_export.json").exists()
    one.finish(why="a test")
    document = json.loads((tmp_path / "out" / "_export.json").read_text())
    assert document == {
        "table": "t",
        "why": "a test",
        "num_rows": 2,
        "files": ["export-00000.parquet"],
        "columns": {"number": {"meaning": "counts", "unit": "sheep", "type": "int64"}},
    }
    assert pq.read_table(tmp_path / "out" / "export-00000.parquet")["number"].to_pylist() == [1, 2]
    assert not (tmp_path / "out" / "_unfinished.json").exists()


def test_without_rows_the_columns_are_told_all_the_same(tmp_path: Path) -> None:
    started(tmp_path / "parquet").finish()
    assert pq.read_schema(tmp_path / "parquet" / "export-00000.parquet").names == ["number"]
    started(tmp_path / "csv", format_="csv").finish()
    assert (tmp_path / "csv" / "export-00000.csv").read_text() == '"number"\n'


def test_one_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    """By SIGKILL, behind its second file."""
    script = f"""
import os, signal
from tests.unit.storage.test_export import batch, started
import skinvae.storage.export as module
from pathlib import Path
module._GROUP_ROWS = 1
one = started(Path({str(tmp_path / "out")!r}), file_bytes=1)
one.add(batch(1))
one.add(batch(2))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=os.getcwd(), check=False)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["_unfinished.json", "export-00000.parquet", "export-00001.parquet"]
    again = started(tmp_path / "out")
    again.add(batch(3))
    again.finish()
    assert pq.read_table(tmp_path / "out")["number"].to_pylist() == [3]


def test_of_two_at_once_the_first_gives_up(tmp_path: Path) -> None:
    first = started(tmp_path / "out")
    second = started(tmp_path / "out")
    first.add(batch(1))
    with pytest.raises(JobError, match=r"another export to '.*' began"):
        first.finish()
    second.add(batch(2))
    second.finish()
    with pytest.raises(JobError, match=r"another export to '.*' began"):
        first.finish()
    assert pq.read_table(tmp_path / "out")["number"].to_pylist() == [2]


@pytest.mark.parametrize("name", ["notes.txt", "export-00000.parquet", "deeper/_unfinished.json"])
def test_what_it_did_not_write_it_does_not_touch(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        started(tmp_path)
    (tmp_path / "_unfinished.json").write_text("{}")
    if not name.startswith("export"):
        with pytest.raises(UsageError, match="is not empty"):
            started(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
