"""Which images the report shows, and why."""

from __future__ import annotations

from dataclasses import dataclass

from skinvae.metrics.highlights import Highlights
from skinvae.report.survey import Key, Survey

NUM_EXTREMES = 9


@dataclass(frozen=True)
class Choice:
    """Images chosen for one reason, by their rows' keys or, where labels chose them, by their ids."""

    name: str
    title: str
    description: str
    keys: tuple[Key, ...] = ()
    image_ids: tuple[str, ...] = ()


def choose_images(survey: Survey, highlights: Highlights | None) -> list[Choice]:
    """The extremes of all images; with labels also the most missed ones of each class, none of them trained on."""
    if not survey.num_ok:
        return []
    choices = [
        Choice("most", "Most anomalous", "The highest scores of all images.", keys=tuple(survey.most)),
        Choice("least", "Least anomalous", "The lowest scores of all images.", keys=tuple(survey.least)),
    ]
    return choices if highlights is None else [*choices, *_missed(highlights)]


def _missed(highlights: Highlights) -> list[Choice]:
    num_normal = highlights.num_normal
    choices = []
    for number, one in enumerate(highlights.missed, start=1):
        description = (
            f"The lowest scores of {one.num_images:,} images of this class: the model finds them unremarkable. "
            f"{one.num_normals_above:,} of {num_normal:,} normal images score at least as high as the lowest."
        )
        choices.append(Choice(f"missed-{number}", f"Missed: {one.label}", description, image_ids=one.image_ids))
    description = f"The highest scores of {num_normal:,} normal images: false alarms at any threshold below."
    title = f"False alarms: {', '.join(highlights.normal)}"
    return [*choices, Choice("false-alarms", title, description, image_ids=highlights.false_alarms)]
