"""An archive is known by its content: any change gives another identity, and a change under way is noticed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from skinvae.errors import ArchiveError, InputError, SourceChanged
from skinvae.storage.filesystem import Location
from skinvae.storage.sources import Source, open_part, open_source

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
    with pytest.raises(InputError, match=r"empty' is empty: give a zip archive, or a folder"):
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
    source, part = pickle.loads(pickle.dumps((source, archive.parts([(1, 3)])[0])))
    members = list(open_part(source, part, max_bytes=MAX_BYTES).read(part))
    assert [(one.index, one.name, one.data) for one in members] == [
        (1, "1.png", png("green")),
        (2, "2.png", png("blue")),
    ]


def test_a_zip_replaced_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red", "green")
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = archive.parts([(0, 2)])
    write_zip(path, "blue", "black")
    with pytest.raises(SourceChanged, match=r"a\.zip' was replaced while it was read; run the command again"):
        open_part(source, part, max_bytes=MAX_BYTES)


def test_a_zip_gone_after_planning_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red", "green")
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = archive.parts([(0, 2)])
    path.unlink()
    with pytest.raises(SourceChanged, match=r"a\.zip' is gone; run the command again"):
        open_part(source, part, max_bytes=MAX_BYTES)


def test_a_zip_overwritten_in_place_while_open_is_noticed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", "red", "green")
    os.utime(path, ns=(1, 1))  # long ago, so that the change does not fall into the same tick of the clock
    source, archive = open_source(Location.parse(str(path)), max_bytes=MAX_BYTES)
    [part] = archive.parts([(0, 2)])
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
    [part] = archive.parts([(0, 2)])
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
    [part] = archive.parts([(0, 2)])
    (folder / "00.png").write_bytes(png("blue"))
    assert [one.data for one in open_part(source, part, max_bytes=MAX_BYTES).read(part)] == [png("red"), png("green")]
