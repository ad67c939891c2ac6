"""demo: the three verbs on a synthetic archive. One epoch here; `make demo` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from skinvae.errors import UsageError
from skinvae.images.synthetic import DEMO_COUNTS
from skinvae.pipelines.demo import demo, demo_config


def test_the_demo_leaves_model_table_evaluation_and_report_and_keeps_to_its_seed(
    ray_cluster: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "demo")
    settings = demo_config(["train.num_epochs=1", "score.num_samples=2"])
    result = demo(out, seed=3, config=settings)
    assert len(pd.read_parquet(f"{out}/scores")) == sum(DEMO_COUNTS.values())
    assert {"macro", "pooled"} < set(pd.read_csv(f"{out}/evaluation/auroc.csv")["target"])
    for name in (
        "model/reconstructions.png",
        "evaluation/roc_curves.png",
        "evaluation/score_histograms.png",
        "report.html",
    ):
        assert Path(out, name).stat().st_size > 1000

    again = demo(out, seed=3, config=settings)
    assert again.trained.model_id == result.trained.model_id
    assert again.scored.num_images == 0
    with pytest.raises(UsageError, match="holds the demo of seed 3"):
        demo(out, seed=4, config=settings)
