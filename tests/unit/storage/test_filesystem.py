"""Local files: written whole or not at all, created once whoever races, read at one version."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from fsspec.implementations.local import LocalFileSystem
from s3fs.errors import translate_boto_error

from skinvae.errors import ArchiveError, InputError, SourceChanged, UsageError
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.versions import ObjectInfo

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_failed_write_is_an_input_error_and_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    target = at(tmp_path / "file")
    target.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for there in (target, at(tmp_path / "other")):
        for write in (there.write_bytes, there.create_bytes):
            with pytest.raises(InputError, match=f"^cannot write '{there}': {os.strerror(code)}; check the disk"):
                write(b"new")
    assert target.read_bytes() == b"old"
    assert files_below(tmp_path) == {"file"}


def test_a_name_too_long_or_below_a_file_is_an_input_error(tmp_path: Path) -> None:
    long = at(tmp_path / ("x" * 300))
    for access in (
        long.read_bytes,
        long.info,
        lambda: long.write_bytes(b""),
        lambda: long.open_range_reader(ObjectInfo(1, "1-1")),
    ):
        with pytest.raises(InputError, match="File name too long; check the disk and the path"):
            access()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a file was expected where a folder is, or the reverse"):
        at(tmp_path / "file" / "below").write_bytes(b"")


def test_a_range_reader_reads_what_it_is_asked_for(tmp_path: Path) -> None:
    target, data = at(tmp_path / "file"), bytes(range(256)) * 40
    target.write_bytes(data)
    info = target.info()
    assert info is not None
    reader = target.open_range_reader(info)
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
        at(path).open_range_reader(info)


def overwrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"new" * 100_000)


def replace(path: Path) -> None:
    at(path).write_bytes(b"new" * 100_000)


def change_and_put_the_time_back(path: Path) -> None:
    path.write_bytes(b"new")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [overwrite_in_place, replace, change_and_put_the_time_back, Path.touch, Path.unlink])
def test_an_open_reader_notices_every_change(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old" * 100_000)
    os.utime(path, ns=(1, 1))  # long ago, so that no change falls into the same tick of the clock
    info = at(path).info()
    assert info is not None
    reader = at(path).open_range_reader(info)
    assert reader.read(0, 3) == b"old"
    change(path)
    for start in (0, 150_000):
        with pytest.raises(
            SourceChanged, match=r"source changed: .*file' (was replaced|is gone).*run the command again"
        ):
            reader.read(start, start + 3)


def test_readers_hold_no_files_open(tmp_path: Path) -> None:
    """A driver has one for each of thousands of archives."""
    target = at(tmp_path / "file")
    target.write_bytes(b"0123456789")
    info = target.info()
    assert info is not None
    before = len(os.listdir("/dev/fd"))
    readers = [target.open_range_reader(info) for _ in range(30)]
    assert {reader.read(2, 5) for reader in readers} == {b"234"}
    assert len(os.listdir("/dev/fd")) == before


READ_FIFO = """
import sys
from skinvae.storage.filesystem import Location
from skinvae.storage.versions import ObjectInfo
fifo = Location.parse(sys.argv[1])
info = fifo.info()
print(fifo.read_head(9), fifo.read_version(info.version), fifo.open_range_reader(info).read(0, 0))
"""


def test_a_fifo_reads_as_empty_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    command = [sys.executable, "-c", READ_FIFO, str(tmp_path / "a.jpg")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert said.stdout == "b'' b'' b''\n", said.stderr
    # Nor for what a writer has not written yet.
    writer = os.open(tmp_path / "a.jpg", os.O_RDWR)
    assert at(tmp_path / "a.jpg").read_head(9) == b""
    os.close(writer)


def test_a_device_named_as_an_image_is_empty(tmp_path: Path) -> None:
    """It would never end."""
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    assert at(tmp_path / "zero.jpg").read_head(9) == b""


@pytest.mark.parametrize(
    "uri", ["/etc/shadow", "~/.aws/credentials", "~", "file:///etc/shadow", "file://x", "S3://b/k"]
)
def test_a_list_on_s3_names_no_files_of_the_workers(uri: str) -> None:
    message = rf"^s3://bucket/lists/a\.txt names '{uri}', but a list on S3 may name only s3:// and relative URIs\.$"
    with pytest.raises(ArchiveError, match=message):
        at("s3://bucket/lists/a.txt").resolve(uri)


def test_what_lists_may_name(tmp_path: Path) -> None:
    remote, local = at("s3://bucket/lists/a.txt"), at(tmp_path / "a.txt")
    for uri, meant in (
        ("s3://other/x.jpg", "s3://other/x.jpg"),
        ("x.jpg", "s3://bucket/lists/x.jpg"),
        ("../../../etc/shadow", "s3://bucket/etc/shadow"),
        ("file:/etc/shadow", "s3://bucket/lists/file:/etc/shadow"),
    ):
        assert remote.resolve(uri).uri == meant
    assert local.resolve("s3://other/x.jpg").uri == "s3://other/x.jpg"
    assert local.resolve("/etc/hosts").uri == local.resolve("file:///etc/hosts").uri == "/etc/hosts"
    assert local.resolve("x.jpg").uri == f"{tmp_path}/x.jpg"


def test_what_is_not_there_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    gone = at(tmp_path / "gone")
    for access in (gone.read_bytes, gone.info):
        with pytest.raises(InputError, match=rf"'{gone}'.* does not exist; check the path"):
            access()
    with pytest.raises(SourceChanged, match=rf"'{gone}' is gone; run the command again"):
        gone.open_range_reader(ObjectInfo(1, "1-1"))
    assert not gone.exists()
    gone.delete()
    gone.delete_file()
    assert gone.list_objects() == []


def test_a_folder_is_no_object_to_read(tmp_path: Path) -> None:
    assert at(tmp_path).info() is None
    with pytest.raises(InputError, match="a file was expected where a folder is"):
        at(tmp_path).open_range_reader(ObjectInfo(1, "1-1"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0)
    with pytest.raises(InputError, match=r"access denied; check the permissions$"):
        at(tmp_path / "file").read_bytes()


class Failing:
    """A file system in which every access fails alike."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise self._error

        return fail


