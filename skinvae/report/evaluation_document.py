"""An evaluation as the document evaluation.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from skinvae.metrics.detection import Detection
from skinvae.metrics.join import LabelJoin
from skinvae.metrics.protocols import PAPER_SOURCE, PAPER_TABLE_2
from skinvae.report.evaluation import Evaluation


def evaluation_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return evaluation.json: JSON types only, NaN as null."""
    join = evaluation.join
    counts = {
        name: _plain(getattr(join, name))
        for name in LabelJoin.__dataclass_fields__
        if name not in ("evaluated", "num_evaluated_by_class", "normal")
    }
    document: dict[str, Any] = {
        "normal": list(join.normal),
        "num_evaluated": join.num_evaluated,
        "num_evaluated_by_class": _plain(join.num_evaluated_by_class),
        "join": counts,
        "auroc": _records(evaluation.auroc),
        "average_precision": _records(evaluation.curves.average_precision),
        "operating_points": _records(evaluation.curves.operating_points),
        "detection": None if evaluation.detection is None else _detection(evaluation.detection),
        "comparison": None if evaluation.comparison is None else _records(evaluation.comparison),
        "strata": None if evaluation.strata is None else _records(evaluation.strata),
        "notes": list(evaluation.notes),
        "paper_protocol": None,
        "published": {"source": PAPER_SOURCE, "auroc": {score: dict(row) for score, row in PAPER_TABLE_2.items()}},
        "provenance": dict(evaluation.provenance),
    }
    if evaluation.paper is not None:
        document["paper_protocol"] = {
            "auroc": _records(evaluation.paper.frame),
            "num_normal": evaluation.paper.num_normal,
            "num_abnormal": dict(evaluation.paper.num_abnormal),
            "shortfalls": list(evaluation.paper.shortfalls),
        }
    return document


def _detection(detection: Detection) -> dict[str, Any]:
    return {
        "by_target": _records(detection.frame),
        "false_positive_rate": detection.false_positive_rate,
        "promised_range": list(detection.promised_range),
        "p_values_by": detection.tail,
        "num_held_out": detection.num_held_out,
        "num_held_out_evaluated": detection.num_held_out_evaluated,
        "is_compatible": detection.is_compatible,
        "false_discovery_rate": detection.false_discovery_rate,
        "false_discovery_proportion": _plain(detection.false_discovery_proportion),
        "num_called": detection.num_called,
        "num_images": detection.num_images,
        "num_without": detection.num_without,
        "smallest_p_value": detection.smallest_p_value,
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _plain(value: Any) -> Any:
    """Return the JSON type of a count, number, name or collection of them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
