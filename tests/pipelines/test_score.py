"""score: every image one row, the same scores from everywhere, and nothing done twice."""

from __future__ import annotations

import io
import threading
import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from PIL import Image
from scipy.stats import gamma, kstest

from skinvae.errors import BundleError, InputError, RejectLimitExceeded, UsageError
from skinvae.images.archives import image_id
from skinvae.images.decode import decode
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.pipelines.score import check_reject_limit, score
from skinvae.records import SCORE_SCHEMA, SCORES
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from tests.conftest import ArchiveFiles, config
from tests.s3_server import S3Server

BATCH_TOLERANCE = 1e-6
"""Oracle 8: convolutions of other batch sizes differ in the last bits of float32; 3e-8 was the worst seen."""


def read(table: str) -> pd.DataFrame:
    return pd.read_parquet(table).sort_values("image_id", ignore_index=True)


def assert_same_scores(left: pd.DataFrame, right: pd.DataFrame) -> None:
    assert list(left["image_id"]) == list(right["image_id"])
    for name in (*SCORES, "ess"):
        np.testing.assert_allclose(left[name], right[name], rtol=BATCH_TOLERANCE, err_msg=name)


def test_every_image_has_one_row_and_other_members_have_none(table: str, archive: ArchiveFiles) -> None:
    rows = pd.read_parquet(table)
    assert sorted(rows["member"]) == sorted(archive.members())
    assert (rows["status"] == "ok").all()
    assert not rows.duplicated(["source_id", "scoring_id", "member_index"]).any()
    assert list(rows.columns) == SCORE_SCHEMA.names


def test_scores_are_those_of_the_model_applied_directly(table: str, model: str, archive: ArchiveFiles) -> None:
    bundle = read_bundle(Location.parse(model))
    names, files = zip(*sorted(archive.members().items()), strict=True)
    pixels = [decode(data, size=32, settings=bundle.config.decode).pixels for data in files]
    scorer = Scorer(bundle.build_model(), variance=bundle.config.variance, settings=ScoringSettings(), batch_size=7)
    direct = pd.DataFrame(scorer.score(np.stack(pixels)))
    direct["image_id"] = [image_id(name) for name in names]
    assert_same_scores(read(table), direct)


def test_running_again_scores_nothing_and_commits_nothing(table: str, model: str, archive: ArchiveFiles) -> None:
    version = DeltaTable(table).version()
    summary = score([archive.zip], model=model, table=table, config=config(slice_size=7))
    assert (summary.num_images, summary.num_already_done) == (0, summary.num_members)
    assert DeltaTable(table).version() == version


