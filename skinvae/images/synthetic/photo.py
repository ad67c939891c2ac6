"""One photograph: a patient's skin with a lesion, hairs and the light, lens and traces of a dermatoscope.

The lesion and the skin's tone come from one generator, the camera and what lies loose on the skin from another,
so that the same lesion can be photographed twice.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skinvae.images.synthetic.grid import UNITS_PER_HEIGHT, Disc, Field, Grid, Stroke, ramp
from skinvae.images.synthetic.lesions import paint
from skinvae.images.synthetic.patterns import Pigments
from skinvae.records import CLASSES

_CANVAS_UNITS = 196.0

# Absorption per unit of density, and colours of what covers the skin, as red, green, blue. Chosen by eye and by the
# mean colours of skin and lesions in dermoscopy.
_PALE_SKIN = (0.97, 0.81, 0.84)
_MELANIN = (0.50, 0.95, 1.38)
_BLOOD = (0.15, 1.0, 0.64)
_VEIL = (0.40, 0.44, 0.58)
_WHITE = (0.94, 0.86, 0.87)
_CRUST = (0.80, 0.60, 0.32)


def draw_lesion(label: str, *, rng: np.random.Generator, width: int = 200, height: int = 150) -> NDArray[np.uint8]:
    """One dermoscopy picture of a new lesion, RGB of shape (height, width, 3).

    ValueError for an unknown label, or a side below 16 pixels.
    """
    lesion_key, camera_key = (int(key) for key in rng.integers(2**63, size=2))
    return photograph(label, lesion_key=lesion_key, camera_key=camera_key, width=width, height=height)


def photograph(label: str, *, lesion_key: int, camera_key: int, width: int, height: int) -> NDArray[np.uint8]:
    """The lesion `lesion_key` as the camera `camera_key` sees it: RGB of shape (height, width, 3)."""
    if label not in CLASSES:
        raise ValueError(f"label must be one of {', '.join(CLASSES)}, got {label!r}")
    if min(width, height) < 16:
        raise ValueError(f"width and height must be at least 16 pixels, got {width} x {height}")
    lesion, camera = (np.random.Generator(np.random.Philox(key)) for key in (lesion_key, camera_key))
    scale = height / UNITS_PER_HEIGHT
    frame = Grid(height=height, width=width, scale=scale)
    side = round(_CANVAS_UNITS * scale)
    canvas = Grid(height=side, width=side, scale=scale)
    tone = (lesion.gamma(2.0, 0.035), lesion.uniform(0.0, 0.24), lesion.normal(0, 0.1))
    pigments = _pose(paint(label, grid=canvas, rng=lesion), canvas=canvas, frame=frame, rng=camera)
    rgb = _develop(_skin(pigments, tone=tone, grid=frame, rng=camera), pigments)
    rgb = _hairs(rgb, grid=frame, rng=camera)
    return _expose(_traces(rgb, grid=frame, rng=camera), grid=frame, rng=camera)


def _pose(pigments: Pigments, *, canvas: Grid, frame: Grid, rng: np.random.Generator) -> Pigments:
    """The pigments turned, zoomed and shifted from the canvas into the frame."""
    turn, zoom = rng.uniform(0, 2 * math.pi), rng.uniform(0.85, 1.15)
    cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
    matrix = np.array([[cos, -sin], [sin, cos]])
    shift = rng.normal(0, (6.0, 10.0)) * frame.scale
    middle = np.array([frame.height - 1, frame.width - 1]) / 2 + shift
    offset = (canvas.height - 1) / 2 - matrix @ middle
    shape = (frame.height, frame.width)
    posed = {
        name: ndimage.affine_transform(field, matrix, offset=offset, output_shape=shape, order=1)
        if field.any()
        else frame.zeros()
        for name, field in vars(pigments).items()
    }
    return Pigments(**posed)


def _skin(pigments: Pigments, *, tone: tuple[float, float, float], grid: Grid, rng: np.random.Generator) -> Field:
    """Reflectance (height, width, 3) of the skin with the densities of lesion, mottling, redness and furrows."""
    brown, red, gold = tone
    melanin = pigments.melanin + np.float32(brown)
    melanin += np.float32(rng.uniform(0.01, 0.04)) * grid.fractal(rng, cell=rng.uniform(14, 40), octaves=3)
    if rng.random() < 0.15:
        freckles = ramp(grid.fractal(rng, cell=rng.uniform(10, 24), octaves=4, decay=0.7), 0.0, 2.4)
        melanin += np.float32(rng.uniform(0.05, 0.22)) * freckles
    blood = pigments.blood + np.float32(red)
    blood += np.float32(rng.uniform(0.01, 0.035)) * grid.fractal(rng, cell=rng.uniform(8, 30), octaves=4)
    if rng.random() < 0.3:
        threads = grid.ridges(rng, cell=rng.uniform(5, 10), width=0.35) * ramp(grid.noise(rng, cell=12), -0.3, 1.5)
        blood += np.float32(rng.uniform(0.05, 0.2)) * threads
    grain = np.float32(rng.uniform(0.005, 0.018)) * grid.fractal(rng, cell=2.5, octaves=2)
    brown_rgb = (_MELANIN[0], _MELANIN[1] - 0.6 * gold, _MELANIN[2] + 0.6 * gold)
    density = [melanin * np.float32(m) + blood * np.float32(b) + grain for m, b in zip(brown_rgb, _BLOOD, strict=True)]
    rgb: Field = np.exp(-np.stack(density, axis=-1)) * np.asarray(_PALE_SKIN, np.float32)
    return rgb


def _develop(rgb: Field, pigments: Pigments) -> Field:
    for cover, colour in ((pigments.veil, _VEIL), (pigments.white, _WHITE), (pigments.crust, _CRUST)):
        if cover.any():
            rgb = _lay(rgb, cover, colour)
    return rgb


def _lay(rgb: Field, cover: Field, colour: tuple[float, float, float]) -> Field:
    share = np.clip(cover, 0, 1)[..., None]
    return rgb + share * (np.asarray(colour, np.float32) - rgb)


def _hairs(rgb: Field, *, grid: Grid, rng: np.random.Generator) -> Field:
    """Dark or pale hairs that share a direction and bend a little, each with a faint shadow."""
    if rng.random() < 0.6:
        return rgb
    lean, dark = rng.uniform(0, math.pi), rng.random() < 0.75
    strokes = []
    for _ in range(int(rng.geometric(0.16))):
        angle, bend, length = lean + rng.normal(0, 0.4), rng.normal(0, 0.006), rng.uniform(15, 130)
        x, y = rng.uniform(-100, 100), rng.uniform(-75, 75)
        points = [(x, y)]
        for _ in range(int(length / 6)):
            angle += bend * 6
            x, y = x + 6 * math.cos(angle), y + 6 * math.sin(angle)
            points.append((x, y))
            bend += rng.normal(0, 0.0012)
        strokes.append(Stroke(points, rng.uniform(0.4, 0.95)))
    colour = (0.16, 0.11, 0.09) if dark else (0.88, 0.80, 0.74)
    return _lay(rgb, grid.strokes(strokes) * np.float32(rng.uniform(0.5, 0.9) if dark else 0.45), colour)


def _traces(rgb: Field, *, grid: Grid, rng: np.random.Generator) -> Field:
    """Now and then: ruler ticks in a corner, air bubbles, a surgeon's ink."""
    half = grid.width / grid.scale / 2
    if rng.random() < 0.12:
        side, start = rng.choice([-1.0, 1.0]), rng.uniform(-75, 20)
        ticks = [
            Stroke([(side * half, start + 7 * k + 0.0), (side * (half - 5 - 4 * (k % 5 == 0)), start + 7 * k + 3)], 0.9)
            for k in range(int(rng.integers(3, 9)))
        ]
        rgb = _lay(rgb, grid.strokes(ticks) * np.float32(0.85), (0.1, 0.09, 0.1))
    if rng.random() < 0.1:
        for _ in range(int(rng.integers(1, 5))):
            x, y, size = rng.uniform(-half, half), rng.uniform(-75, 75), rng.uniform(2, 8)
            rim = grid.discs([Disc(x, y, size)]) - grid.discs([Disc(x, y, size - 1.2)])
            glint = grid.discs([Disc(x - size / 3, y - size / 3, size / 5)])
            rgb = _lay(rgb, np.float32(0.45) * rim + np.float32(0.7) * glint, (0.97, 0.96, 0.97))
    if rng.random() < 0.015:
        edge = np.float32(half - rng.uniform(5, 14)) + np.float32(4) * grid.noise(rng, cell=16)
        rgb = _lay(rgb, np.float32(0.85) * ramp(grid.x - edge, 0, 2), (0.12, 0.24, 0.55))
    return rgb


