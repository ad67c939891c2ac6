"""Where the scores come from: the model, how it was trained, how it scored, and the commands to make it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from skinvae.report.html.contents import Facts
from skinvae.report.names import Names
from skinvae.storage.bundle import ModelBundle

_CARD_COMMAND = re.compile(r"^## How to make it again\n```\n(.*?)\n```", flags=re.MULTILINE | re.DOTALL)
_MAX_ARCHIVES = 8


def scoring_facts(row: Mapping[str, Any], *, table: str, version: int, versions: Mapping[str, str]) -> Facts:
    """How the scores were computed: `row` is any row of them, `versions` those of the libraries that made it."""
    facts = {
        "score table": table,
        "table version": f"{version}",
        "scoring": row["scoring_id"],
        "draws of z per image": f"{row['num_samples']}",
        "seed": f"{row['seed']}",
        "mode": row["score_mode"],
        "noise": row["noise"],
        "precision": row["precision"],
        "scored with": _listed(versions),
    }
    return Facts("Scores", tuple(facts.items()))


def model_facts(bundle: ModelBundle, *, model: str) -> Facts:
    """What the model is, and what it saw."""
    config = bundle.config
    facts = {
        "bundle": model,
        "model": bundle.model_id,
        "SHA-256": bundle.digest,
        "image size": f"{config.model.image_size} x {config.model.image_size} pixels",
        "latents": f"{config.model.num_latents}, {config.model.base_channels} base channels",
        "sigma of p(x|z)": f"{config.sigma:.4g}, {'learned' if config.objective.learn_sigma else 'fixed'}",
        "objective": config.objective.objective,
        "epochs": f"the best of {config.training['num_epochs']}: epoch {config.training['best_epoch']}",
        "trained with": _listed(config.versions),
    }
    return Facts("Model", tuple(facts.items()))


def data_facts(
    bundle: ModelBundle, *, labels: str | None, groups: str | None, metadata: str | None, names: Names
) -> Facts:
    """What the model was trained on, and what the scores are held against."""
    data = bundle.config.data
    facts = {
        "trained on": f"{data['num_train']:,} images of class {', '.join(bundle.config.normal_classes)}",
        "held out": f"{data['num_validation']:,} images, which chose the epoch and calibrate p-values",
        "split by": str(data["split_by"]),
        "SHA-256 of the split": str(data["split_digest"]),
        "training archives": _some([names.archive(uri) for uri in data["archives"]]),
        "licence": data.get("licence") or "not stated",
        "labels": "none given" if labels is None else names.place(labels),
        "lesions": "none given" if groups is None else names.place(groups),
        "metadata": "none given" if metadata is None else names.place(metadata),
    }
    return Facts("Data", tuple(facts.items()))


def report_facts(*, made_at: str, versions: Mapping[str, str]) -> Facts:
    """How this report was made."""
    return Facts("This report", (("made", made_at), ("made with", _listed(versions))))


def score_command(row: Mapping[str, Any], *, archives: Sequence[str], table: str, model: str) -> str:
    """The command that gives the same scores."""
    settings = {
        "num_samples": row["num_samples"],
        "seed": row["seed"],
        "mode": row["score_mode"],
        "noise": row["noise"],
        "precision": row["precision"],
    }
    words = ["skinvae", "score", *archives[:_MAX_ARCHIVES], "--model", model, "--table", table]
    for name, value in settings.items():
        words += ["--set", f"score.{name}={value}"]
    num_more = len(archives) - _MAX_ARCHIVES
    return shlex.join(words) + (f"  # and {num_more:,} more archives" if num_more > 0 else "")


def training_command(card: str) -> str | None:
    """The one that MODEL_CARD.md states, if it does."""
    found = _CARD_COMMAND.search(card)
    return found[1] if found else None


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not known"


def _some(uris: Sequence[str]) -> str:
    more = f" and {len(uris) - _MAX_ARCHIVES:,} more" if len(uris) > _MAX_ARCHIVES else ""
    return ", ".join(uris[:_MAX_ARCHIVES]) + more
