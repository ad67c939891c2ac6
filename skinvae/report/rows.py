"""What the report reads of a table beside the survey: few rows in full, the libraries that made them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyarrow import dataset

from skinvae.records import SCORE_SCHEMA, Status
from skinvae.report.findings import ChosenRows, Row
from skinvae.report.galleries import Choice
from skinvae.report.survey import Key, Survey
from skinvae.storage.score_table import ScoreTable


def chosen_rows(scores: ScoreTable, scoring_id: str, choices: Sequence[Choice], survey: Survey) -> ChosenRows:
    """By one more look at the table, which reads little of it where its files say which members they hold."""
    keys = {key for choice in choices for key in choice.keys} | set(survey.rejected)
    image_ids = {image_id for choice in choices for image_id in choice.image_ids}
    source, member, image = (dataset.field(name) for name in ("source_id", "member_index", "image_id"))
    only = source.isin(sorted({key[0] for key in keys})) & member.isin(sorted({key[1] for key in keys}))
    if image_ids:
        only |= image.isin(sorted(image_ids))
    by_key: dict[Key, Row] = {}
    by_image: dict[str, Key] = {}
    for batch in scores.batches(SCORE_SCHEMA.names, scoring_id=scoring_id, only=only):
        for row in batch.to_pylist():
            key = (row["source_id"], row["member_index"])
            is_labelled = row["image_id"] in image_ids and row["status"] == Status.OK.value
            if key in keys or is_labelled:
                by_key[key] = row
            if is_labelled:
                by_image[row["image_id"]] = min(key, by_image.get(row["image_id"], key))
    return ChosenRows(by_key, by_image)


def libraries_of(scores: ScoreTable, scoring_id: str) -> dict[str, str]:
    """Of the libraries that made the rows, as the first provenance says that names them."""
    named = (its["versions"] for its in scores.provenances_of(scoring_id) if "versions" in its)
    versions: dict[str, str] = json.loads(next(named, "{}"))
    return versions
