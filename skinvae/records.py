"""The rows that skinvae exchanges: their Arrow schemas, and the unit and meaning of every column.

This module knows names and types only; it computes nothing.
"""

from __future__ import annotations

from enum import Enum

import pyarrow as pa


class Status(str, Enum):
    """What became of one image. Every row of a score table carries exactly one of these codes."""

    OK = "ok"
    UNDECODABLE = "undecodable"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    CORRUPT_CRC = "corrupt_crc"
    ENCRYPTED = "encrypted"
    UNSUPPORTED_FORMAT = "unsupported_format"
    MISSING = "missing"
    NONFINITE = "nonfinite"
    TIMEOUT = "timeout"
    CRASHED = "crashed"

    def __str__(self) -> str:
        return self.value

    @property
    def meaning(self) -> str:
        """One line for documentation and summaries."""
        return _STATUS_MEANINGS[self]


_STATUS_MEANINGS = {
    Status.OK: "scored",
    Status.UNDECODABLE: "the bytes claim to be an image, but its decoder refuses them",
    Status.TRUNCATED: "the bytes end before the image does",
    Status.TOO_LARGE: "more bytes, pixels or pixels a side than allowed, or more memory than decoding may take",
    Status.CORRUPT_CRC: "the bytes do not match the checksum in the archive",
    Status.ENCRYPTED: "the archive member is encrypted",
    Status.UNSUPPORTED_FORMAT: "not an image format, or archive compression, that skinvae reads",
    Status.MISSING: "the manifest names an object that is not there",
    Status.NONFINITE: "the model's scores of the image are not finite",
    Status.TIMEOUT: "decoding or scoring took longer than the settings allow",
    Status.CRASHED: "decoding or scoring ended its process, twice",
}

SCORES = ("vae", "vae_reconst", "vae_kl", "iwae", "iwae_reconst", "iwae_kl")
"""The six anomaly scores, in nats, higher = more anomalous (Lu & Xu 2018, Table 2)."""

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
"""The diagnoses of ISIC 2018 Task 3, in the order of the official ground-truth CSV."""


def _column(name: str, type_: pa.DataType, meaning: str, *, unit: str = "", nullable: bool = False) -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, type_, nullable=nullable, metadata=metadata)


def _score_column(name: str, meaning: str) -> pa.Field:
    return _column(name, pa.float64(), f"{meaning}; null unless status is ok", unit="nats", nullable=True)


_IMAGE_COLUMNS = [
    _column("image_id", pa.string(), "the member's file stem, what labels join on"),
    _column("source", pa.string(), "URI of the archive"),
    _column(
        "source_id",
        pa.string(),
        "digest of the URI and ETag (or size and mtime) of the archive, or of all objects of a folder",
    ),
    _column("member", pa.string(), "name of the image inside the archive"),
    _column("member_index", pa.int64(), "ordinal of the member inside the archive, from 0"),
    _column("width", pa.int32(), "width of the original, after EXIF rotation", unit="pixels", nullable=True),
    _column("height", pa.int32(), "height of the original, after EXIF rotation", unit="pixels", nullable=True),
    _column("num_bytes", pa.int64(), "size of the encoded image", unit="bytes", nullable=True),
    _column("status", pa.string(), "'ok', or the code of the reason why there are no scores"),
    _column(
        "error",
        pa.string(),
        "the reason in words; if status is ok null or a remark, such as 'first of 12 frames'",
        nullable=True,
    ),
]
"""What tables of scores and of pixels say of an image alike."""

