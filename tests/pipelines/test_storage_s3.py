"""Storage against a real S3 server: one version per reader, literal names, and the endpoints that others read."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pytest
import s3fs
from deltalake import DeltaTable, write_deltalake
from PIL import Image

from skinvae.errors import InputError, SourceChanged
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.sources import open_part, open_source
from tests.s3_server import S3Server

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


def version_of(location: Location) -> str:
    info = location.info()
    assert info is not None
    return info.version


def test_a_reader_costs_one_lookup_and_reads_are_ranged(folder: Location, requests: Counter[str]) -> None:
    target = folder / "file"
    target.write_bytes(bytes(range(256)))
    version = version_of(target)
    requests.clear()
    reader = target.open_range_reader(version)
    assert dict(requests) == {"head_object": 1}
    assert reader.size == 256
    assert reader.read(10, 20) == bytes(range(10, 20))
    assert dict(requests) == {"head_object": 1, "get_object": 1}


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_zip_changed_between_planning_and_opening_is_noticed(folder: Location, change: str) -> None:
    target = folder / "a.zip"
    target.write_bytes(zip_of("red", "green"))
    source, archive = open_source(target, max_bytes=MAX_BYTES)
    [part] = archive.parts([(0, 2)])
    assert [one.data for one in open_part(source, part, max_bytes=MAX_BYTES).read(part)] == [png("red"), png("green")]
    target.write_bytes(zip_of("green", "red")) if change == "replaced" else target.delete()
    with pytest.raises(SourceChanged, match=r"a\.zip' (was replaced|is gone).*run the command again"):
        open_part(source, part, max_bytes=MAX_BYTES)


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_zip_changed_between_opening_and_reading_is_noticed(folder: Location, change: str) -> None:
    target = folder / "a.zip"
    target.write_bytes(zip_of("red", "green"))
    source, archive = open_source(target, max_bytes=MAX_BYTES)
    [part] = archive.parts([(0, 2)])
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    target.write_bytes(zip_of("green", "red")) if change == "replaced" else target.delete()
    with pytest.raises(SourceChanged, match=r"a\.zip' (was replaced|is gone).*run the command again"):
        list(opened.read(part))


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_an_object_of_a_prefix_changed_after_planning_is_noticed(folder: Location, change: str) -> None:
    for name, colour in (("0.png", "red"), ("1.png", "green")):
        (folder / name).write_bytes(png(colour))
    source, archive = open_source(folder, max_bytes=MAX_BYTES)
    [part] = archive.parts([(0, 2)])
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    assert [one.data for one in opened.read(part)] == [png("red"), png("green")]
    (folder / "1.png").write_bytes(png("blue")) if change == "replaced" else (folder / "1.png").delete()
    with pytest.raises(SourceChanged, match=r"1\.png' (was replaced|is gone).*run the command again"):
        list(opened.read(part))


def test_the_version_of_a_listing_is_that_of_the_object(folder: Location) -> None:
    (folder / "a").write_bytes(b"12")
    [entry] = folder.list_objects()
    assert (entry.name, entry.num_bytes, entry.version) == ("a", 2, version_of(folder / "a"))


def test_a_prefix_is_no_object_to_read(folder: Location) -> None:
    (folder / "a").write_bytes(b"")
    assert folder.info() is None
    with pytest.raises(InputError, match="a file was expected where a folder is"):
        folder.open_range_reader("etag")


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
    assert options == {"allow_http": "true"}
    write_deltalake(folder.uri, pa.table({"a": [1]}), storage_options=options)
    assert DeltaTable(folder.uri, storage_options=options).version() == 0
