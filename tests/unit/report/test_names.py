"""Pseudonyms: one for each name, and nothing of the name in it."""

from __future__ import annotations

from skinvae.report.names import Names, Pseudonyms


def test_a_name_keeps_its_pseudonym_within_a_report() -> None:
    names = Pseudonyms()
    assert [names.image(one) for one in ("x", "y", "x")] == ["image-0001", "image-0002", "image-0001"]
    assert [names.archive(one) for one in ("s3://a", "s3://b", "s3://a")] == ["archive-01", "archive-02", "archive-01"]
    assert names.member("ISIC_1.jpg") is None
    assert names.place("s3://bucket/scores") == "not shown"
    assert names.reason("s3://bucket/ISIC_1.jpg is gone", general="it cannot be read") == "it cannot be read"


def test_without_pseudonyms_everything_has_its_name() -> None:
    names = Names()
    assert (names.image("x"), names.archive("a"), names.member("m"), names.place("p")) == ("x", "a", "m", "p")
    assert names.reason("why", general="w") == "why"
