"""report: one file that says what table, labels and archives say, and owns up to what it cannot show."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import re
import shutil
import tarfile
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from skinvae.config import build_config
from skinvae.errors import BundleError, UsageError
from skinvae.images.decode import DecodeSettings, decode
from skinvae.model.scorer import ScoringSettings
from skinvae.pipelines.evaluate import evaluate
from skinvae.pipelines.prepare import prepare
from skinvae.pipelines.report import ReportSummary, report
from skinvae.pipelines.score import score
from skinvae.report.evaluation_findings import detection_sentences
from skinvae.storage import large_join
from skinvae.storage.bundle import read_bundle
from skinvae.storage.filesystem import Location
from tests.conftest import SMALL, ArchiveFiles, config
from tests.s3_server import S3Server
from tests.unit.report.html.test_page import Page

NUM_MISSED_GALLERIES = 7
SAMPLE_SIZE = 5


def run(table: str, model: str, out: Path | str, **changes: object) -> ReportSummary:
    arguments = {
        "labels": None,
        "groups": None,
        "normal": (),
        "metadata": None,
        "moves": (),
        "with_pictures": True,
        "with_names": True,
        "scoring_id": None,
        "config": config(),
        "command": "skinvae report --table t",
    }
    return report(table, model=model, out=str(out), **(arguments | changes))


def page_of(out: Path) -> Page:
    return Page(out.read_text())


@pytest.fixture
def copy(archive: ArchiveFiles, tmp_path: Path) -> Path:
    """A copy of the archive that tests may move or damage."""
    return Path(shutil.copy2(archive.zip, tmp_path / "copy.zip"))


@pytest.fixture
def table_of_copy(copy: Path, model: str, tmp_path: Path) -> str:
    score([str(copy)], model=model, table=str(tmp_path / "scores"), config=config())
    return str(tmp_path / "scores")


def test_a_labelled_report_says_what_evaluate_says(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    summary = run(table, model, tmp_path / "r.html", labels=archive.labels, groups=archive.groups)
    evaluation = evaluate(
        table, labels=archive.labels, out=str(tmp_path / "e"), groups=archive.groups, normal=(), protocol="all",
        scoring_id=None, config=config(),
    )  # fmt: skip
    page = page_of(tmp_path / "r.html")
    for row in evaluation.auroc.itertuples():
        assert f"{row.auroc:.3f}" in page.text
        assert f"{row.ci_low:.2f} to {row.ci_high:.2f}" in page.text
    assert summary.num_evaluated == len(evaluation.join.evaluated)
    assert summary.num_bytes == (tmp_path / "r.html").stat().st_size < 3e6
    assert summary.num_not_shown == 0
    frame = pd.read_parquet(table).sort_values("vae_reconst")
    most = page.text.split("The highest scores of all images.")[1].split("Least anomalous")[0]
    assert re.findall(r"ISIC_\d+(?!\d*\.jpg)", most) == list(frame["image_id"])[:-10:-1]
    assert f"{frame['vae_reconst'].iloc[-1]:,.1f} nats" in most
    missed = page.text.split("Missed: MEL")[1]
    trained = set(read_bundle(Location.parse(model)).split.query("split == 'train'")["image_id"])
    assert not trained & set(re.findall(r"ISIC_\d+", missed.split("Rejected images")[0]))


def test_the_page_says_what_is_found_compared_and_split(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    run(table, model, tmp_path / "r.html", labels=archive.labels, groups=archive.groups, metadata=archive.groups)
    evaluation = evaluate(
        table, labels=archive.labels, out=str(tmp_path / "e"), groups=archive.groups, normal=(), protocol="all",
        scoring_id=None, config=config(), metadata=archive.groups,
    )  # fmt: skip
    page = page_of(tmp_path / "r.html")
    assert evaluation.curves is not None
    assert evaluation.comparison is not None
    assert evaluation.strata is not None
    for row in evaluation.curves.average_precision.query("score == 'vae_reconst'").itertuples():
        assert f"{row.average_precision:.3f}" in page.text
        assert f"{100 * row.prevalence:.3g} %" in page.text
    for row in evaluation.curves.operating_points.query("score == 'vae_reconst'").itertuples():
        assert f"{100 * row.ci_low:.3g} % to {100 * row.ci_high:.3g} %" in page.text
    for sentence in detection_sentences(evaluation.detection):
        assert sentence in page.text
    for row in evaluation.comparison.query("target == 'pooled'").itertuples():
        assert f"{row.difference:+.3f}" in page.text
    for row in evaluation.strata.itertuples():
        assert f"{row.variable}: {row.stratum}" in page.text
    assert [one for one in page.all("svg") if (one["aria-label"] or "").startswith("Forest plot")]
    assert "Not of this model" in page.text


def test_other_classes_may_be_called_normal(table: str, model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    run(table, model, tmp_path / "r.html", labels=archive.labels, normal=["NV", "BKL"])
    text = page_of(tmp_path / "r.html").text
    assert "False alarms: NV, BKL" in text
    assert "Missed: BKL" not in text


def test_the_papers_table_is_left_out_where_no_class_is_one_of_its(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    truth = pd.read_csv(archive.labels).set_index("image")
    labels = truth.idxmax(axis=1).map(lambda name: "NV" if name == "NV" else "lesion").rename("dx")
    labels.rename_axis("image_id").to_csv(tmp_path / "two.csv")
    run(table, model, tmp_path / "r.html", labels=str(tmp_path / "two.csv"))
    text = page_of(tmp_path / "r.html").text
    assert "Missed: " in text
    assert "Not of this model" not in text


def test_a_table_too_large_for_memory_has_the_same_numbers_and_images(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = run(table, model, tmp_path / "m.html", labels=archive.labels, groups=archive.groups)
    monkeypatch.setattr(large_join, "SAMPLE_SIZE", SAMPLE_SIZE)
    settings = build_config({**SMALL, "evaluate": {"max_rows_in_memory": 10}})
    on_disk = run(table, model, tmp_path / "d.html", labels=archive.labels, groups=archive.groups, config=settings)
    assert on_disk.num_evaluated == in_memory.num_evaluated
    memory, disk = (page_of(tmp_path / name).text for name in ("m.html", "d.html"))
    assert "so evaluated on disk: values are exact, intervals analytic" in disk
    assert re.search(r"Drawn from a sample of \d+ of \d+ images", disk)
    assert "Drawn from a sample" not in memory
    for sentence in (r"\d+ abnormal images are compared with\s+\d+ normal ones", r"of \d+ evaluated normal images",
                     r"of these normal images are the held-out ones themselves[^.]*\."):  # fmt: skip
        found = re.search(sentence, memory)
        assert found is not None
        assert found[0] in disk
    galleries = [text.split("Missed: ", 1)[1].split("Rejected images")[0] for text in (memory, disk)]
    assert galleries[0] == galleries[1]


def test_pictures_are_those_of_the_archive_and_their_reconstructions(
    table: str, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    run(table, model, tmp_path / "r.html")
    images = {image["alt"]: image["src"] for image in page_of(tmp_path / "r.html").all("img")}
    first = pd.read_parquet(table).sort_values("vae_reconst").iloc[-1]
    data = archive.members()[first["member"]]
    pixels = decode(data, size=SMALL["model"]["image_size"], settings=DecodeSettings()).pixels
    shown = pixels_of(images[f"{first['image_id']}: original"])
    assert pixels is not None
    assert np.abs(shown.astype(int) - pixels).mean() < 3
    assert pixels_of(images[f"{first['image_id']}: reconstruction by the model"]).shape == pixels.shape
    assert pixels_of(images[f"{first['image_id']}: error of each pixel as a heat map"]).shape == pixels.shape


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_without_labels_all_scores_are_shown_and_nothing_is_said_of_diseases(
    table: str, model: str, tmp_path: Path
) -> None:
    summary = run(table, model, tmp_path / "r.html")
    page = page_of(tmp_path / "r.html")
    assert summary.num_evaluated is None
    assert summary.num_pictures == 18
    assert "AUROC" not in page.text
    assert len([one for one in page.all("svg") if "Histogram of" in (one["aria-label"] or "")]) == 7


def test_no_images_leaves_no_picture(table: str, model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    summary = run(table, model, tmp_path / "r.html", labels=archive.labels, with_pictures=False)
    page = page_of(tmp_path / "r.html")
    assert summary.num_pictures == 0
    assert not page.all("img")
    assert len(page.all("svg")) >= NUM_MISSED_GALLERIES
    assert "Pictures were left out on request." in page.text


def test_pseudonyms_leave_nothing_that_names_an_image_or_a_place(
    model: str, archive: ArchiveFiles, copy: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(copy, "a") as extended:
        extended.writestr("Müller_Anna_1950.jpg", b"\xff\xd8 no image")
    table = str(tmp_path / "scores")
    score([str(copy)], model=model, table=table, config=config(max_rejects=1.0))
    labels = tmp_path / "labels_of_smith.csv"
    labels.write_text(Path(archive.labels).read_text() + "ISIC_PATIENT,0,1,0,0,0,0,0\n")
    out = tmp_path / "r.html"
    plain = run(table, model, out, labels=str(labels), groups=archive.groups)
    named = out.read_text()
    hidden = run(table, model, out, labels=str(labels), groups=archive.groups, with_names=False)
    assert hidden.num_pictures == plain.num_pictures > 0
    rows = pd.read_parquet(table)
    secrets = {*rows["image_id"], *rows["member"], *rows["source"], "ISIC_", "ller_Anna", "labels_of_smith",
               str(tmp_path), model, archive.groups, str(Path(archive.zip).parent), "metadata.csv"}  # fmt: skip
    html = out.read_text()
    assert [secret for secret in secrets if secret in html] == []
    assert {"ISIC_PATIENT", "Müller_Anna_1950", model, str(labels)} == {
        one for one in ("ISIC_PATIENT", "Müller_Anna_1950", model, str(labels)) if one in named
    }
    assert re.search(r"\bimage-[0-9a-f]{6}\b", html)
    assert re.search(r"\barchive-[0-9a-f]{6}\b", html)


def test_an_archive_that_moved_is_found_where_it_is_said_to_be(
    table_of_copy: str, copy: Path, model: str, tmp_path: Path
) -> None:
    shown = run(table_of_copy, model, tmp_path / "before.html")
    (tmp_path / "elsewhere").mkdir()
    moved = copy.rename(tmp_path / "elsewhere/renamed.zip")
    gone = run(table_of_copy, model, tmp_path / "gone.html")
    assert (gone.num_pictures, gone.num_not_shown) == (0, shown.num_pictures)
    assert "it does not exist" in page_of(tmp_path / "gone.html").text
    found = run(table_of_copy, model, tmp_path / "found.html", moves=[f"{copy}={moved}"])
    assert (found.num_pictures, found.num_not_shown) == (shown.num_pictures, 0)
    pictures = [[one["src"] for one in page_of(tmp_path / name).all("img")] for name in ("before.html", "found.html")]
    assert pictures[0] == pictures[1]
    moved.rename(tmp_path / "elsewhere/copy.zip")
    by_prefix = run(table_of_copy, model, tmp_path / "r.html", moves=[f"{tmp_path}={tmp_path}/elsewhere"])
    assert by_prefix.num_pictures == shown.num_pictures
    with pytest.raises(UsageError, match="give OLD=NEW, where OLD is, or begins, an archive of the table"):
        run(table_of_copy, model, tmp_path / "r.html", moves=["/nowhere=/elsewhere"])


def test_a_replaced_archive_is_said_to_be_replaced(table_of_copy: str, copy: Path, model: str, tmp_path: Path) -> None:
    os.utime(copy, ns=(1, 1))
    summary = run(table_of_copy, model, tmp_path / "r.html")
    assert summary.num_pictures == 0
    assert "the archive was replaced, or changed, since it was scored" in page_of(tmp_path / "r.html").text


def test_another_archive_in_the_place_of_one_that_moved_shows_none_of_its_pictures(
    table_of_copy: str, copy: Path, model: str, archive: ArchiveFiles, tmp_path: Path
) -> None:
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as written:
        for name, data in reversed(archive.members().items()):
            written.writestr(name, data)
    summary = run(table_of_copy, model, tmp_path / "r.html", moves=[f"{copy}={other}"])
    assert summary.num_pictures == 0
    assert summary.num_not_shown == 18
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(few, "w") as written:
        written.writestr(*next(iter(archive.members().items())))
    summary = run(table_of_copy, model, tmp_path / "r.html", moves=[f"{copy}={few}"])
    assert summary.num_pictures == 0
    assert "fewer members" in summary.not_shown[0]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "folder", "s3"])
def test_pictures_come_from_every_kind_of_archive(
    kind: str, model: str, archive: ArchiveFiles, s3: S3Server, tmp_path: Path
) -> None:
    members = dict(list(archive.members().items())[::4])
    place = str(tmp_path / f"images.{kind}")
    if kind.startswith("tar"):
        with tarfile.open(place, f"w:{kind.partition('.')[2]}") as tar:
            for name, data in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    elif kind == "folder":
        for name, data in members.items():
            Path(place, name).parent.mkdir(parents=True, exist_ok=True)
            Path(place, name).write_bytes(data)
    else:
        place = f"s3://tests/report-{uuid.uuid4().hex}/images.zip"
        Location.parse(place).write_bytes(Path(archive.zip).read_bytes())
    table = place.replace("images.zip", "scores") if kind == "s3" else str(tmp_path / "scores")
    score([place], model=model, table=table, config=config())
    summary = run(table, model, tmp_path / "r.html")
    assert (summary.num_pictures, summary.num_not_shown) == (18, 0)


def test_pictures_come_from_a_prepared_archive_whose_original_is_gone(copy: Path, model: str, tmp_path: Path) -> None:
    prepared, table = str(tmp_path / "prepared"), str(tmp_path / "scores")
    prepare([str(copy)], out=prepared, config=config())
    score([prepared], model=model, table=table, config=config())
    copy.unlink()
    summary = run(table, model, tmp_path / "r.html")
    assert (summary.num_pictures, summary.num_not_shown) == (18, 0)


def test_a_table_of_rejected_images_alone_has_a_report(model: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as written:
        written.writestr("broken.jpg", b"\xff\xd8\xff\xe0 no image")
    score([str(tmp_path / "broken.zip")], model=model, table=str(tmp_path / "scores"), config=config(max_rejects=1.0))
    summary = run(str(tmp_path / "scores"), model, tmp_path / "r.html")
    assert (summary.num_images, summary.num_rejected, summary.num_pictures) == (1, 1, 0)
    assert "No image has a p-value" in page_of(tmp_path / "r.html").text


def test_a_model_that_did_not_make_the_scores_is_refused(table: str, model: str, tmp_path: Path) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"deltalake"', '"delta"'))
    with pytest.raises(UsageError, match="the scores were made by"):
        run(table, str(other), tmp_path / "r.html")
    with pytest.raises(BundleError, match="no model bundle at"):
        run(table, str(tmp_path / "none"), tmp_path / "r.html")


def test_a_wrong_model_or_archive_is_refused_before_anything_is_evaluated(
    table: str, model: str, tmp_path: Path
) -> None:
    other = tmp_path / "model"
    shutil.copytree(model, other)
    text = (other / "config.json").read_text()
    (other / "config.json").write_text(text.replace('"deltalake"', '"delta"'))
    # Labels that are not there: whoever evaluates first complains of them.
    labels = str(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="the scores were made by"):
        run(table, str(other), tmp_path / "r.html", labels=labels)
    with pytest.raises(UsageError, match="give OLD=NEW"):
        run(table, model, tmp_path / "r.html", labels=labels, moves=["/nowhere=/elsewhere"])


@pytest.mark.parametrize("change", [{"groups": "g.csv"}, {"metadata": "m.csv"}, {"normal": ["NV"]}])
def test_what_needs_labels_is_refused_without_them(
    table: str, model: str, tmp_path: Path, change: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="give --labels too"):
        run(table, model, tmp_path / "r.html", **change)


def test_rejected_images_are_listed_with_their_reasons(
    model: str, archive: ArchiveFiles, copy: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(copy, "a") as extended:
        for number in range(60):
            extended.writestr(f"<b>broken-{number:02}.jpg", b"\xff\xd8\xff\xe0 no image")
    score([str(copy)], model=model, table=str(tmp_path / "scores"), config=config(max_rejects=1.0))
    summary = run(str(tmp_path / "scores"), model, tmp_path / "r.html")
    page = page_of(tmp_path / "r.html")
    assert summary.num_rejected == 60
    assert "60 images have no scores; these are the first 50." in " ".join(page.text.split())
    listed = page.text.split("what was found")[1].split("Provenance")[0]
    assert listed.count(".jpg") == 50
    assert "<b>broken-00" in listed


def test_settings_and_commands_make_it_again(table: str, model: str, archive: ArchiveFiles, tmp_path: Path) -> None:
    summary = run(table, model, tmp_path / "r.html")
    text = page_of(tmp_path / "r.html").text
    settings = ScoringSettings(precision="float32")
    assert f"--set score.num_samples={settings.num_samples} --set score.seed={settings.seed}" in text
    assert f"skinvae score {archive.zip} --model {model} --table {table}" in text
    assert read_bundle(Location.parse(model)).digest in text
    assert summary.scoring_id in text
    assert dataclasses.asdict(summary)["num_images"] == len(pd.read_parquet(table))
