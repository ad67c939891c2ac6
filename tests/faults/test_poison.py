"""Images that end the process which scores them: one row each, with the reason, and all others scored."""

from __future__ import annotations

import pytest

from tests.fast_scorer import Mischief
from tests.faults.conftest import MakeJob
from tests.faults.world import Images, ray_nodes
from tests.s3_server import S3Server


@pytest.mark.slow
def test_images_that_kill_or_hang_are_rows_and_their_neighbours_are_scored(s3: S3Server, make_job: MakeJob) -> None:
    mischief = {5: Mischief.SIGSEGV, 6: Mischief.NAN, 17: Mischief.HANG}
    with ray_nodes(s3.environment, num_nodes=1, num_cpus=4) as nodes:
        job = make_job(Images.make(32, seed=0, mischief=mischief), nodes.address)
        with job.running(num_actors=2, max_seconds=1.0, batch_size=2) as process:
            summary = job.finish(process, seconds=200)
    rows = job.assert_complete()
    found = rows.loc[sorted(job.images.mischief), ["status", "error"]].to_dict("index")
    assert found == {
        "00005.png": {"status": "crashed", "error": "scoring it, alone, ended the process with SIGSEGV, 2 times"},
        "00006.png": {"status": "nonfinite", "error": "the model's scores of this image are not finite"},
        "00017.png": {"status": "timeout", "error": "scoring takes more than 1 seconds"},
    }
    assert summary["num_reattempted"] == 2 * 2, "both slices were begun three times"


@pytest.mark.slow
def test_a_model_that_kills_every_process_blames_no_image(s3: S3Server, make_job: MakeJob) -> None:
    with ray_nodes(s3.environment, num_nodes=1, num_cpus=4) as nodes:
        job = make_job(Images.make(32, seed=0), nodes.address)
        with job.running("--broken-model", num_actors=1) as process:
            _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("error: no process could be started that scores a blank image, 5 times")


@pytest.mark.slow
def test_a_slice_of_nothing_but_killers_comes_to_an_end(s3: S3Server, make_job: MakeJob) -> None:
    mischief = dict.fromkeys(range(16, 32), Mischief.SIGKILL)
    with ray_nodes(s3.environment, num_nodes=1, num_cpus=4) as nodes:
        job = make_job(Images.make(40, seed=1, mischief=mischief), nodes.address)
        with job.running(num_actors=1) as process:
            job.finish(process, seconds=600)
    rows = job.assert_complete()
    assert (rows.loc[sorted(job.images.mischief), "status"] == "crashed").all()