def failing_at(uri: str, error: Exception, *, anonymous: bool = False) -> Location:
    location = Location.parse(uri, StorageSettings(anonymous=anonymous))
    vars(location)["filesystem"] = Failing(error)
    return location


READS: dict[str, Callable[[Location], object]] = {
    "read": Location.read_bytes,
    "look up": Location.info,
    "list": Location.list_objects,
}
WRITES: dict[str, Callable[[Location], object]] = {
    "write": lambda location: location.write_bytes(b""),
    "delete": Location.delete,
}


def s3_error(code: str, message: str) -> Exception:
    """What s3fs makes of an error response."""
    error: Exception = translate_boto_error(ClientError({"Error": {"Code": code, "Message": message}}, "GetObject"))
    return error


@pytest.mark.parametrize("error", [PermissionError("Forbidden"), NoCredentialsError()])
@pytest.mark.parametrize("action", [*READS, *WRITES])
def test_a_public_bucket_is_suggested_only_where_it_can_help(action: str, error: Exception) -> None:
    def message(uri: str, *, anonymous: bool = False) -> str:
        with pytest.raises(InputError, match=f"^cannot {action} '{uri}': ") as caught:
            (READS | WRITES)[action](failing_at(uri, error, anonymous=anonymous))
        return str(caught.value)

    assert ("set storage.anonymous=true for a public bucket" in message("s3://bucket/key")) == (action in READS)
    assert "anonymous" not in message("s3://bucket/key", anonymous=True)
    if action in READS:
        assert "anonymous" not in message("/local/key")


@pytest.mark.parametrize("action", [*READS, *WRITES])
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'"),
        ("PermanentRedirect", "The bucket must be addressed using the specified endpoint."),
        ("301", "Moved Permanently"),
        ("InternalError", "We encountered an internal error.\nPlease try again."),
        ("SomethingNew", "Who knows"),
    ],
)
def test_what_s3_answers_is_one_sentence(action: str, code: str, text: str) -> None:
    with pytest.raises(InputError) as caught:
        (READS | WRITES)[action](failing_at("s3://bucket/key", s3_error(code, text)))
    assert type(caught.value) is InputError
    said = text.splitlines()[0].rstrip(".")
    assert str(caught.value).startswith(f"cannot {action} 's3://bucket/key': ")
    assert str(caught.value).endswith(f"{said}; check the AWS_* environment (region, endpoint)")


def test_a_refused_condition_means_that_another_writer_was_faster() -> None:
    refused = s3_error("PreconditionFailed", "no")
    assert not failing_at("s3://bucket/key", refused).create_bytes(b"")
    with pytest.raises(SourceChanged):
        failing_at("s3://bucket/key", refused).open_range_reader(ObjectInfo(1, "etag")).read(0, 1)


def test_our_own_errors_and_silent_ones_pass_as_they_are() -> None:
    with pytest.raises(UsageError, match=r"^own$"):
        failing_at("s3://bucket/key", UsageError("own")).read_bytes()
    with pytest.raises(InputError, match=r"': TimeoutError; check"):
        failing_at("s3://bucket/key", TimeoutError()).read_bytes()


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


NAMES = ["[ab]", "a", "b", "*", "?", "a*", "**"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_literally(tmp_path: Path, name: str) -> None:
    for each in NAMES:
        at(tmp_path / "files" / each).write_bytes(each.encode())
        at(tmp_path / "folders" / each / each).write_bytes(each.encode())
    assert [entry.name for entry in at(tmp_path / "folders" / name).list_objects()] == [name]
    assert at(tmp_path / "files" / name).read_bytes() == name.encode()
    at(tmp_path / "files" / name).delete()
    at(tmp_path / "folders" / name).delete()
    for folder in ("files", "folders"):
        assert not at(tmp_path / folder / name).exists()
        assert {path.name for path in (tmp_path / folder).iterdir()} == set(NAMES) - {name}


def test_deleting_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    at(tmp_path / "folder" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    at(tmp_path / "link").delete()
    assert files_below(tmp_path) == {"folder/file"}


def test_the_local_arrow_filesystem_is_the_default_one(tmp_path: Path) -> None:
    assert at(tmp_path).arrow_filesystem() == (None, str(tmp_path))


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_deltalake_is_told_how_patient_to_be_and_that_http_is_meant(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    bounds = at("s3://bucket/key").delta_options()
    assert set(bounds) == {"max_retries", "retry_timeout", "backoff_config.max_backoff"}
    monkeypatch.setenv(name, "https://host")
    assert at("s3://bucket/key").delta_options() == bounds
    monkeypatch.setenv(name, "http://host")
    assert at("s3://bucket/key").delta_options() == bounds | {"allow_http": "true"}
    assert at("key").delta_options() == {}
