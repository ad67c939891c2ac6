"""The raster that synthetic pictures are drawn on, with noise and simple shapes as (height, width) float32 fields.

Lengths are in units of 1/150 of the picture's height, so that a picture looks the same at every size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]

UNITS_PER_HEIGHT = 150.0
_SPLINE_STD = 0.48  # standard deviation that cubic B-splines leave of white noise, averaged over the phase


@dataclass(frozen=True)
class Disc:
    """A filled circle: centre, radius and width of its blurred rim in units; value at the centre."""

    x: float
    y: float
    radius: float
    rim: float = 1.0
    value: float = 1.0


@dataclass(frozen=True)
class Stroke:
    """A line through points [(x, y), ...] of one width, in units."""

    points: Sequence[tuple[float, float]]
    width: float


@dataclass(frozen=True)
class Grid:
    """`height` x `width` pixels, `scale` of them to a unit, with the origin in the middle."""

    height: int
    width: int
    scale: float

    @cached_property
    def x(self) -> Field:
        """Abscissa of the pixel centres in units, shape (1, width)."""
        return ((np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.scale).astype(np.float32)[None]

    @cached_property
    def y(self) -> Field:
        """Ordinate of the pixel centres in units, downwards, shape (height, 1)."""
        values = (np.arange(self.height, dtype=np.float32) + 0.5 - self.height / 2) / self.scale
        return values.astype(np.float32)[:, None]

    def zeros(self) -> Field:
        return np.zeros((self.height, self.width), np.float32)

    def noise(self, rng: np.random.Generator, *, cell: float) -> Field:
        """Smooth noise of mean 0 and variance 1 whose features are about `cell` units wide.

        Cubic B-splines over random knots: sums and products only, so that no library's FFT or BLAS enters the bytes.
        """
        step = max(cell * self.scale, 1.0)
        rows, row_weights = _spline(self.height, step=step, phase=rng.random())
        cols, col_weights = _spline(self.width, step=step, phase=rng.random())
        knots = rng.standard_normal((rows[-1] + 4, cols[-1] + 4), dtype=np.float32)
        across = sum(knots[:, cols + k] * col_weights[k] for k in range(4))
        assert isinstance(across, np.ndarray)
        out = self.zeros()
        for k in range(4):
            out += across[rows + k] * row_weights[k][:, None]
        out /= np.float32(_SPLINE_STD)
        return out

    def fractal(self, rng: np.random.Generator, *, cell: float, octaves: int = 3, decay: float = 0.55) -> Field:
        """Noise summed over `octaves` halvings of the cell, each `decay` times weaker; variance 1."""
        out = self.noise(rng, cell=cell)
        weight, power = 1.0, 1.0
        for _ in range(octaves - 1):
            cell, weight = cell / 2, weight * decay
            power += weight**2
            out += np.float32(weight) * self.noise(rng, cell=cell)
        return out * np.float32(1 / math.sqrt(power))

    def mesh(self, rng: np.random.Generator, *, period: float, jitter: float) -> Field:
        """A honeycomb of lines (1) around holes (0), `period` units apart; `jitter` (periods) bends it."""
        x = self.x + np.float32(jitter * period) * self._bend(rng, cell=1.6 * period)
        y = self.y + np.float32(jitter * period) * self._bend(rng, cell=1.6 * period)
        wave, turn = 4 * math.pi / (math.sqrt(3) * period), rng.uniform(0, math.pi)
        total = self.zeros()
        for k in range(3):
            angle = turn + k * math.pi / 3 * 2
            total += np.cos(np.float32(wave * math.cos(angle)) * x + np.float32(wave * math.sin(angle)) * y)
        return ramp(-total, -0.9, 1.1)

    def _bend(self, rng: np.random.Generator, *, cell: float) -> Field:
        return self.noise(rng, cell=cell) + np.float32(2) * self.noise(rng, cell=4 * cell)

    def ridges(self, rng: np.random.Generator, *, cell: float, width: float) -> Field:
        """Winding, branching lines (1) where noise crosses 0; `width` in its standard deviations."""
        lines: Field = np.exp(-np.square(self.noise(rng, cell=cell) / np.float32(width)))
        return lines

    def discs(self, discs: Iterable[Disc]) -> Field:
        """The largest value of any disc at each pixel."""
        out = self.zeros()
        for disc in discs:
            reach = disc.radius + disc.rim
            top, bottom = self._span(disc.y, reach, self.height)
            left, right = self._span(disc.x, reach, self.width)
            if top >= bottom or left >= right:
                continue
            distance = np.hypot(self.x[:, left:right] - disc.x, self.y[top:bottom] - disc.y)
            stamp = disc.value * np.clip((disc.radius - distance) / disc.rim + 0.5, 0, 1)
            window = out[top:bottom, left:right]
            np.maximum(window, stamp, out=window, casting="same_kind")
        return out

    def strokes(self, strokes: Iterable[Stroke]) -> Field:
        """Coverage 0..1 by antialiased lines."""
        fine = 3
        image = Image.new("L", (self.width * fine, self.height * fine))
        pen = ImageDraw.Draw(image)
        for stroke in strokes:
            points = [
                ((x * self.scale + self.width / 2) * fine, (y * self.scale + self.height / 2) * fine)
                for x, y in stroke.points
            ]
            pen.line(points, fill=255, width=max(1, round(stroke.width * self.scale * fine)), joint="curve")
        return np.asarray(image.reduce(fine), dtype=np.float32) / np.float32(255)

    def _span(self, centre: float, reach: float, size: int) -> tuple[int, int]:
        low = math.floor((centre - reach) * self.scale + size / 2)
        high = math.ceil((centre + reach) * self.scale + size / 2)
        return max(low, 0), min(high, size)


def ramp(values: Field, low: float, high: float) -> Field:
    """Smooth step: 0 below `low`, 1 above `high`."""
    t = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    smooth: Field = t * t * (np.float32(3) - np.float32(2) * t)
    return smooth


def _spline(size: int, *, step: float, phase: float) -> tuple[NDArray[np.intp], list[Field]]:
    """First knot and the four cubic B-spline weights of each of `size` pixels, `step` pixels between knots."""
    position = np.arange(size) / step + phase
    first = np.floor(position).astype(np.intp)
    t = (position - first).astype(np.float32)
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    return first, [(weight / 6).astype(np.float32) for weight in weights]
