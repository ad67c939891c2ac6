"""evaluate: what it writes is what the table and the labels say, without any image that was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from skinvae.config import build_config
from skinvae.errors import LabelsError, SkinvaeError, TableError, UsageError
from skinvae.metrics.evaluation import AUROC_COLUMNS
from skinvae.pipelines.evaluate import evaluate
from skinvae.pipelines.score import score
from skinvae.pipelines.train import train
from skinvae.records import SCORES
from skinvae.report.evaluation import Evaluation
from skinvae.report.evaluation_files import evaluation_frames
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from tests.conftest import COUNTS, SMALL, ArchiveFiles, config, train_config


def run(table: str, archive: ArchiveFiles, out: Path, **changes: object) -> Evaluation:
    arguments = {
        "labels": archive.labels,
        "out": str(out),
        "groups": archive.groups,
        "normal": (),
        "protocol": "all",
        "scoring_id": None,
        "config": config(),
    }
    return evaluate(table, **(arguments | changes))


@pytest.fixture
def held_out(table: str, model: str, archive: ArchiveFiles) -> pd.DataFrame:
    """The rows that may count, with their labels, found without the code under test."""
    labels = pd.read_csv(archive.labels).set_index("image").idxmax(axis=1).rename("label")
    lesions = pd.read_csv(archive.groups).set_index("image_id")["lesion_id"]
    split = read_bundle(Location.parse(model)).split
    trained = lesions.reindex(split.loc[split["split"] == "train", "image_id"])
    rows = pd.read_parquet(table).set_index("image_id").join(labels)
    return rows[~lesions.reindex(rows.index).isin(trained)]


def test_auroc_csv_holds_the_aurocs_of_the_held_out_images(
    table: str, archive: ArchiveFiles, held_out: pd.DataFrame, tmp_path: Path
) -> None:
    run(table, archive, tmp_path / "e")
    written = pd.read_csv(tmp_path / "e" / "auroc.csv")
    assert tuple(written.columns) == tuple(AUROC_COLUMNS)
    assert set(written["score"]) == set(SCORES)
    assert set(written["target"]) == set(COUNTS) - {"NV"} | {"macro", "pooled"}
    for row in written[~written["target"].isin(["macro"])].itertuples():
        chosen = held_out if row.target == "pooled" else held_out[held_out["label"].isin(["NV", row.target])]
        assert row.auroc == pytest.approx(roc_auc_score(chosen["label"] != "NV", chosen[row.score]), abs=1e-12)
        assert (row.num_normal, row.num_abnormal) == ((chosen["label"] == "NV").sum(), (chosen["label"] != "NV").sum())
        assert 0 <= row.ci_low <= row.auroc <= row.ci_high <= 1


def test_the_account_of_rows_adds_up_and_is_written(
    table: str, archive: ArchiveFiles, held_out: pd.DataFrame, tmp_path: Path
) -> None:
    join = run(table, archive, tmp_path / "e").join
    assert len(join.evaluated) == len(held_out)
    assert join.num_trained + join.num_trained_lesion == sum(COUNTS.values()) - len(held_out)
    document = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert document["num_evaluated"] == len(held_out)
    for picture in ("roc_curves.png", "score_histograms.png"):
        assert (tmp_path / "e" / picture).read_bytes().startswith(b"\x89PNG")


def test_the_paper_protocol_says_where_images_are_too_few(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    paper = run(table, archive, tmp_path / "e", protocol="paper").paper
    assert paper is not None
    assert len(paper.shortfalls) == 7
    assert len(pd.read_csv(tmp_path / "e" / "paper_protocol.csv")) == 6 * 8


def test_the_metadata_table_serves_as_labels_too(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    one_hot = run(table, archive, tmp_path / "a").auroc
    diagnoses = run(table, archive, tmp_path / "b", labels=archive.groups).auroc
    pd.testing.assert_frame_equal(one_hot, diagnoses)


def test_several_scorings_must_be_told_apart(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    table = str(tmp_path / "scores")
    ids = [
        score([archive.zip], model=model, table=table, config=config(num_samples=count)).scoring_id for count in (1, 2)
    ]
    with pytest.raises(UsageError, match=f"--scoring-id one of {sorted(ids)[0]}, {sorted(ids)[1]}"):
        run(table, archive, tmp_path / "e")
    assert (run(table, archive, tmp_path / "e", scoring_id=ids[0]).auroc["scoring_id"] == ids[0]).all()
    with pytest.raises(UsageError, match="holds no scoring 'nonesuch'"):
        run(table, archive, tmp_path / "e", scoring_id="nonesuch")


def test_wrong_inputs_end_with_one_sentence(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no score table at"):
        run(str(tmp_path / "none"), archive, tmp_path / "e")
    Path(tmp_path, "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LabelsError, match="no column 'image' or 'image_id'"):
        run(table, archive, tmp_path / "e", labels=f"{tmp_path}/other.csv")


def test_labels_that_come_later_need_no_scoring(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    """The same table, half of the labels and then all: no file of it changes, and no Ray is asked."""
    before = {path: path.stat().st_mtime_ns for path in Path(table).rglob("*") if path.is_file()}
    labels = pd.read_csv(archive.labels)
    labels.sample(frac=0.5, random_state=0).to_csv(tmp_path / "early.csv", index=False)
    early = run(table, archive, tmp_path / "early", labels=str(tmp_path / "early.csv"))
    labels.to_parquet(tmp_path / "late.parquet")
    late = run(table, archive, tmp_path / "late", labels=str(tmp_path / "late.parquet"))
    assert early.join.num_unmatched > 0
    assert late.join.num_unmatched == 0
    assert late.join.num_evaluated > early.join.num_evaluated
    assert {path: path.stat().st_mtime_ns for path in Path(table).rglob("*") if path.is_file()} == before


def test_metadata_give_strata_and_lesions(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    with_groups = run(table, archive, tmp_path / "a")
    found = run(table, archive, tmp_path / "b", groups=None, metadata=archive.groups)
    pd.testing.assert_frame_equal(found.auroc, with_groups.auroc)
    assert found.strata is not None
    written = pd.read_csv(tmp_path / "b" / "strata.csv", keep_default_na=False)
    assert (written.groupby("variable")["num_normal"].sum() == found.join.num_normal).all()
    assert (tmp_path / "b" / "strata.png").read_bytes().startswith(b"\x89PNG")


def test_the_evaluation_on_disk_is_that_in_memory(table: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    """All values to the rounding of sums, every count, and intervals about as wide; the names of methods differ."""
    small = run(table, archive, tmp_path / "a", metadata=archive.groups, protocol="paper")
    settings = {**SMALL, "evaluate": {"max_rows_in_memory": 10, "memory_mb": 256}}
    large = run(
        table, archive, tmp_path / "b", metadata=archive.groups, protocol="paper", config=build_config(settings)
    )
    assert large.detection is not None
    assert large.detection.num_held_out_evaluated == small.join.num_validation_normals > 0
    assert any("evaluated on disk" in note for note in large.notes)
    documents = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("a", "b")]
    for key in ("join", "num_evaluated_by_class", "paper_protocol", "normal"):
        assert documents[0][key] == documents[1][key]
    intervals = ["ci_low", "ci_high", "ci_method", "p_value"]
    frames = [evaluation_frames(one) for one in (small, large)]
    assert (
        set(frames[0])
        == set(frames[1])
        == {
            *("auroc.csv", "average_precision.csv", "operating_points.csv", "detection.csv", "comparison.csv"),
            *("strata.csv", "paper_protocol.csv"),
        }
    )
    for name in frames[0]:
        values = [one[name].drop(columns=intervals, errors="ignore") for one in frames]
        pd.testing.assert_frame_equal(*values, rtol=1e-12, check_dtype=False)
    widths = [one.auroc["ci_high"] - one.auroc["ci_low"] for one in (small, large)]
    assert (widths[1] / widths[0]).median() == pytest.approx(1.0, abs=0.25)


@pytest.mark.slow
def test_two_models_are_compared_on_what_neither_was_trained_on(
    table: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    other = str(tmp_path / "model")
    seeded = train_config(num_epochs=1, seed=5)
    train([archive.zip], labels=archive.labels, normal=["NV"], out=other, groups=archive.groups, config=seeded)
    second = str(tmp_path / "scores")
    score([archive.zip], model=other, table=second, config=config())
    found = run(table, archive, tmp_path / "e", against=second)
    alone = run(second, archive, tmp_path / "f")
    assert found.comparison is not None
    between = found.comparison[found.comparison["scoring_id_a"] != found.comparison["scoring_id_b"]]
    common = set(found.join.evaluated["image_id"]) & set(alone.join.evaluated["image_id"])
    chosen = found.join.evaluated[found.join.evaluated["image_id"].isin(common)]
    assert set(between["num_normal"]) == {(chosen["label"] == "NV").sum()}
    assert 0 < len(common) < len(found.join.evaluated)
    row = between.query("score_a == 'vae' and target == 'pooled'").iloc[0]
    assert row["auroc_a"] == pytest.approx(roc_auc_score(chosen["label"] != "NV", chosen["vae"]), abs=1e-12)
    with pytest.raises(UsageError, match="whose scores are the same"):
        run(table, archive, tmp_path / "g", against=table)
    too_large = build_config({**SMALL, "evaluate": {"max_rows_in_memory": 10}})
    with pytest.raises(UsageError, match=r"raise evaluate\.max_rows_in_memory"):
        run(table, archive, tmp_path / "g", against=second, config=too_large)


@pytest.mark.parametrize("max_rows", [0, 2_000_000])
def test_bad_labels_are_one_sentence_in_memory_and_on_disk(
    table: str, archive: ArchiveFiles, tmp_path: Path, max_rows: int
) -> None:
    limited = build_config({**SMALL, "evaluate": {"max_rows_in_memory": max_rows}})
    (tmp_path / "twice.csv").write_text("image,MEL,NV\na,0,1\nb,1,1\n")
    (tmp_path / "ages.csv").write_text("image_id,age\na,old\n")
    for changes, sentence in (
        ({"labels": str(tmp_path / "none.csv")}, r"none\.csv"),
        ({"labels": str(tmp_path / "twice.csv")}, r"twice\.csv, data row 2 \(image b\): exactly one class must be 1"),
        ({"metadata": str(tmp_path / "ages.csv")}, r"ages\.csv, data row 1: the age 'old' is no number"),
    ):
        with pytest.raises(SkinvaeError, match=sentence):
            run(table, archive, tmp_path / "e", config=limited, **changes)
