"""Every kind of archive gives the same scores, in one command, at any interruption and through `prepare`."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from skinvae.errors import ArchiveError, InputError, Interrupted, UsageError
from skinvae.images.archives import image_id
from skinvae.pipelines import completing
from skinvae.pipelines.prepare import prepare
from skinvae.pipelines.runtime import training_resources
from skinvae.pipelines.score import score
from skinvae.pipelines.slice_job import check_damage
from skinvae.pipelines.train import train
from skinvae.pipelines.train_images import decode_normals
from skinvae.pipelines.train_plan import make_train_plan
from skinvae.records import SCORES
from skinvae.storage.filesystem import Location
from skinvae.storage.score_table import ScoreTable
from skinvae.storage.slice_ids import SliceFile
from skinvae.storage.slices import write_slice
from tests.conftest import COUNTS, ArchiveFiles, config
from tests.pipelines.processes import command_environment, skinvae_command
from tests.pipelines.test_score import assert_same_scores
from tests.s3_server import S3Server

Members = dict[str, bytes]


def tar_of(members: Iterable[tuple[str, bytes]], *, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def write_kinds(folder: Path, members: Members) -> list[str]:
    """The same images as a tar, a tar.gz, three WebDataset shards, a folder, Parquet and a manifest of the folder."""
    items = sorted(members.items())
    (folder / "images.tar").write_bytes(tar_of(items))
    (folder / "packed.tar.gz").write_bytes(gzip.compress(tar_of(items), 1))
    for number in range(3):
        shard = [item for name, data in items[number::3] for item in ((name, data), (f"{image_id(name)}.cls", b"0"))]
        (folder / f"shard-{number:03}.tar").write_bytes(tar_of(shard))
    for name, data in items:
        path = folder / "prefix" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    images = [{"bytes": data, "path": name} for name, data in items]
    pq.write_table(pa.table({"image": images, "label": [0] * len(items)}), folder / "hub.parquet", row_group_size=13)
    (folder / "list.txt").write_text("".join(f"prefix/{name}\n" for name, _ in items))
    (folder / "single.jpg").write_bytes(items[0][1])
    names = ("images.tar", "packed.tar.gz", "shard-{000..002}.tar", "prefix", "hub.parquet", "list.txt")
    return [str(folder / name) for name in names]


@pytest.fixture(scope="module")
def kinds(archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_kinds(tmp_path_factory.mktemp("kinds"), archive.members())


def kind_of(source: str) -> str:
    return "shards" if "shard-" in source else source.rsplit("/", 1)[-1]


def test_one_command_takes_every_kind_and_gives_the_same_scores(
    model: str, table: str, archive: ArchiveFiles, kinds: list[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    summary = score([archive.zip, *kinds], model=model, table=out, config=config())
    rows = pd.read_parquet(out)
    assert summary.num_ok == len(rows) == (len(kinds) + 1) * len(archive.members())
    assert not rows.duplicated(["source_id", "scoring_id", "member_index"]).any()
    reference = pd.read_parquet(table).sort_values("image_id", ignore_index=True)
    by_kind = dict(list(rows.groupby(rows["source"].map(kind_of))))
    assert sorted(by_kind) == sorted(
        ["images.zip", "images.tar", "packed.tar.gz", "shards", "prefix", "hub.parquet", "list.txt"]
    )
    for frame in by_kind.values():
        assert_same_scores(frame.sort_values("image_id", ignore_index=True), reference)

    again = score([archive.zip, *kinds], model=model, table=out, config=config(slice_size=7))
    assert (again.num_images, again.num_already_done) == (0, again.num_members)


def test_every_kind_comes_from_s3(
    model: str, table: str, s3: S3Server, archive: ArchiveFiles, kinds: list[str], tmp_path: Path
) -> None:
    bucket = Location.parse("s3://kinds")
    bucket.filesystem.mkdir("kinds")
    folder = Path(kinds[0]).parent
    for path in folder.rglob("*"):
        if path.is_file():
            (bucket / str(path.relative_to(folder))).write_bytes(path.read_bytes())
    remote = [f"s3://kinds/{Path(kind).name}" for kind in kinds if "shard-" not in kind]
    out = str(tmp_path / "scores")
    summary = score([*remote, "s3://kinds/shard-*.tar"], model=model, table=out, config=config())
    assert summary.num_ok == 6 * len(archive.members())
    rows = pd.read_parquet(out)
    reference = pd.read_parquet(table).sort_values("image_id", ignore_index=True)
    for _, frame in rows.groupby(rows["source"].map(kind_of)):
        assert_same_scores(frame.sort_values("image_id", ignore_index=True), reference)


def first_slices(table: str, tar: str, out: str, *, count: int) -> list[SliceFile]:
    """Commit to `out` the first slices that `table` holds of the tar, as a driver that died later would have."""
    location = Location.parse(out)
    scored = ScoreTable.open(Location.parse(table))
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(Path(table).glob("*.parquet"))])
    [source_id] = {one["source_id"] for one in rows.to_pylist() if one["source"] == tar}
    chosen = sorted(one for one in scored.live_slices() if one.source_id == source_id)[:count]
    files = [
        write_slice(location, one, rows.filter(pc.equal(rows["slice_id"], str(one))), provenance={}) for one in chosen
    ]
    return ScoreTable.open_or_create(location).commit_slices(files, provenance={})


@pytest.fixture(scope="module")
def tar_scores(model: str, kinds: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tar, scored in slices of ten."""
    out = str(tmp_path_factory.mktemp("tar") / "scores")
    score([kinds[0]], model=model, table=out, config=config(slice_size=10))
    return out


