"""Which images the report shows, and why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from skinvae.metrics.evaluation import abnormal_classes
from skinvae.metrics.join import LabelJoin
from skinvae.report.survey import HEADLINE, Key, Survey

NUM_EXTREMES = 9
NUM_MISSED = 6
"""Of each class."""


@dataclass(frozen=True)
class Choice:
    """Images chosen for one reason, by their rows' keys or, where labels chose them, by their ids."""

    name: str
    title: str
    description: str
    keys: tuple[Key, ...] = ()
    image_ids: tuple[str, ...] = ()


def choose_images(survey: Survey, join: LabelJoin | None) -> list[Choice]:
    """The extremes of all images; with labels also the most missed ones of each class, none of them trained on."""
    if not survey.num_ok:
        return []
    choices = [
        Choice("most", "Most anomalous", "The highest scores of all images.", keys=tuple(survey.most)),
        Choice("least", "Least anomalous", "The lowest scores of all images.", keys=tuple(survey.least)),
    ]
    return choices if join is None else [*choices, *_missed(join.evaluated, normal=join.normal)]


def _missed(evaluated: pd.DataFrame, *, normal: Collection[str]) -> list[Choice]:
    ranked = evaluated.sort_values([HEADLINE, "image_id"])
    is_normal = ranked["label"].isin(normal)
    choices = []
    for number, name in enumerate(abnormal_classes(evaluated, normal=normal), start=1):
        its = ranked[ranked["label"] == name]
        lowest = its.head(NUM_MISSED)
        beaten = int((ranked.loc[is_normal, HEADLINE] >= lowest[HEADLINE].iloc[0]).sum())
        description = (
            f"The lowest scores of {len(its):,} images of this class: the model finds them unremarkable. "
            f"{beaten:,} of {int(is_normal.sum()):,} normal images score at least as high as the lowest."
        )
        choices.append(Choice(f"missed-{number}", f"Missed: {name}", description, image_ids=tuple(lowest["image_id"])))
    highest = ranked[is_normal].iloc[::-1].head(NUM_MISSED)
    description = f"The highest scores of {int(is_normal.sum()):,} normal images: false alarms at any threshold below."
    title = f"False alarms: {', '.join(normal)}"
    return [*choices, Choice("false-alarms", title, description, image_ids=tuple(highest["image_id"]))]
