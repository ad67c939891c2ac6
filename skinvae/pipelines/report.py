"""report: score table, model and labels -> one HTML file to show. Starts no Ray."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass

from skinvae.audit.status import read_status
from skinvae.config import Config
from skinvae.errors import InputError, TableError, UsageError
from skinvae.logs import say
from skinvae.metrics.highlights import find_highlights
from skinvae.metrics.labels import parse_labels
from skinvae.pipelines.evaluate import make_evaluation
from skinvae.pipelines.picturing import parse_moves, read_pictures
from skinvae.pipelines.provenance import library_versions
from skinvae.report.author import write_contents
from skinvae.report.findings import ChosenRows, Findings
from skinvae.report.galleries import NUM_EXTREMES, choose_images
from skinvae.report.html.page import render_report
from skinvae.report.names import Names, Pseudonyms
from skinvae.report.rows import chosen_rows, libraries_of
from skinvae.report.survey import HEADLINE, SURVEY_COLUMNS, Survey, take_survey
from skinvae.storage.bundle import ModelBundle, read_bundle
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frames
from skinvae.storage.score_table import ScoreTable

_NUM_REJECTED = 50
_FRAME_SIZE = 200_000
"""Rows of labels in memory at once."""
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
    normal: Sequence[str],
    metadata: str | None,
    moves: Sequence[str],
    with_pictures: bool,
    with_names: bool,
    scoring_id: str | None,
    config: Config,
    command: str,
) -> ReportSummary:
    """Write the report of one scoring to `out`.

    `normal` and `metadata` as `make_evaluation` takes them; `moves`: where archives lie by now, OLD=NEW each. Raises
    UsageError if the model did not make the scores, or the table holds several scorings and `scoring_id` names none of
    them; LabelsError if the labels do not fit.
    """
    if labels is None and (groups or normal or metadata):
        raise UsageError("--groups, --normal and --metadata say what labels are held against: give --labels too")
    begun = time.monotonic()
    findings = _find(
        ScoreTable.open(Location.parse(table, config.storage.with_credentials)),
        model=Location.parse(model, config.storage.with_credentials),
        labels=labels,
        groups=groups,
        normal=normal,
        metadata=metadata,
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
        num_evaluated=evaluation.join.num_evaluated if evaluation else None,
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
    normal: Sequence[str],
    metadata: str | None,
    moves: Sequence[str],
    with_pictures: bool,
    scoring_id: str | None,
    config: Config,
) -> Findings:
    chosen = scores.choose_scoring(scoring_id)
    bundle = read_bundle(model)
    _check_model(bundle, model=model, made_by={scores.model_id_of(chosen)})
    moved = parse_moves(moves, sources=_sources(scores, chosen) if moves else ())
    evaluation = highlights = None
    if labels is not None:
        evaluation = make_evaluation(
            scores.location.uri,
            labels=labels,
            groups=groups,
            normal=normal,
            protocol="all",
            scoring_id=chosen,
            config=config,
            metadata=metadata,
        )
        join = evaluation.join
        highlights = evaluation.highlights or find_highlights(join.evaluated, normal=join.normal, score=HEADLINE)
    # A job may be at work: the survey's snapshot must hold all that was evaluated.
    scores.reload()
    survey = _survey(scores, chosen, bundle=bundle, model=model)
    choices = choose_images(survey, highlights)
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
        metadata=metadata,
        evaluation=evaluation,
        highlights=highlights,
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
    _check_model(bundle, model=model, made_by=survey.model_ids)
    return survey


def _check_model(bundle: ModelBundle, *, model: Location, made_by: Set[str]) -> None:
    if made_by != {bundle.model_id}:
        raise UsageError(
            f"'{model}' is model {bundle.model_id}, and the scores were made by {', '.join(sorted(made_by))}: "
            "give that one with --model"
        )


def _sources(scores: ScoreTable, scoring_id: str) -> set[str]:
    """URIs of the archives of a scoring, by one look at that column."""
    batches = scores.batches(["source"], scoring_id=scoring_id)
    return {source for batch in batches for source in batch["source"].unique().to_pylist()}


def _labels(labels: str | None, rows: ChosenRows, *, config: Config) -> dict[str, str]:
    """Also of images that do not count in an evaluation."""
    if labels is None:
        return {}
    shown = {row["image_id"] for row in rows.by_key.values()}
    label_of: dict[str, str] = {}
    for frame in read_frames(Location.parse(labels, config.storage), num_rows=_FRAME_SIZE):
        its = parse_labels(frame, origin=labels)
        its = its[its["image_id"].isin(shown)]
        label_of |= dict(zip(its["image_id"], its["label"], strict=True))
    return label_of


def _card(model: Location) -> str:
    try:
        return (model / _CARD).read_bytes().decode("utf-8", "replace")
    except InputError:
        return ""
