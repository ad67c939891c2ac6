"""The vocabulary of dermoscopy: outlines, networks, globules, vessels ... as fields on a lesion's canvas.

Each class of lesion combines these patterns (see lesions.py); lengths are in the grid's units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from skinvae.images.synthetic.grid import Disc, Field, Grid, Stroke, ramp


@dataclass
class Pigments:
    """What a lesion adds to the skin: optical densities, then coverages 0..1 laid over them in this order."""

    melanin: Field
    blood: Field
    veil: Field
    white: Field
    crust: Field

    @classmethod
    def none(cls, grid: Grid) -> Pigments:
        return cls(*(grid.zeros() for _ in fields(cls)))


def outline(grid: Grid, rng: np.random.Generator, *, radius: float, aspect: float, ragged: float) -> Field:
    """About the signed distance to a lesion's border, positive inside; `ragged` 0 is an ellipse, 1 has deep bays."""
    turn = rng.uniform(0, math.pi)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    bend = np.float32(0.3 * ragged * radius)
    x = grid.x + bend * grid.noise(rng, cell=1.1 * radius)
    y = grid.y + bend * grid.noise(rng, cell=1.1 * radius)
    stretch = np.float32(math.sqrt(aspect))
    distance = np.hypot((x * cos + y * sin) / stretch, (y * cos - x * sin) * stretch)
    teeth = np.float32(0.15 * ragged * radius) * grid.fractal(rng, cell=0.4 * radius, octaves=4)
    return np.float32(radius) - distance + teeth


def inside(distance: Field, *, soft: float, margin: float = 0.0) -> Field:
    """1 inside the border moved `margin` inwards, 0 outside, over a rim of `soft` units on either side."""
    return ramp(distance, margin - soft, margin + soft)


def patches(grid: Grid, rng: np.random.Generator, *, cell: float, share: float, soft: float = 0.35) -> Field:
    """Blotches that cover about `share` of the plane."""
    field = grid.fractal(rng, cell=cell, octaves=2)
    threshold = 2.5 * (0.5 - share)
    return ramp(field, threshold - soft, threshold + soft)


def sector(grid: Grid, rng: np.random.Generator, *, offset: float, radius: float) -> Field:
    """A soft round area, `offset` from the middle in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    x = grid.x - np.float32(offset * math.cos(angle)) + np.float32(0.2 * radius) * grid.noise(rng, cell=radius / 2)
    y = grid.y - np.float32(offset * math.sin(angle)) + np.float32(0.2 * radius) * grid.noise(rng, cell=radius / 2)
    return ramp(np.float32(radius) - np.hypot(x, y), -0.35 * radius, 0.5 * radius)


def scatter(
    rng: np.random.Generator, *, num: int, spread: float, radius: tuple[float, float], rim: float = 1.0
) -> list[Disc]:
    """`num` discs in a circle of `spread` units, of radii and values drawn at random."""
    where, angle = spread * np.sqrt(rng.random(num)), rng.uniform(0, 2 * math.pi, num)
    sizes, values = rng.uniform(*radius, num), rng.uniform(0.55, 1, num)
    return [
        Disc(float(w * math.cos(a)), float(w * math.sin(a)), float(size), rim, float(value))
        for w, a, size, value in zip(where, angle, sizes, values, strict=True)
    ]


def clods(grid: Grid, rng: np.random.Generator, *, num: int, spread: float, radius: tuple[float, float]) -> Field:
    """Globules, nests or lacunae: roundish, some larger than others, with uneven rims that merge where they touch."""
    rim = 1.3 * radius[1]
    soft = grid.discs(scatter(rng, num=num, spread=spread, radius=radius, rim=rim))
    return ramp(soft + np.float32(0.15) * grid.fractal(rng, cell=max(1.5 * radius[1], 2.5), octaves=2), 0.2, 0.7)


def streaks(rng: np.random.Generator, *, radius: float, num: int) -> list[Stroke]:
    """Short radial lines across the border within one random arc: streaks and pseudopods."""
    middle, arc = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.6)
    strokes = []
    for _ in range(num):
        angle = middle + rng.uniform(-arc, arc)
        start, stop, lean = radius * rng.uniform(0.7, 0.95), radius * rng.uniform(1.05, 1.35), rng.uniform(-0.1, 0.1)
        ends = [(start, angle), (stop, angle + lean)]
        strokes.append(Stroke([(r * math.cos(a), r * math.sin(a)) for r, a in ends], rng.uniform(1.2, 2.6)))
    return strokes


def arborizing_vessels(rng: np.random.Generator, *, radius: float, num: int) -> list[Stroke]:
    """Branching vessels that enter at the rim, wind inwards and thin out with every fork."""
    strokes: list[Stroke] = []
    for _ in range(num):
        angle, away = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.7, 1.1)
        start = (away * math.cos(angle), away * math.sin(angle))
        heading = angle + math.pi + rng.uniform(-0.6, 0.6)
        _grow(rng, strokes, start=start, heading=heading, width=rng.uniform(0.7, 1.4), length=radius)
    return strokes


def _grow(
    rng: np.random.Generator,
    strokes: list[Stroke],
    *,
    start: tuple[float, float],
    heading: float,
    width: float,
    length: float,
) -> None:
    points, (x, y) = [start], start
    for _ in range(max(3, int(length / 4))):
        heading += rng.normal(0, 0.35)
        x, y = x + 3 * math.cos(heading), y + 3 * math.sin(heading)
        points.append((x, y))
        if width > 0.45 and rng.random() < 0.22:
            side = heading + rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0)
            _grow(rng, strokes, start=(x, y), heading=side, width=0.62 * width, length=0.55 * length)
    strokes.append(Stroke(points, width))
