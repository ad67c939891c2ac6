"""The clocks of workers: every second is charged to one stage, whatever threads do, and none twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.pipelines.stage_times import ActorClock, Stage, StageClock


class Hand:
    """The time, moved by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


def actor_clock(hand: Hand) -> ActorClock:
    return ActorClock(num_writes_at_once=2, now=hand)


def test_a_stage_within_another_counts_as_itself_alone() -> None:
    hand = Hand()
    clock = StageClock(hand)
    with clock.measured(Stage.DECODE):
        hand.move(1)
        with clock.measured(Stage.READ):
            hand.move(2)
        hand.move(4)
    hand.move(8)
    with clock.measured(Stage.DECODE):
        hand.move(16)
    assert clock.take() == {Stage.DECODE: 21, Stage.READ: 2}
    assert clock.take() == {}


def test_a_lazy_pipeline_is_charged_for_what_it_does_and_its_user_is_not() -> None:
    """Reading within decoding, as decode_slices nests them, with a decoder that reads ahead."""
    hand = Hand()
    clock = StageClock(hand)

    def reading() -> Iterator[int]:
        for number in range(3):
            hand.move(10)
            yield number
        hand.move(1)

    def decoding(numbers: Iterable[int]) -> Iterator[int]:
        for number in list(numbers):
            hand.move(100)
            yield number

    seen = []
    for number in clock.measured_items(Stage.DECODE, decoding(clock.measured_items(Stage.READ, reading()))):
        hand.move(1000)
        seen.append(number)
    assert seen == [0, 1, 2]
    assert clock.take() == {Stage.READ: 31, Stage.DECODE: 300}


def test_an_error_ends_its_stage() -> None:
    hand = Hand()
    clock = StageClock(hand)

    def failing() -> None:
        hand.move(1)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), clock.measured(Stage.READ):
        failing()
    hand.move(2)
    with clock.measured(Stage.DECODE):
        hand.move(4)
    assert clock.take() == {Stage.READ: 1, Stage.DECODE: 4}


def test_an_actor_starves_between_slices_and_neither_before_nor_behind_them() -> None:
    hand = Hand()
    clock = actor_clock(hand)
    hand.move(1)
    with clock.scoring():
        hand.move(2)
        with clock.loading():
            hand.move(4)
    assert clock.take() == {Stage.SCORE: 2, Stage.LOAD: 4}
    hand.move(8)
    with clock.scoring():
        hand.move(16)
    hand.move(32)
    assert clock.take() == {Stage.SCORE: 16, Stage.WAIT: 8}


def test_writing_beside_scoring_takes_no_time_from_it() -> None:
    hand = Hand()
    clock = actor_clock(hand)
    with clock.scoring():
        hand.move(1)
    with clock.writing():
        hand.move(2)
        with clock.scoring():
            hand.move(4)
        hand.move(8)
    with clock.scoring():
        hand.move(16)
    assert clock.take() == {Stage.SCORE: 21, Stage.WAIT: 10, Stage.WRITE: 14}


def test_an_actor_whose_calls_all_write_does_not_starve_but_is_held_up() -> None:
    hand = Hand()
    clock = actor_clock(hand)
    with clock.scoring():
        hand.move(1)
    with clock.writing():
        hand.move(2)
        with clock.writing():
            hand.move(4)
        hand.move(8)
    with clock.scoring():
        pass
    assert clock.take() == {Stage.SCORE: 1, Stage.WAIT: 10, Stage.HELD: 4, Stage.WRITE: 18}


@given(st.lists(st.tuples(st.sampled_from(["score", "end", "write", "written"]), st.integers(0, 9)), max_size=60))
def test_all_time_from_the_first_slice_to_the_last_is_charged_once(events: list[tuple[str, int]]) -> None:
    """Two calls in any order: at most one scores, at most two write."""
    hand = Hand()
    clock = actor_clock(hand)
    scoring: AbstractContextManager[None] | None = None
    writing: list[AbstractContextManager[None]] = []
    first = last = None
    for event, seconds in [*events, ("end", 0), ("written", 0), ("written", 0)]:
        hand.move(seconds)
        if event == "score" and scoring is None:
            scoring = clock.scoring()
            scoring.__enter__()
            first = hand.seconds if first is None else first
        elif event == "end" and scoring is not None:
            scoring.__exit__(None, None, None)
            scoring, last = None, hand.seconds
        elif event == "write" and len(writing) < 2:
            writing.append(clock.writing())
            writing[-1].__enter__()
        elif event == "written" and writing:
            writing.pop().__exit__(None, None, None)
    taken = clock.take()
    alive = sum(seconds for stage, seconds in taken.items() if stage is not Stage.WRITE)
    assert alive == (0 if first is None or last is None else last - first)


def test_threads_at_once_lose_nothing() -> None:
    hand = Hand()
    clock = actor_clock(hand)
    turn = threading.Lock()

    def work() -> None:
        for _ in range(500):
            with turn, clock.scoring():
                hand.move(1)
            with clock.writing():
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.take()[Stage.SCORE] == 2000
