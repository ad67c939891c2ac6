"""Labels, from wherever they lie, and the split of the model beside them: what a scoring's rows are joined with."""

from __future__ import annotations

from collections.abc import Sequence

from skinvae.metrics.join import check_named
from skinvae.metrics.labelling import Labelling
from skinvae.metrics.labels import parse_labels
from skinvae.storage.bundle import read_bundle_copy
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frame
from skinvae.storage.score_table import ScoreTable


def read_labelling(scores: ScoreTable, scoring_id: str, labels: Location, *, normal: Sequence[str] = ()) -> Labelling:
    """What adds labels to rows of a scoring; `normal` = () takes the classes that training called normal.

    Raises LabelsError if they are none, or if no image is of a `normal` class, TableError if the scoring has no rows.
    """
    frame = parse_labels(read_frame(labels), origin=str(labels))
    model, split = read_bundle_copy(scores.location, model_id=scores.model_id_of(scoring_id))
    check_named(normal, classes=set(frame["label"]), origin=str(labels))
    return Labelling(frame, normal=normal or model.normal_classes, split=split)
