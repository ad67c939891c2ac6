"""The report in a real browser: it asks nobody for anything, fits a phone, prints, and is accessible in both themes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skinvae.pipelines.report import report
from tests.conftest import ArchiveFiles, config

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH, and CHROMIUM names none")

REPORTS = ("labelled", "plain", "hidden")


@pytest.fixture(scope="module")
def reports(table: str, model: str, archive: ArchiveFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With labels, without, and without labels, names and pictures."""
    folder = tmp_path_factory.mktemp("reports")
    for name in REPORTS:
        report(
            table,
            model=model,
            out=str(folder / f"{name}.html"),
            labels=archive.labels if name == "labelled" else None,
            groups=archive.groups if name == "labelled" else None,
            normal=(),
            metadata=archive.groups if name == "labelled" else None,
            moves=(),
            with_pictures=name != "hidden",
            with_names=name != "hidden",
            scoring_id=None,
            config=config(),
            command="skinvae report",
        )
    return {name: folder / f"{name}.html" for name in REPORTS}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        # Without a sandbox of its own, which needs rights that a container lacks; the page is ours.
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Opened:
    """A page, and all that it complained of or asked for."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1200, **options: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url[:99]}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri(), wait_until="load")


@pytest.mark.parametrize("name", REPORTS)
def test_it_asks_for_nothing_complains_of_nothing_and_shows_all_its_images(
    browser: Any, reports: dict[str, Path], name: str
) -> None:
    opened = Opened(browser, reports[name])
    page = opened.page
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [reports[name].as_uri()]
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert all(widths)
    assert bool(widths) == (name != "hidden")
    boxes = page.evaluate("[...document.querySelectorAll('svg.chart')].map(svg => svg.getBoundingClientRect().height)")
    assert min(boxes) > 50
    dangling = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert dangling == []


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(browser: Any, reports: dict[str, Path], name: str, scheme: str) -> None:
    page = Opened(browser, reports[name], color_scheme=scheme).page
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_dark_is_dark_and_charts_follow(browser: Any, reports: dict[str, Path]) -> None:
    def luminance(scheme: str, selector: str, what: str) -> float:
        page = Opened(browser, reports["labelled"], color_scheme=scheme).page
        colour = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")
        return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(",")[:3])) / (3 * 255)

    assert luminance("light", "body", "backgroundColor") > 0.9
    assert luminance("dark", "body", "backgroundColor") < 0.15
    assert luminance("light", "svg.chart text", "fill") < 0.2
    assert luminance("dark", "svg.chart text", "fill") > 0.8


@pytest.mark.parametrize("name", REPORTS)
def test_a_phone_never_scrolls_sideways(browser: Any, reports: dict[str, Path], name: str) -> None:
    page = Opened(browser, reports[name], width=360).page
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_it_prints_without_a_dark_background_with_all_details(
    browser: Any, reports: dict[str, Path], tmp_path: Path
) -> None:
    page = Opened(browser, reports["labelled"], color_scheme="dark").page
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.querySelector('nav').getBoundingClientRect().height") == 0
    heights = page.evaluate("[...document.querySelectorAll('details dl')].map(dl => dl.getBoundingClientRect().height)")
    assert min(heights) > 20


def test_a_keyboard_reaches_the_report_and_its_wide_tables(browser: Any, reports: dict[str, Path]) -> None:
    page = Opened(browser, reports["labelled"]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    assert page.evaluate("[...document.querySelectorAll('.wide')].every(one => one.tabIndex === 0)")
