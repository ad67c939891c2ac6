"""The ProgressActor's counts: what is done, and how often each slice was begun, whatever died in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skinvae.logs import note, tell
from skinvae.pipelines.progress import ProgressActor


def done(progress: ProgressActor) -> int:
    return progress.state(0)[0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 9), max_size=3), st.booleans()), max_size=30))
def test_a_slice_that_is_begun_again_starts_from_nothing(attempts: list[tuple[str, list[int], bool]]) -> None:
    """Each attempt is begun, gets some way, and ends or dies; the last of each slice is what counts."""
    progress = ProgressActor()
    done_of: dict[str, int] = {}
    in_vain: dict[str, int] = {}
    for slice_id, amounts, ends in attempts:
        assert progress.begin(slice_id) == in_vain.get(slice_id, 0) + 1
        for amount in amounts:
            progress.advance_slice(slice_id, amount)
        done_of[slice_id] = sum(amounts)
        in_vain[slice_id] = 0 if ends else in_vain.get(slice_id, 0) + 1
        if ends:
            progress.end(slice_id)
    assert done(progress) == sum(done_of.values())
    assert progress.num_reattempted() == len(attempts) - len(done_of)


def test_an_actor_that_was_lost_takes_what_comes() -> None:
    """It starts empty, in the middle of slices that it knows nothing of."""
    progress = ProgressActor()
    progress.advance_slice("a", 3)
    progress.end("b")
    progress.advance(4)
    assert done(progress) == 7
    assert progress.begin("c") == 1


def test_slices_wait_are_taken_up_and_end() -> None:
    progress = ProgressActor()
    progress.decoded("a", 100)
    progress.decoded("b", 20)
    assert (progress.sample().num_waiting, progress.sample().num_in_progress) == (2, 0)
    progress.begin("a")
    progress.begin("c")  # its decoding is told by another process, and later
    progress.decoded("c", 3)
    assert (progress.sample().num_waiting, progress.sample().num_in_progress) == (1, 2)
    progress.end("a")
    progress.decoded("a", 100)  # once more, for a node that was lost
    assert (progress.sample().num_waiting, progress.sample().num_in_progress) == (1, 1)
    assert progress.sample().num_bytes == 223
    assert progress.num_reattempted() == 0


def test_a_slice_that_is_begun_again_is_told_to_machines() -> None:
    progress = ProgressActor()
    progress.note("no more TensorBoard logs")
    progress.begin("a")
    progress.begin("a")
    _, _, (noted, line) = progress.state(0)
    assert (noted.message, noted.how) == ("no more TensorBoard logs", note)
    assert (line.event, line.fields, line.how) == ("slice_begun_again", {"slice_id": "a", "num_begun": 2}, tell)