def test_dry_run_says_what_is_missing_and_writes_nothing(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    summary = score([archive.zip], model=model, table=f"{tmp_path}/t", config=config(), dry_run=True)
    assert (summary.num_already_done, summary.num_members) == (0, len(archive.members()) + 2)
    assert list(tmp_path.iterdir()) == []


def test_readers_agree_after_the_job(table: str) -> None:
    by_pandas = pd.read_parquet(table)["vae"]
    by_delta = DeltaTable(table).to_pandas(columns=["vae"])["vae"]
    with duckdb.connect() as connection:
        by_duckdb = connection.sql(f"SELECT count(*), avg(vae) FROM read_parquet('{table}/*.parquet')").fetchall()[0]
    assert len(by_pandas) == len(by_delta) == by_duckdb[0]
    assert by_pandas.mean() == pytest.approx(by_delta.mean(), rel=1e-12)
    assert by_pandas.mean() == pytest.approx(by_duckdb[1], rel=1e-12)


def test_a_delta_reader_sees_committed_rows_once_while_the_job_runs(
    model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    table = str(tmp_path / "scores")
    seen: list[int] = []
    repeated: list[int] = []
    stop = threading.Event()

    def poll() -> None:
        while not stop.wait(0.1):
            if DeltaTable.is_deltatable(table):
                keys = DeltaTable(table).to_pandas(columns=["source_id", "scoring_id", "member_index"])
                seen.append(len(keys))
                repeated.append(int(keys.duplicated().sum()))

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        score([archive.zip], model=model, table=table, config=config(slice_size=8, commit_seconds=0.05))
    finally:
        stop.set()
        reader.join()
    assert seen == sorted(seen), "committed rows never vanish"
    assert len(set(seen)) >= 3, f"rows came in several commits, seen were {sorted(set(seen))}"
    assert sum(repeated) == 0


@pytest.mark.slow
def test_zip_folder_and_s3_give_the_same_scores_at_any_number_of_actors(
    table: str, model: str, archive: ArchiveFiles, s3: S3Server, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "nested").mkdir(parents=True)
    for number, (name, data) in enumerate(archive.members().items()):
        (folder / ("nested" if number % 2 else ".") / Path(name).name).write_bytes(data)
    filesystem = s3.filesystem()
    filesystem.put(archive.zip, "tests/same/images.zip")
    filesystem.put(str(folder), "tests/same/folder", recursive=True)
    places = [str(folder), "s3://tests/same/images.zip", "s3://tests/same/folder"]
    score(places, model=model, table="s3://tests/same/scores", config=config(num_actors=2, slice_size=20))
    rows = pd.read_parquet("s3://tests/same/scores")
    for place in places:
        assert_same_scores(rows[rows["source"] == place].sort_values("image_id", ignore_index=True), read(table))


def test_bad_images_are_rows_with_a_reason_and_their_neighbours_are_scored(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    members = archive.members()
    names = sorted(members)[:4]
    good, truncated, garbage, also_good = (members[name] for name in names)
    huge = io.BytesIO()
    Image.new("1", (20_000, 8)).save(huge, "PNG")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for name, data in [
            ("good.jpg", good),
            ("truncated.jpg", truncated[: len(truncated) // 2]),
            ("garbage.jpg", bytes(reversed(garbage))),
            ("text.jpg", b"not an image at all"),
            ("empty.jpg", b""),
            ("huge.png", huge.getvalue()),
            ("notes.txt", b"no image, no row"),
            ("also_good.jpg", also_good),
        ]:
            bad.writestr(name, data)
    summary = score([str(tmp_path / "bad.zip")], model=model, table=f"{tmp_path}/scores", config=config())
    rows = pd.read_parquet(tmp_path / "scores").set_index("image_id")
    expected = {
        "good": "ok",
        "truncated": "truncated",
        "garbage": "unsupported_format",
        "text": "unsupported_format",
        "empty": "truncated",
        "huge": "too_large",
        "also_good": "ok",
    }
    assert rows["status"].to_dict() == expected
    rejected = rows[rows["status"] != "ok"]
    assert rejected["error"].str.len().gt(10).all()
    assert rejected[[*SCORES, "ess", "p_value"]].isna().all(axis=None)
    reference = read(table).set_index("image_id")
    assert rows.loc["good", "vae"] == pytest.approx(reference.loc[image_id(names[0]), "vae"], rel=BATCH_TOLERANCE)
    with pytest.raises(RejectLimitExceeded, match="5 of 7 images are rejected"):
        check_reject_limit(summary, max_rejects=0.01)


def test_p_values_are_null_for_trained_images_and_those_of_the_fitted_tail_for_others(table: str, model: str) -> None:
    bundle = read_bundle(Location.parse(model))
    rows = pd.read_parquet(table).set_index("image_id")
    trained = bundle.split.loc[bundle.split["split"] == "train", "image_id"]
    assert rows.loc[trained, "p_value"].isna().all()
    others = rows.drop(index=trained)
    tail = bundle.config.tail
    assert tail is not None
    assert tail.kind == "gamma"
    expected = gamma.sf(others["vae_reconst"] - tail.offset_nats, tail.shape, scale=tail.scale_nats)
    np.testing.assert_allclose(others["p_value"], expected, rtol=1e-6)
    held_out = bundle.split.loc[bundle.split["split"] == "validation", "image_id"]
    assert kstest(rows.loc[held_out, "p_value"], "uniform").pvalue > 0.01


def test_one_table_holds_the_scores_of_several_settings(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    table = str(tmp_path / "scores")
    for mode in ("exact", "released"):
        score([archive.zip], model=model, table=table, config=config(mode=mode, num_samples=2))
    rows = pd.read_parquet(table)
    assert rows.groupby("score_mode")["scoring_id"].nunique().to_dict() == {"exact": 1, "released": 1}
    assert rows.groupby("scoring_id").size().nunique() == 1
    assert not rows.duplicated(["source_id", "scoring_id", "member_index"]).any()


def test_wrong_inputs_end_with_one_sentence(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    table = str(tmp_path / "scores")
    with pytest.raises(InputError, match=r"nowhere\.zip': it does not exist"):
        score([f"{tmp_path}/nowhere.zip"], model=model, table=table, config=config())
    with pytest.raises(UsageError, match="given twice"):
        score([archive.zip, archive.zip], model=model, table=table, config=config())
    with pytest.raises(BundleError, match="no model bundle at"):
        score([archive.zip], model=str(tmp_path / "none"), table=table, config=config())
    with pytest.raises(InputError, match=r"GroundTruth\.csv is no manifest: none of its columns"):
        score([archive.labels], model=model, table=table, config=config())
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(InputError, match="no archive that skinvae reads"):
        score([f"{tmp_path}/paper.pdf"], model=model, table=table, config=config())
