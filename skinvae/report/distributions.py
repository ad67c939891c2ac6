"""How scores and p-values are distributed, as charts and in words."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skinvae.metrics.evaluation import abnormal_classes
from skinvae.metrics.join import LabelJoin
from skinvae.records import SCORES
from skinvae.report.calibration import normal_scores, tail_sentence
from skinvae.report.charts import chart
from skinvae.report.figures import bars, class_histogram
from skinvae.report.html.contents import CalibrationSection, Chart
from skinvae.report.survey import HEADLINE, Survey
from skinvae.storage.bundle import ModelBundle

_NUM_BARS = 48
_LEVEL = 0.05
"""What the sentences are about; the width of a bar of p-values divides it."""

_NO_P_VALUES = (
    "No image has a p-value: the model was trained on all of them, or they were scored with other settings of [score] "
    "than the held-out normals."
)


def class_distributions(join: LabelJoin) -> tuple[Chart, ...]:
    """The headline score of each disease over that of the normals."""
    charts = []
    for number, name in enumerate(abnormal_classes(join.evaluated, normal=join.normal), start=1):
        draw = functools.partial(
            class_histogram,
            join.evaluated,
            normal=join.normal,
            name=name,
            score=HEADLINE,
            num_images=join.num_evaluated_by_class[name],
        )
        alt = f"Histogram of {HEADLINE}: {name} over the normal images"
        charts.append(Chart(chart(draw, name=f"class-{number}", alt=alt), ""))
    return tuple(charts)


def score_distributions(survey: Survey) -> tuple[Chart, ...]:
    """Each score of all images."""
    charts = []
    for name in (HEADLINE, *(score for score in SCORES if score != HEADLINE)):
        histogram = survey.histograms[name]
        if not histogram.num_values:
            continue
        shown = histogram.bars(_NUM_BARS)
        draw = functools.partial(bars, shown.edges, counts={name: shown.counts}, xlabel=f"{name} (nats)", width=3.6)
        beyond = f"; {shown.num_beyond:,} images lie beyond the axis" if shown.num_beyond else ""
        median, high = histogram.quantile(0.5), histogram.quantile(0.95)
        caption = f"median {median:,.0f}, 95th percentile {high:,.0f} nats{beyond}"
        charts.append(Chart(chart(draw, name=f"score-{name}", alt=f"Histogram of {name}: {caption}"), caption))
    return tuple(charts)


def calibration(survey: Survey, *, bundle: ModelBundle) -> CalibrationSection:
    """The p-values of all images, where nothing says which are normal."""
    counts = survey.p_value_counts
    num_images = int(counts.sum())
    if not num_images:
        return CalibrationSection((), (_NO_P_VALUES,))
    draw = functools.partial(
        bars,
        _edges(counts),
        counts={"images": counts},
        xlabel="p-value",
        expected=num_images / len(counts),
        expected_label="if all were normal",
    )
    chart_of_all = Chart(chart(draw, name="p-values", alt="Histogram of the p-values of all images"), "")
    sentences = (
        f"{_share_below(counts)} of {num_images:,} images have a p-value below {_LEVEL:g}; of normal images "
        f"{_percent(_LEVEL)} would.",
        *_sentences(bundle, num_without=survey.num_ok - num_images),
    )
    return CalibrationSection((*_normals(bundle), chart_of_all), sentences)


def labelled_calibration(
    survey: Survey, join: LabelJoin, *, normal: NDArray[np.int64], abnormal: NDArray[np.int64], bundle: ModelBundle
) -> CalibrationSection:
    """The p-values of evaluated images: counts in equal bars from 0 to 1, of the normal and the abnormal ones."""
    if not normal.sum():
        return CalibrationSection((), (_NO_P_VALUES,))
    shares = {
        "normal images": normal / normal.sum(),
        "abnormal images": abnormal / max(1, abnormal.sum()),
    }
    draw = functools.partial(
        bars,
        _edges(normal),
        counts=shares,
        xlabel="p-value",
        ylabel="share of the images",
        expected=1 / len(normal),
        expected_label="expected of normals",
    )
    alt = "Histogram of the p-values of normal and of abnormal images"
    of_abnormal = f", and {_share_below(abnormal)} of {abnormal.sum():,} abnormal ones" if abnormal.sum() else ""
    sentences = [
        f"{_share_below(normal)} of {normal.sum():,} evaluated normal images have a p-value below {_LEVEL:g}, where "
        f"{_percent(_LEVEL)} are expected{of_abnormal}."
    ]
    num_test = join.num_normal - join.num_validation_normals
    if join.num_validation_normals:
        rest = f"the other {num_test:,} are the test" if num_test else "there are no others, so nothing is tested here"
        sentences.append(
            f"{join.num_validation_normals:,} of these normal images are the held-out ones themselves, which p-values "
            f"come from; {rest}."
        )
    num_without = survey.num_ok - int(survey.p_value_counts.sum())
    return CalibrationSection(
        (*_normals(bundle), Chart(chart(draw, name="p-values", alt=alt), "")),
        (*sentences, *_sentences(bundle, num_without=num_without)),
    )


def _normals(bundle: ModelBundle) -> tuple[Chart, ...]:
    """The scores that p-values come from, with what was fitted to them."""
    tail, scores = bundle.config.tail, bundle.calibration[HEADLINE].to_numpy()
    if tail is None or not len(scores):
        return ()
    draw = functools.partial(normal_scores, scores, tail=tail)
    return (Chart(chart(draw, name="normals", alt=f"{HEADLINE} of the held-out normals. {tail_sentence(tail)}"), ""),)


def _sentences(bundle: ModelBundle, *, num_without: int) -> Sequence[str]:
    source = tail_sentence(bundle.config.tail)
    if not num_without:
        return (source,)
    return (source, f"{num_without:,} scored images have none, since the model was trained on them.")


def _edges(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.linspace(0, 1, len(counts) + 1)


def _share_below(counts: NDArray[np.int64]) -> str:
    num_bars = round(_LEVEL * len(counts))
    return _percent(counts[:num_bars].sum() / counts.sum())


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
