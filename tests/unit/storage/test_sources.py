"""An archive is known by its content: any change gives another identity, and a change under way is noticed."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from aiohttp import ClientPayloadError
from PIL import Image

from skinvae.errors import ArchiveError, InputError, SourceChanged
from skinvae.records import Status
from skinvae.storage.filesystem import Location
from skinvae.storage.sources import Source, open_part, open_source, open_sources
from tests.unit.images.readers import members_of, parts_of

MAX_BYTES = 1_000_000


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def write_zip(path: Path, *colours: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for index, colour in enumerate(colours):
            archive.writestr(f"{index}.png", png(colour))
    return path


def write_folder(path: Path, *colours: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for index, colour in enumerate(colours):
        (path / f"{index}.png").write_bytes(png(colour))
    return path


def source_at(path: Path) -> Source:
    return open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)[0]


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_the_identity_is_stable_and_pickles(tmp_path: Path, write: object) -> None:
    path = write(tmp_path / "data", "red", "blue")  # type: ignore[operator]
    source = source_at(path)
    assert source == source_at(path) == pickle.loads(pickle.dumps(source))
    assert source.uri == str(path)


def test_a_zip_s_identity_changes_with_content_time_and_place(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red")
    identities = [source_at(path).source_id]
    time_ns = path.stat().st_mtime_ns
    os.utime(path, ns=(time_ns, time_ns + 1))
    identities.append(source_at(path).source_id)
    write_zip(path, "red", "blue")
    identities.append(source_at(path).source_id)
    path = path.rename(tmp_path / "b.zip")
    identities.append(source_at(path).source_id)
    assert len(set(identities)) == 4


def test_a_folder_s_identity_is_that_of_its_entries(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", "red", "blue")
    identities = [source_at(folder).source_id]

    def changed() -> str:
        identities.append(source_at(folder).source_id)
        return identities[-1]

    (folder / "0.png").rename(folder / "9.png")
    changed()
    (folder / "9.png").write_bytes(png("green") + b"\0")
    changed()
    (folder / "sub").mkdir()
    assert source_at(folder).source_id == identities[-1]  # a folder without files is nothing
    (folder / "sub" / "x.png").write_bytes(png("red"))
    changed()
    (folder / "1.png").unlink()
    changed()
    assert len(set(identities)) == 5


def test_nothing_is_an_input_error_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty' is empty: give an archive, or a folder"):
        source_at(tmp_path / "empty")
    with pytest.raises(InputError, match=r"gone': it does not exist"):
        source_at(tmp_path / "gone")
    (tmp_path / "a.zip").write_bytes(b"no zip at all" * 100)
    with pytest.raises(ArchiveError, match=r"a\.zip is no archive"):
        source_at(tmp_path / "a.zip")


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_part_opened_elsewhere_reads_the_members_that_were_planned(tmp_path: Path, write: object) -> None:
    path = write(tmp_path / "data", "red", "green", "blue")  # type: ignore[operator]
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    source, part = pickle.loads(pickle.dumps((source, parts_of(archive, [(1, 3)])[0])))
    members = members_of(open_part(source, part, max_bytes=MAX_BYTES), part)
    assert [(one.index, one.name, one.data) for one in members] == [
        (1, "1.png", png("green")),
        (2, "2.png", png("blue")),
    ]


def test_a_zip_replaced_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red", "green")
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    write_zip(path, "blue", "black")
    with pytest.raises(SourceChanged, match=r"a\.zip' was replaced while it was read; run the command again"):
        open_part(source, part, max_bytes=MAX_BYTES)


def test_a_zip_gone_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red", "green")
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    path.unlink()
    with pytest.raises(SourceChanged, match=r"a\.zip' is gone; run the command again"):
        open_part(source, part, max_bytes=MAX_BYTES)


def test_a_zip_overwritten_in_place_while_open_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red", "green")
    os.utime(path, ns=(1, 1))  # long ago, so that the change does not fall into the same tick of the clock
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    other = write_zip(tmp_path / "b.zip", "lime", "blue").read_bytes()
    before, size = path.stat().st_ino, path.stat().st_size
    with path.open("r+b") as file:
        file.write(other[:size].ljust(size, b"\0"))
    assert (path.stat().st_ino, path.stat().st_size) == (before, size)
    with pytest.raises(SourceChanged, match=r"a\.zip' was replaced while it was read; run the command again"):
        list(opened.read(part))


@pytest.mark.parametrize("change", ["replaced", "grown", "gone"])
def test_a_folder_s_object_changed_after_planning_is_noticed(tmp_path: Path, change: str) -> None:
    folder = write_folder(tmp_path / "data", "red", "green")
    source, archive = open_source(Location.parse(str(folder)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    path = folder / "1.png"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(png("blue") + (b"\0" if change == "grown" else b""))
        os.utime(path, ns=(1, 1))
    opened = open_part(source, part, max_bytes=MAX_BYTES)
    with pytest.raises(SourceChanged, match=r"1\.png.*run the command again"):
        list(opened.read(part))


def test_an_object_added_after_planning_does_not_disturb(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", "red", "green")
    source, archive = open_source(Location.parse(str(folder)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive, [(0, 2)])
    (folder / "00.png").write_bytes(png("blue"))
    assert [one.data for one in members_of(open_part(source, part, max_bytes=MAX_BYTES), part)] == [
        png("red"),
        png("green"),
    ]


def write_list(path: Path, *colours: str) -> Path:
    """A list of images in a folder beside it."""
    write_folder(path.parent / "images", *colours)
    path.write_text("".join(f"images/{index}.png\n" for index in range(len(colours))))
    return path


def write_image(path: Path, colour: str = "red") -> Path:
    path.write_bytes(png(colour))
    return path


def write_parquet(path: Path, *colours: str) -> Path:
    names = [f"{index}.png" for index in range(len(colours))]
    pq.write_table(pa.table({"image": [png(colour) for colour in colours], "path": names}), path)
    return path


def read_back(path: Path) -> list[tuple[str, bytes | None]]:
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    source, parts = pickle.loads(pickle.dumps((source, parts_of(archive))))
    return [
        (one.name, one.data) for part in parts for one in members_of(open_part(source, part, max_bytes=MAX_BYTES), part)
    ]


def test_every_kind_of_source_is_opened_again_elsewhere(tmp_path: Path) -> None:
    two = [png("red"), png("blue")]
    for path in (write_zip(tmp_path / "a", "red", "blue"), write_parquet(tmp_path / "b", "red", "blue")):
        assert read_back(path) == [("0.png", two[0]), ("1.png", two[1])]
    assert read_back(write_image(tmp_path / "photo.png")) == [("photo.png", two[0])]
    listed = write_list(tmp_path / "list.txt", "red", "blue")
    assert read_back(listed) == [("images/0.png", two[0]), ("images/1.png", two[1])]
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "images/0.png", "0.png")
    source, tar = open_source(Location.parse(str(tmp_path / "x.tar")), max_bytes=MAX_BYTES)
    (part,) = parts_of(tar, [(0, None)])
    assert [one.data for one in members_of(open_part(source, part, max_bytes=MAX_BYTES), part)] == two[:1]


@pytest.mark.parametrize("write", [write_list, write_image, write_parquet])
def test_the_identity_of_a_single_object_is_its_place_and_version(tmp_path: Path, write: object) -> None:
    path = write(tmp_path / "a.txt", "red")  # type: ignore[operator]
    before = source_at(path)
    assert before == source_at(path)
    os.utime(path, ns=(5, 5))
    assert source_at(path).source_id != before.source_id


def test_a_manifest_changed_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.txt", "red", "blue")
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive)
    path.write_text("images/1.png\nimages/0.png\nimages/2.png\n")
    with pytest.raises(SourceChanged):
        open_part(source, part, max_bytes=MAX_BYTES)


def test_a_manifest_names_by_relative_absolute_and_file_uris(tmp_path: Path) -> None:
    write_folder(tmp_path / "other", "red")
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "list.txt"
    names = ["../other/0.png", f"{tmp_path}/other/0.png", f"file://{tmp_path}/other/0.png", "gone.png", "gone/0.png"]
    names += ["list.txt/0.png", "x" * 300 + ".png", "../other.png"]
    (tmp_path / "other.png").mkdir()
    path.write_text("\n".join(names))
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = parts_of(archive)
    read = members_of(open_part(source, part, max_bytes=MAX_BYTES), part)
    assert [(one.name, one.data) for one in read[:3]] == [(name, png("red")) for name in names[:3]]
    assert [one.status for one in read[3:]] == [Status.MISSING] * 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_object_of_a_manifest_ends_the_job(tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.txt", "red", "blue")
    (tmp_path / "images" / "1.png").chmod(0)
    with pytest.raises(InputError, match=r"1\.png': access denied"):
        read_back(path)


def test_another_column_of_images_is_another_source(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": [png("red")], "png": [png("blue")]}), path)
    location = Location.parse(str(path))
    with pytest.raises(ArchiveError, match="several columns that may hold the images, jpg, png"):
        open_source(location, max_bytes=MAX_BYTES)
    found = {name: open_source(location, max_bytes=MAX_BYTES, images_column=name) for name in ("jpg", "png")}
    assert len({source.source_id for source, _ in found.values()}) == 2
    source, archive = found["png"]
    [part] = parts_of(archive)
    assert members_of(open_part(source, part, max_bytes=MAX_BYTES), part)[0].data == png("blue")


def test_many_sources_are_opened_at_once_in_order(tmp_path: Path) -> None:
    locations = [Location.parse(str(write_zip(tmp_path / f"{index}.zip", "red"))) for index in range(40)]
    opened = open_sources(locations, max_bytes=MAX_BYTES)
    assert [source.location for source, _ in opened] == locations
    assert [source for source, _ in opened] == [source_at(Path(location.uri)) for location in locations]


def test_of_several_sources_that_fail_five_are_named_with_their_reasons(tmp_path: Path) -> None:
    locations = [Location.parse(str(write_zip(tmp_path / f"{index}.zip", "red"))) for index in range(20)]
    with pytest.raises(InputError, match=r"^cannot look up '.*gone\.zip': it does not exist; check the path or URI$"):
        open_sources([*locations, Location.parse(str(tmp_path / "gone.zip"))], max_bytes=MAX_BYTES)
    for index in range(8):
        (tmp_path / f"{index}.zip").write_bytes(b"no archive" * 9)
    with pytest.raises(ArchiveError) as caught:
        open_sources(locations, max_bytes=MAX_BYTES)
    message = str(caught.value)
    assert message.startswith("8 of 20 archives cannot be opened: ")
    assert [f"{index}.zip is no archive" in message for index in range(8)] == [True] * 5 + [False] * 3
    assert message.endswith("; and 3 more")
    (tmp_path / "0.zip").unlink()
    with pytest.raises(InputError, match=r"^8 of 20 archives cannot be opened: cannot look up .*; and 3 more$"):
        open_sources(locations, max_bytes=MAX_BYTES)


def test_after_64_sources_that_fail_no_more_are_tried(tmp_path: Path) -> None:
    locations = [Location.parse(str(tmp_path / f"{index}.zip")) for index in range(500)]
    with pytest.raises(InputError, match=r"^at least 64 of 500 archives cannot be opened: .*; and 59 more$"):
        open_sources(locations, max_bytes=MAX_BYTES)


def test_an_object_read_whole_is_of_the_version_that_was_listed(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    location = Location.parse(str(path))
    info = location.info()
    assert info is not None
    assert location.read_version(info.version) == png("red")
    with pytest.raises(SourceChanged, match=r"a\.png' was replaced while it was read; run the command again"):
        location.read_version("other")
    path.unlink()
    with pytest.raises(SourceChanged, match=r"a\.png' is gone; run the command again"):
        location.read_version(info.version)


def test_the_head_of_an_object(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123")
    (tmp_path / "empty").write_bytes(b"")
    folder = Location.parse(str(tmp_path))
    assert [(folder / "a").read_head(count) for count in (2, 4, 9)] == [b"01", b"0123", b"0123"]
    assert (folder / "empty").read_head(9) == b""
    assert [(folder / name).read_head(9) for name in ("gone", "a/b", ".", "\0", "x" * 999)] == [None] * 5


def test_a_body_that_breaks_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Body:
        async def read(self) -> bytes:
            if len(asked) < 3:
                raise ClientPayloadError("the connection broke off")
            return b"whole"

        def close(self) -> None:
            closed.append(True)

    async def answer(self: object, method: str, **arguments: str) -> dict[str, object]:
        asked.append((method, arguments["IfMatch"]))
        return {"Body": Body(), "ContentLength": 5}

    asked: list[tuple[str, str]] = []
    closed: list[bool] = []
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", answer)
    assert Location.parse("s3://bucket/key").read_version("v1") == b"whole"
    assert asked == [("get_object", '"v1"')] * 3
    assert len(closed) == 3
