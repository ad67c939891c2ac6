"""Figures hold the numbers they are drawn from, name their units, and leave no global state behind."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from skinvae.metrics.auroc import auroc
from skinvae.records import SCORES
from skinvae.report.figures import reconstructions, roc_curves, score_histograms, training_curve
from tests.unit.metrics.examples import evaluated_frame

COUNTS = {"NV": 80, "MEL": 40, "DF": 15}


@pytest.fixture
def frame() -> pd.DataFrame:
    return evaluated_frame(COUNTS, seed=0)


def area_under(line) -> float:
    return float(np.trapezoid(line.get_ydata(), line.get_xdata()))


def test_roc_curves_enclose_the_auroc_in_their_legend(frame):
    figure = roc_curves(frame, normal=["NV"])
    (axes,) = figure.axes
    lines = [line for line in axes.lines if not line.get_label().startswith("_")]
    assert [line.get_label().split()[0] for line in lines] == ["MEL", "DF", "pooled"]
    normals = frame.loc[frame["label"] == "NV", "vae_reconst"].to_numpy()
    for line in lines:
        assert float(line.get_label().split()[1]) == pytest.approx(area_under(line), abs=0.0006)
    of_df = frame.loc[frame["label"] == "DF", "vae_reconst"].to_numpy()
    assert area_under(lines[1]) == pytest.approx(auroc(normals, abnormal=of_df), abs=1e-9)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [line.get_label() for line in lines]


def test_roc_curves_of_several_scores(frame):
    figure = roc_curves(frame, normal=["NV"], scores=SCORES)
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == list(SCORES)


def test_known_areas_stand_in_the_legend_and_operating_points_are_marked(frame):
    targets = ("MEL", "DF", "pooled")
    areas = {("vae_reconst", target): (0.9 - at / 100, 0.8, 0.95) for at, target in enumerate(targets)}
    figure = roc_curves(frame, normal=["NV"], areas=areas, marks=[(0.9, 0.6, 0.5, 0.7)])
    (axes,) = figure.axes
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[:2] == ["MEL 0.900 (0.80 to 0.95)", "DF 0.890 (0.80 to 0.95)"]
    bar, point = axes.lines[-2:]
    np.testing.assert_allclose([bar.get_xdata(), bar.get_ydata()], [[0.1, 0.1], [0.5, 0.7]])
    np.testing.assert_allclose([*point.get_xdata(), *point.get_ydata()], [0.1, 0.6])


def test_a_sample_is_said_to_be_one(frame):
    figure = score_histograms(frame, normal=["NV"], num_by_class={"MEL": 4000, "DF": 15})
    assert [axes.get_title().split(" images")[0] for axes in figure.axes] == ["MEL, 40 of 4,000", "DF, 15"]


def test_histograms_are_densities_on_robust_limits(frame):
    frame.loc[frame.index[-1], "vae_reconst"] = 1e9
    figure = score_histograms(frame, normal=["NV"])
    assert [axes.get_title() for axes in figure.axes] == ["MEL, 40 images", "DF, 15 images (1 beyond)"]
    assert len({axes.get_xlim() for axes in figure.axes}) == 1
    assert figure.axes[0].get_xlim()[1] < 100
    bars = figure.axes[0].patches[:40]
    normals = frame.loc[frame["label"] == "NV", "vae_reconst"]
    low, high = figure.axes[0].get_xlim()
    assert sum(bar.get_height() * bar.get_width() for bar in bars) == pytest.approx(normals.between(low, high).mean())
    assert "(nats)" in figure.get_supxlabel()


def test_histograms_of_equal_scores_do_not_fail(frame):
    figure = score_histograms(frame.assign(vae=2.0), normal=["NV"], score="vae")
    assert figure.axes[0].get_xlim() == (1.5, 2.5)


def history(num_epochs: int) -> pd.DataFrame:
    epoch = np.arange(1, num_epochs + 1)
    parts = [
        pd.DataFrame({"epoch": epoch, "split": split, "loss": (epoch - best) ** 2 + 5.0, "reconst": 4.0, "kl": 100.0})
        for split, best in (("train", num_epochs), ("validation", 3))
    ]
    return pd.concat(parts, ignore_index=True)


def test_training_curve_shows_both_splits_and_the_kept_epoch():
    figure = training_curve(history(8))
    assert [axes.get_ylabel().split(" per image")[0] for axes in figure.axes] == ["loss", "reconst", "kl"]
    assert "nats" in figure.axes[2].get_ylabel()
    train, validation, best = figure.axes[0].lines
    assert (train.get_label(), validation.get_label()) == ("train", "validation")
    np.testing.assert_allclose(validation.get_ydata(), (np.arange(1, 9) - 3.0) ** 2 + 5)
    assert set(best.get_xdata()) == {3}
    assert set(training_curve(history(8), best_epoch=5).axes[0].lines[2].get_xdata()) == {5}


def test_training_curve_without_validation_or_epochs():
    only_train = history(4).query("split == 'train'")
    assert [line.get_label() for line in training_curve(only_train).axes[0].lines] == ["train"]
    save(training_curve(history(4).iloc[:0]))


def test_reconstruction_stands_right_of_its_original():
    rng = np.random.default_rng(0)
    originals, others = rng.integers(0, 256, (2, 5, 32, 48, 3), dtype=np.uint8)
    figure = reconstructions(originals, reconstructed=others, captions=[f"image {index}" for index in range(5)])
    assert [axes.get_title() for axes in figure.axes] == [f"image {index}" for index in range(5)]
    for index, axes in enumerate(figure.axes):
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown[:, :48], originals[index])
        np.testing.assert_array_equal(shown[:, -48:], others[index])


def test_reconstructions_refuse_what_does_not_pair():
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="one caption each, got 1"):
        reconstructions(images, reconstructed=images, captions=["a"])
    with pytest.raises(ValueError, match="must be alike"):
        reconstructions(images, reconstructed=images[:, :4], captions=["a", "b"])
    with pytest.raises(ValueError, match="at least one image"):
        reconstructions(images[:0], reconstructed=images[:0], captions=[])


def test_text_does_not_overlap(frame):
    """Titles, legends and labels keep inside the figure and off each other's panel."""
    images = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    for figure in (
        roc_curves(frame, normal=["NV"]),
        score_histograms(frame, normal=["NV"]),
        training_curve(history(8)),
        reconstructions(images, reconstructed=images, captions=["MEL, vae_reconst -12,345 nats"]),
    ):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
        boxes += [text.get_window_extent(renderer) for text in figure.texts]
        for number, box in enumerate(boxes):
            assert box.x0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1
            assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_no_pyplot():
    code = "import sys, skinvae.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def save(figure: matplotlib.figure.Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=50)
    return file.getvalue()
