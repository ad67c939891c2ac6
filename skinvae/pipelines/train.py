"""train: the normal images of archives -> model bundle, data-parallel, resumable by the same command."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.fs
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ray.data import DataContext, TaskPoolStrategy

from skinvae.config import Config
from skinvae.errors import BundleError, LabelsError, TrainingError
from skinvae.images.archives import Candidacy, Member, candidacy, image_id
from skinvae.metrics.labels import parse_groups, parse_labels
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, to_uint8
from skinvae.pipelines.decoding import decode_slice
from skinvae.pipelines.failures import user_errors
from skinvae.pipelines.progress import say, shown_progress
from skinvae.pipelines.provenance import library_versions
from skinvae.pipelines.runtime import Resources, available_resources, ray_session
from skinvae.pipelines.slicing import OpenedArchive, Slice, open_archives, plan_slices
from skinvae.pipelines.splitting import split_normals
from skinvae.pipelines.training_worker import WorkerSettings, train_worker
from skinvae.report.figures import png_bytes, reconstructions, training_curve
from skinvae.report.model_card import model_card
from skinvae.storage.bundle import BundleConfig, has_bundle, read_bundle_config, write_bundle
from skinvae.storage.checkpoints import load_state, load_weights
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_csv

_SLICE_SIZE = 256
_NUM_PICTURED = 8


@dataclass(frozen=True)
class TrainSummary:
    """What one run of `train` made."""

    model: str
    model_id: str
    num_train: int
    num_validation: int
    num_rejected: int
    best_epoch: int
    validation_loss: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainPlan:
    """What a training run reads and what it is called."""

    opened: list[OpenedArchive]
    slices: list[Slice]
    split: pd.DataFrame
    out: Location
    digest: str
    """Of settings and data: the run's name, so that changed settings never resume another run."""
    config: Config
    normal: list[str]
    command: str

    @property
    def runs(self) -> Location:
        """Where training keeps its state until the bundle is written."""
        return Location(f"{self.out.uri}.training", self.out.settings)


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
    `out` holds a model that other settings or data made.
    """
    started = time.monotonic()
    plan = _make_plan(archives, labels, list(normal), out, groups, config, command)
    if dry_run or _is_done(plan):
        return _summary_of_plan(plan, done=not dry_run)
    with ray_session(config.ray), user_errors():
        resources = available_resources(config.ray, num_actors=config.train.num_workers)
        counts = plan.split["split"].value_counts()
        say(f"decoding {len(plan.split):,} normals: {counts['train']:,} to train on, {counts['validation']:,} held out")
        dataset, num_rejected, seen = _decode_all(plan, resources)
        weights, state, history = _fit(plan, dataset, resources)
        say("scoring the held-out normals for calibration")
        calibration, pictures = _calibrate(dataset, weights, config, resources)
    best_epoch = state["epoch"]
    bundle = _bundle_config(plan, seen, best_epoch=best_epoch, history=history)
    extras = {
        "MODEL_CARD.md": model_card(bundle, history=history, command=command).encode(),
        "history.csv": history.to_csv(index=False).encode(),
        "reconstructions.png": png_bytes(pictures),
    }
    if len(history) > 1:
        extras["training_curve.png"] = png_bytes(training_curve(history, best_epoch=best_epoch))
    digest = write_bundle(plan.out, config=bundle, weights=weights, calibration=calibration, split=seen, extras=extras)
    plan.runs.delete()
    return TrainSummary(
        model=plan.out.uri,
        model_id=digest[:16],
        num_train=int((seen["split"] == "train").sum()),
        num_validation=int((seen["split"] == "validation").sum()),
        num_rejected=num_rejected,
        best_epoch=best_epoch,
        validation_loss=bundle.training["validation_loss"],
        seconds=time.monotonic() - started,
    )


def _make_plan(
    archives: Sequence[str],
    labels: str,
    normal: list[str],
    out: str,
    groups: str | None,
    config: Config,
    command: str,
) -> TrainPlan:
    storage = config.storage
    label_frame = parse_labels(read_csv(Location.parse(labels, storage)), origin=labels)
    lesions = parse_groups(read_csv(Location.parse(groups, storage)), origin=groups) if groups else None
    classes = sorted(label_frame["label"].unique())
    if unknown := sorted(set(normal) - set(classes)):
        raise LabelsError(
            f"'{labels}' has no image of class {', '.join(unknown)}: --normal takes one of {', '.join(classes)}"
        )
    normals = frozenset(label_frame.loc[label_frame["label"].isin(normal), "image_id"])
    opened = open_archives([Location.parse(one, storage) for one in archives], max_bytes=config.images.max_bytes)
    present = _present(opened, normals)
    if len(present) < 2:
        raise LabelsError(
            f"{len(present)} of the {len(normals):,} normal images that '{labels}' names are in the archives: "
            "training needs two at least; check that image names and archive members match"
        )
    try:
        split = split_normals(
            present,
            groups=lesions,
            validation_fraction=config.train.validation_fraction,
            seed=config.train.seed,
        )
    except ValueError as error:
        raise LabelsError(f"{error}: give more images") from error
    return TrainPlan(
        opened=opened,
        slices=plan_slices(opened, slice_size=_SLICE_SIZE),
        split=split,
        out=Location.parse(out),
        digest=_run_digest(opened, split, config),
        config=config,
        normal=normal,
        command=command,
    )


def _present(opened: Sequence[OpenedArchive], normals: frozenset[str]) -> list[str]:
    return [
        name
        for one in opened
        for member in one.archive.members()
        if candidacy(member.name) is not Candidacy.SKIPPED and (name := image_id(member.name)) in normals
    ]


def _run_digest(opened: Sequence[OpenedArchive], split: pd.DataFrame, config: Config) -> str:
    described = {
        "model": config.model.model_dump(),
        "images": config.images.model_dump(),
        # How often a worker may fail changes nothing of what is learned.
        "train": config.train.model_dump(exclude={"max_failures"}),
        "sources": [one.source.source_id for one in opened],
        "split": _digest_frame(split),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _digest_frame(frame: pd.DataFrame) -> str:
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


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
        validation_loss=config.training["validation_loss"] if config else float("nan"),
        seconds=0.0,
    )


def _decode_all(plan: TrainPlan, resources: Resources) -> tuple[Any, int, pd.DataFrame]:
    """The normals decoded once, kept in Ray's object store as uint8; how many were refused; the split as decoded."""
    size = plan.config.model.image_size
    side_of = dict(zip(plan.split["image_id"], plan.split["split"] == "validation", strict=True))
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    with DataContext.current(context):
        decode = functools.partial(
            _decode_normals, size=size, settings=plan.config.images, held_out_ref=ray.put(side_of)
        )
        rows = ray.data.from_items([{"slice": one} for one in plan.slices], override_num_blocks=len(plan.slices))
        dataset = rows.map_batches(
            decode, batch_size=1, compute=TaskPoolStrategy(), num_cpus=resources.cpus_per_task
        ).materialize()
    decoded = dataset.select_columns(["image_id"]).to_pandas()["image_id"]
    num_rejected = len(plan.split) - decoded.nunique()
    if num_rejected:
        say(f"{num_rejected:,} normals cannot be decoded and are left out")
    seen = plan.split[plan.split["image_id"].isin(decoded)].reset_index(drop=True)
    if seen["split"].nunique() < 2:
        raise TrainingError("too few normal images could be decoded: `skinvae score` lists the reasons image by image")
    return dataset, num_rejected, seen


