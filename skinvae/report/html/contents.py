"""What the report says, as plain data: numbers, texts, charts as SVG and pictures as data URIs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ArchiveCounts:
    """What became of one archive."""

    uri: str
    num_ok: int
    num_rejected: int
    is_complete: bool | None
    """Whether every member has been scored; None where no run record says how many there are."""


@dataclass(frozen=True)
class Rejects:
    """How many images were rejected for one reason."""

    status: str
    meaning: str
    count: int


@dataclass(frozen=True)
class RunSpeed:
    """What one run made, and how fast."""

    run_id: str
    state: str
    started_at: datetime.datetime
    seconds: float
    num_images: int

    @property
    def images_per_second(self) -> float | None:
        """None of a run too short to tell."""
        return self.num_images / self.seconds if self.seconds > 0 else None


@dataclass(frozen=True)
class Scored:
    """What was scored."""

    num_images: int
    num_rejected: int
    archives: tuple[ArchiveCounts, ...]
    num_archives: int
    """`archives` are the first of them."""
    rejects: tuple[Rejects, ...]
    runs: tuple[RunSpeed, ...]
    num_runs: int
    first_at: datetime.datetime
    last_at: datetime.datetime

    @property
    def num_ok(self) -> int:
        return self.num_images - self.num_rejected

    @property
    def images_per_second(self) -> float | None:
        """Of the run that made most; without run records, over the time in which rows were made."""
        if self.runs:
            return max(self.runs, key=lambda run: run.num_images).images_per_second
        seconds = (self.last_at - self.first_at).total_seconds()
        return self.num_images / seconds if seconds > 0 else None


@dataclass(frozen=True)
class Chart:
    """A figure, as an `<svg>` element."""

    svg: str
    caption: str


@dataclass(frozen=True)
class AurocCell:
    """One AUROC; the interval is None where its source gives none."""

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class AurocTable:
    """Scores by targets."""

    caption: str
    targets: tuple[tuple[str, int | None], ...]
    """Name and number of abnormal images."""
    rows: tuple[tuple[str, tuple[AurocCell, ...]], ...]


@dataclass(frozen=True)
class Cell:
    """A number as it is shown, and what stands small below it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class TableRow:
    """A row of a table; `is_main` rows stand out."""

    name: str
    cells: tuple[Cell, ...]
    is_main: bool = False


@dataclass(frozen=True)
class Table:
    """Results by what they are of; the first of `columns` heads the names of the rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class DetectionSection:
    """How well the scores tell abnormal images from normal ones."""

    pooled: AurocCell
    """Of the headline score."""
    num_normal: int
    num_abnormal: int
    normal: tuple[str, ...]
    sample_note: str
    """Empty where figures are drawn of all images."""
    roc: Chart
    ours: AurocTable
    published: AurocTable | None
    """The paper's; None where no class is one of its."""
    found: Table | None
    """At which cost the headline score finds what."""
    found_sentences: tuple[str, ...]
    """What flagging by p-value amounts to."""
    comparison: Table | None
    """Of the headline score with the others."""
    comparison_note: str
    strata: Table | None
    """None without metadata, as is the next."""
    forest: Chart | None
    account: tuple[str, ...]
    """Which rows count and where the others went, a sentence each."""
    notes: tuple[str, ...]
    """On how the numbers were made."""


@dataclass(frozen=True)
class CalibrationSection:
    """Whether p-values are what they claim to be."""

    charts: tuple[Chart, ...]
    """What p-values come from, and how they are distributed."""
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """One image of the archives."""

    image_id: str
    archive: str
    member: str | None
    """None where names are not shown."""
    label: str | None
    """None where it is not known."""
    was_trained: bool
    scores: Mapping[str, float]
    p_value: float | None
    original: str | None
    """None, as are the next two, where the image is not shown."""
    reconstruction: str | None
    error_map: str | None


@dataclass(frozen=True)
class Gallery:
    """Images that were chosen for one reason."""

    name: str
    title: str
    description: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class ErrorLegend:
    """What the colours of the error maps mean."""

    colours: str
    """A data URI of the colours from no error to `top`."""
    middle: float
    """Nats of a pixel that has the colour in the middle."""
    top: float
    """Of the brightest colour; what is worse has it, too."""


@dataclass(frozen=True)
class NotShown:
    """Pictures that are left out, and why."""

    archive: str
    num_images: int
    reason: str


@dataclass(frozen=True)
class RejectedImage:
    """An image without scores."""

    image_id: str
    archive: str
    member: str | None
    status: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """A named list of facts."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReportContents:
    """All that the page shows, in its order."""

    made_at: datetime.datetime
    version: str
    """Of skinvae."""
    headline: str
    """The score that images are ordered by."""
    scored: Scored
    distributions: tuple[Chart, ...]
    detection: DetectionSection | None
    """None without labels."""
    calibration: CalibrationSection
    galleries: tuple[Gallery, ...]
    legend: ErrorLegend | None
    """None without pictures."""
    not_shown: tuple[NotShown, ...]
    rejected: tuple[RejectedImage, ...]
    """The first ones; `scored.num_rejected` counts them all."""
    provenance: tuple[Facts, ...]
    commands: tuple[tuple[str, str], ...]
    """What each does, and the command; none where names are not shown."""
    shows_pictures: bool
    shows_names: bool
