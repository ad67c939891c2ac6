"""Every block of docs/cookbook.md runs, and finds what another computation finds."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from scipy.stats import false_discovery_control, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from skinvae.storage.filesystem import Location
from tests.finished_table import ARCHIVES, OTHER_SCORING, SCORING, FinishedTable, make_finished_table
from tests.s3_server import S3Server
from tests.unit.storage.map_rows import store_maps

PAGE = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^<!-- (run|spark|text): ([\w -]+) -->\n```(sql|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {name: (kind, language, code) for kind, name, language, code in BLOCK.findall(PAGE)}
S3_TABLE = "s3://tests/cookbook/scores"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedTable:
    """Laid out as the page has it, and so that its scoring has the page's id."""
    folder = tmp_path_factory.mktemp("cookbook")
    made = make_finished_table(folder)
    (folder / "out").mkdir()
    (folder / "out" / "isic").symlink_to(folder)
    store_maps(Location.parse(made.uri), [float(score) for score in range(11)], scoring=SCORING)
    write_deltalake(str(folder / "out" / "labels"), pd.read_csv(made.metadata))
    return made


@pytest.fixture(autouse=True)
def _in_the_folder(finished: FinishedTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder)


def code_of(name: str, finished: FinishedTable) -> str:
    return BLOCKS[name][2].replace("MODEL_ID", finished.model_id).replace("s3://YOUR-BUCKET/scores", S3_TABLE)


def queried(finished: FinishedTable, *names: str) -> pd.DataFrame:
    """The answer to the last of these blocks, behind those that all queries begin with."""
    with duckdb.connect() as connection:
        for name in ("scores", "one-hot labels", "unseen", *names[:-1]):
            connection.execute(code_of(name, finished))
        return connection.execute(code_of(names[-1], finished)).df()


def executed(finished: FinishedTable, name: str) -> dict[str, Any]:
    """The variables that a Python block leaves."""
    found: dict[str, Any] = {}
    exec(compile(code_of(name, finished), f"cookbook.md, {name}", "exec"), found)
    return found


def unseen_of(finished: FinishedTable) -> pd.DataFrame:
    """The labelled rows that the model was not trained on."""
    trained = finished.split.query("split == 'train'")["image_id"]
    rows = finished.of().query("status == 'ok'").merge(finished.labels, on="image_id")
    return rows[~rows["image_id"].isin(trained)].reset_index(drop=True)


def test_every_block_is_named_and_checked() -> None:
    assert len(re.findall(r"^```\w+$", PAGE, re.MULTILINE)) == len(BLOCKS) == len(BLOCK.findall(PAGE))
    with_views = {"scores", "one-hot labels", "dx labels", "unseen", "unseen lesions"}
    checked = set(SQL_CHECKS) | set(PYTHON_CHECKS) | with_views
    assert {name for name, (kind, _, _) in BLOCKS.items() if kind == "run"} == checked
    assert {name for name, (kind, _, _) in BLOCKS.items() if kind == "text"} == {"httpfs"}


def test_the_views(finished: FinishedTable) -> None:
    with duckdb.connect() as connection:
        labels = []
        for name in ("scores", "one-hot labels", "dx labels", "unseen", "unseen lesions"):
            connection.execute(code_of(name, finished))
            if name.endswith("labels"):
                labels.append(set(connection.sql("SELECT image_id, label FROM labels").fetchall()))
        assert labels[0] == labels[1] == set(finished.labels.itertuples(index=False, name=None))
        scores, unseen, lesions = (
            set(connection.sql(f"SELECT image_id FROM {view}").df()["image_id"])
            for view in ("scores", "unseen", "unseen_lesions")
        )
    assert scores == set(finished.of()["image_id"])
    assert unseen == set(unseen_of(finished)["image_id"])
    lesion_of = pd.read_csv(finished.metadata).set_index("image_id")["lesion_id"]
    trained = set(lesion_of.reindex(finished.split.query("split == 'train'")["image_id"]))
    assert lesions == {one for one in unseen if lesion_of[one] not in trained}
    assert lesions < unseen


def counts_by_status(found: pd.DataFrame, finished: FinishedTable) -> None:
    assert found["status"].tolist() == ["ok", "truncated", "undecodable"]
    assert found["images"].tolist() == [270, 15, 15]
    assert found["percent"].tolist() == pytest.approx([90, 5, 5])


def counts_by_archive(found: pd.DataFrame, finished: FinishedTable) -> None:
    assert found.to_numpy().tolist() == [[uri, 150, 15] for uri in ARCHIVES.values()]


def reasons(found: pd.DataFrame, finished: FinishedTable) -> None:
    assert found["status"].tolist() == ["truncated", "undecodable"]
    assert found["images"].tolist() == [15, 15]
    rejected = finished.of().query("status == 'truncated'")
    assert found["example"][0] == min(rejected["source"] + " " + rejected["member"])


