"""What `skinvae status` says of a training run, alive, dead, ended or done."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from rich.console import Console

from skinvae.audit.training import Training, read_training
from skinvae.errors import BundleError
from skinvae.report.training_status import training_document, training_page
from skinvae.storage.filesystem import Location
from skinvae.storage.run_records import RunState
from skinvae.storage.training_record import TrainingRecord, read_training_record, write_training_record

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)


def record(*, seconds_ago: float = 3, **changes: object) -> TrainingRecord:
    rows = [
        {"epoch": 7, "split": split, "loss": 50.25, "reconst": 45.0, "kl": 525.0} for split in ("train", "validation")
    ]
    values: dict[str, object] = {
        "run_id": "abc", "host": "node", "pid": 9, "started_at": NOW, "state": RunState.RUNNING,
        "images_per_second": 10.0,
        "heartbeat_at": NOW - datetime.timedelta(seconds=seconds_ago), "num_epochs": 20,
        "num_workers": 2, "phase": "training",
        "num_done": 750, "num_planned": 2000, "epoch": 8, "last": rows, "best": rows[1] | {"epoch": 6, "loss": 49.5},
    }  # fmt: skip
    return TrainingRecord.model_validate(values | changes)


def page_of(one: TrainingRecord) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(training_page(Training("OUT", NOW, record=one)))
    text = captured.get()
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.split())


def test_a_run_at_work_says_how_far_it_is_and_how_long_still() -> None:
    text = page_of(record())
    for words in (
        "37 % epoch 8 of 20",
        "workers 2",
        "10 images/s, ETA 2:05",
        "train loss 50.2 (reconst 45.0, kl 525.0) in epoch 7",
        "best epoch 6: validation loss 49.5",
        "at work, last heartbeat 3 s ago",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"seconds_ago": 90},
            "dead or cut off, last heartbeat 1:30 ago: on node, pid 9; run the same command to go on",
        ),
        ({"state": RunState.FAILED, "message": "no such luck"}, "failed 3 s ago: on node, pid 9: no such luck"),
        ({"state": RunState.INTERRUPTED}, "interrupted 3 s ago"),
        ({"phase": "decoding"}, "speed decoding images"),
        ({"last": [], "best": None, "num_done": 0, "epoch": 0, "images_per_second": 0}, "speed not known yet"),
    ],
)
def test_other_states(changes: dict[str, object], words: str) -> None:
    seconds_ago = changes.pop("seconds_ago", 3)
    assert isinstance(seconds_ago, int)
    assert words in page_of(record(seconds_ago=seconds_ago, **changes))


def test_the_document_has_no_eta_without_a_driver() -> None:
    alive, dead = (training_document(Training("OUT", NOW, record=record(seconds_ago=age))) for age in (3, 90))
    assert json.loads(json.dumps(alive))["eta_seconds"] == 125.0
    assert (alive["is_alive"], dead["is_alive"], dead["eta_seconds"]) == (True, False, None)


def test_a_record_is_read_back(tmp_path: object) -> None:
    out = Location.parse(f"{tmp_path}/model")
    assert read_training_record(out) is None
    write_training_record(out, record())
    assert read_training_record(out) == record()
    found = read_training(out)
    assert found is not None
    assert (found.record, found.model) == (record(), None)
    assert read_training(Location.parse(f"{tmp_path}/elsewhere")) is None
    Path(f"{out.uri}.training", "status.json").write_text("{}")
    with pytest.raises(BundleError, match="no record of a training run"):
        read_training(out)
