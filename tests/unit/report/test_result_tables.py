"""The page's tables hold the numbers of the evaluation's frames, and a dash where there is none."""

from __future__ import annotations

import dataclasses

import numpy as np

from skinvae.report.evaluation import Evaluation
from skinvae.report.html.contents import Table
from skinvae.report.result_tables import comparison_table, found_table, strata_table
from tests.unit.report.test_evaluation import evaluate

COUNTS = {"NV": 60, "MEL": 9, "DF": 12}


def cells_of(table: Table) -> dict[str, dict[str, str]]:
    assert all(len(row.cells) == len(table.columns) - 1 for row in table.rows)
    return {
        row.name: dict(zip(table.columns[1:], (f"{cell.text} {cell.note}".strip() for cell in row.cells), strict=True))
        for row in table.rows
    }


def found(evaluation: Evaluation) -> dict[str, dict[str, str]]:
    assert evaluation.curves is not None
    return cells_of(found_table(evaluation.curves, evaluation.detection))


def test_what_is_found_stands_beside_its_cost() -> None:
    evaluation = evaluate(COUNTS)
    cells = found(evaluation)
    assert list(cells) == ["normal", "MEL", "DF", "macro", "pooled"]
    assert evaluation.curves is not None
    points = evaluation.curves.operating_points.query("score == 'vae_reconst' and target == 'DF'")
    for row in points.itertuples():
        shown = cells["DF"][f"sensitivity at {100 * row.specificity:.0f} % specificity"]
        assert shown == f"{100 * row.sensitivity:.3g} % {100 * row.ci_low:.3g} % to {100 * row.ci_high:.3g} %"
    assert cells["pooled"]["prevalence"] == f"{100 * 21 / (21 + evaluation.join.num_normal):.3g} %"
    assert evaluation.detection is not None
    normals = evaluation.detection.frame.query("target == 'normal'").iloc[0]
    assert cells["normal"]["flagged, p ≤ 0.05"].startswith(f"{100 * normals['share_flagged']:.3g} % ")
    assert cells["macro"]["flagged, p ≤ 0.05"] == ""


def test_without_p_values_nothing_is_flagged() -> None:
    cells = found(dataclasses.replace(evaluate(COUNTS), detection=None))
    assert list(cells) == ["MEL", "DF", "macro", "pooled"]
    assert list(cells["MEL"])[-1] == "sensitivity at 95 % specificity"


def test_the_other_scores_are_compared_for_all_diseases() -> None:
    comparison = evaluate(COUNTS).comparison
    assert comparison is not None
    table = comparison_table(comparison)
    assert table is not None
    cells = cells_of(table)
    assert list(cells) == ["iwae_reconst", "vae_kl", "iwae_kl", "vae", "iwae"]
    row = comparison.query("target == 'pooled' and score_b == 'vae_kl'").iloc[0]
    assert cells["vae_kl"]["vae_reconst has more by"].startswith(f"{row['difference']:+.3f}")
    assert f"its AUROC is {row['auroc_a']:.3f}" in table.caption
    unknown = comparison_table(comparison.assign(p_value=np.nan))
    assert unknown is not None
    assert {row["p-value"] for row in cells_of(unknown).values()} == {"none"}
    assert comparison_table(comparison.assign(scoring_id_b="another")) is None


def test_a_stratum_without_an_auroc_says_why() -> None:
    strata = evaluate(COUNTS).strata
    assert strata is not None
    cells = cells_of(strata_table(strata))
    assert len(cells) == len(strata)
    for row in strata.itertuples():
        shown = cells[f"{row.variable}: {row.stratum}"]
        assert shown["note"] == row.note
        assert shown["AUROC"] == (
            "–" if np.isnan(row.auroc) else f"{row.auroc:.3f} {row.ci_low:.2f} to {row.ci_high:.2f}"
        )
    assert "–" in {shown["AUROC"] for shown in cells.values()}