def top(found: pd.DataFrame, finished: FinishedTable) -> None:
    rows = finished.of().merge(finished.labels, on="image_id", how="left")
    rows = rows.sort_values(["vae_reconst", "image_id"], ascending=[False, True])[:10]
    for name in ("image_id", "vae_reconst", "p_value", "label"):
        assert found[name].tolist() == rows[name].tolist()


def auroc(found: pd.DataFrame, finished: FinishedTable) -> None:
    unseen = unseen_of(finished)
    assert unseen["vae_reconst"].duplicated().sum() > 100, "ties are what makes it hard"
    assert found["auroc"][0] == pytest.approx(roc_auc_score(unseen["label"] != "NV", unseen["vae_reconst"]), abs=1e-12)


def auroc_by_class(found: pd.DataFrame, finished: FinishedTable) -> None:
    unseen = unseen_of(finished)
    assert found["disease"].tolist() == sorted(set(unseen["label"]) - {"NV"})
    for row in found.itertuples():
        sides = unseen[unseen["label"].isin(["NV", row.disease])]
        assert row.images == (sides["label"] != "NV").sum()
        assert row.auroc == pytest.approx(roc_auc_score(sides["label"] != "NV", sides["vae_reconst"]), abs=1e-12)


def average_precision(found: pd.DataFrame, finished: FinishedTable) -> None:
    unseen = unseen_of(finished)
    expected = average_precision_score(unseen["label"] != "NV", unseen["vae_reconst"])
    assert found["average_precision"][0] == pytest.approx(expected, abs=1e-12)


def sensitivity(found: pd.DataFrame, finished: FinishedTable) -> None:
    unseen = unseen_of(finished)
    threshold = np.quantile(unseen.query("label == 'NV'")["vae_reconst"], 0.95)
    expected = (unseen["vae_reconst"] > threshold).groupby(unseen["label"]).mean()
    assert found.set_index("label")["share_above"].to_dict() == pytest.approx(expected.to_dict())


def p_values(found: pd.DataFrame, finished: FinishedTable) -> None:
    expected = finished.of().query("p_value < 0.05").sort_values(["p_value", "image_id"])
    assert len(expected) > 5
    assert found["image_id"].tolist() == expected["image_id"].tolist()


def benjamini_hochberg(found: pd.DataFrame, finished: FinishedTable) -> None:
    expected = finished.of().dropna(subset="p_value").set_index("image_id")["p_value"]
    q_values = pd.Series(false_discovery_control(expected), expected.index)
    np.testing.assert_allclose(found["q_value"], q_values.reindex(found["image_id"]), rtol=1e-12)
    assert len(found) == len(expected)


def two_scorings(found: pd.DataFrame, finished: FinishedTable) -> None:
    one, other = (finished.of(scoring)["vae_reconst"].dropna() for scoring in (SCORING, OTHER_SCORING))
    assert found["images"][0] == len(one)
    assert found["rank_correlation"][0] == pytest.approx(spearmanr(one, other).statistic, abs=1e-12)
    assert found["largest_difference"][0] == (one - other).abs().max() > 0


def one_archive(found: pd.DataFrame, finished: FinishedTable) -> None:
    expected = finished.of().query("source_id == 'aaaaaaaaaaaaaaaa'")
    for name in ("member_index", "image_id", "status"):
        assert found[name].tolist() == expected[name].tolist()


