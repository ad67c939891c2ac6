"""A run's record follows the job, and never holds it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skinvae.errors import InputError, Interrupted
from skinvae.images.decode import DecodeSettings
from skinvae.pipelines import recorder as recorder_module
from skinvae.pipelines import run_recording
from skinvae.pipelines.committing import Committer
from skinvae.pipelines.run_recording import RunRecorder
from skinvae.pipelines.slice_job import SliceJob
from skinvae.pipelines.slicing import OpenedArchive
from skinvae.storage.filesystem import Location
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.run_records import Heartbeat, RunState, planned_archives, read_runs
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.sources import open_source
from tests.unit.storage.rows import slice_id, write


@pytest.fixture
def table(tmp_path: Path) -> ScoreTable:
    return ScoreTable.open_or_create(Location.parse(str(tmp_path / "table")))


@pytest.fixture
def opened(tmp_path: Path) -> OpenedArchive:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"a")
    return OpenedArchive(*open_source(Location.parse(f"{tmp_path}/images"), max_bytes=100))


def recorder(table: ScoreTable, committer: Committer, *opened: OpenedArchive) -> RunRecorder:
    job = SliceJob(
        run_id="run-1",
        scoring_id="cccc",
        preparation=Preparation(image_size=32, preprocessing_version="1", decode=DecodeSettings()),
        max_seconds=1.0,
        table=table.location,
        provenance={},
        verb="score",
    )
    return RunRecorder(job, opened, committer, slice_size=10, images_column=None)


def committer(table: ScoreTable) -> Committer:
    return Committer(table, provenance={}, seconds=1.0)


def sign_of(table: ScoreTable) -> Heartbeat:
    (run,) = read_runs(table.location)
    assert run.heartbeat is not None
    return run.heartbeat


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_plan_and_heartbeats_are_there_while_the_job_runs(table: ScoreTable, opened: OpenedArchive) -> None:
    counting = committer(table)
    with recorder(table, counting, opened):
        eventually(lambda: any(run.heartbeat for run in read_runs(table.location)))
        assert sign_of(table).state is RunState.RUNNING
        (run,) = read_runs(table.location)
        assert run.plan is not None
        assert (run.plan.verb, run.plan.slice_size) == ("score", 10)
        planned = planned_archives(table.location, [run], scoring_id="cccc")
        assert [(one.uri, one.num_members) for one in planned.values()] == [(opened.source.uri, 1)]
        counting.add(write(table.location, slice_id(0, 14)))
        counting.flush()
        counting.adopt([write(table.location, slice_id(14, 21))])
        eventually(lambda: sign_of(table).num_rows == 21)  # long before the next beat
    last = sign_of(table)
    assert last.state is RunState.DONE
    assert (last.made, last.adopted) == ({"ok": 12, "truncated": 2}, {"ok": 6, "truncated": 1})


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (Interrupted("stopped"), RunState.INTERRUPTED, "stopped"),
        (KeyboardInterrupt(), RunState.INTERRUPTED, "KeyboardInterrupt"),
        (InputError("no access"), RunState.FAILED, "no access"),
        (ZeroDivisionError("secret"), RunState.FAILED, "ZeroDivisionError"),
    ],
)
def test_the_last_sign_says_how_the_job_ended(
    table: ScoreTable, error: BaseException, state: RunState, message: str
) -> None:
    with pytest.raises(type(error)), recorder(table, committer(table)):
        raise error
    assert (sign_of(table).state, sign_of(table).message) == (state, message)


def test_a_record_that_cannot_be_written_ends_no_job(table: ScoreTable, capsys: pytest.CaptureFixture[str]) -> None:
    Path(table.location.uri, "_skinvae").write_text("a file where the folder would be")
    started = time.monotonic()
    with recorder(table, committer(table)):
        pass
    assert time.monotonic() - started < 2
    assert capsys.readouterr().err.count("will not see this run") == 1


def test_a_write_that_hangs_holds_no_job_up(table: ScoreTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_recording, "write_heartbeat", lambda *_: time.sleep(60))
    monkeypatch.setattr(recorder_module, "_FAREWELL_SECONDS", 0.2)
    started = time.monotonic()
    with recorder(table, committer(table)):
        pass
    assert time.monotonic() - started < 2


def test_the_same_archives_are_listed_once_for_all_runs(table: ScoreTable, opened: OpenedArchive) -> None:
    for _ in range(3):
        with recorder(table, committer(table), opened):
            pass
    assert len(list(Path(table.location.uri).glob("_skinvae/archives/*.json"))) == 1
