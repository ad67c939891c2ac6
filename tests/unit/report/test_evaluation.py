"""The page states the counts and the numbers of the frames, fits 80 columns, and tells the paper's from ours."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from skinvae.metrics.comparison import compare_scores
from skinvae.metrics.curves import evaluate_curves
from skinvae.metrics.detection import detect
from skinvae.metrics.evaluation import evaluate_scores
from skinvae.metrics.join import LabelJoin, join_labels
from skinvae.metrics.labels import parse_metadata
from skinvae.metrics.protocols import PAPER_TABLE_2, paper_protocol
from skinvae.metrics.strata import evaluate_strata
from skinvae.report.evaluation import (
    Evaluation,
    auroc_tables,
    evaluation_page,
    interval_sentences,
    join_sentences,
)
from skinvae.report.evaluation_document import evaluation_document
from tests.unit.metrics.examples import HELD_OUT, evaluated_frame

COUNTS = {"NV": 1200, "MEL": 40, "BCC": 40, "AKIEC": 40, "BKL": 40, "DF": 12, "VASC": 40}


def make_join(counts: dict[str, int]) -> LabelJoin:
    frame = evaluated_frame(counts, seed=0)
    split = pd.DataFrame(
        {"image_id": frame["image_id"][:5], "group": None, "split": ["train"] * 3 + ["validation"] * 2}
    )
    return join_labels(
        frame.assign(status="ok", precision="float32"), labels=frame[["image_id", "label"]], normal=["NV"], split=split
    )


def evaluate(counts: dict[str, int], *, with_paper: bool = False) -> Evaluation:
    join = make_join(counts)
    auroc = evaluate_scores(join.evaluated, normal=["NV"], scoring_id="s1", rng=np.random.default_rng(0))
    paper = paper_protocol(join.evaluated, normal=["NV"], seed=0) if with_paper else None
    return Evaluation(
        join=join,
        auroc=auroc,
        paper=paper,
        provenance={"model_id": "m1"},
        curves=evaluate_curves(
            join.evaluated, normal=["NV"], scoring_id="s1", rng=np.random.default_rng(0), num_resamples=100
        ),
        detection=detect(
            join.evaluated, normal=["NV"], false_positive_rate=0.05, false_discovery_rate=0.1, held_out=HELD_OUT
        ),
        comparison=compare_scores(join.evaluated, normal=["NV"], score="vae_reconst", scoring_id="s1"),
        strata=evaluate_strata(
            join.evaluated, normal=["NV"], metadata=metadata_of(join.evaluated), score="vae_reconst", scoring_id="s1"
        ),
        notes=("A note on how.",),
    )


def metadata_of(evaluated: pd.DataFrame) -> pd.DataFrame:
    """The longest names that HAM10000 has, and a stratum without normals."""
    raw = pd.DataFrame({"image_id": evaluated["image_id"], "age": 50.0})
    raw["localization"] = np.where(np.arange(len(raw)) % 2, "lower extremity", "upper extremity")
    raw["dx_type"] = np.where(evaluated["label"] == "MEL", "confocal", "consensus")
    return parse_metadata(raw, origin="m.csv")


def printed(renderable, *, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(COUNTS, with_paper=True)


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(evaluation, width):
    text = printed(evaluation_page(evaluation), width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_table_holds_the_frame_s_numbers(evaluation):
    text = printed(auroc_tables(evaluation.auroc)[0])
    for row in evaluation.auroc.itertuples():
        assert f"{row.auroc:.3f}".removeprefix("0") in text
        assert f"{row.ci_low:.2f}-{row.ci_high:.2f}".replace("0.", ".") in text
    assert "1,197 normal" in text
    assert "n=212" in text


def test_the_papers_numbers_are_labelled_as_theirs(evaluation):
    page = printed(evaluation_page(evaluation))
    theirs = page[page.index("Not ours, for comparison") :]
    assert "arXiv:1807.01349, Table 2" in theirs
    for row in PAPER_TABLE_2.values():
        line = next(line for line in theirs.splitlines() if f"{row['AKIEC']:.3f}"[1:] in line)
        assert line.split()[-1] in {f"{row['macro']:.3f}"[1:] for row in PAPER_TABLE_2.values()}
    assert "another protocol" in theirs  # too few images here for the draws of the paper
    assert "Smaller than the paper's draw: DF: 12 images" in page
    same = evaluate(dict.fromkeys(COUNTS, 260), with_paper=True)
    assert "same protocol" in printed(evaluation_page(same))


def test_classes_the_paper_never_saw_are_not_compared_with_it():
    page = printed(evaluation_page(evaluate({"NV": 20, "tattoo": 20})))
    assert "Not ours" not in page
    assert "tattoo" in page


def test_many_classes_go_to_further_tables():
    names = {f"C{number:02d}": 5 for number in range(11)}
    tables = auroc_tables(evaluate({"NV": 20, **names}).auroc)
    assert [len(table.columns) for table in tables] == [9, 6]


def test_counts_become_sentences():
    join = dataclasses.replace(
        make_join({"NV": 20, "MEL": 9}),
        groups_known=True,
        num_without_lesion={"normal": 16, "abnormal": 9},
        num_trained_lesion=7,
        num_rejected={"truncated": 2, "undecodable": 1},
        num_unmatched=1234,
        unmatched_examples=("a", "b"),
        num_labels_unmatched=4,
        labels_unmatched_examples=("c",),
        num_repeated=5,
        num_ambiguous=6,
        absent_classes=("DF",),
    )
    assert join_sentences(join) == [
        "29 rows in the table, 26 images evaluated: 17 normal (NV), 9 abnormal.",
        "3 not counted, the model was trained on the image.",
        "7 not counted, the model was trained on another photo of the lesion.",
        "Lesions of 16 of 17 normal and of 9 of 9 abnormal images are not known (--groups tells them): each counts as "
        "its own.",
        "2 of the normal images chose the training epoch; they count, the weights were not fitted to them.",
        "3 not counted, rejected without a score: truncated 2, undecodable 1.",
        "1,234 not counted, no label: such as a, b.",
        "5 not counted, the same image stands in another row.",
        "6 not counted, different pictures share their name, and a label cannot tell which it means.",
        "4 of 29 labels have no row in the table: such as c.",
        "No image is left of DF: left out below.",
    ]


def test_unknown_lesions_are_a_warning():
    assert any("Lesions are not known" in line for line in join_sentences(make_join({"NV": 20, "MEL": 9})))


def test_odd_intervals_are_explained():
    lines = interval_sentences(evaluate({"NV": 20, "MEL": 10, "DF": 1}).auroc)
    assert "trivial" in lines[0]
    assert any("single image" in line for line in lines[1:])


def test_document_is_json_and_complete(evaluation):
    document = json.loads(json.dumps(evaluation_document(evaluation), allow_nan=False))
    assert document["provenance"] == {"model_id": "m1"}
    assert document["normal"] == ["NV"]
    assert document["join"]["num_trained"] == 3
    assert document["num_evaluated_by_class"] == COUNTS | {"NV": 1197}
    assert document["paper_protocol"]["num_abnormal"]["DF"] == 12
    assert document["published"]["auroc"]["vae"]["BCC"] == 0.795
    pd.testing.assert_frame_equal(pd.DataFrame(document["auroc"]), evaluation.auroc, check_dtype=False)
    assert document["notes"] == ["A note on how."]
    assert evaluation.detection is not None
    assert document["detection"]["num_images"] == len(evaluation.join.evaluated)
    assert len(document["strata"]) == 5
    assert [row["auroc"] for row in document["strata"] if row["stratum"] == "confocal"] == [None]
    alone = evaluate({"NV": 20, "MEL": 9})
    bare = Evaluation(join=alone.join, auroc=alone.auroc, curves=alone.curves, paper=None, provenance={})
    for name in ("paper_protocol", "detection", "comparison", "strata"):
        assert evaluation_document(bare)[name] is None
    printed(evaluation_page(bare))
