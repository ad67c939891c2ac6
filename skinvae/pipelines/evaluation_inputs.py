"""What an evaluation is made of: one scoring of a table with the model's own split, and labels that come later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from skinvae.metrics.detection import HeldOut
from skinvae.metrics.join import LabelJoin, check_named, join_labels
from skinvae.metrics.labels import parse_groups, parse_labels
from skinvae.records import SCORES
from skinvae.storage.bundle import BundleConfig, read_bundle_copy
from skinvae.storage.filesystem import Location, StorageSettings
from skinvae.storage.frames import read_frame
from skinvae.storage.score_table import ScoreTable

COLUMNS = ("image_id", "status", "precision", "p_value", *SCORES)
"""What an evaluation reads of the score table."""


@dataclass(frozen=True)
class Scored:
    """One scoring of a table, and the model that made it."""

    table: ScoreTable
    scoring_id: str
    model_id: str
    model: BundleConfig
    split: pd.DataFrame

    @classmethod
    def open(cls, table: str, *, scoring_id: str | None, option: str, storage: StorageSettings) -> Scored:
        """Open the table and choose, as `choose_scoring` does; the model is what `score` copied beside the table."""
        scores = ScoreTable.open(Location.parse(table, storage.with_credentials))
        scores.check_schema()
        chosen = scores.choose_scoring(scoring_id, option=option)
        model_id = scores.model_id_of(chosen)
        model, split = read_bundle_copy(scores.location, model_id=model_id)
        return cls(scores, chosen, model_id, model, split)

    @property
    def num_rows(self) -> int:
        """Rows of the scoring."""
        return self.table.num_rows_of(self.scoring_id)

    @property
    def held_out(self) -> HeldOut:
        """Normals that chose the epoch: p-values are made from their scores."""
        image_ids = self.split.loc[self.split["split"] == "validation", "image_id"]
        return HeldOut(set(image_ids), tail="empirical" if self.model.tail is None else self.model.tail.kind)

    def as_dict(self) -> dict[str, object]:
        """As evaluation.json has it."""
        return {
            "table": self.table.location.uri,
            "table_version": self.table.version,
            "scoring_id": self.scoring_id,
            "model_id": self.model_id,
        }


@dataclass(frozen=True)
class LabelSources:
    """Where labels, lesions and metadata lie, and which classes are normal; () means the model's own."""

    labels: str
    groups: str | None
    metadata: str | None
    normal: Sequence[str]
    storage: StorageSettings

    @property
    def lesions(self) -> str | None:
        """Where lesions are looked for."""
        return self.metadata if self.groups is None else self.groups

    def location(self, uri: str) -> Location:
        return Location.parse(uri, self.storage)

    def read_lesions(self, frame: pd.DataFrame, *, first_row: int = 0) -> pd.Series[str]:
        """The lesions of a frame of `lesions`; metadata that were not given for them need have none."""
        assert self.lesions is not None
        if self.groups is None and "lesion_id" not in frame.columns:
            return pd.Series([], index=pd.Index([], name="image_id"), dtype=object, name="group")
        return parse_groups(frame, origin=self.lesions, first_row=first_row)


def join_in_memory(scored: Scored, sources: LabelSources) -> LabelJoin:
    """All rows of the scoring, joined."""
    frame = scored.table.read(COLUMNS, scoring_id=scored.scoring_id).to_pandas()
    labels = parse_labels(read_frame(sources.location(sources.labels)), origin=sources.labels)
    check_named(sources.normal, classes=set(labels["label"]), origin=sources.labels)
    groups = None
    if sources.lesions is not None:
        groups = sources.read_lesions(read_frame(sources.location(sources.lesions)))
    return join_labels(
        frame,
        labels=labels,
        normal=sources.normal or scored.model.normal_classes,
        split=scored.split,
        groups=groups,
    )
