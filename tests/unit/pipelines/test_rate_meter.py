"""The rate is that of the last half minute, so the ETA follows what the job does now."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.pipelines.progress import RateMeter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_steady_speed_is_found_from_the_second_report_on() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    assert meter.update(12) == 0.0
    for second in range(1, 200):
        clock.now = 1000.0 + second
        assert meter.update(12 * (second + 1)) == pytest.approx(12)


def test_neither_a_slow_start_nor_what_was_done_before_counts() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    clock.now += 100
    assert meter.update(0) == 0.0
    clock.now += 100
    assert meter.update(5000) == 0.0, "taken over from an earlier run"
    for second in range(1, 32):
        clock.now += 1
        assert meter.update(5000 + 50 * second) == pytest.approx(50)


def test_a_job_that_stands_still_says_so() -> None:
    clock = Clock()
    meter = RateMeter(clock)
    meter.update(1)
    clock.now += 10
    assert meter.update(1001) == 100.0
    for _ in range(40):
        clock.now += 1
        rate = meter.update(1001)
    assert rate == 0.0


def test_no_time_gives_no_rate() -> None:
    assert RateMeter(Clock()).update(5) == 0.0


@settings(deadline=None)
@given(steps=st.lists(st.tuples(st.floats(0.01, 60), st.integers(0, 1000)), min_size=1, max_size=100))
def test_the_rate_is_never_negative_nor_faster_than_the_fastest_step(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    meter = RateMeter(clock)
    done, fastest = 0, 0.0
    for seconds, amount in steps:
        clock.now += seconds
        done += amount
        fastest = max(fastest, amount / seconds)
        assert 0 <= meter.update(done) <= fastest * (1 + 1e-6)
