"""What is said on stderr, for people and for machines."""

from __future__ import annotations

import datetime
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinvae import logs
from skinvae.logs import EVENTS, begin_run, fail, note, say, stray_output, take_over, tell, use_format

PACKAGE = Path(__file__).parents[2] / "skinvae"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = dict(logs._run)
    # Tests of jobs in this process may have begun runs.
    logs._run.update(run_id=None, scoring_id=None)
    yield
    use_format("text")
    logs._run.update(before)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def say_one_of_each() -> None:
    say("scoring 3 members", event="round_begun", num_members=3)
    tell("slice written", event="slice_written", slice_id="a-b-0-3")
    note("nodes are lost", event="nodes_lost")
    fail("'x' is missing", exit_code=4)


def test_people_read_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    say_one_of_each()
    said = capsys.readouterr()
    assert said.err == "scoring 3 members\nnote: nodes are lost\nskinvae: 'x' is missing\n"
    assert said.out == ""


def test_machines_read_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    use_format("json")
    say("before the run")
    begin_run("run-1", scoring_id="cccc")
    say_one_of_each()
    first, begun, written, noted, failed = lines(capsys)
    assert (first["run_id"], first["scoring_id"], first["event"]) == (None, None, "info")
    assert {one["run_id"] for one in (begun, written, noted, failed)} == {"run-1"}
    assert (begun["message"], begun["num_members"]) == ("scoring 3 members", 3)
    assert (written["slice_id"], written["scoring_id"]) == ("a-b-0-3", "cccc")
    assert [one["level"] for one in (begun, written, noted, failed)] == ["info", "info", "warning", "error"]
    assert (failed["event"], failed["exit_code"]) == ("end", 4)
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(begun["time"])
    assert abs(age) < datetime.timedelta(minutes=1)


def test_a_message_of_several_lines_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    use_format("json")
    say("\na table\nof 100 % {}")
    (line,) = lines(capsys)
    assert line["message"] == "a table\nof 100 % {}"


def test_libraries_join_in(capsys: pytest.CaptureFixture[str]) -> None:
    use_format("json")
    logger = logging.getLogger("tests.library")
    logger.addHandler(logging.StreamHandler())
    take_over("tests.library")
    logger.error("%d lost", 2)
    logging.getLogger("tests.other").warning("careful")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    print("half a ", end="", file=stray_output("tests.stray"))
    stream = stray_output("tests.stray")
    print("a line", end="", file=stream)
    print(", whole\n", file=stream)
    found = lines(capsys)
    assert [(one["event"], one["message"]) for one in found[:2]] == [
        ("tests.library", "2 lost"),
        ("tests.other", "careful"),
    ]
    assert found[2]["event"] == "py.warnings"
    assert [(one["event"], one["message"]) for one in found[3:]] == [("tests.stray", "a line, whole")]


def test_text_leaves_libraries_alone() -> None:
    assert stray_output("tests.stray") is sys.stderr
    handler = logging.StreamHandler()
    logger = logging.getLogger("tests.alone")
    logger.addHandler(handler)
    take_over("tests.alone")
    assert logger.handlers == [handler]


def test_an_error_that_nobody_foresaw_is_a_line_too() -> None:
    program = "from skinvae.logs import use_format; use_format('json'); {}['a']"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert done.returncode == 1
    assert (line["level"], line["event"], line["message"]) == ("critical", "end", "KeyError: 'a'")
    assert line["traceback"].startswith("Traceback")


def test_every_event_is_explained_and_every_one_explained_is_told() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    told = {name for source in sources for name in re.findall(r'event(?:: str)? ?= ?"(\w+)"', source)}
    # ProgressActor's lines name their event without the keyword, and the end is what `fail` is about.
    told |= {name for source in sources for name in re.findall(r'(?:_Line\(|_log\().*?"(\w+)", \{?\w*', source)}
    assert told - {"event"} == set(EVENTS)
