"""The Python API: light to import, without Ray, and what does not fit is one sentence."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import skinvae
from skinvae.errors import BundleError, SkinvaeError, TableError, UsageError
from skinvae.images.synthetic import make_archive
from skinvae.model.vae import to_unit_range
from skinvae.records import SCORE_SCHEMA, SCORES
from tests.finished_table import OTHER_SCORING, SCORING, FinishedTable, make_finished_table
from tests.s3_server import S3Server

CALIBRATED = {"num_samples": 4}
"""The settings that the model's normals were scored with."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedTable:
    return make_finished_table(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def model(finished: FinishedTable) -> skinvae.Model:
    return skinvae.load_model(finished.model, device="cpu")


@pytest.fixture(scope="module")
def jpegs() -> dict[str, bytes]:
    """By image_id."""
    with zipfile.ZipFile(io.BytesIO(make_archive({"NV": 3, "MEL": 2}, seed=3).zip_bytes)) as archive:
        return {Path(name).stem: archive.read(name) for name in archive.namelist() if name.endswith(".jpg")}


def test_importing_it_brings_nothing_along() -> None:
    script = "import sys, skinvae; assert not {'torch', 'ray', 'pandas', 'numpy'} & set(sys.modules); dir(skinvae)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_using_it_starts_and_imports_no_ray(finished: FinishedTable) -> None:
    script = f"""
import sys
import numpy as np
from skinvae import load_model, read_scores, score_images
model = load_model({finished.model!r})
assert len(score_images(model, np.zeros((2, 40, 50, 3), np.uint8))) == 2
assert len(read_scores({finished.uri!r}, scoring_id={SCORING!r}, labels={finished.one_hot!r})) == 270
assert not [name for name in sys.modules if name.partition(".")[0] == "ray"]
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_names_are_there_and_others_are_not() -> None:
    assert set(skinvae.__all__) <= set(dir(skinvae))
    assert all(getattr(skinvae, name) is not None for name in skinvae.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'score'"):
        _ = skinvae.score


def test_every_way_to_give_an_image_scores_alike(
    model: skinvae.Model, jpegs: dict[str, bytes], tmp_path: Path, s3: S3Server
) -> None:
    name, data = next(iter(jpegs.items()))
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(data)
    uri = f"s3://tests/pictures/{name}.jpg"
    s3.filesystem().pipe_file(uri, data)
    picture = Image.open(io.BytesIO(data))
    rgb = np.array(picture)
    found = skinvae.score_images(model, iter([data, path, str(path), uri, picture, rgb, rgb[:, ::-1][:, ::-1]]))
    assert list(found["status"]) == ["ok"] * 7
    assert list(found["image_id"]) == ["0", name, name, name, "4", "5", "6"]
    for score in (*SCORES, "ess"):
        np.testing.assert_allclose(found[score], found[score][0], rtol=1e-9)
    assert (found[["width", "height"]] == found[["width", "height"]].iloc[0]).all(axis=None)
    for one in (data, path, picture, rgb):
        np.testing.assert_allclose(skinvae.score_images(model, one)["vae"][0], found["vae"][0], rtol=1e-9)
    batch = np.stack([rgb, rgb])
    np.testing.assert_allclose(skinvae.score_images(model, batch)["vae"], found["vae"][:2], rtol=1e-9)


def test_pillow_images_of_any_mode_follow_the_decoding_policy(model: skinvae.Model) -> None:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    half = Image.new("L", rgb.size, 128)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(turned, "PNG", exif=exif)
    see_through = rgb.copy()
    see_through.putalpha(half)
    for picture in (rgb, see_through, rgb.convert("L"), rgb.convert("P"), rgb.convert("CMYK"), rgb.convert("1")):
        file = io.BytesIO()
        picture.save(file, "TIFF" if picture.mode == "CMYK" else "PNG")
        np.testing.assert_array_equal(model.pixels(picture), model.pixels(file.getvalue()))
    opened = Image.open(io.BytesIO(turned.getvalue()))
    np.testing.assert_array_equal(model.pixels(opened), model.pixels(turned.getvalue()))
    np.testing.assert_array_equal(model.pixels(opened), model.pixels(rgb.transpose(Image.Transpose.ROTATE_270)))
    refused = skinvae.score_images(model, rgb.convert("F"))
    assert list(refused["status"]) == ["unsupported_format"]


def test_what_cannot_be_scored_is_a_row_with_its_reason(model: skinvae.Model, jpegs: dict[str, bytes]) -> None:
    good = next(iter(jpegs.values()))
    wide = np.zeros((1, 20_000, 3), np.uint8)
    found = skinvae.score_images(model, ["nowhere.jpg", good[:-300], b"text", good, wide], **CALIBRATED)
    assert list(found["status"]) == ["missing", "truncated", "unsupported_format", "ok", "too_large"]
    rejected = found[found["status"] != "ok"]
    assert rejected[[*SCORES, "ess", "p_value"]].isna().all(axis=None)
    assert rejected["error"].notna().all()
    assert np.isfinite(found.loc[3, [*SCORES, "ess", "p_value"]].astype(float)).all()
    alone = skinvae.score_images(model, good, **CALIBRATED)
    np.testing.assert_allclose(found.loc[3, "vae"], alone["vae"][0], rtol=1e-7)


def test_ids_and_p_values(model: skinvae.Model, finished: FinishedTable, jpegs: dict[str, bytes]) -> None:
    first = finished.split.drop_duplicates("split").set_index("split")["image_id"]
    trained, validated = first["train"], first["validation"]
    pictures = list(jpegs.values())[:3]
    found = skinvae.score_images(model, pictures, ids=[trained, validated, "new"], **CALIBRATED)
    assert list(found["image_id"]) == [trained, validated, "new"]
    assert found["p_value"].isna().tolist() == [True, False, False]
    # An untrained model finds them all more anomalous than any of its made-up normals.
    assert found["p_value"][2] == pytest.approx(1 / 31)
    assert skinvae.score_images(model, pictures, num_samples=5)["p_value"].isna().all()
    for images in (pictures, iter(pictures)):
        with pytest.raises(UsageError, match="there are 3 images and 2 ids: give one id for each image"):
            skinvae.score_images(model, images, ids=["a", "b"])


def test_settings_change_scores_as_they_say(model: skinvae.Model, jpegs: dict[str, bytes]) -> None:
    pictures = list(jpegs.values())
    plain = skinvae.score_images(model, pictures)
    assert not np.allclose(plain["iwae"], skinvae.score_images(model, pictures, seed=1)["iwae"], rtol=1e-9)
    assert not np.allclose(plain["iwae"], skinvae.score_images(model, pictures, noise="lhs")["iwae"], rtol=1e-9)
    assert (skinvae.score_images(model, pictures, mode="released")["vae"] != plain["vae"]).all()
    exact = skinvae.score_images(model, pictures, precision="float64")
    np.testing.assert_allclose(plain["vae"], exact["vae"], rtol=1e-6)


def test_no_images_are_no_rows_with_the_same_columns(model: skinvae.Model, jpegs: dict[str, bytes]) -> None:
    some, none = skinvae.score_images(model, list(jpegs.values())), skinvae.score_images(model, [])
    assert len(none) == 0
    assert list(none.columns) == list(some.columns)
    assert model.reconstruct([]).shape == (0, 32, 32, 3)


def test_the_error_map_is_that_of_the_reconstruction(model: skinvae.Model, jpegs: dict[str, bytes]) -> None:
    pictures = list(jpegs.values())
    pixels, reconstructed, errors = model.pixels(pictures), model.reconstruct(pictures), model.error_map(pictures)
    assert pixels.shape == reconstructed.shape == (5, 32, 32, 3)
    assert errors.shape == (5, 32, 32)
    import torch

    rounded = to_unit_range(torch.from_numpy(pixels)) - to_unit_range(torch.from_numpy(reconstructed))
    by_hand = rounded.square().sum(1).numpy() / (2 * 0.125**2)
    np.testing.assert_allclose(errors, by_hand, atol=3 * 2 * 2 / 255 / (2 * 0.125**2))
    # The constant of a Gaussian likelihood is what parts it from the score.
    constant = 3 * 32 * 32 / 2 * np.log(2 * np.pi * 0.125**2)
    scores = skinvae.score_images(model, pictures)["vae_reconst"]
    np.testing.assert_allclose(errors.sum((1, 2)) + constant, scores, rtol=1e-3)


def test_tables_are_read_by_scoring_status_and_column(finished: FinishedTable) -> None:
    for scoring_id in (SCORING, OTHER_SCORING):
        everything = skinvae.read_scores(finished.uri, scoring_id=scoring_id, status=None)
        assert list(everything.columns) == SCORE_SCHEMA.names
        expected = finished.of(scoring_id).set_index("image_id")["vae"]
        pd.testing.assert_series_equal(
            everything.set_index("image_id")["vae"].sort_index(), expected.sort_index(), check_index_type=False
        )
    found = skinvae.read_scores(finished.uri, scoring_id=SCORING, columns=["vae", "member"])
    assert list(found.columns) == ["vae", "member"]
    assert len(found) == 270
    truncated = skinvae.read_scores(finished.uri, scoring_id=SCORING, status="truncated")
    assert len(truncated) == 15


@pytest.mark.parametrize("kind", ["one_hot", "metadata"])
def test_labels_are_joined(finished: FinishedTable, kind: str) -> None:
    labels = getattr(finished, kind)
    found = skinvae.read_scores(finished.uri, scoring_id=SCORING, columns=["image_id"], labels=labels)
    joined = found[["image_id"]].merge(finished.labels, on="image_id", how="left")
    joined = joined.merge(finished.split, on="image_id", how="left")
    for name in ("label", "split"):
        assert found[name].fillna("").tolist() == joined[name].fillna("").tolist()
    assert found["is_normal"].isna().sum() == 2
    assert (found["is_normal"].dropna().astype(bool) == (found["label"].dropna() == "NV")).all()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("read_scores(table)", f"holds 2 scorings: choose with --scoring-id one of {OTHER_SCORING}, {SCORING}"),
        ("read_scores(table, scoring_id='x')", "holds no scoring 'x'"),
        ("read_scores(table, columns=['vea'])", "columns: there is no 'vea'; there are image_id, "),
        ("read_scores(table, status='fine')", "status = 'fine': there are ok, "),
        ("read_scores('nowhere')", "no score table at"),
        ("read_maps(table)", "no table of error maps at"),
        ("load_model('nowhere')", "no model bundle at"),
        ("load_model(bundle, device='tpu')", "device = 'tpu': it takes auto, cpu, cuda or cuda:N"),
        ("load_model(bundle, device='mps')", "device = 'mps'"),
        ("score_images(model, [], num_samples=0)", "num_samples = 0: Input should be greater than or equal to 1"),
        ("score_images(model, [], mode='fast')", "mode = 'fast'"),
        ("score_images(model, [], precision='tf32')", "precision = 'tf32': tf32, which"),
        ("score_images(model, [3])", "an image is a int: give uint8 arrays"),
        ("score_images(model, np.zeros((4, 4)))", r"an array of float64 with shape \(4,\)"),
        ("score_images(model, np.zeros((4, 4, 3)))", r"an array of float64 with shape \(4, 4, 3\): it has to be RGB"),
        ("model.reconstruct([b'text'])", "image 0 cannot be shown: unsupported_format"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    finished: FinishedTable, model: skinvae.Model, call: str, sentence: str
) -> None:
    names = {"table": finished.uri, "bundle": finished.model, "model": model, "np": np}
    names |= {name: getattr(skinvae, name) for name in skinvae.__all__}
    with pytest.raises(SkinvaeError, match=sentence) as raised:
        eval(call, names)
    assert isinstance(raised.value, UsageError | BundleError | TableError)


def test_an_altered_bundle_is_refused(tmp_path: Path) -> None:
    made = make_finished_table(tmp_path)
    weights = Path(made.model) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match="was altered"):
        skinvae.load_model(made.model)
