"""Maps come back as they were stored, to the precision that their column promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skinvae.audit.tables import open_table
from skinvae.errors import TableError, UsageError
from skinvae.records import MAP_SCHEMA
from skinvae.storage.filesystem import Location
from skinvae.storage.map_table import MapTable, maps_location, packed, read_maps, unpacked
from skinvae.storage.score_table import ScoreTable
from tests.unit.storage.map_rows import store_maps

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("nats", [1e-3, 1.0, 1e7])
def test_packed_maps_keep_their_promises(nats: float) -> None:
    maps = RANDOM.gamma(0.05, nats, (4, 32, 32))
    columns, totals = packed(maps)
    assert {len(one) for one in columns} == {2 * 32 * 32}
    np.testing.assert_allclose(totals, maps.sum((1, 2)))
    found = unpacked(columns, totals, map_size=32)
    shares, found_shares = maps / totals[:, None, None], found / totals[:, None, None]
    large = shares > 6.2e-5
    np.testing.assert_allclose(found_shares[large], shares[large], rtol=1 / 2048)
    np.testing.assert_allclose(found_shares[~large], shares[~large], atol=3.1e-8)


def test_a_map_without_any_error_is_zero() -> None:
    columns, totals = packed(np.zeros((1, 4, 4)))
    np.testing.assert_array_equal(unpacked(columns, totals, map_size=4), np.zeros((1, 4, 4), np.float32))


def test_maps_are_read_by_score_and_rejected_images_left_out(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    maps = store_maps(table, [3.0, 9.0, 5.0, 9.0, 10.0], bad=1)
    rows, found = read_maps(table)
    assert list(rows["member_index"]) == [1, 3, 2, 0]
    np.testing.assert_allclose(found, maps[[1, 3, 2, 0]], rtol=1e-3, atol=1e-6)
    assert list(rows.columns) == [name for name in MAP_SCHEMA.names if name != "map"]
    rows, found = read_maps(table, limit=1)
    assert (list(rows["member_index"]), found.shape, found.dtype) == ([1], (1, 4, 4), np.float32)


def test_an_image_that_two_selections_hold_is_read_once(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    store_maps(table, [3.0, 9.0])
    store_maps(table, [3.0, 9.0, 4.0], selection="ee")
    rows, _ = read_maps(table)
    assert list(rows["member_index"]) == [1, 2, 0]
    mapped = MapTable.open(maps_location(table)).mapped("cc", source_ids=["aa"], map_size=4)
    assert set(mapped["member_index"]) == {0, 1, 2}
    assert MapTable.open(maps_location(table)).mapped("cc", source_ids=["bb"], map_size=4).empty


def test_several_scorings_or_sizes_have_to_be_told_apart(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    store_maps(table, [3.0])
    store_maps(table, [4.0, 5.0], selection="ee", scoring="ff")
    store_maps(table, [6.0], selection="ab", scoring="ff", size=2)
    with pytest.raises(UsageError, match="several scoring_id: choose one of cc, ff"):
        read_maps(table)
    with pytest.raises(UsageError, match="several map_size: choose one of 2, 4"):
        read_maps(table, scoring_id="ff")
    rows, maps = read_maps(table, scoring_id="ff", map_size=4)
    assert (list(rows["vae_reconst"]), maps.shape) == ([5.0, 4.0], (2, 4, 4))
    with pytest.raises(TableError, match="holds no such error maps"):
        read_maps(table, scoring_id="zz")


def test_without_maps_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    ScoreTable.open_or_create(table)
    with pytest.raises(TableError, match=r"no table of error maps at .*_maps.*skinvae score --set score.maps=true"):
        read_maps(table)


def test_who_looks_at_tables_is_sent_to_the_scores(tmp_path: Path) -> None:
    table = Location.parse(str(tmp_path))
    store_maps(table, [3.0])
    with pytest.raises(TableError, match="holds the error maps of a score table: name that table"):
        open_table(maps_location(table))
