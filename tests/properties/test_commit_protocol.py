"""The commit protocol under every order of events: no row is lost, none is there twice, none is seen uncommitted.

`python -m tests.properties.test_commit_protocol --steps 100000` tries more, and prints what it did.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, get_args

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from skinvae.storage import commit_protocol
from skinvae.storage.commit_protocol import Delete, Effect, ListParts, ReadReplaced, Steps, View
from skinvae.storage.slice_ids import SliceId
from tests.properties.model_store import (
    NUM_MEMBERS,
    REJECTED,
    RETENTION_MS,
    SCORING,
    SOURCES,
    Content,
    Driver,
    Life,
    ModelStore,
    ModelView,
    Version,
    retried,
    retrying_life,
    rows_of,
    scoring_life,
)

NUM_STEPS = 50
"""At most, of one history."""

MAX_DRIVERS = 3

GOOD_ROWS = sorted(retried(retried(row)) for source in SOURCES for row in rows_of(source, 0, NUM_MEMBERS))

ENDS = ["failed_before", "failed_after", "killed_before", "killed_after"]
"""How a stretch of a driver's life ends, at whatever effect it has come to."""


drivers = st.integers(0, MAX_DRIVERS - 1)
effects = st.sampled_from([one.__name__ for one in get_args(Effect)] + ["Work", "end"])


class TableHistory(RuleBasedStateMachine):
    """Up to three drivers with settings of their own on one table; any effect may fail, any driver may die."""

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_store()
        self.drivers: list[Driver] = []
        self.readers: list[tuple[int, Version]] = []
        self.contents: dict[str, Content] = {}
        self.num_versions_checked = 0

    def make_store(self) -> ModelStore:
        return ModelStore()

    @rule(
        sources=st.sampled_from([SOURCES[:1], SOURCES[1:], SOURCES]),
        slice_size=st.integers(1, 7),
        commit_every=st.integers(1, 4),
        part_bytes=st.integers(2, 20),
        life=st.sampled_from([scoring_life, retrying_life]),
    )
    def start_a_driver(self, life: Callable[..., Callable[[ModelView], Life]], **options: Any) -> None:
        self.drivers = [driver for driver in self.drivers if driver.is_alive]
        if len(self.drivers) < MAX_DRIVERS:
            self.drivers.append(Driver(self.store, life(self.store, **options)))
            self.count("drivers started")

    @precondition(lambda self: self.alive())
    @rule(which=drivers, until=effects)
    def go_on(self, which: int, until: str) -> None:
        self.advance(self.chosen(which), until)

    @precondition(lambda self: self.alive())
    @rule(which=drivers, until=effects, end=st.sampled_from(ENDS))
    def go_on_to_a_fault(self, which: int, until: str, end: str) -> None:
        driver = self.chosen(which)
        self.advance(driver, until)
        if driver.is_alive:
            self.count(f"{driver.next_effect} {end}")
            getattr(driver, end)()

    @rule(
        what=st.sampled_from(["late write", "reader", "time"]),
        source=st.sampled_from(SOURCES),
        number=st.integers(0, NUM_MEMBERS - 1),
    )
    def meanwhile(self, what: str, source: str, number: int) -> None:
        """A worker writes after its driver has died, a reader opens the table, or time passes."""
        self.count(what)
        if what == "late write":
            self.store.create_slice(SliceId(source, SCORING, number, min(number + 2, NUM_MEMBERS)))
        elif what == "reader":
            self.readers.append((self.store.now_ms, self.store.versions[-1]))
        else:
            self.store.now_ms += number % RETENTION_MS + 1

    @invariant()
    def what_readers_see(self) -> None:
        store = self.store
        for before, after in zip(
            store.versions[self.num_versions_checked :], store.versions[self.num_versions_checked + 1 :], strict=False
        ):
            rows = store.rows(after)
            assert len(rows) == len({row[:2] for row in rows}), "a row is there twice"
            kept = {row for path in before.files for row in self.contents[path].rows if row[2] not in REJECTED}
            keys_before = {row[:2] for path in before.files for row in self.contents[path].rows}
            assert set(rows) >= kept, "a row vanished"
            assert {row[:2] for row in rows} >= keys_before, "a row vanished"
            assert {row for row in rows if row[2] not in REJECTED} <= set(GOOD_ROWS), "a row has a wrong value"
            self.contents |= {path: store.files[path] for path in after.files}
        self.num_versions_checked = len(store.versions) - 1
        oldest = store.now_ms - RETENTION_MS
        self.readers = [(opened, version) for opened, version in self.readers if opened >= oldest]
        for _, version in [*self.readers, (store.now_ms, store.versions[-1])]:
            for path in version.files.keys() - store.retired:
                assert store.files.get(path) == self.contents[path], "a file was deleted or altered below a reader"

    def teardown(self) -> None:
        """Whatever went before: runs without a fault complete the table, and the next finds nothing to do."""
        self.run_to_the_end()
        keys = [row[:2] for row in self.store.rows(self.store.versions[-1])]
        assert keys == [row[:2] for row in GOOD_ROWS], "a row is missing"
        self.run_to_the_end()  # what was rejected twice
        num_versions = len(self.store.versions)
        rows = self.store.rows(self.store.versions[-1])
        assert rows == GOOD_ROWS, "a row is missing"
        plain = sorted(row for path, content in self.store.files.items() if "/" not in path for row in content.rows)
        assert plain == rows, "readers of plain Parquet see something else"
        self.run_to_the_end()
        assert len(self.store.versions) == num_versions
        self.count("histories")

    def run_to_the_end(self) -> None:
        life = retrying_life(self.store, sources=SOURCES, slice_size=5, commit_every=2, part_bytes=8)
        self.advance(Driver(self.store, life), "end")

    def alive(self) -> list[Driver]:
        return [driver for driver in self.drivers if driver.is_alive]

    def chosen(self, which: int) -> Driver:
        return self.alive()[which % len(self.alive())]

    def advance(self, driver: Driver, until: str) -> None:
        """On to the next effect of this name, or to the driver's end."""
        is_first = True
        while driver.is_alive and (is_first or driver.next_effect != until):
            is_first = False
            self.count(driver.next_effect)
            driver.step()
            self.what_readers_see()

    def count(self, what: str) -> None:
        type(self).counts[what] += 1


