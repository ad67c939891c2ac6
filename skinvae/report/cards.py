"""The chosen images with their reconstructions and error maps, all on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from skinvae.model.error_map import mean_error_maps
from skinvae.model.scorer import Scorer
from skinvae.model.vae import to_uint8
from skinvae.records import SCORES
from skinvae.report.findings import Findings, Row
from skinvae.report.html.contents import ErrorLegend, Gallery, Picture
from skinvae.report.names import Names
from skinvae.report.pictures import ErrorScale, jpeg_uri, legend_uri
from skinvae.report.survey import Key
from skinvae.storage.bundle import ModelBundle

_BATCH_SIZE = 16

Triptych = tuple[str, str, str]
"""Original, reconstruction and error map."""


def make_galleries(findings: Findings, *, names: Names) -> tuple[tuple[Gallery, ...], ErrorLegend | None]:
    """A gallery for each choice, and what the colours mean; None where there is no picture."""
    pixels = findings.pictures.pixels if findings.pictures is not None else {}
    shown, legend = _triptychs(pixels, bundle=findings.bundle)
    split = findings.bundle.split
    trained = frozenset(split.loc[split["split"] == "train", "image_id"])
    galleries = []
    for choice in findings.choices:
        cards = []
        for key in findings.rows.keys_of(choice):
            row = findings.rows.by_key[key]
            cards.append(
                _card(row, shown.get(key), label=findings.label_of.get(row["image_id"]), trained=trained, names=names)
            )
        galleries.append(Gallery(choice.name, choice.title, choice.description, tuple(cards)))
    return tuple(galleries), legend


def _card(row: Row, shown: Triptych | None, *, label: str | None, trained: frozenset[str], names: Names) -> Picture:
    original, reconstruction, error_map = shown or (None, None, None)
    return Picture(
        image_id=names.image(row["image_id"]),
        archive=names.archive(row["source"]),
        member=names.member(row["member"]),
        label=label,
        was_trained=row["image_id"] in trained,
        scores={name: row[name] for name in SCORES},
        p_value=row["p_value"],
        original=original,
        reconstruction=reconstruction,
        error_map=error_map,
    )


def _triptychs(
    pixels: Mapping[Key, NDArray[np.uint8]], *, bundle: ModelBundle
) -> tuple[dict[Key, Triptych], ErrorLegend | None]:
    if not pixels:
        return {}, None
    originals_BHWC = np.stack(list(pixels.values()))
    scorer = Scorer(bundle.build_model(), variance=bundle.config.variance, settings=bundle.config.calibration)
    batches = [originals_BHWC[at : at + _BATCH_SIZE] for at in range(0, len(originals_BHWC), _BATCH_SIZE)]
    x_hat_BCHW = torch.cat([scorer.reconstruct(batch) for batch in batches])
    nats_BHW = mean_error_maps(originals_BHWC, m_BCHW=x_hat_BCHW, variance=bundle.config.variance)
    reconstructed_BHWC = to_uint8(x_hat_BCHW).numpy()
    scale = ErrorScale.of(nats_BHW)
    shown = {
        key: (jpeg_uri(original), jpeg_uri(reconstructed), scale.png_uri(nats))
        for key, original, reconstructed, nats in zip(pixels, originals_BHWC, reconstructed_BHWC, nats_BHW, strict=True)
    }
    return shown, ErrorLegend(legend_uri(), scale.middle, scale.top)
