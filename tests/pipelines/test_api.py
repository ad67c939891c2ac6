"""A notebook's scores are the table's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import skinvae
from skinvae.images.archives.candidates import image_id
from skinvae.pipelines.score import score
from skinvae.records import SCORES
from tests.conftest import ArchiveFiles, config


@pytest.mark.parametrize("changes", [{}, {"noise": "lhs", "num_samples": 3, "seed": 7, "mode": "released"}])
def test_images_score_as_in_the_table(
    model: str, archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]
) -> None:
    table = str(tmp_path_factory.mktemp("tables") / "scores")
    score([archive.zip], model=model, table=table, config=config(**changes))
    rows = skinvae.read_scores(table, status=None).set_index("image_id")
    members = archive.members()
    loaded = skinvae.load_model(model, device="cpu")
    found = skinvae.score_images(loaded, members.values(), ids=[image_id(name) for name in members], **changes)
    found = found.set_index("image_id").reindex(rows.index)
    for name in (*SCORES, "ess", "p_value"):
        np.testing.assert_allclose(found[name], rows[name], rtol=1e-6, err_msg=name)
    assert rows["p_value"].notna().any() == (not changes), "the normals were scored with the settings of the first"
    pd.testing.assert_frame_equal(
        found[["width", "height"]].astype(int), rows[["width", "height"]].astype(int), check_index_type=False
    )
