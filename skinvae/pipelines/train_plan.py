"""What a training run reads, and the name by which the same command finds it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from skinvae.config import Config
from skinvae.errors import LabelsError
from skinvae.images.archives import Candidacy, candidacy, image_id
from skinvae.images.decode import PREPROCESSING_VERSION
from skinvae.metrics.labels import parse_groups, parse_labels
from skinvae.pipelines.slicing import ArchivePart, OpenedArchive, missing_parts, open_archives
from skinvae.storage.filesystem import Location
from skinvae.storage.frames import read_frame
from skinvae.storage.pixel_table import Preparation
from skinvae.storage.training_record import runs_of
from skinvae.training.settings import WITHOUT_INFLUENCE
from skinvae.training.splitting import split_normals

_SLICE_SIZE = 256


@dataclass(frozen=True)
class TrainPlan:
    """What a training run reads and what it is called."""

    opened: list[OpenedArchive]
    parts: list[ArchivePart]
    split: pd.DataFrame
    """records.SPLIT_SCHEMA, of the normals that the archives hold."""
    out: Location
    digest: str
    """Of settings and data: the run's name, so that changed settings never resume another run."""
    config: Config
    normal: list[str]
    command: str

    @property
    def runs(self) -> Location:
        """Where training keeps its state until the bundle is written."""
        return runs_of(self.out)


def make_train_plan(
    archives: Sequence[str],
    *,
    labels: str,
    normal: list[str],
    out: str,
    groups: str | None,
    config: Config,
    command: str,
) -> TrainPlan:
    """Open the archives and split the normals in them. Raises LabelsError if there are too few."""
    storage = config.storage
    normals = _normal_ids(Location.parse(labels, storage), normal)
    lesions = parse_groups(read_frame(Location.parse(groups, storage)), origin=groups) if groups else None
    preparation = Preparation(
        image_size=config.model.image_size, preprocessing_version=PREPROCESSING_VERSION, decode=config.images
    )
    opened = open_archives(archives, config=config, preparation=preparation)
    for one in opened:
        if one.lack is not None:
            raise one.lack
    present = _present(opened, normals)
    if len(present) < 2:
        raise LabelsError(
            f"{len(present)} of the {len(normals):,} normal images that '{labels}' names are in the archives: "
            "training needs two at least; check that image names and archive members match"
        )
    try:
        split = split_normals(
            present, groups=lesions, validation_fraction=config.train.validation_fraction, seed=config.train.seed
        )
    except ValueError as error:
        raise LabelsError(f"{error}: give more images") from error
    return TrainPlan(
        opened=opened,
        parts=missing_parts(opened, slice_size=_SLICE_SIZE),
        split=split,
        out=Location.parse(out, storage.with_credentials),
        digest=run_digest([one.source.source_id for one in opened], split=split, normal=normal, config=config),
        config=config,
        normal=normal,
        command=command,
    )


def run_digest(source_ids: Sequence[str], *, split: pd.DataFrame, normal: Sequence[str], config: Config) -> str:
    """16 hex digits that stand for all that the bundle depends on."""
    described = {
        "model": config.model.model_dump(),
        "images": config.images.policy.model_dump(),
        "preprocessing": PREPROCESSING_VERSION,
        "train": config.train.model_dump(exclude=set(WITHOUT_INFLUENCE)),
        "calibration": config.score.calibration.model_dump(),
        "normal": sorted(normal),
        "sources": list(source_ids),
        "split": digest_frame(split),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def digest_frame(frame: pd.DataFrame) -> str:
    """SHA-256 of the frame as CSV."""
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


def _normal_ids(labels: Location, normal: Sequence[str]) -> frozenset[str]:
    frame = parse_labels(read_frame(labels), origin=str(labels))
    classes = sorted(frame["label"].unique())
    if unknown := sorted(set(normal) - set(classes)):
        raise LabelsError(
            f"'{labels}' has no image of class {', '.join(unknown)}: --normal takes one of {', '.join(classes)}"
        )
    return frozenset(frame.loc[frame["label"].isin(normal), "image_id"])


def _present(opened: Sequence[OpenedArchive], normals: frozenset[str]) -> list[str]:
    return [
        name
        for one in opened
        for member in one.archive.members()
        if candidacy(member.name) is not Candidacy.SKIPPED and (name := image_id(member.name)) in normals
    ]
