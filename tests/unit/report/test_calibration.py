"""The picture and the sentence say where p-values come from."""

from __future__ import annotations

import numpy as np
import pytest

from skinvae.metrics.p_values import NormalTail, fit_tail
from skinvae.report.calibration import normal_scores, tail_sentence
from skinvae.report.figures import png_bytes

NORMALS = np.random.default_rng(0).gamma(5.0, 100.0, size=200) - 68_009


def tail_of(kind: str, normals: np.ndarray = NORMALS) -> NormalTail:
    return fit_tail(normals, offset_nats=-68_009.0, kind=kind, rng=np.random.default_rng(0))  # type: ignore[arg-type]


def test_the_sentence_names_the_distribution_its_fit_and_the_floor() -> None:
    gamma, ranks = tail_of("gamma"), tail_of("empirical")
    assert f"Gamma distribution of shape {gamma.shape:.4g}" in tail_sentence(gamma)
    assert "vae_reconst +68,009 of 200 held-out normals" in tail_sentence(gamma)
    assert f"p = {gamma.fit_p_value:.3g}" in tail_sentence(gamma)
    assert "none is below 0.005. A Gamma distribution was not used" in tail_sentence(ranks)
    assert "no Gamma distribution was fitted" in tail_sentence(tail_of("auto", NORMALS[:1]))
    assert "ranks" in tail_sentence(None)


@pytest.mark.parametrize("kind", ["gamma", "empirical"])
def test_the_picture_shows_the_normals_and_what_was_fitted(kind: str) -> None:
    figure = normal_scores(NORMALS, tail=tail_of(kind))
    density, exceedance = figure.axes
    assert sum(bar.get_height() * bar.get_width() for bar in density.patches) == pytest.approx(1)
    assert len(exceedance.lines) == 3
    assert (f"from {'the Gamma' if kind == 'gamma' else 'ranks'}") in figure.get_suptitle()
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_one_normal_makes_a_picture_too() -> None:
    assert png_bytes(normal_scores(NORMALS[:1], tail=tail_of("auto", NORMALS[:1]))).startswith(b"\x89PNG")
