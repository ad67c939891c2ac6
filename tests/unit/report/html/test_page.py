"""The page says every number of its contents, escapes what comes from archives, and loads nothing."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
from html.parser import HTMLParser

import pytest

from skinvae.metrics.protocols import PAPER_TABLE_2
from skinvae.records import SCORES, Status
from skinvae.report.detection_section import published_table
from skinvae.report.html.contents import (
    ArchiveCounts,
    AurocCell,
    AurocTable,
    CalibrationSection,
    Cell,
    Chart,
    DetectionSection,
    ErrorLegend,
    Facts,
    Gallery,
    NotShown,
    Picture,
    RejectedImage,
    Rejects,
    ReportContents,
    RunSpeed,
    Scored,
    Table,
    TableRow,
)
from skinvae.report.html.page import render_report

BEGAN = datetime.datetime(2026, 11, 24, 22, 5, tzinfo=datetime.timezone.utc)
SVG = '<svg class="chart" role="img" aria-label="bars" viewBox="0 0 1 1"></svg>'
PIXEL = "data:image/png;base64,iVBORw0KGgo="
HOSTILE = "\"><script>alert('x')</script><img src=http://evil.example/x.png>{{ 7*7 }}"


def picture(**changes: object) -> Picture:
    known = {
        "image_id": "ISIC_1",
        "archive": "s3://bucket/a.zip",
        "member": "folder/ISIC_1.jpg",
        "label": "MEL",
        "was_trained": False,
        "scores": {name: 1234.5 + number for number, name in enumerate(SCORES)},
        "p_value": 0.017,
        "original": PIXEL,
        "reconstruction": PIXEL,
        "error_map": PIXEL,
    }
    return Picture(**(known | changes))


def table(caption: str, number: str) -> Table:
    return Table(caption, ("target", "number"), (TableRow("MEL", (Cell(number, f"{number} to 1"),), is_main=True),))


def contents(**changes: object) -> ReportContents:
    targets = (("MEL", 31), ("pooled", 57))
    ours = AurocTable(
        "AUROC of this model",
        targets,
        tuple((score, (AurocCell(0.731, (0.621, 0.841)), AurocCell(0.652, (0.542, 0.762)))) for score in SCORES),
    )
    known = {
        "made_at": BEGAN + datetime.timedelta(hours=9),
        "version": "0.1.0",
        "headline": "vae_reconst",
        "scored": Scored(
            num_images=12_345,
            num_rejected=21,
            archives=(ArchiveCounts("s3://bucket/a.zip", 12_324, 21, True),),
            num_archives=1,
            rejects=tuple(Rejects(one.value, one.meaning, 10 + n) for n, one in enumerate(Status) if one != Status.OK),
            runs=(RunSpeed("run-7", "done", BEGAN, 100.0, 12_345),),
            num_runs=1,
            first_at=BEGAN,
            last_at=BEGAN + datetime.timedelta(minutes=2),
        ),
        "distributions": (Chart(SVG, "median 17"),),
        "detection": DetectionSection(
            pooled=AurocCell(0.652, (0.542, 0.762)), num_normal=64, num_abnormal=57, normal=("NV",),
            sample_note="Drawn from a sample of 90.", roc=Chart(SVG, ""), ours=ours, published=published_table(),
            found=table("What is found", "0.481"), found_sentences=("3.1 % of the normals have p <= 0.05.",),
            comparison=table("Against others", "+0.123"), comparison_note="Not adjusted.",
            strata=table("By stratum", "0.777"), forest=Chart(SVG, ""), account=("640 rows in the table.",),
            notes=("95 % intervals by delong.",),
        ),
        "calibration": CalibrationSection((Chart(SVG, ""),), ("5.3 % of them are below 0.05.",)),
        "galleries": (Gallery("most", "Most anomalous", "The highest.", (picture(), picture(image_id="ISIC_2"))),),
        "legend": ErrorLegend(PIXEL, 0.41, 1.64),
        "not_shown": (NotShown("s3://bucket/b.zip", 3, "it is gone"),),
        "rejected": (RejectedImage("ISIC_9", "s3://bucket/a.zip", "ISIC_9.jpg", "truncated", "ends after 17 bytes"),),
        "provenance": (Facts("Model", (("SHA-256", "feedbeef"),)),),
        "commands": (("Score the archives:", "skinvae score s3://bucket/a.zip"),),
        "shows_pictures": True,
        "shows_names": True,
    }  # fmt: skip
    return ReportContents(**(known | changes))


class Page(HTMLParser):
    """The elements of a page, with attributes, and its visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def shown(**changes: object) -> Page:
    return Page(render_report(contents(**changes)))


