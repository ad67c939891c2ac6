"""P(S >= s): how often a normal image that was held out of training scores at least as high as this one.

S is vae_reconst less its constant (N/2) log(2 pi sigma^2), which is mean_i ||x - m(z_i)||^2 / (2 sigma^2) and so above
zero. A Gamma distribution may describe it beyond the highest normal; the rank among the normals always holds, but
can say no less than 1/(n+1).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats

from skinvae.metrics.join import SAME_SCORE_TOLERANCE

Tail = Literal["gamma", "empirical"]

SIGNIFICANCE = 0.05
"""Of the test that refuses the Gamma distribution."""

_MIN_NORMALS = 20
"""Fewer would hardly ever refuse a Gamma distribution, whatever they come from."""

_MAX_TESTED, _NUM_SIMULATED = 5_000, 999
"""Normals that the test looks at, drawn at random where there are more, and simulated samples of as many."""


class NormalTail(BaseModel):
    """How the held-out normals' scores are distributed, as far as p-values need it; part of a model bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Tail = Field(description="what p-values come from: the fitted Gamma distribution, or ranks")
    offset_nats: float = Field(description="what is taken off vae_reconst: its constant, which no image changes")
    num_normals: int = Field(ge=0)
    shape: float | None = Field(None, gt=0, description="of the Gamma distribution, by maximum likelihood")
    scale_nats: float | None = Field(None, gt=0)
    anderson_darling: float | None = Field(None, description="distance of the normals to the fitted distribution")
    fit_p_value: float | None = Field(
        None, description="how often draws from the fitted distribution, fitted anew, are as far from it"
    )

    @property
    def is_fitted(self) -> bool:
        """Whether there is a Gamma distribution, used or not."""
        return self.shape is not None

    @property
    def floor(self) -> float:
        """The least p-value that ranks can give."""
        return 1 / (1 + self.num_normals)

    def survival(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(S >= s) under the fitted Gamma distribution of vae_reconst scores in nats, any shape; never quite 0."""
        survival = self._gamma.sf(np.maximum(scores - self.offset_nats, 0.0))
        return np.asarray(np.maximum(survival, np.finfo(np.float64).tiny))

    def density(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the fitted Gamma distribution at vae_reconst scores, per nat."""
        return np.asarray(self._gamma.pdf(scores - self.offset_nats))

    @property
    def _gamma(self) -> Any:
        assert self.shape is not None, "no Gamma distribution was fitted"
        assert self.scale_nats is not None
        return stats.gamma(self.shape, scale=self.scale_nats)


def fit_tail(
    normals: NDArray[np.float64], *, offset_nats: float, kind: Tail | Literal["auto"], rng: np.random.Generator
) -> NormalTail:
    """Describe the held-out normals' vae_reconst scores (n,), in nats.

    `auto` takes the Gamma distribution unless there are fewer than 20 normals or an Anderson-Darling test refuses it
    at 5 %, with p-values simulated since the parameters were estimated (Stute et al. 1993, doi:10.1007/BF02613687).
    Scores to which none can be fitted are described by their ranks, whatever was asked for.
    """
    above = normals - offset_nats
    ranks = NormalTail(kind="empirical", offset_nats=offset_nats, num_normals=len(normals))
    if len(above) < 2 or not (above > 0).all() or np.ptp(above) <= SAME_SCORE_TOLERANCE * above.max():
        return ranks
    shape, _, scale = stats.gamma.fit(above, floc=0)
    tested = above if len(above) <= _MAX_TESTED else rng.choice(above, _MAX_TESTED, replace=False)
    fit = stats.goodness_of_fit(
        stats.gamma, tested, known_params={"loc": 0}, statistic="ad", n_mc_samples=_NUM_SIMULATED, rng=rng
    )
    fits = len(above) >= _MIN_NORMALS and fit.pvalue >= SIGNIFICANCE
    chosen: Tail = ("gamma" if fits else "empirical") if kind == "auto" else kind
    return ranks.model_copy(
        update={
            "kind": chosen,
            "shape": float(shape),
            "scale_nats": float(scale),
            "anderson_darling": float(fit.statistic),
            "fit_p_value": float(fit.pvalue),
        }
    )


@dataclass(frozen=True)
class PValues:
    """What gives p-values to the rows of one scoring."""

    normals: NDArray[np.float64] | None
    """The held-out normals' vae_reconst, ascending; None where other settings than the scoring's computed them."""
    tail: NormalTail | None
    """None for ranks."""
    trained_on: Collection[str]
    """image_ids that get none."""

    def __call__(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """P(S >= s) of each row, from its `image_id` and `vae_reconst`.

        NaN where there is no score, where the model was trained on the image, and where there are no normals to
        compare with.
        """
        if self.normals is None or len(self.normals) == 0:
            return np.full(len(frame), np.nan)
        scores = frame["vae_reconst"].to_numpy()
        if self.tail is not None and self.tail.kind == "gamma":
            p_values = self.tail.survival(scores)
        else:
            p_values = rank_p_values(scores, normals=self.normals)
        return np.where(np.isnan(scores) | frame["image_id"].isin(self.trained_on), np.nan, p_values)


def rank_p_values(scores: NDArray[np.float64], *, normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + number of normals with a score >= s) / (1 + number of normals), never below 1/(n+1); normals ascending."""
    # The same picture in another batch differs in the last digits, and must have the same rank.
    lowest = scores - SAME_SCORE_TOLERANCE * np.abs(scores)
    at_least = len(normals) - np.searchsorted(normals, lowest, side="left")
    p_values: NDArray[np.float64] = (1 + at_least) / (1 + len(normals))
    return p_values
