"""The archive as arrays: decoded once, with labels and lesions."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from skinvae.images.decode import PREPROCESSING_VERSION, DecodeSettings, decode
from skinvae.metrics.labels import parse_groups, parse_labels

ARCHIVE = "ISIC2018_Task3_Training_Input.zip"
LABELS = "ISIC2018_Task3_Training_GroundTruth.csv"
LESIONS = "HAM10000_metadata.csv"


@dataclass(frozen=True)
class Data:
    """Images in the order of their ids."""

    ids: list[str]
    pixels_BHWC: NDArray[np.uint8]
    label: NDArray[np.object_]
    """ISIC's class of each."""
    lesions: pd.Series[str]
    """lesion_id by image_id."""

    def where(self, ids: list[str]) -> NDArray[np.intp]:
        """Positions of images."""
        place = {name: index for index, name in enumerate(self.ids)}
        return np.array([place[name] for name in ids], np.intp)


def load(folder: Path, *, image_size: int, cache: Path, say: Callable[[str], None]) -> Data:
    """The official files in `folder`; pixels are kept in `cache`. Raises FileNotFoundError where one is missing."""
    for name in (ARCHIVE, LABELS, LESIONS):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing: --data names the folder of the ISIC 2018 archive")
    labels = parse_labels(pd.read_csv(folder / LABELS), origin=LABELS).set_index("image_id")["label"]
    lesions = parse_groups(pd.read_csv(folder / LESIONS), origin=LESIONS)
    with zipfile.ZipFile(folder / ARCHIVE) as archive:
        members = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
    ids = [Path(name).stem for name in members]
    kept = cache / f"pixels-{image_size}-v{PREPROCESSING_VERSION}-{len(ids)}.npy"
    if not kept.exists():
        say(f"decoding {len(ids):,} images to {image_size}x{image_size}")
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".unfinished.npy")
        np.save(unfinished, _decoded(folder / ARCHIVE, members, image_size=image_size))
        unfinished.rename(kept)
    return Data(ids, np.load(kept), labels.loc[ids].to_numpy(), lesions)


def _decoded(path: Path, members: list[str], *, image_size: int) -> NDArray[np.uint8]:
    settings = DecodeSettings()

    def pixels_of(data: bytes) -> NDArray[np.uint8]:
        decoded = decode(data, size=image_size, settings=settings)
        assert decoded.pixels is not None, decoded.error
        return decoded.pixels

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor(before) as pool:
            return np.stack(list(pool.map(pixels_of, map(archive.read, members))))
    finally:
        torch.set_num_threads(before)
