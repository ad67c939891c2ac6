"""Labels come as analysts have them: CSV, zipped CSV, Parquet, or a Delta table."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable, write_deltalake

from skinvae.errors import LabelsError
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frame, read_frames
from tests.s3_server import S3Server

LABELS = pd.DataFrame({"image": ["007", "ISIC_1"], "MEL": [1.0, 0.0], "NV": [0.0, 1.0]})


def as_csv(folder: Path) -> Path:
    LABELS.to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def as_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "labels.zip", "w") as archive:
        archive.write(as_csv(folder), "inside/labels.csv")
    return folder / "labels.zip"


def as_parquet(folder: Path) -> Path:
    LABELS.to_parquet(folder / "labels.parquet")
    return folder / "labels.parquet"


def as_delta(folder: Path) -> Path:
    write_deltalake(str(folder / "labels"), LABELS)
    return folder / "labels"


@pytest.mark.parametrize("write", [as_csv, as_zip, as_parquet, as_delta])
def test_labels_read_the_same_from_every_kind_of_file(write: Callable[[Path], Path], tmp_path: Path) -> None:
    found = read_frame(Location.parse(str(write(tmp_path))))
    pd.testing.assert_frame_equal(found, LABELS, check_dtype=False)
    assert list(found["image"]) == ["007", "ISIC_1"]


@pytest.mark.parametrize("write", [as_csv, as_zip, as_parquet, as_delta])
def test_frame_by_frame_they_are_the_same_labels(write: Callable[[Path], Path], tmp_path: Path) -> None:
    frames = list(read_frames(Location.parse(str(write(tmp_path))), num_rows=1))
    assert len(frames) == 2
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), LABELS, check_dtype=False)


def test_a_delta_table_of_many_files_is_read_whole(tmp_path: Path) -> None:
    """Partition columns lie in the log, not in the files; deleted files are in no snapshot; rows keep their order."""
    frame = pd.DataFrame({"image": [f"I{row:06}" for row in range(40_000)], "label": "NV", "site": "Vienna"})
    table = tmp_path / "labels"
    write_deltalake(str(table), frame, partition_by=["site"])
    write_deltalake(str(table), frame[:5].assign(image="x", site="Graz"), partition_by=["site"], mode="append")
    write_deltalake(str(table), frame[:3].assign(site="Bern"), partition_by=["site"], mode="append")
    DeltaTable(str(table)).delete("site = 'Bern'")
    frames = list(read_frames(Location.parse(str(table)), num_rows=15_000))
    assert [len(one) for one in frames] == [15_000, 15_000, 10_005]
    found = pd.concat(frames, ignore_index=True)
    assert list(found.loc[found["site"] == "Vienna", "image"]) == list(frame["image"])
    assert list(found.loc[found["site"] != "Vienna", "site"]) == ["Graz"] * 5
    assert found["label"].eq("NV").all()


def test_a_delta_table_on_s3_is_read_with_the_settings_of_its_location(tmp_path: Path, s3: S3Server) -> None:
    s3.filesystem().put(str(as_delta(tmp_path)), "s3://tests/frames/labels", recursive=True)
    found = read_frame(Location.parse("s3://tests/frames/labels"))
    pd.testing.assert_frame_equal(found, LABELS, check_dtype=False)


def test_a_delta_table_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    next(as_delta(tmp_path).glob("*.parquet")).unlink()
    with pytest.raises(LabelsError, match=r"the Delta table '.*labels' cannot be read: .*not found"):
        read_frame(Location.parse(str(tmp_path / "labels")))


@pytest.mark.parametrize("write", [as_parquet, as_delta])
def test_a_table_without_rows_keeps_its_columns(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    if path.is_dir():
        DeltaTable(str(path)).delete()
    else:
        LABELS[:0].to_parquet(path)
    found = read_frame(Location.parse(str(path)))
    assert (list(found.columns), len(found)) == (["image", "MEL", "NV"], 0)


def test_a_csv_of_a_header_alone_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,MEL,NV\n")
    assert list(read_frame(Location.parse(str(tmp_path / "labels.csv"))).columns) == ["image", "MEL", "NV"]


def test_frame_by_frame_they_are_refused_alike(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    (tmp_path / "bad.csv").write_bytes(b"image,MEL\n\xff\xfe,1\n")
    with pytest.raises(LabelsError, match=r"bad\.parquet' is a Parquet file that cannot be read"):
        list(read_frames(Location.parse(str(tmp_path / "bad.parquet")), num_rows=5))
    with pytest.raises(LabelsError, match=r"bad\.csv' is no CSV or Parquet file"):
        list(read_frames(Location.parse(str(tmp_path / "bad.csv")), num_rows=5))
    with pytest.raises(LabelsError, match="folder, but no Delta table"):
        list(read_frames(Location.parse(str(tmp_path)), num_rows=5))


def test_numbers_as_ids_become_text_and_missing_ones_stay_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_id": [7, 8], "lesion_id": pd.array([1, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "groups.parquet")
    write_deltalake(str(tmp_path / "groups"), frame)
    for name in ("groups.parquet", "groups"):
        found = read_frame(Location.parse(str(tmp_path / name)))
        assert list(found["image_id"]) == ["7", "8"]
        assert found["lesion_id"][0] == "1"
        assert found["lesion_id"].isna()[1]


def test_what_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "note.txt").write_text("x")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(LabelsError, match="folder, but no Delta table"):
        read_frame(Location.parse(str(tmp_path / "folder")))
    with pytest.raises(LabelsError, match=r"bad\.parquet' is a Parquet file that cannot be read"):
        read_frame(Location.parse(str(tmp_path / "bad.parquet")))
