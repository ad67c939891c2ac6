"""Patterns of the command line: what is there is literal, braces spell out, wildcards look."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinvae.errors import InputError, UsageError
from skinvae.storage.expand import expand
from skinvae.storage.filesystem import Location, StorageSettings


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def expanded(folder: Path, pattern: str) -> list[str]:
    return [location.uri.removeprefix(f"{folder}/") for location in expand(f"{folder}/{pattern}")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("shard-{000..002}.tar", ["shard-000.tar", "shard-001.tar", "shard-002.tar"]),
        ("shard-{002..000..2}.tar", ["shard-002.tar", "shard-000.tar"]),
        ("{b,a}.zip", ["b.zip", "a.zip"]),
        ("{b,sub/{x,y}}.zip", ["b.zip", "sub/x.zip", "sub/y.zip"]),
        ("*.zip", ["B.zip", "a.zip", "b.zip", "é.zip"]),
        ("?.zip", ["B.zip", "a.zip", "b.zip", "é.zip"]),
        ("[ab].zip", ["a.zip", "b.zip"]),
        ("[!a-z].zip", ["B.zip", "é.zip"]),
        (".*.zip", [".hidden.zip"]),
        ("*/x.zip", ["sub/x.zip"]),
        ("**/*.zip", ["B.zip", "a.zip", "b.zip", "sub/x.zip", "sub/y.zip", "é.zip"]),
        ("sub*", ["sub"]),
        ("sub/**", ["sub/x.zip", "sub/y.zip"]),
        ("{sub,.}/?.zip", ["sub/x.zip", "sub/y.zip", "B.zip", "a.zip", "b.zip", "é.zip"]),
        ("a.zip", ["a.zip"]),
        ("gone.zip", ["gone.zip"]),  # opening it says so
    ],
)
def test_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    shards = [f"shard-{index:03}.tar" for index in range(3)]
    touch(tmp_path, *shards, "a.zip", "b.zip", "B.zip", "é.zip", ".hidden.zip", "sub/x.zip", "sub/y.zip")
    assert expanded(tmp_path, pattern) == expected


@pytest.mark.parametrize("name", ["a[1].zip", "{a,b}.zip", "*.zip", "?.zip", "a{0..3}.zip", "{"])
def test_a_name_that_is_there_is_literal(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "a1.zip", "a.zip", "b.zip")
    assert expanded(tmp_path, name) == [name]


@pytest.mark.parametrize("name", ["*.zip", "a[1].zip", "{a}.zip", "{gone-1,gone-*}.zip", "x/**"])
def test_nothing_that_matches_is_an_input_error_with_the_pattern(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        expanded(tmp_path, name)
    assert f"'{tmp_path}/{name}'" in str(caught.value)


def test_shards_that_are_missing_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{index:03}.tar" for index in range(100) if index not in (7, 9, 50)))
    with pytest.raises(
        InputError, match=r"names 100 archives, but 3 of them are not there: the first is '.*/007\.tar'$"
    ):
        expanded(tmp_path, "{000..099}.tar")


def test_braces_that_cannot_be_meant_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has a brace without its counterpart$"):
        expanded(tmp_path, "{a,b.zip")
    with pytest.raises(UsageError, match=r"spells out more than 1,000,000 names"):
        expanded(tmp_path, "{0..999999999}.zip")


def test_settings_reach_every_location(tmp_path: Path) -> None:
    touch(tmp_path, "a.zip", "b.zip")
    settings = StorageSettings(anonymous=True)
    for pattern in ("{a,b}.zip", "*.zip"):
        assert expand(f"{tmp_path}/{pattern}", settings) == [
            Location.parse(str(tmp_path / name), settings) for name in ("a.zip", "b.zip")
        ]


@given(name=st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20))
def test_any_existing_name_is_itself(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if name in (".", "..") or len(name.encode()) > 200:
        return
    folder = tmp_path_factory.mktemp("names")
    touch(folder, name)
    assert expanded(folder, name) == [name]
