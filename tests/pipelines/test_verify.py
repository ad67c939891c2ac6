"""verify finds nothing wrong with what jobs write, and names whatever is changed in it afterwards."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction

from skinvae.audit.differences import Kind
from skinvae.audit.verification import Verification, verify_table
from skinvae.pipelines import completing
from skinvae.pipelines.prepare import prepare
from skinvae.pipelines.score import score
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.slice_ids import SliceId
from skinvae.storage.slices import write_slice
from tests.conftest import ArchiveFiles, config
from tests.pipelines.processes import command_environment, skinvae_command
from tests.pipelines.test_archive_kinds import write_kinds
from tests.s3_server import S3Server

NUM_IMAGES = 106


def verify(table: str | Path, *, with_archives: bool = True) -> Verification:
    return verify_table(
        Location.parse(str(table)),
        settings=StorageSettings(),
        with_archives=with_archives,
        on_step=lambda title, done, total: None,
    )


def kinds_found(found: Verification) -> set[Kind]:
    return {one.kind for one in found.differences}


def examples(found: Verification, kind: Kind) -> str:
    return "\n".join(text for one in found.differences if one.kind is kind for text in one.examples)


@pytest.fixture(scope="module")
def own_archive(archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, that a test may replace."""
    return Path(shutil.copy(archive.zip, tmp_path_factory.mktemp("own") / "images.zip"))


@pytest.fixture(scope="module")
def unswapped(model: str, own_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job leaves that is killed before its last commit: all rows, in slices' own files."""
    out = tmp_path_factory.mktemp("unswapped") / "scores"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completing, "swap_slices_for_parts", lambda *_, **__: 0)
        score([str(own_archive)], model=model, table=str(out), config=config())
    return out


@pytest.fixture
def copy(unswapped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unswapped, tmp_path / "scores"))


def slice_files(table: Path) -> list[Path]:
    return sorted((table / "_slices").glob("*.parquet"), key=lambda path: SliceId.from_path(path.name).start)


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change rows; footer, and what it says, stay."""
    rows = pq.read_table(file)
    pq.write_table(change(rows).replace_schema_metadata(rows.schema.metadata), file)


def forge(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the slice anew with other rows, so that its footer agrees with them."""
    slice_id = SliceId.from_path(file.name)
    rows = change(pq.read_table(file)).cast(SCORE_SCHEMA)
    file.unlink()
    write_slice(Location.parse(str(file.parents[1])), slice_id, rows, provenance={})


def with_column(rows: pa.Table, name: str, column: pa.Array) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), column)


def first_changed(rows: pa.Table, name: str, value: object) -> pa.Table:
    values = [value, *rows[name].to_pylist()[1:]]
    return with_column(rows, name, pa.array(values, rows.schema.field(name).type))


def remove_row(table: Path) -> None:
    rewrite(slice_files(table)[0], lambda rows: rows.slice(1))


def change_score(table: Path) -> None:
    rewrite(slice_files(table)[1], lambda rows: first_changed(rows, "vae", rows["vae"][0].as_py() + 1e-9))


def change_name(table: Path) -> None:
    rewrite(slice_files(table)[1], lambda rows: first_changed(rows, "member", "another.jpg"))


def change_status(table: Path) -> None:
    rewrite(slice_files(table)[0], lambda rows: first_changed(rows, "status", "timeout"))


def invent_status(table: Path) -> None:
    forge(slice_files(table)[0], lambda rows: first_changed(rows, "status", "fine"))


def swap_two_rows(table: Path) -> None:
    rewrite(slice_files(table)[0], lambda rows: rows.take([1, 0, *range(2, rows.num_rows)]))


def delete_file(table: Path) -> None:
    slice_files(table)[2].unlink()


def replace_file(table: Path) -> None:
    first, second, *_ = slice_files(table)
    shutil.copy(second, first)


def cut_file(table: Path) -> None:
    file = slice_files(table)[0]
    file.write_bytes(file.read_bytes()[:-100])


def flip_byte(table: Path) -> None:
    file = slice_files(table)[0]
    data = bytearray(file.read_bytes())
    data[200] ^= 1
    file.write_bytes(data)


def forget_image(table: Path) -> None:
    forge(slice_files(table)[0], lambda rows: rows.filter(pc.not_equal(rows["member_index"], 5)))


