"""An archive of synthetic lesions as ISIC 2018 Task 3 publishes its training data: a zip of JPEGs and two CSV files."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import cast

import numpy as np
import simplejpeg

from skinvae.images.synthetic.photo import photograph
from skinvae.records import CLASSES

FOLDER = "ISIC2018_Task3_Training_Input"

DEMO_COUNTS: Mapping[str, int] = MappingProxyType({label: 400 if label == "NV" else 40 for label in CLASSES})
"""Enough nevi to train on and to hold some out, and enough of each other class for an AUROC."""

_FIRST_ID = (
    9_000_000  # outside the ids of ISIC's challenges of 2016 to 2019, so that labels cannot be joined by mistake
)
_DATE = (2018, 7, 1, 0, 0, 0)
_JPEG_QUALITY = 90
_SHARE_OF_PAIRS = 1 / 3
_METADATA_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
_MEAN_AGES = {"MEL": 60, "NV": 45, "BCC": 66, "AKIEC": 67, "BKL": 64, "DF": 52, "VASC": 51}
_SITES = ("back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "neck", "scalp")
_LICENSE = """These pictures are synthetic: drawn by a computer program, they show no patient.
They are dedicated to the public domain under CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/
"""
_ATTRIBUTION = """No attribution is needed. The pictures were drawn by skinvae (skinvae.images.synthetic).
They imitate the layout of ISIC 2018 Task 3 and contain none of its data. Do not train a diagnostic device on them.
"""


@dataclass(frozen=True)
class SyntheticArchive:
    """The bytes of the zip, and the texts of the ground-truth and the lesion metadata CSV files."""

    zip_bytes: bytes
    labels_csv: str
    metadata_csv: str


@dataclass(frozen=True)
class _Photo:
    """Which lesion of its class a picture shows, and who took it: all that its pixels and metadata depend on."""

    label: str
    lesion: int
    lesion_key: int
    camera_key: int


def make_archive(
    counts: Mapping[str, int],
    *,
    seed: int,
    width: int = 200,
    height: int = 150,
    on_image: Callable[[], None] | None = None,
) -> SyntheticArchive:
    """An archive with `counts[label]` pictures of `width` x `height` pixels per class; `on_image` is called after each.

    The k-th picture of a class depends on (seed, label, k) and the size only; the counts decide which pictures there
    are, their order and so their ids. About a third of the lesions have two pictures. ValueError for an unknown
    label, a negative count or seed, no picture at all, or a side below 16 pixels.
    """
    photos = _plan(counts, seed=seed)
    labels, metadata = _Csv(("image", *CLASSES)), _Csv(_METADATA_COLUMNS)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, text in (("ATTRIBUTION.txt", _ATTRIBUTION), ("LICENSE.txt", _LICENSE)):
            _add(archive, name, text.encode())
        for ordinal, photo in enumerate(photos):
            image_id = f"ISIC_{_FIRST_ID + ordinal:07d}"
            _add(archive, f"{image_id}.jpg", _jpeg(photo, width=width, height=height))
            labels.add(image_id, *(float(photo.label == label) for label in CLASSES))
            metadata.add(*_metadata(photo, image_id=image_id))
            if on_image is not None:
                on_image()
    return SyntheticArchive(buffer.getvalue(), labels.text, metadata.text)


def _plan(counts: Mapping[str, int], *, seed: int) -> list[_Photo]:
    if unknown := sorted(set(counts) - set(CLASSES)):
        raise ValueError(f"counts must name classes of {', '.join(CLASSES)}, got {unknown[0]!r}")
    if negative := [label for label in counts if counts[label] < 0]:
        raise ValueError(f"counts[{negative[0]!r}] must be at least 0, got {counts[negative[0]]}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    photos = [photo for label in CLASSES for photo in islice(_photos(label, seed=seed), counts.get(label, 0))]
    if not photos:
        raise ValueError("counts must ask for at least one picture, got none")
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, len(CLASSES)))))
    return [photos[i] for i in order.permutation(len(photos))]


def _photos(label: str, *, seed: int) -> Iterator[_Photo]:
    """The endless sequence of a class's pictures, lesion by lesion."""
    lesion = 0
    while True:
        state = np.random.SeedSequence((seed, CLASSES.index(label), lesion)).generate_state(4, np.uint64)
        num_photos = 2 if int(state[3]) / 2**64 < _SHARE_OF_PAIRS else 1
        for camera_key in state[1 : 1 + num_photos]:
            yield _Photo(label, lesion, int(state[0]), int(camera_key))
        lesion += 1


def _jpeg(photo: _Photo, *, width: int, height: int) -> bytes:
    pixels = photograph(
        photo.label, lesion_key=photo.lesion_key, camera_key=photo.camera_key, width=width, height=height
    )
    return cast(bytes, simplejpeg.encode_jpeg(pixels, quality=_JPEG_QUALITY, colorsubsampling="420"))


def _metadata(photo: _Photo, *, image_id: str) -> tuple[str, ...]:
    """One row as HAM10000 has it; equal but for the image for all pictures of a lesion."""
    # `key=` sets the key itself; photograph() seeds with the same number, which is another stream
    rng = np.random.Generator(np.random.Philox(key=photo.lesion_key))
    age = float(np.clip(5 * round(rng.normal(_MEAN_AGES[photo.label], 14) / 5), 5, 85))
    sex, site = str(rng.choice(["male", "female"])), str(rng.choice(_SITES))
    proof = "follow_up" if photo.label == "NV" and rng.random() < 0.5 else "histo"
    lesion_id = f"SYN_{CLASSES.index(photo.label) * 1_000_000 + photo.lesion:07d}"
    return lesion_id, image_id, photo.label.lower(), proof, str(age), sex, site


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(f"{FOLDER}/{name}", date_time=_DATE)
    info.external_attr = 0o644 << 16
    info.create_system = 3  # Unix; by default the machine that runs this would show in the bytes
    archive.writestr(info, data)


class _Csv:
    """A CSV text that grows row by row."""

    def __init__(self, header: tuple[str, ...]) -> None:
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, lineterminator="\n")
        self._writer.writerow(header)

    def add(self, *row: str | float) -> None:
        self._writer.writerow(row)

    @property
    def text(self) -> str:
        return self._buffer.getvalue()