def _expose(rgb: Field, *, grid: Grid, rng: np.random.Generator) -> NDArray[np.uint8]:
    """White balance, exposure, uneven light, vignette, sometimes the tube's dark rim, contrast and sensor noise."""
    cast = np.exp(rng.normal(0, 0.03, 3) + rng.normal(-0.02, 0.07) * np.array([0.1, -0.35, 1.0]))
    gain = (cast * rng.uniform(0.95, 1.12)).astype(np.float32)
    half = grid.width / grid.scale / 2
    slope_x, slope_y = rng.normal(0, 0.05, 2)
    light = 1 + np.float32(slope_x / half) * grid.x + np.float32(slope_y / 75) * grid.y
    away = np.hypot(grid.x - np.float32(rng.normal(0, 8)), grid.y - np.float32(rng.normal(0, 6)))
    light = light - np.float32(rng.uniform(0.0, 0.14)) * np.square(away / np.float32(half))
    if rng.random() < 0.05:
        light = light * ramp(np.float32(rng.uniform(86, 118)) - away, -4, 6)
    out = np.clip(rgb * gain * light[..., None], 0.02, 1) ** np.float32(rng.uniform(0.85, 1.15))
    out += np.float32(rng.uniform(0.004, 0.01)) * rng.standard_normal((grid.height, grid.width, 1), dtype=np.float32)
    pixels: NDArray[np.uint8] = (np.clip(out, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return pixels
