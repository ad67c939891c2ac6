"""The figures at the end of a job: they add up, and they name what the job was bound by."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skinvae.pipelines.bottleneck import Bottleneck, bottleneck_of
from skinvae.pipelines.prepare import prepare
from skinvae.pipelines.score import score
from skinvae.pipelines.slice_job import JobSummary
from skinvae.pipelines.stage_times import Stage
from tests.conftest import ArchiveFiles, config
from tests.fast_scorer import fast_scorer
from tests.pipelines.test_archive_kinds import tar_of

ACTORS_STAGES = (Stage.SCORE, Stage.WAIT, Stage.HELD, Stage.LOAD)


def assert_consistent(summary: JobSummary) -> None:
    """Seconds of no kind of worker exceed what that kind had."""
    usage = summary.usage
    assert usage.run_seconds == summary.seconds
    assert usage.seconds_to_first is not None
    assert 0 < usage.seconds_to_first < usage.run_seconds
    assert usage.of(*ACTORS_STAGES) <= usage.num_actors * usage.run_seconds
    assert usage.of(Stage.WRITE) > 0
    assert usage.of(Stage.DECODE) > 0
    assert 0 < usage.of(Stage.COMMIT) + usage.of(Stage.SWAP) <= usage.run_seconds
    assert usage.of(Stage.START) == usage.seconds_to_first


def test_a_slow_scorer_makes_a_job_bound_by_scoring(model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    summary = score(
        [archive.zip],
        model=model,
        table=f"{tmp_path}/scores",
        config=config(slice_size=8, batch_size=4),
        make_scorer=fast_scorer(seconds_per_image=0.04),
    )
    assert_consistent(summary)
    usage = summary.usage
    assert bottleneck_of(usage) is Bottleneck.SCORING
    assert usage.of(Stage.SCORE) >= 0.04 * len(archive.members())
    assert usage.of(Stage.LOAD) > 0
    assert usage.of(Stage.READ) > 0
    assert usage.num_images == len(archive.members())


@pytest.mark.parametrize("kind", ["zip", pytest.param("tar", marks=pytest.mark.slow)])
def test_large_images_make_a_job_of_a_quick_scorer_bound_by_decoding(kind: str, model: str, tmp_path: Path) -> None:
    photo = slow_photo()
    archives = []
    for number in range(3):
        members = {f"{number}-{index}.jpg": photo for index in range(12)}
        archives.append(str(tmp_path / f"{number}.{kind}"))
        if kind == "tar":
            Path(archives[-1]).write_bytes(tar_of(members.items()))
        else:
            with zipfile.ZipFile(archives[-1], "w") as file:
                for name, data in members.items():
                    file.writestr(name, data)
    summary = score(
        archives,
        model=model,
        table=f"{tmp_path}/scores",
        config=config(slice_size=4, num_actors=1),
        make_scorer=fast_scorer(),
    )
    assert_consistent(summary)
    usage = summary.usage
    assert bottleneck_of(usage) is Bottleneck.DECODING
    assert usage.of(Stage.WAIT) > usage.of(Stage.SCORE) > 0
    assert (usage.of(Stage.STREAM) > 0, usage.of(Stage.READ) > 0) == (kind == "tar", kind == "zip")


def slow_photo() -> bytes:
    """12 megapixels that take 0.16 s to decode, so that the actors are there long before the last one is."""
    small = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    encoded = io.BytesIO()
    large = Image.fromarray(small).resize((4000, 3000), Image.Resampling.NEAREST)
    large.save(encoded, "JPEG", progressive=True, quality=95)
    return encoded.getvalue()


def test_a_job_that_prepares_has_no_actors(archive: ArchiveFiles, ray_cluster: str, tmp_path: Path) -> None:
    summary = prepare([archive.zip], out=f"{tmp_path}/prepared", config=config())
    assert_consistent(summary)
    usage = summary.usage
    assert (usage.num_actors, usage.of(*ACTORS_STAGES)) == (0, 0)
    assert usage.of(Stage.READ, Stage.DECODE, Stage.WRITE) <= usage.task_seconds
    again = prepare([archive.zip], out=f"{tmp_path}/prepared", config=config())
    assert (again.usage.num_images, bottleneck_of(again.usage)) == (0, None)
