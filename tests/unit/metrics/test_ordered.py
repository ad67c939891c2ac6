"""One pass over ordered scores gives what all scores at once give, however they are cut into chunks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinvae.metrics.auroc import POOLED
from skinvae.metrics.bootstrap import Sample
from skinvae.metrics.curve_bootstrap import bootstrap_curves
from skinvae.metrics.curves import average_precision
from skinvae.metrics.evaluation import estimate_targets
from skinvae.metrics.influence import influences
from skinvae.metrics.ordered import NUM_GROUPS, Chunk, grouped_variance, ordered_scores, whole_ties

SIZES = {"NV": 40, "MEL": 15, "DF": 9}


def drawn(*, seed: int, digits: int, sizes: dict[str, int] = SIZES, num_photos: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    lesion = np.arange(len(code)) // num_photos
    values = rng.normal(size=len(code)) + rng.normal(size=len(code))[lesion] + (code > 0)
    return pd.DataFrame({"score": values.round(digits), "code": code, "lesion": lesion})


def chunks_of(frame: pd.DataFrame, *, size: int, groups: np.ndarray | None = None) -> Iterator[Chunk]:
    ordered = frame.sort_values("score")
    of_lesion = np.arange(NUM_GROUPS) if groups is None else groups
    for start in range(0, len(ordered), size):
        part = ordered.iloc[start : start + size]
        yield part["score"].to_numpy(), part["code"].to_numpy(), of_lesion[part["lesion"].to_numpy()]


def sides(frame: pd.DataFrame) -> list[np.ndarray]:
    return [frame.loc[frame["code"] == code, "score"].to_numpy() for code in sorted(frame["code"].unique())]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), digits=st.integers(0, 3), size=st.integers(1, 64), rank=st.integers(0, 41))
def test_one_pass_is_all_at_once(seed: int, digits: int, size: int, rank: int) -> None:
    frame = drawn(seed=seed, digits=digits)
    normal, *abnormal = sides(frame)
    found = ordered_scores(chunks_of(frame, size=size), counts=list(SIZES.values()), ranks=[rank])
    by_name = dict(zip(("MEL", "DF"), abnormal, strict=True))
    expected = estimate_targets(normal, abnormal=by_name)
    np.testing.assert_allclose(found.auroc, [one.value for one in expected.values()], rtol=1e-12)
    np.testing.assert_allclose(found.delong_variance, [one.variance for one in expected.values()], atol=1e-14)
    # As many groups as images: the sums over groups are the influences, but for the small-sample factors.
    parts = influences(normal, abnormal=by_name).parts
    for row, factors in ((0, (40, 15)), (3, (40, 24))):
        shrunk = [np.sqrt((num - 1) / num) for num in factors]
        np.testing.assert_allclose(found.group_errors[row, :40], parts[row, :40] * shrunk[0], atol=1e-12)
        columns = slice(40, 55) if row == 0 else slice(40, 64)
        np.testing.assert_allclose(found.group_errors[row, columns], parts[row, columns] * shrunk[1], atol=1e-12)
    precisions = [average_precision(normal, abnormal=one) for one in abnormal]
    together = average_precision(normal, abnormal=np.concatenate(abnormal))
    np.testing.assert_allclose(found.average_precision, [*precisions, np.mean(precisions), together], rtol=1e-12)
    cut = found.cuts[rank]
    threshold = -np.inf if rank == 0 else np.inf if rank == 41 else np.sort(normal)[rank - 1]
    assert cut.threshold == threshold
    np.testing.assert_allclose(cut.shares_above, [(one > threshold).mean() for one in (normal, *abnormal)], atol=1e-12)
    assert list(expected)[-1] == POOLED


def test_ties_are_never_parted() -> None:
    frame = drawn(seed=5, digits=0)
    parts = list(whole_ties(chunks_of(frame, size=3)))
    assert sum(len(scores) for scores, _, _ in parts) == len(frame)
    ends = [(scores[0], scores[-1]) for scores, _, _ in parts]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))


@pytest.mark.parametrize("num_photos", [1, 3])
def test_group_variances_are_those_of_a_bootstrap_of_lesions(num_photos: int) -> None:
    """Both by 1,000 draws: 3 % standard error each; the average precision's is of the first order only."""
    sizes = {"NV": 6000, "MEL": 1500, "DF": 900}
    frame = drawn(seed=6, digits=6, sizes=sizes, num_photos=num_photos)
    groups = np.random.default_rng(1).integers(0, NUM_GROUPS, size=len(frame))
    found = ordered_scores(chunks_of(frame, size=1000, groups=groups), counts=list(sizes.values()), ranks=[])
    normal, *abnormal = sides(frame)
    lesions = frame["lesion"].to_numpy()
    exact = influences(normal, abnormal={"MEL": abnormal[0], "DF": abnormal[1]}, lesions=lesions).variances(lesions)
    np.testing.assert_allclose(np.sqrt(found.group_variance / exact), 1.0, atol=0.12)
    samples = [
        Sample(scores=values[None], lesions=np.arange(len(values)) // num_photos) for values in (normal, *abnormal)
    ]
    resampled = bootstrap_curves(
        samples[0], abnormal=samples[1:], specificities=[0.9], num_resamples=1000, rng=np.random.default_rng(2)
    ).average_precision[0]
    np.testing.assert_allclose(np.sqrt(grouped_variance(found.precision_group_errors) / resampled), 1.0, atol=0.15)


def test_other_counts_than_promised_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"expected \[41.0, 15.0, 9.0\] images by class, got \[40.0, 15.0, 9.0\]"):
        ordered_scores(chunks_of(drawn(seed=7, digits=1), size=10), counts=[41, 15, 9], ranks=[])