def assert_same_rows(out: str, reference: str) -> None:
    left, right = (pd.read_parquet(one).sort_values("member_index", ignore_index=True) for one in (out, reference))
    pd.testing.assert_frame_equal(
        left[["source_id", "member_index", "member"]], right[["source_id", "member_index", "member"]]
    )
    assert_same_scores(left, right)


def test_a_tar_goes_on_where_an_earlier_run_stopped(
    model: str, tar_scores: str, kinds: list[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    done = first_slices(tar_scores, kinds[0], out, count=5)
    summary = score([kinds[0]], model=model, table=out, config=config(slice_size=7))
    assert summary.num_already_done == 50
    assert summary.num_images == len(pd.read_parquet(tar_scores)) - sum(one.num_rows for one in done)
    assert_same_rows(out, tar_scores)
    begins = [one.byte_range[0] for one in ScoreTable.open(Location.parse(out)).live_slices() if one.byte_range]
    assert done[-1].slice_id.byte_range is not None
    assert done[-1].slice_id.byte_range[1] in begins, "the second run began at the byte where the first had stopped"


def test_originals_and_prepared_complete_each_other(
    model: str, tar_scores: str, prepared: str, kinds: list[str], tmp_path: Path
) -> None:
    """The prepared slice holds the whole tar: what is done of it cuts it in two, and its end must not be lost."""
    out = str(tmp_path / "scores")
    first_slices(tar_scores, kinds[0], out, count=3)
    assert score([prepared], model=model, table=out, config=config()).damaged == []
    again = score([kinds[0]], model=model, table=out, config=config())
    assert (again.num_images, again.num_already_done, again.damaged) == (0, again.num_members, [])
    rows = pd.read_parquet(out)
    rows[rows["source"] == kinds[0]].to_parquet(tmp_path / "of_the_tar.parquet")
    assert_same_rows(str(tmp_path / "of_the_tar.parquet"), tar_scores)


def test_damaged_archives_keep_nothing_else_from_being_scored(
    model: str, archive: ArchiveFiles, kinds: list[str], tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    whole = Path(kinds[0]).read_bytes()
    cut = [tmp_path / f"cut-{number}.tar" for number in range(2)]
    for number, path in enumerate(cut):
        path.write_bytes(whole[: len(whole) * (2 + number) // 4])
    archives = [*map(str, cut), archive.zip]
    summary = score(archives, model=model, table=out, config=config(slice_size=10))
    assert len(summary.damaged) == 2
    with pytest.raises(ArchiveError, match=r"^2 archives could not be read to their ends: .*cut-[01]\.tar is damaged"):
        check_damage(summary)
    rows = pd.read_parquet(out).sort_values(["source", "member_index"])
    assert (rows["source"] == archive.zip).sum() == len(archive.members())
    for path in cut:
        of_tar = rows[rows["source"] == str(path)]
        assert 0 < (of_tar["status"] == "ok").sum() < len(archive.members())
        assert list(of_tar["status"])[-1] == "truncated"
    again = score(archives, model=model, table=out, config=config(slice_size=10))
    assert (again.num_images, len(again.damaged)) == (0, 2), "what is lost is never counted as done"


def test_what_a_prepared_archive_lacks_is_said_by_every_run(
    model: str, archive: ArchiveFiles, kinds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, out, table = tmp_path / "cut.tar", str(tmp_path / "prepared"), str(tmp_path / "scores")
    whole = Path(kinds[0]).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    assert len(prepare([archive.zip, str(cut)], out=out, config=config()).damaged) == 1

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(completing, "swap_slices_for_parts", stopped)
        with pytest.raises(Interrupted):
            score([out], model=model, table=table, config=config())
    only_the_swap_is_left = score([out], model=model, table=table, config=config())
    nothing_is_left = score([out], model=model, table=table, config=config())
    for summary in (only_the_swap_is_left, nothing_is_left):
        assert summary.num_images == 0
        with pytest.raises(
            ArchiveError, match=r"members of '.*cut\.tar', which are not all: .*`skinvae prepare` again"
        ):
            check_damage(summary)
    rows = pd.read_parquet(table)
    assert (rows["source"] == archive.zip).sum() == len(archive.members())
    assert 0 < (rows["source"] == str(cut)).sum() < len(archive.members())


def test_an_archive_replaced_while_it_is_read_is_said_and_scored_anew_by_the_next_run(
    model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, path = str(tmp_path / "scores"), tmp_path / "images.zip"
    path.write_bytes(Path(archive.zip).read_bytes())
    really_decoded = completing._decoded

    def replaced(*arguments: Any) -> Any:
        os.utime(path, ns=(1, 1))  # as an upload of the same bytes would
        return really_decoded(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(completing, "_decoded", replaced)
        summary = score([str(path)], model=model, table=out, config=config(slice_size=40))
    assert summary.num_images == 0
    with pytest.raises(ArchiveError, match=r"^source changed: '.*images\.zip' was replaced while it was read"):
        check_damage(summary)
    assert score([str(path)], model=model, table=out, config=config()).num_ok == len(archive.members())


def test_every_kind_trains_on_the_same_images(
    ray_cluster: str, archive: ArchiveFiles, kinds: list[str], tmp_path: Path
) -> None:
    resources = training_resources(config().ray)

    def normals(source: str) -> pd.DataFrame:
        plan = make_train_plan(
            [source], labels=archive.labels, normal=["NV"], out=str(tmp_path / "model"), groups=archive.groups,
            config=config(), command="",
        )  # fmt: skip
        frame = decode_normals(plan, resources).dataset.to_pandas()
        frame["image"] = [np.asarray(image).tobytes() for image in frame["image"]]
        return frame.sort_values("image_id", ignore_index=True)

    reference = normals(archive.zip)
    assert len(reference) == COUNTS["NV"]
    for source in kinds:
        pd.testing.assert_frame_equal(normals(source), reference)


def test_the_command_says_what_is_done_and_what_is_damaged(
    ray_cluster: str, model: str, kinds: list[str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.tar"
    whole = Path(kinds[0]).read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    command = skinvae_command("score", str(cut), "--model", model, "--table", str(tmp_path / "t"), config=config())
    finished = subprocess.run(
        [*command, "--json"], env=command_environment(ray_cluster), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 4, finished.stderr
    assert "cut.tar is damaged" in finished.stderr.splitlines()[-1]
    assert json.loads(finished.stdout)["num_ok"] > 0
    assert "Traceback" not in finished.stderr


@pytest.fixture(scope="module")
def prepared(
    ray_cluster: str, archive: ArchiveFiles, kinds: list[str], tmp_path_factory: pytest.TempPathFactory
) -> str:
    out = str(tmp_path_factory.mktemp("prepared") / "prepared")
    summary = prepare([archive.zip, kinds[0]], out=out, config=config())
    assert summary.num_ok == 2 * len(archive.members())
    return out


def test_a_prepared_archive_gives_exactly_the_scores_of_the_originals(
    model: str, table: str, prepared: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    summary = score([prepared], model=model, table=out, config=config())
    assert summary.num_ok == 2 * len(archive.members())
    rows = pd.read_parquet(out)
    of_zip = rows[rows["source"] == archive.zip].sort_values("member_index", ignore_index=True)
    reference = pd.read_parquet(table).sort_values("member_index", ignore_index=True)
    same = ["image_id", "source", "source_id", "member", "member_index", "width", "height", "num_bytes", "slice_id"]
    pd.testing.assert_frame_equal(of_zip[same], reference[same])
    for name in (*SCORES, "ess"):
        np.testing.assert_array_equal(of_zip[name], reference[name], err_msg=name)
    # The rows are the originals' own: their archives have nothing left to score.
    again = score([archive.zip], model=model, table=out, config=config())
    assert (again.num_images, again.num_already_done) == (0, again.num_members)


def test_preparing_again_does_nothing_and_other_settings_are_refused(
    prepared: str, archive: ArchiveFiles, kinds: list[str]
) -> None:
    version = DeltaTable(prepared).version()
    assert prepare([archive.zip, kinds[0]], out=prepared, config=config()).num_images == 0
    assert DeltaTable(prepared).version() == version
    other = config().model_copy(update={"model": config().model.model_copy(update={"image_size": 64})})
    with pytest.raises(UsageError, match="was prepared with image_size 32 where 64 is asked for"):
        prepare([archive.zip], out=prepared, config=other)


@pytest.mark.slow
def test_training_on_a_prepared_archive_gives_the_model_of_the_originals(
    model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    prepared = str(tmp_path / "prepared")
    prepare([archive.zip], out=prepared, config=config())
    out = str(tmp_path / "model")
    train([prepared], labels=archive.labels, normal=["NV"], out=out, groups=archive.groups, config=config())
    weights = "model.safetensors"
    assert (tmp_path / "model" / weights).read_bytes() == (Path(model) / weights).read_bytes()


def test_a_prepared_archive_of_another_size_is_refused(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    out = str(tmp_path / "prepared")
    other = config().model_copy(update={"model": config().model.model_copy(update={"image_size": 64})})
    prepare([archive.zip], out=out, config=other)
    with pytest.raises(UsageError, match="was prepared with image_size 64 where 32 is asked for"):
        score([out], model=model, table=str(tmp_path / "scores"), config=config())


def test_a_single_image_is_an_archive_of_one(model: str, table: str, kinds: list[str], tmp_path: Path) -> None:
    out = str(tmp_path / "scores")
    single = Path(kinds[0]).parent / "single.jpg"
    assert score([str(single)], model=model, table=out, config=config()).num_ok == 1
    [row] = pd.read_parquet(out).to_dict("records")
    assert row["image_id"] == "single"
    assert np.isclose(pd.read_parquet(table)["vae"], row["vae"], rtol=1e-6).sum() == 1


def test_archives_in_a_folder_are_not_passed_over_in_silence(
    model: str, archive: ArchiveFiles, kinds: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "shard-000.tar").write_bytes(Path(kinds[0]).read_bytes())
    with pytest.raises(
        InputError, match=r"holds 1 archives, such as 'shard-000.tar'.*name them too, as in .*/\*\.tar'"
    ):
        score([str(folder)], model=model, table=str(tmp_path / "t"), config=config())
    (folder / "one.jpg").write_bytes(next(iter(archive.members().values())))
    assert score([str(folder)], model=model, table=str(tmp_path / "t"), config=config()).num_ok == 1
    assert "note: " in capsys.readouterr().err


def test_nothing_matches_is_one_sentence(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\*\.zip"):
        score([f"{tmp_path}/*.zip"], model=model, table=str(tmp_path / "t"), config=config())
