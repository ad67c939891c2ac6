"""Findings -> what the report says."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping

from skinvae.audit.status import ScoringStatus
from skinvae.records import Status
from skinvae.report.cards import make_galleries
from skinvae.report.detection_section import detection_section
from skinvae.report.distributions import calibration, class_distributions, labelled_calibration, score_distributions
from skinvae.report.findings import Findings
from skinvae.report.html.contents import (
    ArchiveCounts,
    CalibrationSection,
    NotShown,
    RejectedImage,
    Rejects,
    ReportContents,
    RunSpeed,
    Scored,
)
from skinvae.report.names import Names
from skinvae.report.provenance import (
    data_facts,
    model_facts,
    report_facts,
    score_command,
    scoring_facts,
    training_command,
)
from skinvae.report.survey import HEADLINE, Survey
from skinvae.storage.run_records import Heartbeat, RunState

_NUM_ARCHIVES, _NUM_RUNS = 20, 10


def write_contents(
    findings: Findings, *, names: Names, command: str, made_at: datetime.datetime, versions: Mapping[str, str]
) -> ReportContents:
    """All of the report; `command` and `versions` are those that make it."""
    survey, evaluation = findings.survey, findings.evaluation
    galleries, legend = make_galleries(findings, names=names)
    left_out = findings.pictures.left_out if findings.pictures is not None else []
    return ReportContents(
        made_at=made_at,
        version=versions["skinvae"],
        headline=HEADLINE,
        scored=_scored(survey, findings.status, names=names),
        distributions=class_distributions(evaluation.join) if evaluation else score_distributions(survey),
        detection=detection_section(evaluation, names=names) if evaluation else None,
        calibration=_calibration(findings),
        galleries=galleries,
        legend=legend,
        not_shown=tuple(
            NotShown(names.archive(one.source), one.num_images, names.reason(one.reason, general=_UNREADABLE))
            for one in left_out
        ),
        rejected=_rejected(findings, names=names),
        provenance=(
            scoring_facts(
                findings.rows.any_row,
                table=names.place(findings.table),
                version=findings.table_version,
                versions=findings.scored_with,
            ),
            model_facts(findings.bundle, model=names.place(findings.model)),
            data_facts(
                findings.bundle, labels=findings.labels, groups=findings.groups, metadata=findings.metadata, names=names
            ),
            report_facts(made_at=f"{made_at:%Y-%m-%d %H:%M:%S} UTC", versions=versions),
        ),
        commands=() if names.is_hidden else _commands(findings, command=command),
        shows_pictures=findings.pictures is not None,
        shows_names=not names.is_hidden,
    )


_UNREADABLE = "the archive cannot be read, or is not the one that was scored"


def _scored(survey: Survey, status: ScoringStatus, *, names: Names) -> Scored:
    assert survey.first_at is not None
    assert survey.last_at is not None
    is_complete = {one.source_id: one.is_complete for one in status.archives}
    archives = [
        ArchiveCounts(
            uri=names.archive(source),
            num_ok=counts[Status.OK.value],
            num_rejected=counts.total() - counts[Status.OK.value],
            is_complete=is_complete.get(source_id),
        )
        for (source, source_id), counts in sorted(survey.by_archive.items())[:_NUM_ARCHIVES]
    ]
    rejects = Counter({code: count for code, count in survey.by_status.items() if code != Status.OK.value})
    return Scored(
        num_images=survey.num_rows,
        num_rejected=survey.num_rows - survey.num_ok,
        archives=tuple(archives),
        num_archives=len(survey.by_archive),
        rejects=tuple(Rejects(code, Status(code).meaning, count) for code, count in rejects.most_common()),
        runs=tuple(_run(one, status.now) for one in status.heartbeats[-_NUM_RUNS:]),
        num_runs=len(status.heartbeats),
        first_at=survey.first_at,
        last_at=survey.last_at,
    )


def _run(sign: Heartbeat, now: datetime.datetime) -> RunSpeed:
    is_silent = sign.state is RunState.RUNNING and not sign.is_alive(now)
    return RunSpeed(
        run_id=sign.run_id,
        state="without a word" if is_silent else sign.state.value,
        started_at=sign.started_at,
        seconds=(sign.heartbeat_at - sign.started_at).total_seconds(),
        num_images=sum(sign.made.values()),
    )


def _calibration(findings: Findings) -> CalibrationSection:
    if findings.evaluation is None or findings.highlights is None:
        return calibration(findings.survey, bundle=findings.bundle)
    return labelled_calibration(
        findings.survey,
        findings.evaluation.join,
        normal=findings.highlights.normal_p_values,
        abnormal=findings.highlights.abnormal_p_values,
        bundle=findings.bundle,
    )


def _rejected(findings: Findings, *, names: Names) -> tuple[RejectedImage, ...]:
    rows = [findings.rows.by_key[key] for key in findings.survey.rejected]
    return tuple(
        RejectedImage(
            image_id=names.image(row["image_id"]),
            archive=names.archive(row["source"]),
            member=names.member(row["member"]),
            status=row["status"],
            reason=names.reason(row["error"] or "", general=Status(row["status"]).meaning),
        )
        for row in rows
    )


def _commands(findings: Findings, *, command: str) -> tuple[tuple[str, str], ...]:
    trained_by = training_command(findings.model_card)
    archives = sorted({source for source, _ in findings.survey.by_archive})
    scored_by = score_command(findings.rows.any_row, archives=archives, table=findings.table, model=findings.model)
    return (
        *((("Train the model:", trained_by),) if trained_by else ()),
        ("Score the archives:", scored_by),
        ("Make this report:", command),
    )
