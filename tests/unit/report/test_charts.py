"""A chart takes its colours from the page, shares no id with another, and says what it shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from skinvae.report.charts import chart
from skinvae.report.figures import bars

LABEL = "<b>$\\frac{&\"'"


def draw() -> Figure:
    counts = {"normal": np.array([3, 1, 2]), LABEL: np.array([1, 1, 1])}
    return bars(np.array([0.0, 1000.0, 2000.0, 3000.0]), counts=counts, xlabel="score", expected=1.5)


def test_a_chart_has_no_colour_of_its_own_for_text_and_paper() -> None:
    svg = chart(draw, name="a", alt='what "it" shows')
    assert 'aria-label="what &quot;it&quot; shows"' in svg
    assert "currentColor" in svg
    assert "var(--paper)" in svg
    assert not re.search(r"#0{6}|#f{6}|font-family|http|<style|<metadata", svg)


def test_charts_of_one_page_share_no_id_and_every_reference_has_its_target() -> None:
    ids, references = [], []
    for name in ("a", "b"):
        svg = chart(draw, name=name, alt="x")
        ids += re.findall(r'\bid="([^"]*)"', svg)
        references += re.findall(r'(?:href="#|url\(#)([^")]*)', svg)
    assert len(ids) == len(set(ids))
    assert references
    assert set(references) <= set(ids)


def test_labels_are_text_whatever_they_hold() -> None:
    text = "".join(ET.fromstring(chart(draw, name="a", alt="x")).itertext())
    assert LABEL in text
    assert "1,200" in text


def test_drawing_leaves_the_settings_of_others_alone() -> None:
    before = mpl.rcParams["svg.fonttype"], mpl.rcParams["text.color"]
    chart(draw, name="a", alt="x")
    assert (mpl.rcParams["svg.fonttype"], mpl.rcParams["text.color"]) == before
