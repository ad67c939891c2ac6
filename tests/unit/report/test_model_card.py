"""The card says what was minimised, on what, and under which licence."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from skinvae.config import build_config, parse_toml
from skinvae.images.decode import DecodeSettings
from skinvae.model.objective import ObjectiveSettings
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import ModelSettings
from skinvae.report.model_card import model_card
from skinvae.storage.bundle import BundleConfig


def card_of(objective: dict[str, Any], *, num_epochs: int = 2, sigma: float = 0.1, licence: str | None = None) -> str:
    config = BundleConfig(
        model=ModelSettings(image_size=32, base_channels=2, num_latents=3),
        decode=DecodeSettings(),
        sigma=sigma,
        objective=ObjectiveSettings.model_validate(objective),
        normal_classes=["NV"],
        training={"num_epochs": num_epochs, "best_epoch": num_epochs},
        data={
            "archives": ["s3://bucket/a.zip"], "num_train": 6369, "num_validation": 336, "split_by": "lesion",
            "split_digest": "abcd", "licence": licence,
        },
        calibration=ScoringSettings(),
        versions={"skinvae": "0"},
    )  # fmt: skip
    rows = [
        {"epoch": epoch, "split": split, "loss": 50.0, "reconst": 40.0, "kl": 900.0}
        for epoch in range(min(1, num_epochs), num_epochs + 1)
        for split in (("train", "validation") if epoch else ("validation",))
    ]
    return model_card(config, history=pd.DataFrame(rows), command="skinvae train a.zip --out 'm o'")


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({}, "the evidence lower bound by one draw of z an image. loss = reconst + sigma^2 * kl;"),
        ({"beta": 4, "num_samples": 2}, "by 2 draws of z an image, its KL divergence weighed by beta = 4. loss ="),
        ({"beta": 4}, "loss = reconst + sigma^2 * beta * kl;"),
        ({"learn_sigma": True}, "loss = the negative bound in nats;"),
        ({"objective": "iwae", "num_samples": 5}, "the importance-weighted bound of 5 draws. loss = the negative"),
    ],
)  # fmt: skip
def test_the_objective_in_words(objective: dict[str, Any], words: str) -> None:
    assert words in card_of(objective)


def test_sigma_is_the_trained_one() -> None:
    assert "sigma = 0.25\n(learned)." in card_of({"learn_sigma": True}, sigma=0.25)
    assert "sigma = 0.1\n(fixed)" in card_of({})


def test_data_licence_curve_and_command() -> None:
    card = card_of({}, licence="CC BY-NC 4.0")
    for words in (
        "6,369 images",
        "`abcd`",
        "Licence of the images: CC BY-NC 4.0.",
        "no diagnosis",
        "training_curve.png",
    ):
        assert words in card
    assert "```\nskinvae train a.zip --out 'm o'\n```" in card
    (settings,) = re.findall("```toml\n(.*?)```", card, re.DOTALL)
    assert build_config(parse_toml(settings, origin="card")).model == ModelSettings(
        image_size=32, base_channels=2, num_latents=3
    )


def test_an_untrained_model_has_no_curve_and_an_unknown_licence() -> None:
    card = card_of({}, num_epochs=0)
    assert "training_curve.png" not in card
    assert "not stated when the model was trained" in card