def _decode_normals(batch: dict[str, Any], *, size: int, settings: Any, held_out_ref: Any) -> dict[str, Any]:
    held_out: dict[str, bool] = ray.get(held_out_ref)

    def wanted(member: Member) -> bool:
        return image_id(member.name) in held_out

    decoded = [decode_slice(one, size=size, settings=settings, wanted=wanted) for one in batch["slice"]]
    names = [image_id(one.name) for part in decoded for one in part.members if one.image.pixels is not None]
    return {
        "image": np.concatenate([part.stacked_pixels(size=size) for part in decoded]),
        "image_id": np.array(names, dtype=object),
        "held_out": np.array([held_out[name] for name in names], dtype=bool),
    }


def _fit(plan: TrainPlan, dataset: Any, resources: Resources) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Run Ray Train; the best epoch's weights and state, and the losses of all epochs."""
    settings = plan.config.train
    num_train = int((plan.split["split"] == "train").sum())
    num_workers = settings.num_workers or (resources.num_actors if resources.gpus_per_actor else 1)
    say(f"training run {plan.digest}: {settings.num_epochs} epochs on {num_workers} worker(s)")
    with shown_progress(
        "training", total=settings.num_epochs * num_train, unit="images", describe=_describe_epoch
    ) as progress:
        worker = WorkerSettings(plan.config.model, settings, resources.threads_per_actor, progress)
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={"settings": worker},
            datasets={"images": dataset},
            dataset_config=ray.train.DataConfig(datasets_to_split=[]),
            scaling_config=ray.train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=bool(resources.gpus_per_actor),
                resources_per_worker=_worker_resources(resources, num_workers),
            ),
            run_config=_run_config(plan),
        )
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise TrainingError(f"training failed: {_root_message(error)}; run the command again to resume") from error
    assert result.metrics, "every epoch reports"
    if result.metrics["diverged"]:
        raise TrainingError(
            f"training diverged in epoch {result.metrics['epoch']}: the loss is no longer finite; lower "
            f"train.learning_rate (now {settings.learning_rate:g}) or check the images"
        )
    assert result.best_checkpoints, "every finite epoch reports a checkpoint"
    assert result.checkpoint
    best, _ = min(result.best_checkpoints, key=lambda pair: float(pair[1]["validation_loss"]))
    with best.as_directory() as folder:
        weights, state = load_weights(Path(folder)), load_state(Path(folder))
    with result.checkpoint.as_directory() as folder:
        history = pd.DataFrame(load_state(Path(folder))["history"])
    return weights, state, history


