"""One scale colours the error maps of a report."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from skinvae.report.pictures import COLOURS, ErrorScale, jpeg_uri, legend_uri, png_uri


def pixels_of(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_one_scale_gives_equal_errors_equal_colours() -> None:
    errors = np.linspace(0, 4, 1000, dtype=np.float64).reshape(1, 10, 100)
    scale = ErrorScale.of(errors)
    assert scale.top == pytest.approx(np.quantile(errors, 0.995))
    middle = pixels_of(scale.png_uri(np.full((4, 4), scale.middle, np.float64)))
    assert np.abs(middle.astype(int) - COLOURS(0.5, bytes=True)[:3]).max() <= 2
    beyond = pixels_of(scale.png_uri(np.full((4, 4), 1e6, np.float64)))
    assert np.abs(beyond.astype(int) - COLOURS(1.0, bytes=True)[:3]).max() <= 2
    assert np.abs(pixels_of(legend_uri())[0, -1].astype(int) - beyond[0, 0]).max() <= 2


def test_a_perfect_reconstruction_has_a_scale_all_the_same() -> None:
    assert ErrorScale.of(np.zeros((2, 4, 4), np.float64)).top == 1.0


def test_pictures_keep_their_pixels_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    assert (pixels_of(png_uri(pixels // 64 * 64)) == pixels // 64 * 64).all()
    smooth = np.full((32, 32, 3), (180, 120, 90), np.uint8)
    assert np.abs(pixels_of(jpeg_uri(smooth)).astype(int) - smooth).max() <= 2
    data = base64.b64decode(jpeg_uri(smooth).partition(",")[2])
    assert b"Exif" not in data
