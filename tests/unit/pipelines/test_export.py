"""export: plain files hold what the table holds, joined with labels; or the command says in a sentence why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from skinvae.cli import app
from skinvae.errors import LabelsError, UsageError
from skinvae.pipelines.export import ExportSummary, Wanted, export
from skinvae.records import SCORE_SCHEMA
from skinvae.storage.filesystem import Location, StorageSettings
from tests.finished_table import OTHER_SCORING, SCORING, FinishedTable, make_finished_table
from tests.s3_server import S3Server

CHOSEN = Wanted(SCORING)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedTable:
    return make_finished_table(tmp_path_factory.mktemp("finished"))


def run(table: FinishedTable, to: object, **changes: Any) -> ExportSummary:
    arguments = {
        "wanted": CHOSEN,
        "format_": "parquet",
        "labels": None,
        "normal": (),
        "storage": StorageSettings(),
        "on_step": lambda *_: None,
    }
    return export(table.uri, to=str(to), **(arguments | changes))


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Whatever the order of rows and the ways of saying null; scores to the last bit."""
    key = ["source_id", "member_index"]
    found, expected = (one.sort_values(key).reset_index(drop=True) for one in (found, expected))
    for name in expected.columns:
        both = [one[name].astype(object).where(one[name].notna(), None) for one in (found, expected)]
        assert both[0].tolist() == both[1].tolist(), name


def test_parquet_holds_every_row_and_says_what_the_columns_mean(finished: FinishedTable, tmp_path: Path) -> None:
    summary = run(finished, tmp_path / "plain")
    found = pd.read_parquet(tmp_path / "plain")
    assert list(found.columns) == SCORE_SCHEMA.names
    assert_same(found, finished.of()[SCORE_SCHEMA.names])
    assert summary.num_rows == len(finished.of()) == 300
    assert summary.files == ["export-00000.parquet"]
    schema = pq.read_schema(tmp_path / "plain" / "export-00000.parquet")
    assert schema.field("vae").metadata == SCORE_SCHEMA.field("vae").metadata
    about = json.loads(schema.metadata[b"skinvae.export"])
    assert about["table"] == finished.uri
    assert about["table_version"] == summary.table_version
    assert about["provenance"] == [{"scoring_id": SCORING, "model_digest": finished.model_id * 4}]
    manifest = json.loads((tmp_path / "plain" / "_export.json").read_text())
    assert manifest["num_rows"] == 300
    assert manifest["columns"]["vae"]["unit"] == "nats"
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["_export.json", "export-00000.parquet"]


def test_csv_is_the_same_to_the_last_digit(finished: FinishedTable, tmp_path: Path) -> None:
    columns = ["source_id", "member_index", "image_id", "vae", "ess", "p_value", "error", "scored_at"]
    run(finished, tmp_path / "csv", format_="csv", wanted=Wanted(OTHER_SCORING, columns))
    found = pd.read_csv(tmp_path / "csv" / "export-00000.csv", parse_dates=["scored_at"])
    assert list(found.columns) == columns
    assert_same(found, finished.of(OTHER_SCORING)[columns])


def test_labels_normality_and_split_are_joined(finished: FinishedTable, tmp_path: Path) -> None:
    summary = run(finished, tmp_path / "plain", labels=finished.one_hot, wanted=Wanted(SCORING, ["image_id", "vae"]))
    found = pd.read_parquet(tmp_path / "plain").set_index("image_id")
    assert list(found.columns) == ["vae", "label", "is_normal", "split"]
    labels = finished.labels.set_index("image_id")["label"].reindex(found.index)
    split = finished.split.set_index("image_id")["split"].reindex(found.index)
    assert found["label"].fillna("").tolist() == labels.fillna("").tolist()
    assert found["split"].fillna("").tolist() == split.fillna("").tolist()
    known = found[found["label"].notna()]
    assert (known["is_normal"].astype(bool) == (known["label"] == "NV")).all()
    assert found.loc[found["label"].isna(), "is_normal"].isna().all()
    assert (summary.num_unmatched, summary.num_labels_unmatched) == (2, 1)

    run(finished, tmp_path / "dx", labels=finished.metadata, normal=["NV", "DF"])
    assert set(pd.read_parquet(tmp_path / "dx").query("is_normal == True")["label"]) == {"NV", "DF"}