def _run_config(plan: TrainPlan) -> Any:
    path = plan.runs.uri.removeprefix("s3://")
    filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(plan.runs.filesystem))
    return ray.train.RunConfig(
        name=plan.digest,
        storage_path=path,
        storage_filesystem=None if plan.runs.is_local else filesystem,
        failure_config=ray.train.FailureConfig(max_failures=plan.config.train.max_failures),
        checkpoint_config=ray.train.CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute="validation_loss", checkpoint_score_order="min"
        ),
    )


def _worker_resources(resources: Resources, num_workers: int) -> dict[str, float]:
    """Training starts when decoding is over, so the workers may take all that scoring actors would."""
    share = resources.num_actors * resources.cpus_per_actor / num_workers
    cpus = float(int(share)) if share >= 1 else share
    return {"CPU": cpus} | ({"GPU": min(1.0, resources.gpus_per_actor)} if resources.gpus_per_actor else {})


def _describe_epoch(fields: dict[str, Any]) -> str:
    words = [f"epoch {fields['epoch']}"] if "epoch" in fields else []
    for name in ("trained", "validated"):
        if losses := fields.get(name):
            words.append(f"{name} loss {losses['loss']:.1f} = {losses['reconst']:.1f} + beta {losses['kl']:.1f}")
    return ", ".join(words)


def _calibrate(
    dataset: Any, weights: dict[str, Any], config: Config, resources: Resources
) -> tuple[pd.DataFrame, Figure]:
    """Score the held-out normals where the model is fastest; reconstruct the first few of them."""
    task = ray.remote(num_cpus=resources.cpus_per_actor, num_gpus=resources.gpus_per_actor)(_calibrate_task)
    frame, originals, reconstructed = ray.get(task.remote(dataset, weights, config, resources))
    captions = [f"vae_reconst {nats:,.0f} nats" for nats in frame["vae_reconst"].iloc[: len(originals)]]
    return frame, reconstructions(originals, reconstructed=reconstructed, captions=captions)


def _calibrate_task(
    dataset: Any, weights: dict[str, Any], config: Config, resources: Resources
) -> tuple[pd.DataFrame, NDArray[np.uint8], NDArray[np.uint8]]:
    torch.set_num_threads(resources.threads_per_actor)
    batches = dataset.iter_batches(batch_size=None, batch_format="numpy")
    images = np.concatenate([batch["image"][batch["held_out"]] for batch in batches])
    model = VAE(config.model)
    model.load_state_dict(weights)
    scorer = Scorer(
        model,
        variance=config.train.beta,
        settings=config.score.scoring,
        device=resources.device,
        batch_size=config.score.batch_size,
        decode_batch_size=config.score.decode_batch_size,
    )
    scores = scorer.score(images)
    pictured = images[:_NUM_PICTURED]
    return pd.DataFrame(scores), pictured, to_uint8(scorer.reconstruct(pictured)).numpy()


def _bundle_config(plan: TrainPlan, seen: pd.DataFrame, *, best_epoch: int, history: pd.DataFrame) -> BundleConfig:
    config = plan.config
    counts = seen["split"].value_counts()
    best = history[(history["split"] == "validation") & (history["epoch"] == best_epoch)]
    return BundleConfig(
        model=config.model,
        decode=config.images,
        beta=config.train.beta,
        normal_classes=plan.normal,
        training=config.train.model_dump()
        | {
            "run_digest": plan.digest,
            "best_epoch": best_epoch,
            "validation_loss": float(best["loss"].iloc[0]),
        },
        data={
            "archives": [one.source.uri for one in plan.opened],
            "source_ids": [one.source.source_id for one in plan.opened],
            "num_train": int(counts["train"]),
            "num_validation": int(counts["validation"]),
            "split_digest": _digest_frame(seen),
            "split_by": "lesion" if seen["group"].notna().any() else "image",
        },
        calibration=ScoringSettings(**config.score.scoring.model_dump()),
        versions=library_versions(),
    )


def _root_message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