def invent_image(table: Path) -> None:
    """For one of the two members that are none."""
    file = slice_files(table)[0]
    rows = pq.read_table(file)
    slice_id = SliceId.from_path(file.name)
    (free, *_) = sorted(set(range(slice_id.start, slice_id.stop)) - set(rows["member_index"].to_pylist()))
    row = with_column(rows.slice(0, 1), "member_index", pa.array([free]))
    forge(file, lambda rows: pa.concat_tables([rows, row]))


def stray_row(table: Path) -> None:
    forge(slice_files(table)[0], lambda rows: first_changed(rows, "member_index", 70))


def other_seed(table: Path) -> None:
    forge(slice_files(table)[1], lambda rows: with_column(rows, "seed", pa.array([99] * rows.num_rows, pa.int64())))


def add_slice_twice(table: Path) -> None:
    """As a broken writer would, who does not ask what is covered."""
    file = slice_files(table)[0]
    one = SliceId.from_path(file.name)
    other = SliceId(one.source_id, one.scoring_id, one.start, one.stop - 1)
    rows = pq.read_table(file)
    rows = rows.filter(pc.less(rows["member_index"], other.stop)).cast(SCORE_SCHEMA)
    rows = with_column(rows, "slice_id", pa.array([str(other)] * rows.num_rows))
    written = write_slice(Location.parse(str(table)), other, rows, provenance={})
    stats = json.dumps({"numRecords": written.num_rows})
    action = AddAction(written.path, written.num_bytes, {}, int(time.time() * 1000), True, stats)
    DeltaTable(str(table)).create_write_transaction([action], "append", Schema.from_arrow(SCORE_SCHEMA))


def alter_config(table: Path) -> None:
    (file,) = table.glob("_skinvae/*/config.json")
    file.write_bytes(file.read_bytes() + b" ")


def lose_split(table: Path) -> None:
    (file,) = table.glob("_skinvae/*/split.parquet")
    file.unlink()


@pytest.mark.parametrize(
    ("tamper", "kind", "sentence"),
    [
        (remove_row, Kind.ALTERED_SLICE, "has 29 rows, and had 30 when it was written"),
        (remove_row, Kind.MISSING_ROW, "has images without a row in scoring"),
        (change_score, Kind.ALTERED_SLICE, "has other values than when it was written: its digest differs"),
        (change_name, Kind.ALTERED_SLICE, "has other values than when it was written: its digest differs"),
        (change_status, Kind.ALTERED_SLICE, "has 29 ok and 1 timeout rows, and had 30 ok when"),
        (change_status, Kind.WRONG_ROW, "iwae of a rejected image"),
        (change_status, Kind.WRONG_ROW, "'error' gives no reason"),
        (invent_status, Kind.WRONG_ROW, "its status is no known code"),
        (swap_two_rows, Kind.ALTERED_SLICE, "its digest differs"),
        (delete_file, Kind.MISSING_FILE, "is gone, with 32 rows"),
        (delete_file, Kind.INCOMPLETE, "76 of 108 members are done"),
        (replace_file, Kind.ALTERED_FILE, "it holds the slice"),
        (cut_file, Kind.ALTERED_FILE, "is no file that skinvae wrote"),
        (forget_image, Kind.ALTERED_FILE, "has 29 rows where the log says 30"),
        (forget_image, Kind.MISSING_ROW, "member 5"),
        (invent_image, Kind.SURPLUS_ROW, "has no image where scoring"),
        (stray_row, Kind.WRONG_ROW, "has a row of member 70, which is none of its members"),
        (other_seed, Kind.WRONG_ID, "has other model_id, num_samples, seed"),
        (add_slice_twice, Kind.OVERLAP, "share members"),
        (add_slice_twice, Kind.DUPLICATE_ROW, "has more than one row in scoring"),
        (alter_config, Kind.WRONG_ID, "config.json' was altered"),
        (lose_split, Kind.WRONG_ID, "split.parquet': it does not exist"),
    ],
)
def test_each_change_is_named(copy: Path, tamper: Callable[[Path], None], kind: Kind, sentence: str) -> None:
    tamper(copy)
    found = verify(copy)
    assert sentence in examples(found, kind), found.differences


def test_a_flipped_byte_is_found(copy: Path) -> None:
    flip_byte(copy)
    assert kinds_found(verify(copy)) & {Kind.ALTERED_FILE, Kind.ALTERED_SLICE}


