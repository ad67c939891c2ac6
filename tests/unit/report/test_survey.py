"""A survey in batches says what NumPy says of all rows at once, however they are cut."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.records import SCORES
from skinvae.report.survey import HEADLINE, SURVEY_COLUMNS, Histogram, Survey, take_survey

FIRST_AT = datetime.datetime(2026, 11, 24, tzinfo=datetime.timezone.utc)


def rows(num_rows: int, *, seed: int) -> pa.Table:
    """Rows of two archives; every seventh is rejected, every third has no p-value."""
    rng = np.random.default_rng(seed)
    is_ok = np.arange(num_rows) % 7 != 6
    columns = {
        "source": np.where(np.arange(num_rows) % 2, "a.zip", "b.zip"),
        "source_id": np.where(np.arange(num_rows) % 2, "aa", "bb"),
        "member_index": np.arange(num_rows),
        "status": np.where(is_ok, "ok", np.where(np.arange(num_rows) % 2, "truncated", "crashed")),
        "p_value": pa.array(rng.uniform(size=num_rows), mask=~is_ok | (np.arange(num_rows) % 3 == 0)),
        "model_id": ["m"] * num_rows,
        "scored_at": [FIRST_AT + datetime.timedelta(seconds=int(second)) for second in rng.permutation(num_rows)],
        **{name: pa.array(rng.normal(size=num_rows) * 1e4, mask=~is_ok) for name in SCORES},
    }
    return pa.table(columns).select(list(SURVEY_COLUMNS))


def survey(table: pa.Table, *, batch_size: int) -> Survey:
    return take_survey(table.to_batches(max_chunksize=batch_size), num_extremes=5, num_rejected=4)


@pytest.mark.parametrize("batch_size", [1, 13, 1000])
def test_a_survey_is_the_same_however_rows_are_cut(batch_size: int) -> None:
    table = rows(300, seed=1)
    found = survey(table, batch_size=batch_size)
    frame = table.to_pandas()
    scored = frame[frame["status"] == "ok"]
    assert found.by_status == frame["status"].value_counts().to_dict()
    assert (found.num_rows, found.num_ok) == (300, len(scored))
    assert found.by_archive[("a.zip", "aa")]["ok"] == ((scored["source_id"] == "aa").sum())
    by_score = scored.sort_values(HEADLINE)
    keys = list(zip(by_score["source_id"], by_score["member_index"], strict=True))
    assert found.least == keys[:5]
    assert found.most == keys[:-6:-1]
    rejected = frame[frame["status"] != "ok"].sort_values(["source_id", "member_index"])
    assert found.rejected == list(zip(rejected["source_id"], rejected["member_index"], strict=True))[:4]
    assert found.p_value_counts.tolist() == np.histogram(scored["p_value"].dropna(), bins=20, range=(0, 1))[0].tolist()
    assert (found.first_at, found.last_at) == (FIRST_AT, FIRST_AT + datetime.timedelta(seconds=299))
    assert {histogram.num_values for histogram in found.histograms.values()} == {len(scored)}


def test_equal_scores_come_in_the_order_of_their_members() -> None:
    table = rows(40, seed=2)
    table = table.set_column(table.schema.get_field_index("status"), "status", [["ok"] * 40])
    for name in SCORES:
        table = table.set_column(table.schema.get_field_index(name), name, [[1.0] * 40])
    found = survey(table, batch_size=7)
    assert found.most == found.least == [("aa", index) for index in (1, 3, 5, 7, 9)]


def test_a_scored_row_without_a_score_is_refused() -> None:
    table = rows(5, seed=3)
    broken = table.set_column(table.schema.get_field_index("vae"), "vae", [[1.0, None, 1.0, 1.0, 1.0]])
    with pytest.raises(ValueError, match="status ok holds a score that is null"):
        survey(broken, batch_size=5)


@given(
    st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1, max_size=300),
    st.integers(1, 50),
)
def test_a_histogram_counts_every_value_once(values: list[float], batch_size: int) -> None:
    histogram = Histogram()
    for at in range(0, len(values), batch_size):
        histogram.add(np.array(values[at : at + batch_size]))
    bars = histogram.bars(20)
    assert bars.counts.sum() + bars.num_beyond == histogram.num_values == len(values)
    assert len(bars.edges) == len(bars.counts) + 1 <= 23
    assert (np.diff(bars.edges) > 0).all()


def test_quantiles_of_many_batches_are_near_those_of_all_values_and_memory_stays_bounded() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(size=5000), rng.normal(1e4, 3e3, size=200_000)])
    histogram = Histogram()
    for batch in np.array_split(values, 60):
        histogram.add(batch)
    assert len(histogram._cells) <= 4096
    for share in (0.05, 0.5, 0.95):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), abs=2 * histogram.width)
    assert histogram.width < 20
