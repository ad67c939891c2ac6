"""The tables of docs/performance.md are those of benchmarks/results, and only they are filled."""

from __future__ import annotations

from pathlib import Path

from benchmarks import page, report
from benchmarks.__main__ import RESULTS


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text())
    page.refresh(report.read(RESULTS), copy)
    assert copy.read_text() == page.PAGE.read_text()
    marks = page.MARK.findall(copy.read_text())
    assert sorted(marks) == sorted(page.TABLES)


def test_a_table_is_filled_and_words_stay(tmp_path: Path) -> None:
    at = tmp_path / "page.md"
    at.write_text(
        "before\n<!-- bench: floors -->\nold\n<!-- end -->\nbetween\n<!-- bench: decode -->\nkept\n<!-- end -->\n"
    )
    floors = [{"what": "speed", "value": 1.5, "at_least": 1.0, "is_kept": True}]
    page.refresh({"peers": {"rows": [], "floors": floors}}, at)
    assert at.read_text() == (
        "before\n<!-- bench: floors -->\n"
        "| floor | value | at least |  |\n| --- | ---: | ---: | --- |\n| speed | 1.5 | 1 | kept |\n"
        "<!-- end -->\nbetween\n<!-- bench: decode -->\nkept\n<!-- end -->\n"
    )