def test_nothing_is_wrong_before_and_after_the_swap(table: str, unswapped: Path) -> None:
    for one, num_files in ((table, 1), (unswapped, 4)):
        found = verify(one)
        assert not found.differences
        assert not found.unreadable
        assert (found.num_rows, found.num_images, found.num_slices, found.num_files) == (106, 106, 4, num_files)


def test_a_changed_row_of_a_large_file_is_named_by_its_slice(table: str, tmp_path: Path) -> None:
    copy = shutil.copytree(table, tmp_path / "scores")
    (part,) = copy.glob("part-*.parquet")
    rewrite(part, lambda rows: first_changed(rows, "ess", 1.5))
    found = verify(copy)
    assert examples(found, Kind.ALTERED_SLICE).count("\n") == 0
    assert "-0-32 in 'part-" in examples(found, Kind.ALTERED_SLICE)
    assert Kind.MISSING_ROW not in kinds_found(found)


@pytest.fixture
def altered_archive(own_archive: Path) -> Iterator[Path]:
    before = own_archive.read_bytes(), own_archive.stat()
    yield own_archive
    own_archive.write_bytes(before[0])
    # The same again, for whoever looks at size and time.
    shutil.os.utime(own_archive, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))


def test_an_archive_with_another_member_was_replaced(unswapped: Path, altered_archive: Path) -> None:
    buffer = io.BytesIO(altered_archive.read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("new.jpg", b"new")
    altered_archive.write_bytes(buffer.getvalue())
    found = verify(unswapped)
    assert f"'{altered_archive}' was replaced since" in examples(found, Kind.REPLACED_ARCHIVE)
    assert not verify(unswapped, with_archives=False).differences


def test_an_archive_that_is_gone_ends_with_4_and_a_difference_with_1(
    unswapped: Path, copy: Path, altered_archive: Path
) -> None:
    altered_archive.unlink()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = skinvae_command("verify", *arguments)
        return subprocess.run(command, env=command_environment(), capture_output=True, text=True, check=False)

    finished = run(str(unswapped))
    assert finished.returncode == 4
    assert "not all could" in finished.stderr
    assert "does not exist" in finished.stderr
    finished = run(str(unswapped), "--no-archives", "--json")
    assert finished.returncode == 0
    assert json.loads(finished.stdout)["is_right"] is True
    change_score(copy)
    finished = run(str(copy), "--no-archives")
    assert finished.returncode == 1
    assert "its digest differs" in finished.stdout
    assert "slices that are not as they were written (1)" in finished.stderr.splitlines()[-1]
    finished = run(str(copy.parent / "nowhere"))
    assert (finished.returncode, finished.stderr.count("\n")) == (4, 1)


def test_without_run_records_the_rows_tell_which_archives_there_are(copy: Path) -> None:
    shutil.rmtree(copy / "_skinvae" / "runs")
    forget_image(copy)
    found = verify(copy)
    assert "member 5" in examples(found, Kind.MISSING_ROW)
    assert found.num_images == NUM_IMAGES


@pytest.mark.slow
def test_every_kind_of_archive_is_counted_again_on_s3_too(
    model: str, archive: ArchiveFiles, s3: S3Server, tmp_path: Path
) -> None:
    """Scored from the originals and, by the same table's second scoring, from a prepared archive of them."""
    few = dict(list(archive.members().items())[:12])
    write_kinds(tmp_path, few)
    (tmp_path / "prefix" / "no-image").write_bytes(b"a text whose name does not tell")
    (tmp_path / "prefix" / "an-image").write_bytes(next(iter(few.values())))
    s3.filesystem().put(str(tmp_path), "tests/verify/kinds", recursive=True)
    names = ("images.tar", "packed.tar.gz", "shard-{000..002}.tar", "prefix/", "hub.parquet", "list.txt", "single.jpg")
    kinds = [f"s3://tests/verify/kinds/{name}" for name in names]
    prepare(kinds, out="s3://tests/verify/prepared", config=config())
    score(kinds, model=model, table="s3://tests/verify/scores", config=config())
    score(["s3://tests/verify/prepared"], model=model, table="s3://tests/verify/scores", config=config(num_samples=2))
    for table in ("s3://tests/verify/prepared", "s3://tests/verify/scores"):
        found = verify(table)
        assert not found.differences
        assert not found.unreadable
    # 6 kinds with all images, the folder with one more, and the single image; from the originals and as prepared.
    assert found.num_images == 2 * (6 * len(few) + 2)
    assert found.num_rows == found.num_images
