"""Pseudonyms: one for each name, and nothing of the name in it."""

from __future__ import annotations

import re

from skinvae.report.names import Names, Pseudonyms


def test_a_name_keeps_its_pseudonym_within_a_report() -> None:
    names = Pseudonyms()
    first, second, again = (names.image(one) for one in ("x", "y", "x"))
    assert first == again != second
    assert re.fullmatch("image-[0-9a-f]{6}", first)
    first, second, again = (names.archive(one) for one in ("s3://a", "s3://b", "s3://a"))
    assert first == again != second
    assert re.fullmatch("archive-[0-9a-f]{6}", first)
    assert names.member("ISIC_1.jpg") is None
    assert names.place("s3://bucket/scores") == "not shown"
    assert names.reason("s3://bucket/ISIC_1.jpg is gone", general="it cannot be read") == "it cannot be read"


def test_pseudonyms_of_many_names_differ_and_those_of_two_reports_have_nothing_in_common() -> None:
    one, other = Pseudonyms(), Pseudonyms()
    of_one, of_other = ([names.image(f"I{number}") for number in range(5000)] for names in (one, other))
    assert len(set(of_one)) == 5000
    # Of 16.7 million codes about one or two are drawn by both.
    assert len(set(of_one) & set(of_other)) < 20


def test_without_pseudonyms_everything_has_its_name() -> None:
    names = Names()
    assert (names.image("x"), names.archive("a"), names.member("m"), names.place("p")) == ("x", "a", "m", "p")
    assert names.reason("why", general="w") == "why"
