"""The seven classes of lesion, each painted by its dermoscopic criteria as pigments on a square canvas.

Criteria follow the classes' usual descriptions in dermoscopy (Kittler et al. 2016, J. Am. Acad. Dermatol. 74:1093).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from skinvae.images.synthetic import patterns
from skinvae.images.synthetic.grid import Field, Grid, ramp
from skinvae.images.synthetic.patterns import Pigments, inside, outline, patches, scatter, sector

Painter = Callable[[Grid, np.random.Generator, Pigments], None]


def paint(label: str, *, grid: Grid, rng: np.random.Generator) -> Pigments:
    """The pigments of one lesion, which lies about the middle of the grid and ends within it."""
    pigments = Pigments.none(grid)
    _PAINTERS[label](grid, rng, pigments)
    reach = np.maximum(np.abs(grid.x), np.abs(grid.y))
    window = ramp(np.float32(grid.width / grid.scale / 2) - reach, 0.0, 14.0)
    return Pigments(**{name: field * window for name, field in vars(pigments).items()})


def _chance(rng: np.random.Generator, share: float) -> bool:
    return bool(rng.random() < share)


def _radius(rng: np.random.Generator, typical: float) -> float:
    return float(np.clip(typical * np.exp(rng.normal(0, 0.32)), 11, 66))


def _nevus(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """Symmetric, one or two browns, a regular network or regular globules that fade out at the border."""
    radius = _radius(rng, 38)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.6), ragged=rng.uniform(0.1, 0.4))
    body = inside(distance, soft=rng.uniform(0.15, 0.32) * radius)
    dome = ramp(distance, -0.2 * radius, radius)
    brown, red = rng.uniform(0.25, 0.85), rng.uniform(0.02, 0.3)
    mottle = 1 + np.float32(rng.uniform(0.05, 0.16)) * grid.fractal(rng, cell=rng.uniform(6, 16))
    centre = np.float32(rng.uniform(-0.3, 0.7))
    to.melanin += np.float32(brown) * body * mottle * (1 + centre * dome)
    to.blood += np.float32(red) * body * (1 + np.float32(0.15) * grid.noise(rng, cell=18))
    kind = rng.choice(["network", "globules", "plain"], p=[0.5, 0.2, 0.3])
    if kind == "network":
        lines = grid.mesh(rng, period=rng.uniform(4.5, 7), jitter=rng.uniform(0.2, 0.35)) - np.float32(0.5)
        to.melanin += np.float32(rng.uniform(0.15, 0.45) * brown) * lines * body * (1 - np.float32(0.5) * dome)
    elif kind == "globules":
        num = int(0.05 * radius**2)
        dots = patterns.clods(grid, rng, num=num, spread=0.9 * radius, radius=(1.2, 2.4))
        to.melanin += np.float32(rng.uniform(0.25, 0.45) * brown) * dots * body
    if _chance(rng, 0.35):
        to.melanin += np.float32(0.45 * brown) * sector(grid, rng, offset=0.3 * radius, radius=0.35 * radius) * body
    np.maximum(to.melanin, 0, out=to.melanin)


def _melanoma(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """Asymmetric, ragged, of many colours: dark blotches, atypical network, streaks, blue-white veil, regression."""
    radius = _radius(rng, 48)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.7), ragged=rng.uniform(0.6, 1.1))
    body = inside(distance, soft=rng.uniform(0.06, 0.28) * radius)
    brown = rng.uniform(0.5, 1.1)
    tan = 0.5 + patches(grid, rng, cell=0.5 * radius, share=0.5)
    to.melanin += (
        np.float32(0.6 * brown) * body * tan * (1 + np.float32(0.3) * grid.fractal(rng, cell=9, octaves=4, decay=0.75))
    )
    to.blood += np.float32(rng.uniform(0.05, 0.45)) * body * patches(grid, rng, cell=0.6 * radius, share=0.5)
    lines = grid.ridges(rng, cell=rng.uniform(5, 8), width=0.45) * patches(grid, rng, cell=0.6 * radius, share=0.5)
    to.melanin += np.float32(rng.uniform(0.3, 0.8)) * lines * body
    dark = sector(grid, rng, offset=rng.uniform(0.2, 0.55) * radius, radius=rng.uniform(0.3, 0.65) * radius)
    to.melanin += np.float32(rng.uniform(0.9, 2.3)) * dark * body * (1 + np.float32(0.3) * grid.fractal(rng, cell=10))
    if _chance(rng, 0.6):
        dots = scatter(rng, num=int(rng.integers(10, 50)), spread=1.1 * radius, radius=(0.8, 2.6))
        to.melanin += np.float32(1.1) * grid.discs(dots) * inside(distance, soft=3, margin=-5)
    if _chance(rng, 0.45):
        ends = grid.strokes(patterns.streaks(rng, radius=radius, num=int(rng.integers(8, 20))))
        to.melanin += np.float32(0.7) * ends * inside(distance, soft=5, margin=-6)
    if _chance(rng, 0.6):
        veil = sector(grid, rng, offset=rng.uniform(0.1, 0.4) * radius, radius=rng.uniform(0.25, 0.5) * radius)
        veil *= np.float32(0.35) + patches(grid, rng, cell=11, share=0.6)
        to.veil += np.float32(rng.uniform(0.35, 0.65)) * veil * body
    if _chance(rng, 0.4):
        scar = sector(grid, rng, offset=rng.uniform(0.2, 0.6) * radius, radius=rng.uniform(0.25, 0.45) * radius) * body
        to.white += np.float32(rng.uniform(0.3, 0.6)) * scar
        pepper = scatter(rng, num=40, spread=radius, radius=(0.5, 1.0))
        to.veil += np.float32(0.6) * grid.discs(pepper) * scar


def _basal_cell(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """Pink and translucent, arborizing vessels, blue-grey ovoid nests, leaf-like rims, small ulcers, white strands."""
    radius = _radius(rng, 36)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.8), ragged=rng.uniform(0.4, 0.9))
    body = inside(distance, soft=rng.uniform(0.15, 0.35) * radius)
    to.blood += np.float32(rng.uniform(0.18, 0.55)) * body * (1 + np.float32(0.4) * grid.fractal(rng, cell=14))
    to.melanin += np.float32(rng.uniform(0.0, 0.15)) * body * patches(grid, rng, cell=0.5 * radius, share=0.5)
    to.white += np.float32(rng.uniform(0.05, 0.3)) * body * patches(grid, rng, cell=0.6 * radius, share=0.45)
    if _chance(rng, 0.75):
        trees = patterns.arborizing_vessels(rng, radius=radius, num=int(rng.integers(2, 6)))
        to.blood += np.float32(rng.uniform(0.8, 1.4)) * grid.strokes(trees) * inside(distance, soft=9, margin=-6)
    if _chance(rng, 0.7):
        num = int(rng.integers(5, 26))
        nests = patterns.clods(grid, rng, num=num, spread=0.85 * radius, radius=(0.8, rng.uniform(2.5, 6.5)))
        nests *= inside(distance, soft=0.3 * radius)
        to.veil += np.float32(rng.uniform(0.45, 0.75)) * nests
        to.melanin += np.float32(rng.uniform(0.4, 1.3)) * nests
    if _chance(rng, 0.35):
        leaves = (
            inside(distance, soft=2, margin=-3)
            * ramp(-distance, -0.3 * radius, 0)
            * ramp(grid.fractal(rng, cell=9), 0.4, 0.8)
        )
        to.melanin += np.float32(rng.uniform(0.5, 1.0)) * leaves
    if _chance(rng, 0.45):
        ulcer = sector(grid, rng, offset=rng.uniform(0, 0.4) * radius, radius=rng.uniform(3, 9))
        to.blood += np.float32(rng.uniform(1.0, 2.2)) * ulcer
        to.crust += np.float32(rng.uniform(0, 0.4)) * ulcer
        to.melanin += np.float32(rng.uniform(0, 0.9)) * ulcer
    if _chance(rng, 0.3):
        to.white += (
            np.float32(0.3) * grid.ridges(rng, cell=12, width=0.08) * body * patches(grid, rng, cell=14, share=0.4)
        )


def _actinic(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """Red pseudo-network around pale follicles, yellow-white scale, clustered dotted vessels, sometimes grey dots."""
    radius = _radius(rng, 44)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.6), ragged=rng.uniform(0.5, 1.0))
    body = inside(distance, soft=rng.uniform(0.2, 0.4) * radius)
    red = rng.uniform(0.15, 0.45)
    to.blood += np.float32(red) * body * (1 + np.float32(0.3) * grid.fractal(rng, cell=16))
    if _chance(rng, 0.6):
        net = grid.mesh(rng, period=rng.uniform(4.8, 7), jitter=0.35)
        drawn = body * (np.float32(0.35) + patches(grid, rng, cell=20, share=0.5, soft=0.8))
        to.blood += np.float32(rng.uniform(0.2, 0.5)) * net * drawn
        to.white += np.float32(rng.uniform(0.1, 0.35)) * (1 - net) ** 2 * drawn
    else:
        coils = scatter(rng, num=int(0.05 * radius**2), spread=radius, radius=(0.7, 1.5))
        to.blood += np.float32(rng.uniform(0.6, 1.0)) * grid.discs(coils) * body
    if _chance(rng, 0.8):
        flakes = body * ramp(grid.fractal(rng, cell=rng.uniform(6, 14), octaves=4, decay=0.9), 0.3, 1.7)
        to.white += np.float32(rng.uniform(0.6, 1.0)) * flakes
        to.crust += np.float32(rng.uniform(0.0, 0.15)) * flakes
    if _chance(rng, 0.4):
        spots = patches(grid, rng, cell=9, share=0.35) * patches(grid, rng, cell=0.8 * radius, share=0.5) * body
        to.melanin += np.float32(rng.uniform(0.4, 0.9)) * spots
        to.veil += np.float32(0.25) * spots


def _keratosis(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """Stuck on: sharp, moth-eaten border, ridges and fissures, milia-like cysts, comedo-like openings; or grey dots."""
    radius = _radius(rng, 42)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.7), ragged=rng.uniform(0.5, 0.9))
    body = inside(distance, soft=rng.uniform(1.2, 4.5))
    brown = rng.uniform(0.25, 1.0)
    mottle = 1 + np.float32(0.25) * grid.fractal(rng, cell=12, octaves=4, decay=0.7)
    to.melanin += np.float32(brown) * body * mottle
    to.blood += np.float32(rng.uniform(0.0, 0.15)) * body
    to.crust += np.float32(rng.uniform(0.0, 0.3)) * body * patches(grid, rng, cell=14, share=0.5)
    kind = rng.choice(["cerebriform", "cysts", "lichenoid"], p=[0.4, 0.4, 0.2])
    if kind == "cerebriform":
        furrows = grid.ridges(rng, cell=rng.uniform(5.5, 9), width=rng.uniform(0.2, 0.4))
        to.melanin += np.float32(rng.uniform(0.25, 0.7) * (0.5 + brown)) * furrows * body
    elif kind == "lichenoid":
        grains = scatter(rng, num=int(0.12 * radius**2), spread=radius, radius=(0.7, 1.4))
        to.veil += (np.float32(0.6) * grid.discs(grains) + np.float32(0.25)) * body
    if kind != "lichenoid":
        cysts = grid.discs(scatter(rng, num=int(rng.integers(8, 30)), spread=0.9 * radius, radius=(0.9, 2.4))) * body
        to.white += np.float32(rng.uniform(0.5, 0.85)) * cysts
        plugs = grid.discs(scatter(rng, num=int(rng.integers(4, 22)), spread=0.9 * radius, radius=(1.0, 2.8))) * body
        to.melanin += np.float32(rng.uniform(0.8, 1.6)) * plugs
    if _chance(rng, 0.15):
        to.white += np.float32(0.5) * body * ramp(grid.fractal(rng, cell=5, octaves=3, decay=0.9), 0.5, 1.0)


def _fibroma(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """A white, scar-like patch in the middle of a delicate, fading network on pink to tan."""
    radius = _radius(rng, 36)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.4), ragged=rng.uniform(0.2, 0.5))
    body = inside(distance, soft=rng.uniform(0.35, 0.55) * radius)
    brown, red = rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.4)
    to.melanin += np.float32(brown) * body * (1 + np.float32(0.15) * grid.fractal(rng, cell=12))
    to.blood += np.float32(red) * body * (1 + np.float32(0.2) * grid.fractal(rng, cell=10))
    lines = grid.mesh(rng, period=rng.uniform(4.5, 6), jitter=0.3)
    to.melanin += np.float32(rng.uniform(0.2, 0.5)) * (lines - np.float32(0.4)) * body
    size = radius * rng.uniform(0.42, 0.7)
    scar = sector(grid, rng, offset=rng.uniform(0, 0.15) * radius, radius=size)
    strands = 0.75 + np.float32(0.22) * grid.fractal(rng, cell=8, octaves=4, decay=0.9)
    to.white += np.float32(rng.uniform(0.7, 1.0)) * scar * strands
    to.blood += np.float32(rng.uniform(0, 0.25)) * scar
    np.maximum(to.melanin, 0, out=to.melanin)


def _vascular(grid: Grid, rng: np.random.Generator, to: Pigments) -> None:
    """Sharply bordered red, purple or blue-black lacunae, crowded on a red field."""
    radius = _radius(rng, 30)
    distance = outline(grid, rng, radius=radius, aspect=rng.uniform(1, 1.5), ragged=rng.uniform(0.15, 0.5))
    body = inside(distance, soft=rng.uniform(1.5, 5))
    to.blood += np.float32(rng.uniform(0.5, 1.1)) * body * (1 + np.float32(0.15) * grid.fractal(rng, cell=9))
    size = rng.uniform(0.13, 0.26) * radius
    num = int(0.55 * (radius / size) ** 2)
    lakes = patterns.clods(grid, rng, num=num, spread=0.9 * radius, radius=(0.6 * size, 1.3 * size))
    lacunae: Field = lakes * inside(distance, soft=2.5)
    to.blood += np.float32(rng.uniform(0.45, 1.0)) * lacunae
    to.white += np.float32(rng.uniform(0, 0.25)) * (1 - lacunae) * inside(distance, soft=2, margin=3)
    if _chance(rng, 0.4):
        deep = patches(grid, rng, cell=0.6 * radius, share=0.55) * lacunae
        to.melanin += np.float32(rng.uniform(0.2, 1.0)) * deep
        to.veil += np.float32(rng.uniform(0.2, 0.5)) * deep
    if _chance(rng, 0.5):
        to.veil += np.float32(rng.uniform(0.1, 0.4)) * body * patches(grid, rng, cell=radius, share=0.7)


_PAINTERS: dict[str, Painter] = {
    "MEL": _melanoma,
    "NV": _nevus,
    "BCC": _basal_cell,
    "AKIEC": _actinic,
    "BKL": _keratosis,
    "DF": _fibroma,
    "VASC": _vascular,
}