def check(machine: type[TableHistory], *, num_histories: int, is_random: bool = False, shrinks: bool = True) -> None:
    """Raises AssertionError with the shortest history found if a promise is broken."""
    options = settings(
        max_examples=num_histories,
        stateful_step_count=NUM_STEPS,
        deadline=None,
        derandomize=not is_random,
        phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)  # type: ignore[no-untyped-call]


def test_every_history_keeps_the_promises() -> None:
    check(TableHistory, num_histories=600)
    tried = {(effect, end) for effect, _, end in (name.partition(" ") for name in TableHistory.counts) if end in ENDS}
    assert tried >= {("Commit", end) for end in ENDS}
    assert {effect for effect, _ in tried} >= {"Work", "WriteParts", "ListSlices", "Delete"}


class BlindCommits(TableHistory):
    """Commits that take place whatever came before."""

    def make_store(self) -> ModelStore:
        return ModelStore(checks_version=False)


def delete_whatever_is_not_live(view: View) -> Steps[list[str]]:
    live = {file.path for file in view.live_files()}
    for path in (yield ListParts()):
        if path not in live:
            yield Delete((path,))
    return []


def delete_lost_parts_by_an_old_view(view: View) -> Steps[list[str]]:
    found = yield ListParts()
    live = {file.path for file in view.live_files()}
    for path in found:
        replaced = None if path in live else (yield ReadReplaced(path))
        if replaced is not None and not live.issuperset(replaced):
            yield Delete((path,))
    return []


really_delete_expired_slices = commit_protocol.delete_expired_slices


def delete_expired_slices_at_once(view: View, *, before_ms: int) -> Steps[int]:
    return really_delete_expired_slices(view, before_ms=2**62 + before_ms)


BROKEN = [
    pytest.param(BlindCommits, "PART_BYTES", int, id="blind-commits"),
    pytest.param(TableHistory, "without_overlap", lambda slice_ids, _: list(slice_ids), id="overlaps"),
    pytest.param(TableHistory, "delete_expired_slices", delete_expired_slices_at_once, id="no-retention"),
    pytest.param(TableHistory, "delete_lost_parts", delete_whatever_is_not_live, id="not-live", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("machine", "name", "broken"), BROKEN)
def test_a_broken_protocol_is_found(
    machine: type[TableHistory], name: str, broken: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_protocol, name, broken)
    with pytest.raises(AssertionError, match=r"a row|a file|see something else"):
        check(machine, num_histories=2000, shrinks=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="effects carried out or failed, at least")
    wanted = parser.parse_args().steps
    while num_steps(TableHistory.counts) < wanted:
        check(TableHistory, num_histories=500, is_random=True)
    print(
        f"{num_steps(TableHistory.counts):,} steps in {TableHistory.counts['histories']:,} histories; no promise broken"
    )
    for what, count in sorted(TableHistory.counts.items()):
        print(f"{count:>9,}  {what}")


def num_steps(counts: Counter[str]) -> int:
    """Effects of drivers, carried out or failed; and late writes."""
    return counts.total() - counts["histories"] - counts["reader"] - counts["time"] - counts["drivers started"]


if __name__ == "__main__":
    main()
