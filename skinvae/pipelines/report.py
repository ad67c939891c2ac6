"""report: score table, model and labels -> one HTML file to show. Starts no Ray."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass

from skinvae.audit.status import read_status
from skinvae.config import Config
from skinvae.errors import InputError, TableError, UsageError
from skinvae.logs import say
from skinvae.metrics.labels import parse_labels
from skinvae.pipelines.evaluate import make_evaluation
from skinvae.pipelines.picturing import parse_moves, read_pictures
from skinvae.pipelines.provenance import library_versions
from skinvae.report.author import write_contents
from skinvae.report.findings import ChosenRows, Findings
from skinvae.report.galleries import NUM_EXTREMES, choose_images
from skinvae.report.html.page import render_report
from skinvae.report.names import Names, Pseudonyms
from skinvae.report.rows import chosen_rows, count_p_values, libraries_of
from skinvae.report.survey import SURVEY_COLUMNS, Survey, take_survey
from skinvae.storage.bundle import ModelBundle, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frame
from skinvae.storage.score_table import ScoreTable

_NUM_REJECTED = 50
_CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class ReportSummary:
    """What the report holds."""

    out: str
    num_bytes: int
    seconds: float
    scoring_id: str
    num_images: int
    num_rejected: int
    num_evaluated: int | None
    """None without labels."""
    num_pictures: int
    num_not_shown: int
    """Pictures that were asked for and could not be read."""
    not_shown: tuple[str, ...]
    """Why, an archive each."""


def report(
    table: str,
    *,
    model: str,
    out: str,
    labels: str | None,
    groups: str | None,
    moves: Sequence[str],
    with_pictures: bool,
    with_names: bool,
    scoring_id: str | None,
    config: Config,
    command: str,
) -> ReportSummary:
    """Write the report of one scoring to `out`.

    `moves`: where archives lie by now, OLD=NEW each. Raises UsageError if the model did not make the scores, or the
    table holds several scorings and `scoring_id` names none of them; LabelsError if the labels do not fit.
    """
    begun = time.monotonic()
    findings = _find(
        ScoreTable.open(Location.parse(table, config.storage.with_credentials)),
        model=Location.parse(model, config.storage.with_credentials),
        labels=labels,
        groups=groups,
        moves=moves,
        with_pictures=with_pictures,
        scoring_id=scoring_id,
        config=config,
    )
    contents = write_contents(
        findings,
        names=Names() if with_names else Pseudonyms(),
        command=command,
        made_at=datetime.datetime.now(datetime.timezone.utc),
        versions=library_versions(),
    )
    page = render_report(contents).encode()
    Location.parse(out, config.storage.with_credentials).write_bytes(page)
    survey, pictures, evaluation = findings.survey, findings.pictures, findings.evaluation
    left_out = pictures.left_out if pictures else []
    return ReportSummary(
        out=out,
        num_bytes=len(page),
        seconds=time.monotonic() - begun,
        scoring_id=findings.status.scoring_id,
        num_images=survey.num_rows,
        num_rejected=survey.num_rows - survey.num_ok,
        num_evaluated=len(evaluation.join.evaluated) if evaluation else None,
        num_pictures=len(pictures.pixels) if pictures else 0,
        num_not_shown=sum(one.num_images for one in left_out),
        not_shown=tuple(f"'{one.source}': {one.reason}" for one in left_out),
    )


def _find(
    scores: ScoreTable,
    *,
    model: Location,
    labels: str | None,
    groups: str | None,
    moves: Sequence[str],
    with_pictures: bool,
    scoring_id: str | None,
    config: Config,
) -> Findings:
    chosen = scores.choose_scoring(scoring_id)
    bundle = read_bundle(model)
    evaluation = None
    if labels is not None:
        evaluation = make_evaluation(
            scores.location.uri,
            labels=labels,
            groups=groups,
            normal=(),
            protocol="all",
            scoring_id=chosen,
            config=config,
        )
    # A job may be at work: the survey's snapshot must hold all that was evaluated.
    scores.reload()
    survey = _survey(scores, chosen, bundle=bundle, model=model)
    moved = parse_moves(moves, sources=[source for source, _ in survey.by_archive])
    choices = choose_images(survey, evaluation.join if evaluation else None)
    rows = chosen_rows(scores, chosen, choices, survey)
    pictures = None
    if with_pictures:
        say("reading pictures from the archives")
        pictures = read_pictures(
            [rows.by_key[key] for choice in choices for key in rows.keys_of(choice)],
            table=scores,
            size=bundle.config.model.image_size,
            decode=bundle.config.decode.model_copy(update={"max_seconds": config.images.max_seconds}),
            storage=config.storage,
            moved=moved,
        )
    (status,) = read_status(scores.location, scoring_id=chosen).scorings
    return Findings(
        table=scores.location.uri,
        table_version=scores.version,
        model=model.uri,
        bundle=bundle,
        model_card=_card(model),
        survey=survey,
        status=status,
        scored_with=libraries_of(scores, chosen),
        labels=labels,
        groups=groups,
        evaluation=evaluation,
        p_values=count_p_values(scores, chosen, evaluation.join) if evaluation else None,
        label_of=_labels(labels, rows, config=config),
        choices=choices,
        rows=rows,
        pictures=pictures,
    )


def _survey(scores: ScoreTable, scoring_id: str, *, bundle: ModelBundle, model: Location) -> Survey:
    say(f"reading {scores.location}")
    batches = scores.batches(SURVEY_COLUMNS, scoring_id=scoring_id)
    survey = take_survey(batches, num_extremes=NUM_EXTREMES, num_rejected=_NUM_REJECTED)
    if not survey.num_rows:
        raise TableError(f"'{scores.location}' holds no rows of scoring '{scoring_id}': the archives had no images")
    if survey.model_ids != {bundle.model_id}:
        raise UsageError(
            f"'{model}' is model {bundle.model_id}, and the scores were made by {', '.join(sorted(survey.model_ids))}: "
            "give that one with --model"
        )
    return survey


def _labels(labels: str | None, rows: ChosenRows, *, config: Config) -> dict[str, str]:
    """Also of images that do not count in an evaluation."""
    if labels is None:
        return {}
    frame = parse_labels(read_frame(Location.parse(labels, config.storage)), origin=labels)
    chosen = frame[frame["image_id"].isin({row["image_id"] for row in rows.by_key.values()})]
    return dict(zip(chosen["image_id"], chosen["label"], strict=True))


def _card(model: Location) -> str:
    try:
        return (model / _CARD).read_bytes().decode("utf-8", "replace")
    except InputError:
        return ""
