"""train: the normal images of archives -> model bundle, data-parallel, resumable by the same command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from skinvae.config import Config
from skinvae.errors import BundleError, Interrupted, UsageError
from skinvae.logs import begin_run, note, say
from skinvae.model.objective import ObjectiveSettings
from skinvae.model.precision import emulates
from skinvae.pipelines.calibration import Calibration, calibrate
from skinvae.pipelines.cluster import describe
from skinvae.pipelines.failures import user_errors
from skinvae.pipelines.fitting import fit, require_work_for_all
from skinvae.pipelines.nodes import alive_nodes
from skinvae.pipelines.provenance import library_versions
from skinvae.pipelines.runtime import Resources, ray_session, training_resources
from skinvae.pipelines.train_images import TrainImages, decode_normals
from skinvae.pipelines.train_plan import TrainPlan, digest_frame, make_train_plan
from skinvae.pipelines.training_log import require_mlflow
from skinvae.pipelines.training_record import TrainingRecorder
from skinvae.report.figures import png_bytes, training_curve
from skinvae.report.model_card import model_card
from skinvae.storage.bundle import (
    BundleConfig,
    has_bundle,
    read_bundle_config,
    write_bundle,
)
from skinvae.training.fitting import Fitted
from skinvae.training.settings import WITHOUT_INFLUENCE, TrainPrecision


@dataclass(frozen=True)
class TrainSummary:
    """What one run of `train` made."""

    model: str
    model_id: str
    num_train: int
    num_validation: int
    num_rejected: int
    best_epoch: int
    validation_loss: float | None
    """Of the best epoch; None after a dry run."""
    seconds: float
    files: list[str] = field(default_factory=list)
    """Names in the bundle, sorted; empty after a dry run."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def train(
    archives: Sequence[str],
    *,
    labels: str,
    normal: Sequence[str],
    out: str,
    groups: str | None,
    config: Config,
    command: str = "",
    dry_run: bool = False,
) -> TrainSummary:
    """Train on the normals and write the bundle; a bundle that the same command wrote before is left as it is.

    Raises TrainingError if the loss stops being finite, LabelsError if no normal image is found, BundleError if
    `out` holds a model that other settings or data made, Interrupted if the user or the scheduler stops the job.
    """
    started = time.monotonic()
    if config.train.mlflow:
        require_mlflow()
    try:
        plan = make_train_plan(
            archives, labels=labels, normal=list(normal), out=out, groups=groups, config=config, command=command
        )
        begin_run(plan.digest)
        if dry_run or _is_done(plan):
            return _summary_of_plan(plan, done=not dry_run)
        return _run(plan, started=started)
    except KeyboardInterrupt as error:
        raise Interrupted("training was interrupted: run the same command again to resume") from error


def _run(plan: TrainPlan, *, started: float) -> TrainSummary:
    config = plan.config
    with ray_session(config.ray), user_errors():
        resources = training_resources(
            config.ray, num_workers=config.train.num_workers, min_workers=config.train.min_workers
        )
        say(f"cluster: {describe(alive_nodes(), resources, noun='training worker')}")
        _check_precision(config.train.precision, resources)
        # Decoding takes long, and its outcome rarely changes the answer.
        num_train = int((plan.split["split"] == "train").sum())
        require_work_for_all(num_train, settings=config.train, num_workers=resources.num_actors)
        with TrainingRecorder(plan, num_workers=resources.num_actors) as recorder:
            images = decode_normals(plan, resources)
            fitted = fit(plan, images, resources, recorder)
            recorder.phase = "calibrating"
            say("scoring the held-out normals for calibration")
            calibration = calibrate(images.dataset, fitted, config=config, resources=resources)
            bundle = _bundle_config(plan, images, fitted, calibration)
            extras = _extras(plan, bundle, fitted, calibration)
            digest = write_bundle(
                plan.out,
                config=bundle,
                weights=fitted.weights,
                calibration=calibration.scores,
                split=images.split,
                extras=extras,
            )
    plan.runs.delete()
    return TrainSummary(
        model=plan.out.uri,
        model_id=digest[:16],
        num_train=images.num_train,
        num_validation=images.num_validation,
        num_rejected=images.num_rejected,
        best_epoch=fitted.best_epoch,
        validation_loss=bundle.training["validation_loss"],
        seconds=time.monotonic() - started,
        files=_files(plan),
    )


def _check_precision(precision: TrainPrecision, resources: Resources) -> None:
    """Raises UsageError for a format that the workers' devices do not have; says where one will be slow."""
    if resources.device != "cpu":
        return
    if precision == "tf32":
        raise UsageError("train.precision = tf32 is a format of GPUs, and training runs on CPUs: use float32")
    if emulates(torch.device("cpu"), precision):
        note("this machine has no units for bfloat16: training in it will be slow")


def _is_done(plan: TrainPlan) -> bool:
    if not has_bundle(plan.out):
        return False
    config, _ = read_bundle_config(plan.out)
    if config.training.get("run_digest") != plan.digest:
        raise BundleError(
            f"'{plan.out}' holds a model that other settings or images made: choose another --out or delete it"
        )
    say(f"'{plan.out}' holds this model already: nothing to do")
    return True


def _summary_of_plan(plan: TrainPlan, *, done: bool) -> TrainSummary:
    counts = plan.split["split"].value_counts()
    config, digest = read_bundle_config(plan.out) if done else (None, "")
    return TrainSummary(
        model=plan.out.uri,
        model_id=digest[:16],
        num_train=int(counts["train"]),
        num_validation=int(counts["validation"]),
        num_rejected=0,
        best_epoch=config.training["best_epoch"] if config else 0,
        validation_loss=config.training["validation_loss"] if config else None,
        seconds=0.0,
        files=_files(plan) if done else [],
    )


def _files(plan: TrainPlan) -> list[str]:
    return sorted(one.name for one in plan.out.list_objects())


def _extras(plan: TrainPlan, bundle: BundleConfig, fitted: Fitted, calibration: Calibration) -> dict[str, bytes]:
    """The files for people, by name."""
    history = fitted.history
    extras = {
        "MODEL_CARD.md": model_card(bundle, history=history, command=plan.command).encode(),
        "history.csv": history.to_csv(index=False).encode(),
    } | {name: png_bytes(figure) for name, figure in calibration.figures.items()}
    if len(history) > 1:
        extras["training_curve.png"] = png_bytes(training_curve(history, best_epoch=fitted.best_epoch))
    return extras


def _bundle_config(plan: TrainPlan, images: TrainImages, fitted: Fitted, calibration: Calibration) -> BundleConfig:
    config = plan.config
    return BundleConfig(
        model=config.model,
        decode=config.images.policy,
        sigma=float(fitted.best["sigma"]),
        objective=ObjectiveSettings(**config.train.model_dump(include=set(ObjectiveSettings.model_fields))),
        normal_classes=plan.normal,
        training=config.train.model_dump(exclude=set(WITHOUT_INFLUENCE))
        | {
            "run_digest": plan.digest,
            "best_epoch": fitted.best_epoch,
            "validation_loss": float(fitted.best["loss"]),
        },
        data={
            "archives": [one.source.uri for one in plan.opened],
            "source_ids": [one.source.source_id for one in plan.opened],
            "licence": config.train.data_licence,
            "num_train": images.num_train,
            "num_validation": images.num_validation,
            "split_digest": digest_frame(images.split),
            "split_by": "lesion" if images.split["group"].notna().any() else "image",
        },
        calibration=config.score.calibration,
        tail=calibration.tail,
        versions=library_versions(),
    )