def test_other_statuses_are_left_out_and_counted(finished: FinishedTable, tmp_path: Path) -> None:
    summary = run(finished, tmp_path / "ok", wanted=Wanted(SCORING, statuses=["ok"]))
    found = pd.read_parquet(tmp_path / "ok")
    assert_same(found, finished.of().query("status == 'ok'")[SCORE_SCHEMA.names])
    assert summary.left_out == {"truncated": 15, "undecodable": 15}
    nothing = run(finished, tmp_path / "none", wanted=Wanted(SCORING, ["image_id"], ["timeout"]))
    assert nothing.num_rows == 0
    assert list(pd.read_parquet(tmp_path / "none").columns) == ["image_id"]


def test_a_table_that_is_not_finished_can_be_exported(tmp_path: Path) -> None:
    begun = make_finished_table(tmp_path, swapped=False)
    run(begun, tmp_path / "plain")
    assert_same(pd.read_parquet(tmp_path / "plain"), begun.of()[SCORE_SCHEMA.names])


def test_large_exports_are_several_files(
    finished: FinishedTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skinvae.storage.export._GROUP_ROWS", 50)
    monkeypatch.setattr("skinvae.storage.table_rows._BATCH_ROWS", 30)
    monkeypatch.setattr("skinvae.images.archives.parquet.rows._MAX_BATCH_ROWS", 30)
    steps: list[tuple[str, int, int]] = []
    summary = run(finished, tmp_path / "plain", file_bytes=1000, on_step=lambda *step: steps.append(step))
    assert len(summary.files) > 2
    assert_same(pyarrow.dataset.dataset(str(tmp_path / "plain")).to_table().to_pandas(), finished.of())
    assert steps[-1] == ("rows", 300, 300)
    run(finished, tmp_path / "csv", file_bytes=1000, format_="csv")
    found = pd.concat([pd.read_csv(path) for path in (tmp_path / "csv").glob("*.csv")])
    assert sorted(found["image_id"]) == sorted(finished.of()["image_id"])


def test_to_s3(finished: FinishedTable, s3: S3Server) -> None:
    to = "s3://tests/exports/one"
    summary = run(finished, to, labels=finished.one_hot)
    assert summary.num_bytes == Location.parse(f"{to}/export-00000.parquet").info().num_bytes
    with s3.filesystem().open(f"{to}/export-00000.parquet") as file:
        assert_same(pd.read_parquet(file), finished.of())
    with pytest.raises(UsageError, match="holds an export already"):
        run(finished, to)


def test_a_place_that_is_not_empty_is_refused(finished: FinishedTable, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "export-00000.parquet").write_bytes(b"of somebody else")
    with pytest.raises(UsageError, match="is not empty: choose another --to"):
        run(finished, tmp_path / "precious")
    assert (tmp_path / "precious" / "export-00000.parquet").read_bytes() == b"of somebody else"
    for inside in (finished.uri, f"{finished.uri}/plain"):
        with pytest.raises(UsageError, match="lies in the table"):
            run(finished, inside)


def test_what_does_not_fit_is_one_sentence(finished: FinishedTable, tmp_path: Path) -> None:
    to = tmp_path / "never"
    with pytest.raises(
        UsageError, match=f"holds 2 scorings: choose with --scoring-id one of {OTHER_SCORING}, {SCORING}"
    ):
        run(finished, to, wanted=Wanted())
    with pytest.raises(UsageError, match="--columns: there is no 'vea'; there are image_id, source, "):
        Wanted(columns=["vea"])
    with pytest.raises(UsageError, match="--status: there is no 'fine'; there are ok, undecodable, "):
        Wanted(statuses=["fine"])
    with pytest.raises(UsageError, match="--columns: 'vae' is named twice"):
        Wanted(columns=["vae", "vae"])
    with pytest.raises(UsageError, match="give --labels, too"):
        run(finished, to, normal=["NV"])
    with pytest.raises(LabelsError, match="has no image of class XX: there are MEL, NV, "):
        run(finished, to, labels=finished.one_hot, normal=["XX"])
    assert not to.exists()


def test_the_command(finished: FinishedTable, tmp_path: Path) -> None:
    words = ["export", finished.uri, "--to", str(tmp_path / "plain"), "--scoring-id", SCORING]
    words += ["--labels", finished.one_hot, "--columns", "image_id, vae", "--status", "ok"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["num_rows"] == 270
    assert document["left_out"] == {"truncated": 15, "undecodable": 15}
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "holds an export already" in again.stderr
    words[3] = str(tmp_path / "again")
    shown = CliRunner().invoke(app, words).stdout
    assert "270 rows in 1 file" in shown
    # One of an image that no archive holds, and those of the rejected images.
    assert "2 rows without a label, 31 labels without a row" in shown
    assert np.isfinite(pd.read_parquet(tmp_path / "again")["vae"]).all()
