"""What the commands print: their results for people on stdout, or as one JSON object."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from skinvae.logs import say

if TYPE_CHECKING:
    from skinvae.audit.plan import Plan
    from skinvae.audit.status import TableStatus
    from skinvae.audit.training import Training
    from skinvae.audit.verification import Verification
    from skinvae.pipelines.export import ExportSummary
    from skinvae.pipelines.report import ReportSummary
    from skinvae.pipelines.slice_job import JobSummary
    from skinvae.pipelines.train import TrainSummary
    from skinvae.pipelines.usage import Usage, Workers
    from skinvae.report.evaluation import Evaluation


_SHOWN_SECONDS = 0.05
"""Less would be printed as 0.0 s."""


def print_json(document: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(document, allow_nan=False))


def train_lines(summary: TrainSummary, *, dry_run: bool) -> list[str]:
    """What `train` did, or would do."""
    images = f"{summary.num_train:,} normals to train on, {summary.num_validation:,} held out"
    if dry_run:
        return [f"would train: {images}; the model bundle would go to {summary.model}"]
    to_look_at = ", ".join(name for name in summary.files if name.endswith((".md", ".png")))
    return [
        f"{images}, {summary.num_rejected:,} could not be decoded",
        f"best epoch {summary.best_epoch}, validation loss {summary.validation_loss:.2f}, {summary.seconds:.0f} s",
        f"model {summary.model_id} is in {summary.model}: see {to_look_at}",
    ]


def prepare_lines(summary: JobSummary, *, dry_run: bool) -> list[str]:
    """What `prepare` did, or would do."""
    if dry_run:
        return [_would(summary, "prepared")]
    return [
        *_did(summary, "prepared"),
        f"prepared archive: {summary.table}",
        f"try:   skinvae score {summary.table} --model MODEL --table TABLE",
    ]


def score_lines(summary: JobSummary, *, dry_run: bool) -> list[str]:
    """What `score` did, or would do."""
    if dry_run:
        return [_would(summary, "scored"), *_maps_planned(summary)]
    return [
        *_did(summary, "scored"),
        *_retried(summary),
        *_maps_stored(summary),
        f"table: {summary.table} (scoring {summary.scoring_id})",
        'try:   duckdb -c "SELECT image_id, vae_reconst, p_value '
        f"FROM read_parquet('{summary.table}/*.parquet') WHERE scoring_id = '{summary.scoring_id}' "
        'ORDER BY vae_reconst DESC LIMIT 10"',
    ]


def print_usage(summary: JobSummary, *, done: str) -> None:
    """Where the time of a job went, on stderr; nothing where it had nothing to do."""
    if lines := usage_lines(summary.usage, done=done):
        say("\n".join(lines), event="usage", **summary.usage.as_dict())


def usage_lines(usage: Usage, *, done: str) -> list[str]:
    """Where the time of a job went, what it was bound by, and when its first images were `done`."""
    from skinvae.pipelines.bottleneck import verdict

    sentence = verdict(usage)
    if not sentence:
        return []
    first = "" if usage.seconds_to_first is None else f"; first images {done} after {usage.seconds_to_first:.1f} s"
    table = [line for workers in usage.workers() for line in _workers_lines(workers, num_images=usage.num_images)]
    return [f"where the time went ({usage.run_seconds:.1f} s{first}):", *table, sentence]


def _workers_lines(workers: Workers, *, num_images: int) -> list[str]:
    """Worker-seconds of each stage, their share, and the speed of one worker at it."""
    from skinvae.pipelines.usage import WORKING

    lines = []
    who = workers.title
    for stage, seconds in workers.seconds.items():
        if seconds >= _SHOWN_SECONDS:
            rate = num_images / seconds
            speed = f"{rate:>9,.{0 if rate >= 10 else 1}f} images/s each" if stage in WORKING else ""
            lines.append(f"  {who:20}{stage.value:8}{seconds:>9,.1f} s{100 * workers.share(stage):>5.0f} %{speed}")
            who = ""
    return lines


def _would(summary: JobSummary, done: str) -> str:
    missing = summary.num_members - summary.num_already_done
    streams = f" and {summary.num_stream_bytes / 1e9:,.3g} GB of tar" if summary.num_stream_bytes else ""
    return f"{missing:,} of {summary.num_members:,} members{streams} would be {done} into {summary.table}"


def _did(summary: JobSummary, done: str) -> list[str]:
    rejected = {status: count for status, count in summary.by_status.items() if status != "ok"}
    reasons = "".join(f", {count:,} {status}" for status, count in sorted(rejected.items()))
    adopted = f"; {summary.num_adopted:,} rows that an earlier run wrote are adopted" if summary.num_adopted else ""
    again = f", {summary.num_reattempted:,} slices begun again" if summary.num_reattempted else ""
    speed = f", {summary.num_images / summary.seconds:.0f} images/s from start to end" if summary.num_images else ""
    retries = f"; {summary.num_retries:,} requests to storage were repeated" if summary.num_retries else ""
    return [
        f"{summary.num_ok:,} images {done}, {summary.num_rejected:,} rejected{reasons}{adopted}; "
        f"{summary.num_already_done:,} of {summary.num_members:,} members were done before",
        f"{summary.seconds:.0f} s{speed}{again}{retries}",
    ]


def _retried(summary: JobSummary) -> list[str]:
    if not summary.retried:
        return []
    became = ", ".join(f"{count:,} {status}" for status, count in sorted(summary.retried.items()))
    return [f"{sum(summary.retried.values()):,} rejected images were tried again: {became}"]


def _maps_stored(summary: JobSummary) -> list[str]:
    maps = summary.maps
    if maps is None:
        return []
    if maps.threshold_nats is None:
        return ["no error maps: there is no image with a score"]
    rejected = f", {maps.num_rejected:,} images could not be decoded again" if maps.num_rejected else ""
    chosen = f"{maps.num_chosen:,} images with a vae_reconst of at least {maps.threshold_nats:,.1f} nats"
    return [
        f"{maps.num_stored:,} error maps stored in {maps.table} in {maps.seconds:.0f} s{rejected}; "
        f"{maps.num_before:,} of the {chosen} had theirs before"
    ]


def _maps_planned(summary: JobSummary) -> list[str]:
    maps = summary.maps
    if maps is None:
        return []
    if maps.num_chosen is None:
        return [f"then error maps of the highest scores would be stored in {maps.table}"]
    if maps.threshold_nats is None:
        return [
            f"then about {maps.num_chosen:,} error maps would be stored in {maps.table}, those of the highest scores"
        ]
    return [f"{maps.num_chosen - maps.num_before:,} of {maps.num_chosen:,} error maps would be stored in {maps.table}"]


def export_lines(summary: ExportSummary) -> list[str]:
    """What `export` wrote."""
    left_out = ", ".join(f"{count:,} {status}" for status, count in sorted(summary.left_out.items()))
    lines = [
        f"{summary.num_rows:,} rows in {_counted(len(summary.files), 'file')}, {summary.num_bytes / 1e6:,.1f} MB, "
        f"{summary.seconds:.0f} s" + (f"; left out: {left_out}" if left_out else "")
    ]
    if summary.num_unmatched is not None:
        lines.append(
            f"{_counted(summary.num_unmatched, 'row')} without a label, "
            f"{_counted(summary.num_labels_unmatched or 0, 'label')} without a row"
        )
    return [*lines, f"export: {summary.to} (scoring {summary.scoring_id}, table version {summary.table_version})"]


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_evaluation(evaluation: Evaluation, *, out: str, as_json: bool) -> None:
    """The evaluation as tables, or as JSON."""
    from skinvae.report.evaluation import evaluation_page
    from skinvae.report.evaluation_document import evaluation_document
    from skinvae.report.evaluation_files import evaluation_frames

    if as_json:
        print_json(evaluation_document(evaluation) | {"out": out})
        return
    console = Console()
    console.print(evaluation_page(evaluation))
    pooled = evaluation.auroc.query("score == 'vae_reconst' and target == 'pooled'").iloc[0]
    console.print(
        f"pooled vae_reconst AUROC {pooled['auroc']:.3f} ({pooled['ci_low']:.3f} to {pooled['ci_high']:.3f})",
        style="bold",
        highlight=False,
    )
    figures = ["roc_curves.png", "score_histograms.png", *(["strata.png"] if evaluation.strata is not None else [])]
    print(f"written to {out}: {', '.join(['evaluation.json', *evaluation_frames(evaluation), *figures])}")


def print_report(summary: ReportSummary, *, as_json: bool) -> None:
    """What the report holds, and which pictures it lacks."""
    if as_json:
        print_json(dataclasses.asdict(summary))
        return
    evaluated = "" if summary.num_evaluated is None else f", {summary.num_evaluated:,} evaluated"
    print(
        f"{summary.num_images:,} images{evaluated}, {summary.num_rejected:,} rejected, {summary.num_pictures:,} shown"
    )
    if summary.num_not_shown:
        print(f"{summary.num_not_shown:,} pictures are left out: {'; '.join(summary.not_shown)}")
    print(f"report: {summary.out} ({summary.num_bytes / 1e6:.1f} MB, {summary.seconds:.0f} s)")


def print_plan(plan: Plan, *, as_json: bool) -> None:
    """What `score` would do."""
    from skinvae.report.plan import plan_document, plan_page

    if as_json:
        print_json(plan_document(plan))
    else:
        Console(highlight=False).print(plan_page(plan))


def print_status(status: TableStatus, *, as_json: bool) -> None:
    """How far a table is."""
    from skinvae.report.status import status_document, status_page

    if as_json:
        print_json(status_document(status))
    else:
        Console(highlight=False).print(status_page(status))


def print_training_status(training: Training, *, as_json: bool) -> None:
    """How far a training run is, or the model that it made."""
    from skinvae.report.training_status import training_document, training_page

    if as_json:
        print_json(training_document(training))
    else:
        Console(highlight=False).print(training_page(training))


def print_verification(found: Verification, *, as_json: bool) -> None:
    """What `verify` found."""
    from skinvae.report.verification import verification_document, verification_lines

    if as_json:
        print_json(verification_document(found))
    else:
        print("\n".join(verification_lines(found)))


def demo_lines(out: str) -> list[str]:
    """What the demo left, and where."""
    tree = {
        "archive/": "the synthetic images and their labels, in ISIC 2018's layout",
        "model/reconstructions.png": "held-out nevi beside what the model makes of them",
        "model/training_curve.png": "the loss, epoch by epoch",
        "scores/": "the score table: Delta and plain Parquet, one row per image",
        "evaluation/roc_curves.png": "one curve per disease and score",
        "evaluation/score_histograms.png": "nevi against each disease",
        "report.html": "all of it on one page to show: open it in a browser",
    }
    return ["", f"{out}/", *(f"    {name:34}{meaning}" for name, meaning in tree.items())]