def test_every_number_of_the_contents_is_on_the_page() -> None:
    text = shown().text
    numbers = ["12,345", "12,324", "21", "123", "run-7", "0:01:40", "0.731", "0.62 to 0.84", "n = 31", "n = 57",
               "64", "57", "0.017", "0.41", "1.64", "ends after 17 bytes", "feedbeef", "5.3 %", "0.481 to 1",
               "+0.123", "0.777", "3.1 % of the normals", "Not adjusted.", "a sample of 90", "by delong"]  # fmt: skip
    numbers += [f"{1234.5 + number:,.1f}" for number in range(len(SCORES))]
    numbers += [f"{value:.3f}" for row in PAPER_TABLE_2.values() for value in row.values()]
    numbers += [str(10 + number) for number, one in enumerate(Status) if one != Status.OK]
    assert [number for number in numbers if number not in text] == []
    assert [one.meaning for one in Status if one != Status.OK and one.meaning not in text] == []


@pytest.mark.parametrize("field", ["image_id", "archive", "member", "label"])
def test_what_archives_name_is_escaped(field: str) -> None:
    gallery = Gallery("most", "Most anomalous", "", (picture(**{field: HOSTILE}),))
    scored = dataclasses.replace(contents().scored, num_archives=2)
    page = shown(galleries=(gallery,), scored=scored)
    assert HOSTILE in page.text
    assert not page.all("script")
    assert all((image["src"] or "").startswith("data:") for image in page.all("img"))


def test_messages_and_commands_are_escaped() -> None:
    page = shown(
        rejected=(RejectedImage(HOSTILE, HOSTILE, HOSTILE, "truncated", HOSTILE),),
        not_shown=(NotShown(HOSTILE, 1, HOSTILE),),
        commands=((HOSTILE, HOSTILE),),
        provenance=(Facts(HOSTILE, ((HOSTILE, HOSTILE),)),),
    )
    assert page.text.count(HOSTILE) >= 10
    assert not page.all("script")


def test_the_page_loads_nothing_and_links_only_to_itself_and_to_the_paper() -> None:
    html = render_report(contents())
    page = Page(html)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = [link["href"] or "" for link in page.all("a")]
    assert {link for link in links if not link.startswith("#")} == {"https://arxiv.org/abs/1807.01349"}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in html
    assert re.findall(r"src=\"(?!data:)", html) == []
    (policy,) = (one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_tables_have_captions_and_headers_with_a_scope_and_images_a_text() -> None:
    page = shown()
    assert len(page.all("caption")) == len(page.all("table")) == 10
    assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_what_there_is_not_is_not_spoken_of() -> None:
    page = shown(
        detection=None,
        galleries=(),
        legend=None,
        not_shown=(),
        rejected=(),
        scored=dataclasses.replace(contents().scored, num_rejected=0, rejects=(), runs=()),
    )
    assert "AUROC" not in page.text
    assert "None: every image was scored." in page.text
    assert not page.all("img")


def test_trained_images_are_marked_and_missing_p_values_are_said() -> None:
    page = shown(galleries=(Gallery("most", "Most", "", (picture(was_trained=True, p_value=None),)),))
    assert "trained on" in page.text.split("Most")[-1]
    assert re.search(r"p-value\s*none", page.text)


def test_without_names_the_page_says_so() -> None:
    text = shown(shows_names=False, commands=()).text
    assert "they name files" in text
    assert "replaced by random codes" in text


def test_tables_that_there_are_not_leave_no_heading() -> None:
    section = contents().detection
    assert section is not None
    few = dataclasses.replace(section, published=None, found=None, comparison=None, strata=None, forest=None)
    page = shown(detection=few)
    assert len(page.all("table")) == 6
    for heading in ("Not of this model", "at which cost", "another score", "For whom"):
        assert heading in shown().text
        assert heading not in page.text
