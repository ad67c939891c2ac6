"""All that a report is written from: what was read of the table, its archives, the model and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinvae.audit.status import ScoringStatus
from skinvae.metrics.highlights import Highlights
from skinvae.report.evaluation import Evaluation
from skinvae.report.galleries import Choice
from skinvae.report.survey import Key, Survey
from skinvae.storage.bundle import ModelBundle

Row = Mapping[str, Any]
"""Of SCORE_SCHEMA."""


@dataclass(frozen=True)
class ChosenRows:
    """The rows that the report shows one by one."""

    by_key: Mapping[Key, Row]
    by_image: Mapping[str, Key]
    """The first scored row of each image_id."""

    @property
    def any_row(self) -> Row:
        """For what all rows of a scoring have in common."""
        return next(iter(self.by_key.values()))

    def keys_of(self, choice: Choice) -> list[Key]:
        """In the order of the choice."""
        return [*choice.keys, *(self.by_image[image_id] for image_id in choice.image_ids)]


@dataclass(frozen=True)
class LeftOut:
    """Why pictures of one archive are not there."""

    source: str
    num_images: int
    reason: str


@dataclass
class Pictures:
    """The images that could be read, and why the others could not."""

    pixels: dict[Key, NDArray[np.uint8]] = field(default_factory=dict)
    """(size, size, 3) each"""
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """Of one scoring."""

    table: str
    table_version: int
    model: str
    bundle: ModelBundle
    model_card: str
    """Empty where the bundle has none."""
    survey: Survey
    status: ScoringStatus
    scored_with: Mapping[str, str]
    """Versions of the libraries that made the scores; empty if the table does not tell."""
    labels: str | None
    groups: str | None
    metadata: str | None
    evaluation: Evaluation | None
    """None without labels."""
    highlights: Highlights | None
    """None without labels."""
    label_of: Mapping[str, str]
    """Of the images in `rows`, as far as labels know them."""
    choices: list[Choice]
    rows: ChosenRows
    pictures: Pictures | None
    """None if they are not to be shown."""
