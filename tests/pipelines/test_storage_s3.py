"""Storage against a real S3 server: one version per reader, literal names, and the endpoints that others read."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import s3fs
from deltalake import DeltaTable, write_deltalake
from PIL import Image

from skinvae.errors import InputError, SourceChanged
from skinvae.records import Status
from skinvae.storage.expand import expand
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.sources import open_part, open_source, open_sources
from skinvae.storage.versions import ObjectInfo
from tests.s3_server import S3Server
from tests.unit.images.readers import members_of, parts_of

MAX_BYTES = 1_000_000


@pytest.fixture
def folder(s3: S3Server) -> Location:
    """A prefix that no other test uses."""
    return Location.parse(f"s3://tests/storage-{uuid.uuid4().hex}")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each S3 operation was asked for."""
    counts: Counter[str] = Counter()
    call = s3fs.S3FileSystem._call_s3

    async def count(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        counts[method] += 1
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)
    return counts


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def zip_of(*colours: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for index, colour in enumerate(colours):
            archive.writestr(f"{index}.png", png(colour))
    return stream.getvalue()


def info_of(location: Location) -> ObjectInfo:
    info = location.info()
    assert info is not None
    return info


def test_a_read_is_one_ranged_request(folder: Location, requests: Counter[str]) -> None:
    target = folder / "file"
    target.write_bytes(bytes(range(256)))
    info = info_of(target)
    requests.clear()
    reader = target.open_range_reader(info)
    assert reader.size == 256
    assert reader.read(10, 20) == bytes(range(10, 20))
    assert dict(requests) == {"get_object": 1}


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_zip_changed_after_planning_is_noticed(folder: Location, change: str) -> None:
    target = folder / "a.zip"
    target.write_bytes(zip_of("red", "green"))
    source, archive = open_source(target, max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    assert [one.data for one in members_of(opened, part)] == [png("red"), png("green")]
    target.write_bytes(zip_of("green", "red")) if change == "replaced" else target.delete()
    with pytest.raises(SourceChanged, match=r"a\.zip' (was replaced|is gone).*run the command again"):
        list(opened.read(part))


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_an_object_of_a_prefix_changed_after_planning_is_noticed(folder: Location, change: str) -> None:
    for name, colour in (("0.png", "red"), ("1.png", "green")):
        (folder / name).write_bytes(png(colour))
    source, archive = open_source(folder, max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    assert [one.data for one in members_of(opened, part)] == [png("red"), png("green")]
    (folder / "1.png").write_bytes(png("blue")) if change == "replaced" else (folder / "1.png").delete()
    with pytest.raises(SourceChanged, match=r"1\.png' (was replaced|is gone).*run the command again"):
        list(opened.read(part))


def test_the_version_of_a_listing_is_that_of_the_object(folder: Location) -> None:
    (folder / "a").write_bytes(b"12")
    [entry] = folder.list_objects()
    assert (entry.name, entry.num_bytes, entry.version) == ("a", 2, info_of(folder / "a").version)


def test_a_prefix_is_no_object_to_read(folder: Location) -> None:
    (folder / "a").write_bytes(b"")
    assert folder.info() is None
    with pytest.raises(SourceChanged, match=r"is gone|was replaced"):
        folder.open_range_reader(ObjectInfo(1, "etag")).read(0, 1)


def test_an_object_is_created_once(folder: Location) -> None:
    assert (folder / "a").create_bytes(b"one")
    assert not (folder / "a").create_bytes(b"two")
    assert (folder / "a").read_bytes() == b"one"


NAMES = ["[ab]", "a", "b", "*", "?", "a*", "**"]


@pytest.mark.parametrize("name", ["[ab]", "*", "?", "a*", "**", "a"])
def test_names_are_taken_literally(folder: Location, name: str) -> None:
    for each in NAMES:
        (folder / "files" / each).write_bytes(each.encode())
        (folder / "prefixes" / each / "x").write_bytes(each.encode())
    assert [entry.name for entry in (folder / "prefixes" / name).list_objects()] == ["x"]
    assert (folder / "files" / name).read_bytes() == name.encode()
    (folder / "files" / name).delete()
    (folder / "prefixes" / name).delete()
    for kind, suffix in (("files", ""), ("prefixes", "/x")):
        assert not (folder / kind / name).exists()
        left = {entry.name.removesuffix(suffix) for entry in (folder / kind).list_objects()}
        assert left == set(NAMES) - {name}


def test_a_name_that_matches_others_but_is_not_there_exists_not(folder: Location) -> None:
    (folder / "a").write_bytes(b"")
    for pattern in ("*", "?", "[ab]"):
        assert not (folder / pattern).exists()
        (folder / pattern).delete()
        assert (folder / pattern).list_objects() == []
    assert (folder / "a").exists()


def test_errors_name_the_place_and_what_to_do(folder: Location) -> None:
    with pytest.raises(InputError, match=rf"^cannot read '{folder}/gone': it does not exist; check the path or URI$"):
        (folder / "gone").read_bytes()
    with pytest.raises(InputError, match=r"^cannot look up 's3://no-such-bucket-here/a': it does not exist"):
        Location.parse("s3://no-such-bucket-here/a").info()
    (folder / "a").write_bytes(b"")
    stranger = Location.parse(f"{folder}/a", StorageSettings(anonymous=True))
    with pytest.raises(InputError, match=r"access denied; check the permissions or credentials$"):
        stranger.read_bytes()


def test_arrow_reads_and_writes_below_the_path(folder: Location) -> None:
    filesystem, path = folder.arrow_filesystem()
    assert isinstance(filesystem, pyarrow.fs.FileSystem)
    with filesystem.open_output_stream(f"{path}/a") as stream:
        stream.write(b"arrow")
    assert (folder / "a").read_bytes() == b"arrow"


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_deltalake_finds_the_endpoint_itself(
    folder: Location, s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody serves the discard port
    monkeypatch.setenv(name, s3.endpoint)
    options = folder.delta_options()
    write_deltalake(folder.uri, pa.table({"a": [1]}), storage_options=options)
    assert DeltaTable(folder.uri, storage_options=options).version() == 0


def test_an_object_of_a_prefix_is_one_conditional_request(folder: Location, requests: Counter[str]) -> None:
    for name, colour in (("0.png", "red"), ("1 +%é.png", "green"), ("empty.png", None)):
        (folder / name).write_bytes(png(colour) if colour else b"")
    source, archive = open_source(folder, max_bytes=MAX_BYTES)
    [part] = parts_of(archive)
    requests.clear()
    read = members_of(open_part(source, part, max_bytes=MAX_BYTES), part)
    assert [one.data for one in read] == [png("red"), png("green"), b""]
    assert dict(requests) == {"get_object": 3}


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_an_object_read_whole_is_of_the_version_that_was_listed(folder: Location, change: str) -> None:
    target = folder / "a"
    target.write_bytes(b"one")
    version = info_of(target).version
    assert target.read_version(version) == b"one"
    target.write_bytes(b"two") if change == "replaced" else target.delete()
    with pytest.raises(SourceChanged, match=r"a' (was replaced|is gone).*run the command again"):
        target.read_version(version)


def test_the_head_of_an_object_is_one_request(folder: Location, requests: Counter[str]) -> None:
    (folder / "a").write_bytes(b"0123")
    (folder / "empty").write_bytes(b"")
    requests.clear()
    assert [(folder / "a").read_head(count) for count in (2, 4, 9)] == [b"01", b"0123", b"0123"]
    assert dict(requests) == {"get_object": 3}
    assert (folder / "empty").read_head(9) == b""
    assert [(folder / name).read_head(9) for name in ("gone", "a/b", "x" * 2000, "\udcff")] == [None] * 4
    with pytest.raises(InputError, match=r"cannot read 's3://no-such-bucket-here/a': it does not exist"):
        Location.parse("s3://no-such-bucket-here/a").read_head(9)
    stranger = Location.parse(f"{folder}/a", StorageSettings(anonymous=True))
    with pytest.raises(InputError, match=r"access denied; check the permissions or credentials$"):
        stranger.read_head(9)


def test_threads_share_one_client(folder: Location) -> None:
    (folder / "a").write_bytes(b"x")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: id(Location.parse(f"{folder}/a").filesystem), range(50)))
    assert len(set(found)) == 1


def test_a_manifest_names_objects_by_relative_and_absolute_uris(folder: Location, requests: Counter[str]) -> None:
    for name in ("images/0.png", "lists/images/0.png", "lists/#odd name.png"):
        (folder / name).write_bytes(png("red"))
    there = ["images/0.png", "../images/0.png", f"{folder}/images/0.png", "./#odd name.png"]
    target = folder / "lists" / "all.txt"
    target.write_bytes("\n".join([*there, "gone.png", "lists/", f"{folder}/gone.png"]).encode())
    source, archive = open_source(target, max_bytes=MAX_BYTES)
    [part] = parts_of(archive)
    requests.clear()
    read = members_of(open_part(source, part, max_bytes=MAX_BYTES), part)
    assert [(one.name, one.data) for one in read[:4]] == [(name, png("red")) for name in there]
    assert [(one.name, one.status) for one in read[4:]] == [
        ("gone.png", Status.MISSING),
        (f"{folder}/gone.png", Status.MISSING),
    ]
    assert requests["get_object"] == 1 + 4 + 2  # the list, what is there on S3, what is not
    assert requests["head_object"] == 0


def test_a_parquet_file_is_read_by_ranges(folder: Location) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": [png("red"), png("blue")] * 50}), stream, row_group_size=10)
    target = folder / "images.parquet"
    target.write_bytes(stream.getvalue())
    source, archive = open_source(target, max_bytes=MAX_BYTES)
    read = [one for part in parts_of(archive) for one in members_of(open_part(source, part, max_bytes=MAX_BYTES), part)]
    assert [one.data for one in read] == [png("red"), png("blue")] * 50
    [part] = parts_of(archive)
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    target.write_bytes(stream.getvalue()[:-1] + b"X")
    with pytest.raises(SourceChanged, match=r"images\.parquet' was replaced while it was read"):
        list(opened.read(part))


def test_patterns_on_s3(folder: Location) -> None:
    for name in ("000.tar", "001.tar", "002.tar", "sub/x.tar", "a[1].zip", "a1.zip"):
        (folder / name).write_bytes(b"x")

    def expanded(pattern: str) -> list[str]:
        return [location.uri.removeprefix(f"{folder}/") for location in expand(f"{folder}/{pattern}")]

    assert expanded("{002..000}.tar") == ["002.tar", "001.tar", "000.tar"]
    assert expanded("*.tar") == ["000.tar", "001.tar", "002.tar"]
    assert expanded("**/*.tar") == ["000.tar", "001.tar", "002.tar", "sub/x.tar"]
    assert expanded("a[1].zip") == ["a[1].zip"]
    assert expanded("[a]1.zip") == ["a1.zip"]
    assert expanded("s?b") == ["sub"]
    with pytest.raises(InputError, match=r"names 5 archives, but 2 of them are not there: the first is '.*/003\.tar'$"):
        expanded("{000..004}.tar")
    with pytest.raises(InputError, match=r"^nothing matches '.*\*\.zap'"):
        expanded("*.zap")


def test_many_shards_are_opened_at_once(folder: Location, requests: Counter[str]) -> None:
    locations = [folder / f"{index:03}.zip" for index in range(50)]
    for location in locations:
        location.write_bytes(zip_of("red"))
    requests.clear()
    opened = open_sources(locations, max_bytes=MAX_BYTES)
    assert [source.location for source, _ in opened] == locations
    assert requests["head_object"] == 50
    locations[7].delete()
    with pytest.raises(InputError, match=r"^cannot look up '.*/007\.zip': it does not exist"):
        open_sources(locations, max_bytes=MAX_BYTES)