SCORE_SCHEMA = pa.schema(
    [
        *_IMAGE_COLUMNS,
        _score_column("vae", "negative ELBO: vae_reconst + vae_kl"),
        _score_column("vae_reconst", "mean of -log p(x|z_i) over the draws"),
        _score_column("vae_kl", "KL(q(z|x) || p(z)) in closed form"),
        _score_column("iwae", "negative importance-weighted bound of num_samples draws"),
        _score_column("iwae_reconst", "its reconstruction part"),
        _score_column("iwae_kl", "its KL part"),
        _column("ess", pa.float64(), "effective sample size of the importance weights, 1..num_samples", nullable=True),
        _column(
            "p_value",
            pa.float64(),
            "P(S >= s): how often a normal image has a vae_reconst at least as high, by the Gamma distribution fitted "
            "to the model's N held-out normals, or, where that does not fit (config.json: tail), by rank among them, "
            "(1 + n) / (1 + N); null for images the model was trained on, and if the normals were scored with another "
            "mode, num_samples, seed or noise",
            nullable=True,
        ),
        _column("num_samples", pa.int32(), "draws of z per image, k in the paper"),
        _column("seed", pa.int64(), "seed of the draws"),
        _column("score_mode", pa.string(), "'exact' or 'released'"),
        _column("noise", pa.string(), "'independent' draws for each image, or 'lhs': one Latin hypercube for all"),
        _column(
            "precision",
            pa.string(),
            "floating-point format of the decoder: 'bfloat16', 'tf32', 'float32' or 'float64'",
        ),
        _column("model_id", pa.string(), "digest of the model bundle"),
        _column("scoring_id", pa.string(), "digest of all that a score depends on beside the pixels"),
        _column(
            "slice_id",
            pa.string(),
            "source_id-scoring_id-start-stop, and of a tar the bytes it spans: the unit of work that wrote the row",
        ),
        _column("run_id", pa.string(), "the job that wrote the row"),
        _column("scored_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
    ]
)
"""One row per image member of an archive; key = (source_id, scoring_id, member_index)."""

PIXEL_SCHEMA = pa.schema(
    [
        *_IMAGE_COLUMNS,
        _column(
            "pixels",
            pa.binary(),
            "RGB of the resized image, row by row, image_size * image_size * 3 bytes; null unless status is ok",
            nullable=True,
        ),
        _column("preparation_id", pa.string(), "digest of all that the pixels depend on beside the original"),
        _column("slice_id", pa.string(), "source_id-preparation_id-start-stop: the unit of work that wrote the row"),
        _column("run_id", pa.string(), "the job that wrote the row"),
        _column("prepared_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
    ]
)
"""What `prepare` keeps of each image member of an archive; key = (source_id, preparation_id, member_index)."""

MAP_SCHEMA = pa.schema(
    [
        *_IMAGE_COLUMNS,
        _column("vae_reconst", pa.float64(), "the image's score in the score table", unit="nats"),
        _column(
            "map",
            pa.binary(),
            "share of map_nats in each of map_size * map_size cells, row by row from the top left, little-endian "
            "float16: good to 1 part in 2,048, below 6e-5 to 3e-8; null unless status is ok",
            nullable=True,
        ),
        _column(
            "map_nats",
            pa.float64(),
            "what the cells come to: vae_reconst - (N/2) log(2 pi sigma^2), or vae_reconst / sigma^2 in score_mode "
            "'released'; computed in float32, where vae_reconst may be in another precision",
            unit="nats",
            nullable=True,
        ),
        _column("map_size", pa.int32(), "cells a side"),
        _column(
            "threshold_nats",
            pa.float64(),
            "the lowest vae_reconst that was chosen when the map was made",
            unit="nats",
        ),
        _column("model_id", pa.string(), "digest of the model bundle"),
        _column("scoring_id", pa.string(), "the scoring that vae_reconst is of, whose draws the map is made of"),
        _column("selection_id", pa.string(), "digest of scoring_id, map_size and all images that were chosen with it"),
        _column("slice_id", pa.string(), "source_id-selection_id-start-stop: the unit of work that wrote the row"),
        _column("run_id", pa.string(), "the job that wrote the row"),
        _column("made_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
    ]
)
"""Where the error of the most anomalous images lies; key = (source_id, scoring_id, map_size, member_index)."""

SPLIT_SCHEMA = pa.schema(
    [
        _column("image_id", pa.string(), "file stem of the image"),
        _column("group", pa.string(), "the lesion the image shows; null if not known", nullable=True),
        _column("split", pa.string(), "'train' (the weights saw it) or 'validation' (it chose the epoch)"),
    ]
)
"""The images a model has seen: split.parquet of a model bundle."""
