"""The forest plot shows every stratum with its interval, or why there is none."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from skinvae.report.forest import strata_forest
from tests.unit.report.test_evaluation import evaluate


def test_every_stratum_is_drawn() -> None:
    strata = evaluate({"NV": 60, "MEL": 9, "DF": 12}).strata
    assert strata is not None
    (axes,) = strata_forest(strata).axes
    intervals = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    known = strata.dropna(subset="auroc")
    np.testing.assert_allclose(intervals, known[["ci_low", "ci_high"]])
    shown = [text.get_text() for text in axes.texts]
    assert "no normal" in shown
    assert f"{known['auroc'].iloc[0]:.2f} ({known['ci_low'].iloc[0]:.2f}-{known['ci_high'].iloc[0]:.2f})" in shown
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row.stratum}  ({row.num_normal:,} / {row.num_abnormal:,})" for row in strata.itertuples()]


def test_text_keeps_inside_the_figure() -> None:
    strata = evaluate({"NV": 60, "MEL": 9, "DF": 12}).strata
    assert strata is not None
    figure = strata_forest(strata)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [figure.axes[0].get_tightbbox(renderer), *(text.get_window_extent(renderer) for text in figure.texts)]
    assert all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 for box in boxes)
