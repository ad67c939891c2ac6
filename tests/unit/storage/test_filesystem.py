"""Local files: written whole or not at all, created once whoever races, read at one version."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from skinvae.errors import InputError, SourceChanged, UsageError
from skinvae.storage.filesystem import Location


def at(path: Path | str) -> Location:
    return Location.parse(str(path))


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_relative_paths_homes_and_file_uris_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert at("a/b").uri == str(tmp_path / "a/b")
    assert at("~/b").uri == str(tmp_path / "home/b")
    assert at(f"file://{tmp_path}/a").uri == at(f"{tmp_path}/a/").uri == str(tmp_path / "a")
    assert at("x/../a/./b//c").uri == str(tmp_path / "a/b/c")
    assert at("/").uri == "/"
    assert (at("a") / "b" / "c").uri == at("a/b/c").uri
    assert at("a/b.zip").name == "b.zip"


def test_s3_uris_stay_and_lose_a_trailing_slash() -> None:
    assert at("s3://bucket/key/").uri == "s3://bucket/key"
    assert not at("s3://bucket").is_local


@pytest.mark.parametrize("uri", ["gs://bucket/key", "http://host/file", "s3a://bucket/key", "ftp://x"])
def test_unknown_schemes_are_refused_with_what_to_use(uri: str) -> None:
    with pytest.raises(UsageError, match=r"unknown scheme .* use a local path or s3://"):
        at(uri)


@pytest.mark.parametrize("uri", ["s3://", "s3:///"])
def test_an_s3_uri_needs_a_bucket(uri: str) -> None:
    with pytest.raises(UsageError, match="names no bucket"):
        at(uri)


def test_written_bytes_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = at(tmp_path / "new" / "folder" / "file")
    target.write_bytes(b"one")
    target.write_bytes(b"two")
    assert target.read_bytes() == b"two"
    assert target.exists()
    assert not target.create_bytes(b"three")
    assert target.read_bytes() == b"two"
    assert files_below(tmp_path) == {"new/folder/file"}


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    at(tmp_path / "written").write_bytes(b"")
    at(tmp_path / "created").create_bytes(b"")
    modes = {(tmp_path / name).stat().st_mode for name in ("written", "created", "plain")}
    assert len(modes) == 1


def block(index: int) -> bytes:
    """Large enough to need several writes, and all of one kind: a mixture or a part shows."""
    return bytes([index]) * 3_000_000


def test_of_16_threads_one_creates_and_readers_never_see_a_part(tmp_path: Path) -> None:
    target, barrier = at(tmp_path / "file"), threading.Barrier(17)

    def create(index: int) -> bool:
        barrier.wait()
        return target.create_bytes(block(index))

    def read() -> list[bytes]:
        barrier.wait()
        seen = []
        while len(seen) < 20:
            if target.exists():
                seen.append(target.read_bytes())
        return seen

    with ThreadPoolExecutor(17) as pool:
        reader = pool.submit(read)
        created = list(pool.map(create, range(16)))
    assert created.count(True) == 1
    assert {created.index(True)} == {data[0] for data in reader.result()}
    assert all(data == block(data[0]) for data in reader.result())
    assert files_below(tmp_path) == {"file"}


def _create(path: str, index: int, barrier: threading.Barrier, won: multiprocessing.Queue[int]) -> None:
    barrier.wait()
    if at(path).create_bytes(block(index)):
        won.put(index)


def test_of_many_processes_one_creates(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(4), context.Queue()
    arguments = [(str(tmp_path / "file"), index, barrier, won) for index in range(4)]
    processes = [context.Process(target=_create, args=one) for one in arguments]
    for process in processes:
        process.start()
    winner = won.get(timeout=60)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert won.empty()
    assert (tmp_path / "file").read_bytes() == block(winner)
    assert files_below(tmp_path) == {"file"}


def test_readers_see_the_old_bytes_or_the_new(tmp_path: Path) -> None:
    target = at(tmp_path / "file")
    target.write_bytes(block(0))
    stop = threading.Event()

    def replace() -> None:
        for index in range(1, 30):
            target.write_bytes(block(index))
        stop.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace)
        while not stop.is_set():
            data = target.read_bytes()
            assert data == block(data[0])
        writer.result()
    assert files_below(tmp_path) == {"file"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = at(tmp_path / "file")
    target.write_bytes(b"old")

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    for write in (target.write_bytes, at(tmp_path / "other").create_bytes):
        with pytest.raises(OSError, match="No space left"):
            write(b"new")
    assert target.read_bytes() == b"old"
    assert files_below(tmp_path) == {"file"}


def test_a_range_reader_reads_what_it_is_asked_for(tmp_path: Path) -> None:
    target, data = at(tmp_path / "file"), bytes(range(256)) * 40
    target.write_bytes(data)
    info = target.info()
    assert info is not None
    reader = target.open_range_reader(info.version)
    assert reader.size == info.num_bytes == len(data)
    for start, stop in [(0, 1), (0, len(data)), (100, 300), (len(data) - 5, len(data)), (7, 7)]:
        assert reader.read(start, stop) == data[start:stop]
    with pytest.raises(SourceChanged, match="run the command again"):
        reader.read(len(data) - 5, len(data) + 1)


def test_a_replaced_or_touched_file_is_another_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    info = at(path).info()
    assert info is not None
    at(path).write_bytes(b"9876543210")
    with pytest.raises(SourceChanged, match=r"file' was replaced"):
        at(path).open_range_reader(info.version)


def test_an_open_reader_never_mixes_two_versions(tmp_path: Path) -> None:
    target = at(tmp_path / "file")
    target.write_bytes(b"old" * 100_000)
    info = target.info()
    assert info is not None
    reader = target.open_range_reader(info.version)
    assert reader.read(0, 3) == b"old"
    target.write_bytes(b"new" * 100_000)
    assert reader.read(150_000, 150_003) == b"old"


def test_what_is_not_there_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    gone = at(tmp_path / "gone")
    for access in (gone.read_bytes, gone.info, lambda: gone.open_range_reader("1-1")):
        with pytest.raises(InputError, match=rf"'{gone}'.* does not exist; check the path"):
            access()
    assert not gone.exists()
    gone.delete()
    assert gone.list_objects() == []


def test_a_folder_is_no_object_to_read(tmp_path: Path) -> None:
    assert at(tmp_path).info() is None
    with pytest.raises(InputError, match="is a folder"):
        at(tmp_path).open_range_reader("1-1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(InputError, match="access denied"):
        at(tmp_path / "file").read_bytes()


def test_listing_goes_by_names_below_the_folder(tmp_path: Path) -> None:
    for name in ("a", "sub/b", "sub/deep/c", "sub2/d"):
        at(tmp_path / name).write_bytes(name.encode())
    found = {entry.name: entry for entry in at(tmp_path).list_objects()}
    assert set(found) == {"a", "sub/b", "sub/deep/c", "sub2/d"}
    assert [found[name].num_bytes for name in ("a", "sub/deep/c")] == [1, 10]
    assert {entry.name for entry in at(tmp_path / "sub").list_objects()} == {"b", "deep/c"}
    info = at(tmp_path / "a").info()
    assert info is not None
    assert found["a"].version == info.version


def test_a_file_that_vanishes_during_a_listing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes' temporary files come and go below a local table while it is listed."""
    for name in ("a", "b"):
        at(tmp_path / name).write_bytes(b"")
    find = LocalFileSystem.find

    def find_then_lose_one(*arguments: Any, **options: Any) -> Any:
        found = find(*arguments, **options)
        (tmp_path / "b").unlink()
        return found

    monkeypatch.setattr(LocalFileSystem, "find", find_then_lose_one)
    assert [entry.name for entry in at(tmp_path).list_objects()] == ["a"]


def test_delete_takes_what_lies_below(tmp_path: Path) -> None:
    for name in ("a/x", "a/y/z", "b"):
        at(tmp_path / name).write_bytes(b"")
    at(tmp_path / "a").delete()
    at(tmp_path / "b").delete()
    assert files_below(tmp_path) == set()
