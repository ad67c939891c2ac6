"""The bench's own machinery: rounds, floors, files and exit codes, with parts that measure nothing."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from benchmarks import __main__ as bench
from benchmarks.harness import Floor, Part, Scale, interleaved, machine, medians, ratio


def part(*, value: float = 2.0) -> Part:
    return Part(
        name="fake",
        title="Nothing",
        rows=[{"way": "skinvae", "images/s": 1234.5}, {"way": "other | way", "images/s": 2, "note": None}],
        floors=[Floor("skinvae against the other way", value, at_least=1.5)],
        notes=["a note"],
        bars=("way", "images/s"),
    )


@pytest.fixture
def fake_part(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("benchmarks.fake")
    module.measure = lambda scale: part()
    monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
    monkeypatch.setattr(bench, "PARTS", {"fake": "benchmarks.fake"})
    return module


@pytest.mark.parametrize(
    ("floor", "is_kept"),
    [
        (Floor("a", 2.0, at_least=2.0), True),
        (Floor("a", 1.9, at_least=2.0), False),
        (Floor("a", 2.0, at_most=2.0), True),
        (Floor("a", 2.1, at_most=2.0), False),
        (Floor("a", math.nan, at_least=0.0), False),
        (Floor("a", math.nan, at_most=0.0), False),
    ],
)
def test_a_floor_is_kept_on_its_side_only(floor: Floor, *, is_kept: bool) -> None:
    assert floor.is_kept is is_kept


def test_a_floor_has_one_bound() -> None:
    with pytest.raises(AssertionError, match="one bound"):
        Floor("a", 1.0)


def test_every_way_runs_once_a_round_and_another_one_begins_each() -> None:
    order: list[str] = []

    def way(name: str, value: float) -> float:
        order.append(name)
        return value + len(order)

    measured = interleaved({"a": lambda: way("a", 0.0), "b": lambda: way("b", 10.0)}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured == {"a": [1.0, 4.0, 5.0], "b": [12.0, 13.0, 16.0]}
    assert medians(measured) == {"a": 4.0, "b": 13.0}
    assert ratio(measured, "b", "a") == 13.0 / 4.0


def test_a_way_that_measures_nothing_counts_with_its_seconds() -> None:
    (seconds,) = interleaved({"a": lambda: None}, rounds=1)["a"]
    assert 0 <= seconds < 1


def test_the_machine_is_described() -> None:
    about = machine()
    assert about["processor"]
    assert about["cores"] >= 1
    assert "torch" in about["libraries"]
    json.dumps(about)


def test_results_are_a_document_a_page_and_a_picture(fake_part: ModuleType, tmp_path: Path) -> None:
    assert bench.main(["fake", "--out", str(tmp_path)]) == 0
    (written,) = json.loads((tmp_path / "bench.json").read_text())["parts"]
    assert written["rows"] == part().rows
    assert written["floors"][0]["is_kept"]
    assert written["about"]["command"] == "python -m benchmarks fake"
    page = (tmp_path / "bench.md").read_text()
    assert "| skinvae | 1,234 |" in page
    assert "at least 1.5 | kept" in page
    assert "- a note" in page
    Image.open(tmp_path / "bench.png").verify()


@pytest.mark.usefixtures("fake_part")
def test_parts_of_earlier_runs_stay_beside_the_one_that_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.main(["fake", "--out", str(tmp_path)])
    other = ModuleType("benchmarks.other")
    other.measure = lambda scale: Part("other", "Something else", rows=[{"way": "b"}])
    monkeypatch.setitem(sys.modules, "benchmarks.other", other)
    monkeypatch.setattr(bench, "PARTS", {"other": "benchmarks.other", "fake": "benchmarks.fake"})
    assert bench.main(["other", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())["parts"]
    assert [one["name"] for one in written] == ["other", "fake"]


def test_a_missed_floor_is_a_sentence_and_exit_code_1(
    fake_part: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_part.measure = lambda scale: part(value=1.25)
    assert bench.main(["--out", str(tmp_path)]) == 1
    assert "fake: skinvae against the other way is 1.25, and must be at least 1.5" in capsys.readouterr().err
    assert "**missed**" in (tmp_path / "bench.md").read_text()


def test_floors_are_not_judged_at_small_sizes(fake_part: ModuleType, tmp_path: Path) -> None:
    fake_part.measure = lambda scale: part(value=1.25)
    assert bench.main(["--small", "--out", str(tmp_path)]) == 0


def test_a_part_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_part: ModuleType
) -> None:
    def fail(scale: Scale) -> Part:
        raise OSError("no such server")

    broken = ModuleType("benchmarks.broken")
    broken.measure = fail
    monkeypatch.setitem(sys.modules, "benchmarks.broken", broken)
    monkeypatch.setattr(bench, "PARTS", {"broken": "benchmarks.broken", "fake": "benchmarks.fake"})
    assert bench.main(["--out", str(tmp_path)]) == 1
    assert "broken: failed with OSError: no such server" in capsys.readouterr().err
    (written,) = json.loads((tmp_path / "bench.json").read_text())["parts"]
    assert written["name"] == "fake"


@pytest.mark.usefixtures("fake_part")
def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["nothing"])
    assert "there is no part 'nothing'; there are fake" in capsys.readouterr().err
