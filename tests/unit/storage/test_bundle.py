"""A bundle comes back as it was written, whole and unaltered, or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from skinvae.errors import BundleError
from skinvae.images.decode import DecodeSettings
from skinvae.metrics.p_values import NormalTail
from skinvae.model.scorer import ScoringSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.records import SCORES, SPLIT_SCHEMA
from skinvae.storage.bundle import (
    CALIBRATION,
    CONFIG,
    SPLIT,
    WEIGHTS,
    BundleConfig,
    ModelBundle,
    has_bundle,
    read_bundle,
    read_bundle_config,
    write_bundle,
)
from skinvae.storage.filesystem import Location

MODEL = ModelSettings(image_size=32, base_channels=2, num_latents=3)
CALIBRATION_FRAME = pd.DataFrame({name: [1.5, 2.25, 1e5 + 1e-9] for name in SCORES})
SPLIT_FRAME = pd.DataFrame(
    {"image_id": ["a", "b", "007"], "group": ["L1", None, "L2"], "split": ["train", "validation", "train"]}
)


def config(**changes: object) -> BundleConfig:
    values = {
        "model": MODEL,
        "decode": DecodeSettings(),
        "sigma": 0.125,
        "normal_classes": ["NV"],
        "training": {"seed": 3, "losses": [2.5, 1.25]},
        "data": {"archives": ["a.zip"]},
        "calibration": ScoringSettings(num_samples=4),
        "versions": {"torch": "2"},
    }
    return BundleConfig(**{**values, **changes})  # type: ignore[arg-type]


def weights(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return VAE(MODEL).to(memory_format=torch.channels_last).state_dict()


def write(location: Location, *, extras: dict[str, bytes] | None = None, seed: int = 0, **changes: object) -> str:
    return write_bundle(
        location,
        config=config(**changes),
        weights=weights(seed),
        calibration=CALIBRATION_FRAME,
        split=SPLIT_FRAME,
        extras=extras or {},
    )


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path / "model"))


def test_a_bundle_comes_back_bit_for_bit(location: Location) -> None:
    digest = write(location)
    bundle = read_bundle(location)
    assert bundle.digest == digest
    assert bundle.digest.startswith(bundle.model_id)
    assert bundle.config.model_copy(update={"files": {}}) == config()
    assert bundle.weights.keys() == weights().keys()
    assert all(torch.equal(bundle.weights[name], tensor) for name, tensor in weights().items())
    pd.testing.assert_frame_equal(bundle.calibration, CALIBRATION_FRAME, check_exact=True)
    assert bundle.split.astype(object).where(bundle.split.notna(), None).equals(SPLIT_FRAME.astype(object))
    assert list(bundle.split.columns) == SPLIT_SCHEMA.names


def test_the_built_model_computes_what_the_saved_one_did(location: Location) -> None:
    write(location)
    original = VAE(MODEL)
    original.load_state_dict(weights())
    x_BCHW, eps_BD = torch.rand(2, 3, 32, 32), torch.randn(2, 3)
    loaded = read_bundle(location).build_model()
    with torch.inference_mode():
        for ours, theirs in zip(loaded.eval()(x_BCHW, eps_BD), original.eval()(x_BCHW, eps_BD), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_digest_is_the_config_s_and_depends_on_all_that_scoring_needs(tmp_path: Path) -> None:
    def digest(name: str, *, extras: dict[str, bytes] | None = None, seed: int = 0, **changes: object) -> str:
        return write(Location.parse(str(tmp_path / name)), extras=extras, seed=seed, **changes)

    same = {digest("a"), digest("b"), digest("c", extras={"MODEL_CARD.md": b"card"})}
    assert len(same) == 1
    assert same == {hashlib.sha256((tmp_path / "a" / CONFIG).read_bytes()).hexdigest()}
    others = {digest("d", seed=1), digest("e", sigma=0.25), digest("f", decode=DecodeSettings(strict=False))}
    assert len(same | others) == 4


def test_a_changed_extra_changes_nothing(location: Location) -> None:
    digest = write(location, extras={"MODEL_CARD.md": b"card"})
    (location / "MODEL_CARD.md").write_bytes(b"another card")
    assert read_bundle(location).digest == digest


def test_a_second_bundle_is_refused_and_the_first_stays(location: Location) -> None:
    digest = write(location)
    with pytest.raises(BundleError, match=r"holds a model bundle already: choose another --out or delete it"):
        write(location, seed=1)
    assert read_bundle(location).digest == digest


def test_what_an_interrupted_write_left_is_no_bundle_and_is_replaced(location: Location) -> None:
    (location / WEIGHTS).write_bytes(b"half a file")
    assert not has_bundle(location)
    digest = write(location)
    assert has_bundle(location)
    assert read_bundle(location).digest == digest


@pytest.mark.parametrize("name", [WEIGHTS, CALIBRATION, SPLIT])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_refused(location: Location, name: str, place: float) -> None:
    write(location)
    data = bytearray((location / name).read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    (location / name).write_bytes(bytes(data))
    with pytest.raises(BundleError, match=rf"{name}' was altered"):
        read_bundle(location)


@pytest.mark.parametrize("name", [WEIGHTS, CALIBRATION, SPLIT])
def test_a_missing_file_is_named(location: Location, name: str) -> None:
    write(location)
    (location / name).delete()
    with pytest.raises(BundleError, match=rf"incomplete .*{name}"):
        read_bundle(location)


class Exploit:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._mark,)


@pytest.mark.parametrize("digest_too", [False, True])
def test_a_pickle_in_place_of_the_weights_is_refused_unloaded(
    location: Location, tmp_path: Path, digest_too: bool
) -> None:
    write(location)
    evil = pickle.dumps(Exploit(tmp_path / "pwned"))
    (location / WEIGHTS).write_bytes(evil)
    if digest_too:
        about = json.loads((location / CONFIG).read_bytes())
        about["files"][WEIGHTS] = hashlib.sha256(evil).hexdigest()
        (location / CONFIG).write_bytes(json.dumps(about).encode())
    with pytest.raises(BundleError, match=r"no safetensors file" if digest_too else "was altered"):
        read_bundle(location)
    assert not (tmp_path / "pwned").exists()


def test_no_bundle_is_one_sentence_with_the_place(location: Location) -> None:
    with pytest.raises(BundleError, match=r"no model bundle at '.*/model' \(cannot read .*config\.json"):
        read_bundle(location)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file"),
        ("{}", "model: Field required"),
        ("[1]", "the file"),
        (config().model_dump_json().replace("0.125", "-1"), "sigma"),
        (config().model_dump_json().replace('"sigma"', '"sіgma"'), "sigma"),
    ],
)
def test_a_malformed_config_names_the_field(location: Location, text: str, words: str) -> None:
    (location / CONFIG).write_bytes(text.encode())
    with pytest.raises(BundleError, match=rf"is no bundle config: {words}"):
        read_bundle_config(location)


def test_a_config_without_digests_is_refused(location: Location) -> None:
    write(location)
    (location / CONFIG).write_bytes(config().model_dump_json().encode())
    with pytest.raises(BundleError, match=r"has no digest of model\.safetensors"):
        read_bundle(location)


def test_another_preprocessing_version_is_refused(location: Location) -> None:
    write(location, preprocessing_version="0")
    with pytest.raises(BundleError, match=r"preprocessing version 0, .* train again"):
        read_bundle(location)


# What gives p-values


def loaded(location: Location, **changes: object) -> ModelBundle:
    write(location, **changes)
    return read_bundle(location)


NEW = pd.DataFrame({"image_id": ["new"], "vae_reconst": [2.0]})


@pytest.mark.parametrize("changed", [{"seed": 1}, {"num_samples": 5}, {"mode": "released"}, {"noise": "lhs"}])
def test_scores_of_other_settings_than_the_normals_get_no_p_values(
    changed: dict[str, object], location: Location
) -> None:
    bundle = loaded(location)
    assert np.isnan(bundle.p_values(ScoringSettings(num_samples=4).model_copy(update=changed))(NEW)).all()


def test_scores_in_another_precision_get_them(location: Location) -> None:
    bundle = loaded(location)
    assert list(bundle.p_values(ScoringSettings(num_samples=4, precision="bfloat16"))(NEW)) == [3 / 4]


def test_trained_images_get_none_and_the_tail_is_the_bundles(location: Location) -> None:
    tail = NormalTail(kind="gamma", offset_nats=-1.0, num_normals=3, shape=2.0, scale_nats=1.5)
    bundle = loaded(location, tail=tail)
    assert bundle.config.tail == tail
    frame = pd.DataFrame({"image_id": ["a", "b", "new"], "vae_reconst": [2.0] * 3})
    found = bundle.p_values(ScoringSettings(num_samples=4))(frame)
    np.testing.assert_allclose(found, [np.nan, *[stats.gamma.sf(3.0, 2.0, scale=1.5)] * 2])
