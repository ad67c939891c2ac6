"""Which images a report shows: extremes always, the missed ones where labels say which those are."""

from __future__ import annotations

import pandas as pd

from skinvae.metrics.highlights import NUM_HIGHLIGHTS, find_highlights
from skinvae.metrics.join import join_labels
from skinvae.report.galleries import choose_images
from skinvae.report.survey import HEADLINE, Survey
from tests.unit.metrics.examples import evaluated_frame


def test_missed_are_the_lowest_of_each_class_and_false_alarms_the_highest_normals_none_trained_on() -> None:
    frame = evaluated_frame({"NV": 60, "MEL": 20, "DF": 3}, seed=0)
    trained = set(frame.loc[frame["label"] == "NV", "image_id"][:20])
    split = pd.DataFrame({"image_id": sorted(trained), "group": None, "split": "train"})
    scores = frame.assign(status="ok", precision="float32")
    join = join_labels(scores, labels=frame[["image_id", "label"]], normal=["NV"], split=split)
    highlights = find_highlights(join.evaluated, normal=join.normal, score=HEADLINE)
    survey = Survey(most=[("s", 1)], least=[("s", 2)])
    survey.by_status["ok"] = len(frame)
    choices = {choice.title: choice for choice in choose_images(survey, highlights)}
    assert list(choices) == ["Most anomalous", "Least anomalous", "Missed: MEL", "Missed: DF", "False alarms: NV"]
    assert choices["Most anomalous"].keys == (("s", 1),)
    melanomas = frame[frame["label"] == "MEL"].sort_values(HEADLINE)
    assert choices["Missed: MEL"].image_ids == tuple(melanomas["image_id"][:NUM_HIGHLIGHTS])
    assert len(choices["Missed: DF"].image_ids) == 3
    unseen = frame[(frame["label"] == "NV") & ~frame["image_id"].isin(trained)].sort_values(HEADLINE)
    assert choices["False alarms: NV"].image_ids == tuple(unseen["image_id"][::-1][:NUM_HIGHLIGHTS])
    num_above = (unseen[HEADLINE] >= melanomas[HEADLINE].iloc[0]).sum()
    assert f"{num_above} of 40 normal images score at least as high" in choices["Missed: MEL"].description


def test_without_scores_there_is_nothing_to_show() -> None:
    assert choose_images(Survey(), None) == []
