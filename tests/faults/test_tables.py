"""A table's commits and its log on a bad day of S3: nothing committed twice, nothing lost, denials named at once."""

from __future__ import annotations

import math

import pytest

from skinvae.errors import TableError
from skinvae.storage.compaction import delete_expired_slices, swap_slices_for_parts, write_part
from skinvae.storage.filesystem import Location
from skinvae.storage.retries import take_retries
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceFile
from skinvae.storage.slices import write_slice
from tests.fault_proxy import Traffic
from tests.faults_to_inject import (
    BROKEN_OFF,
    CONFLICT,
    CONFLICT_NOW,
    DENIED,
    EXISTS,
    EXISTS_NOW,
    EXPIRED,
    INTERNAL_ERROR,
    RESET_AFTER,
    RESET_BEFORE,
    SHORTENED,
    SLOW_DOWN,
    At,
    Fault,
    NoFaults,
    RandomFaults,
)
from tests.unit.storage.rows import PROVENANCE, rows_of, slice_id

COMMIT = r"^PUT .*/_delta_log/0*[1-9]\d*\.json$"
LOST_BEHIND_EFFECT = [RESET_AFTER, EXISTS_NOW, CONFLICT_NOW, Fault("500, written", code=(500, "InternalError"))]
LOST_BEFORE_EFFECT = [SLOW_DOWN, INTERNAL_ERROR, RESET_BEFORE, EXISTS, CONFLICT]
ids = {"ids": lambda one: getattr(one, "name", None)}


def written(folder: Location, index: int) -> SliceFile:
    one = slice_id(index * 3, index * 3 + 3)
    return write_slice(folder, one, rows_of(one), provenance=PROVENANCE)


@pytest.mark.parametrize("fault", [*LOST_BEHIND_EFFECT, *LOST_BEFORE_EFFECT], **ids)
def test_a_commit_takes_effect_once_and_counts_as_ours(traffic: Traffic, folder: Location, fault: Fault) -> None:
    table = ScoreTable.open_or_create(folder)
    files = [written(folder, index) for index in range(3)]
    for file in files:
        traffic.faults = At(COMMIT, fault)
        assert table.commit_slices([file], provenance=PROVENANCE) == [file]
        assert traffic.count_faults()[fault.name] > 0
    traffic.faults = NoFaults()
    seen = ScoreTable.open(folder)
    assert seen.version == 3
    assert sorted(seen.live_slices()) == [file.slice_id for file in files]
    assert seen.read(["image_id"]).num_rows == 9


def test_a_write_whose_answer_is_lost_is_adopted(traffic: Traffic, folder: Location) -> None:
    traffic.faults = At("^PUT .*/_slices/", RESET_AFTER)
    file = written(folder, 0)
    assert traffic.count_faults() == {"reset after": 1}
    assert file == written(folder, 0)


@pytest.mark.parametrize("fault", [BROKEN_OFF, SHORTENED, RESET_BEFORE, SLOW_DOWN], **ids)
@pytest.mark.parametrize("pattern", [r"^GET .*/_delta_log/.*json", r"^GET /tests/?$"], ids=["log", "listing"])
def test_a_log_that_comes_in_parts_is_read_again(
    traffic: Traffic, folder: Location, fault: Fault, pattern: str
) -> None:
    table = ScoreTable.open_or_create(folder)
    table.commit_slices([written(folder, 0)], provenance=PROVENANCE)
    traffic.faults = At(pattern, fault)
    assert ScoreTable.open(folder).live_slices() == table.live_slices()
    assert traffic.count_faults() == {fault.name: 1}


@pytest.mark.slow
def test_many_commits_bear_what_a_whole_job_must(traffic: Traffic, folder: Location) -> None:
    table = ScoreTable.open_or_create(folder)
    traffic.faults = RandomFaults(5, slow_down=0.3, resets=0.05, truncated=0.02, broken_off_only="_delta_log")
    take_retries()
    for index in range(12):
        file = written(folder, index)
        assert table.commit_slices([file], provenance=PROVENANCE) == [file]
    assert take_retries() > 0
    # deltalake takes a shortened body for whole: of a log it then reads less, of Parquet it finds no footer.
    traffic.faults = RandomFaults(6, slow_down=0.3, resets=0.05, truncated=0.02, broken_off_only="")
    assert len(ScoreTable.open(folder).live_slices()) == 12
    assert ScoreTable.open(folder).read(["image_id"]).num_rows == 36


@pytest.mark.parametrize(("fault", "says"), [(DENIED, ""), (EXPIRED, r" \(ExpiredToken\)")], **ids)
def test_denials_fail_at_once_with_place_and_action(
    traffic: Traffic, folder: Location, fault: Fault, says: str
) -> None:
    denied = rf"'{folder}': access denied{says}; check the permissions or credentials$"
    table = ScoreTable.open_or_create(folder)
    file = written(folder, 0)
    traffic.faults = At("", fault, times=math.inf)
    for action, call in {
        "commit to": lambda: table.commit_slices([file], provenance=PROVENANCE),
        "read the log of": table.reload,
        "open the score table": lambda: ScoreTable.open(folder),
    }.items():
        traffic.exchanges.clear()
        with pytest.raises(TableError, match=rf"^cannot {action} {denied}"):
            call()
        assert len(traffic.exchanges) <= 2
    traffic.faults = At(COMMIT, fault, times=math.inf)
    with pytest.raises(TableError, match=rf"^cannot commit to {denied}"):
        table.commit_slices([file], provenance=PROVENANCE)
    traffic.faults = NoFaults()
    assert table.commit_slices([file], provenance=PROVENANCE) == [file]


def test_what_may_not_be_deleted_stays_and_is_noted(traffic: Traffic, folder: Location) -> None:
    table = ScoreTable.open_or_create(folder)
    table.commit_slices([written(folder, 0)], provenance=PROVENANCE)
    swap_slices_for_parts(
        table, provenance=PROVENANCE, write_all=lambda parts: [write_part(folder, one) for one in parts]
    )
    traffic.faults = At("^DELETE", DENIED, times=math.inf)
    assert delete_expired_slices(table, retention_seconds=0) == 1
    assert table.undeleted == [slice_id(0, 3).path]
    assert (folder / slice_id(0, 3).path).exists()
    traffic.faults = NoFaults()
    traffic.exchanges.clear()
    assert delete_expired_slices(table, retention_seconds=0) == 1
    assert len(traffic.matching("_slices/.*parquet")) == 1, "100,000 slices leave in so many requests"
    assert not (folder / slice_id(0, 3).path).exists()


def test_a_lasting_failure_ends_with_place_and_reason(
    traffic: Traffic, folder: Location, impatient: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skinvae.storage.filesystem.MAX_ATTEMPTS", impatient)
    table = ScoreTable.open_or_create(folder)
    traffic.faults = At("^GET", RESET_BEFORE, times=math.inf)
    with pytest.raises(TableError, match=r"^cannot open the score table '.*': .*Generic S3 error \(Connection reset"):
        ScoreTable.open(folder)
    traffic.faults = At("^GET", SLOW_DOWN, times=math.inf)
    with pytest.raises(TableError, match=rf"^cannot read the log of '{folder}': .*\(SlowDown\); run again$"):
        table.reload()