def row_groups(found: pd.DataFrame, finished: FinishedTable) -> None:
    (part,) = Path(finished.uri).glob("*.parquet")
    footer = pq.read_metadata(part)
    assert found["num_rows"].tolist() == [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    assert (found["first_source"].min(), found["last_source"].max()) == (min(ARCHIVES), max(ARCHIVES))


Check = Callable[[Any, FinishedTable], None]
SQL_CHECKS: dict[str, Check] = {
    "counts by status": counts_by_status,
    "counts by archive": counts_by_archive,
    "reasons": reasons,
    "top": top,
    "auroc": auroc,
    "auroc by class": auroc_by_class,
    "average precision": average_precision,
    "sensitivity": sensitivity,
    "p-values": p_values,
    "benjamini-hochberg": benjamini_hochberg,
    "two scorings": two_scorings,
    "one archive": one_archive,
    "row groups": row_groups,
}


@pytest.mark.parametrize("name", SQL_CHECKS)
def test_a_query(finished: FinishedTable, name: str) -> None:
    SQL_CHECKS[name](queried(finished, name), finished)


def pandas_auroc(found: dict[str, Any], finished: FinishedTable) -> None:
    unseen = unseen_of(finished)
    assert found["auroc"] == pytest.approx(roc_auc_score(unseen["label"] != "NV", unseen["vae_reconst"]), abs=1e-12)


def error_maps(found: dict[str, Any], finished: FinishedTable) -> None:
    assert found["rows"]["vae_reconst"].tolist() == [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    for (row, column), cells in zip(found["rows"][["row", "column"]].to_numpy(), found["maps"], strict=True):
        assert cells[row, column] == cells.max()


def pandas_quantiles(found: dict[str, Any], finished: FinishedTable) -> None:
    rows = finished.of().merge(finished.labels, on="image_id")
    for label, scores in rows.dropna(subset="vae_reconst").groupby("label")["vae_reconst"]:
        assert found["quantiles"].loc[str(label).lower()].tolist() == list(np.quantile(scores, [0.25, 0.5, 0.75]))


def polars_summary(found: dict[str, Any], finished: FinishedTable) -> None:
    rows = finished.of().query("status == 'ok'").merge(finished.labels, on="image_id")
    expected = rows.groupby("label").agg(
        images=("vae_reconst", "size"),
        median_nats=("vae_reconst", "median"),
        flagged=("p_value", lambda p: (p < 0.05).sum()),
    )
    assert found["summary"].rows() == [tuple(row) for row in expected.itertuples()]


def delta_now(found: dict[str, Any], finished: FinishedTable) -> None:
    assert found["by_status"].set_index(["scoring_id", "status"])["images"].to_dict() == {
        (scoring, status): count
        for scoring in (SCORING, OTHER_SCORING)
        for status, count in {"ok": 270, "truncated": 15, "undecodable": 15}.items()
    }


def delta_then(found: dict[str, Any], finished: FinishedTable) -> None:
    """Version 0 made the table, 1 to 4 brought an archive of a scoring each, 5 made large files of them."""
    expected = finished.of()
    assert sorted(found["rows"]["image_id"]) == sorted(expected["image_id"])
    assert set(found["rows"]["scoring_id"]) == {SCORING}
    assert found["made_by"] == [None, OTHER_SCORING, OTHER_SCORING, SCORING, SCORING, None]


def delta_labels(found: dict[str, Any], finished: FinishedTable) -> None:
    rows = finished.of().query("status == 'ok'").merge(finished.labels, on="image_id")
    assert found["counts"].set_index("label")["images"].to_dict() == rows["label"].value_counts().to_dict()


def s3_polars(found: dict[str, Any], finished: FinishedTable) -> None:
    best = finished.of().sort_values("vae_reconst", ascending=False)["vae_reconst"][:10]
    assert sorted(found["best"]["vae_reconst"]) == sorted(best)


def s3_pandas(found: dict[str, Any], finished: FinishedTable) -> None:
    expected = finished.of().query("status == 'ok'").set_index("image_id")["vae"].to_dict()
    for name in ("rows", "same"):
        assert found[name].set_index("image_id")["vae"].to_dict() == expected


def s3_duckdb(found: dict[str, Any], finished: FinishedTable) -> None:
    assert found["by_status"] == [("ok", 540), ("truncated", 30), ("undecodable", 30)]


PYTHON_CHECKS: dict[str, Check] = {
    "pandas auroc": pandas_auroc,
    "pandas quantiles": pandas_quantiles,
    "error maps": error_maps,
    "polars": polars_summary,
    "delta now": delta_now,
    "delta then": delta_then,
    "delta labels": delta_labels,
    "s3 polars": s3_polars,
    "s3 pandas": s3_pandas,
    "s3 duckdb": s3_duckdb,
}


@pytest.fixture
def _on_s3(finished: FinishedTable, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    if not s3.filesystem().exists(f"{S3_TABLE}/_delta_log"):
        s3.filesystem().put(finished.uri, S3_TABLE, recursive=True)


@pytest.mark.parametrize("name", [name for name in PYTHON_CHECKS if not name.startswith("s3 ")])
def test_a_script(finished: FinishedTable, name: str) -> None:
    PYTHON_CHECKS[name](executed(finished, name), finished)


@pytest.mark.usefixtures("_on_s3")
@pytest.mark.parametrize("name", [name for name in PYTHON_CHECKS if name.startswith("s3 ")])
def test_a_script_on_s3(finished: FinishedTable, name: str) -> None:
    PYTHON_CHECKS[name](executed(finished, name), finished)


@pytest.mark.slow
def test_spark(finished: FinishedTable) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed: `pip install pyspark`")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java: Debian has it as default-jre-headless")
    found = executed(finished, "counts and auroc")
    try:
        assert [tuple(row) for row in found["counts"].collect()] == [
            ("ok", 270),
            ("truncated", 15),
            ("undecodable", 15),
        ]
        auroc(found["auroc"].toPandas(), finished)
    finally:
        found["spark"].stop()
