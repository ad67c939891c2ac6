"""Scores depend on pixels, model, mode, k and seed alone: not on rows, batches or chunks (oracle 8)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from skinvae.model.bounds import ScoreMode, scores_from_draws
from skinvae.model.draws import collect_draws
from skinvae.model.network import PlainNetwork
from skinvae.model.noise import draw_noise, latin_hypercube
from skinvae.model.scorer import Scorer, ScoringSettings
from skinvae.model.vae import VAE, ModelSettings, to_unit_range
from skinvae.records import SCORES
from tests.unit.model.conftest import one_thread  # noqa: F401  # also where no conftest is loaded
from tests.unit.model.small_models import trained_a_little

NAMES = (*SCORES, "ess")
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)


def small_model() -> VAE:
    return trained_a_little(ModelSettings(image_size=32, base_channels=4, num_latents=6))


def scored(
    images: NDArray[np.uint8], *, batch_size: int = 4, decode_batch_size: int = 16, **settings: Any
) -> dict[str, NDArray[np.float64]]:
    scorer = Scorer(
        small_model(),
        variance=0.01,
        settings=ScoringSettings(**settings),
        batch_size=batch_size,
        decode_batch_size=decode_batch_size,
    )
    return scorer.score(images)


def assert_same(actual: dict[str, NDArray[np.float64]], expected: dict[str, NDArray[np.float64]]) -> None:
    """ESS is an exponential of differences of the scores, so it feels their last digits."""
    for name in SCORES:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(actual["ess"], expected["ess"], rtol=1e-2)


@pytest.mark.parametrize("mode", ["exact", "released"])
@pytest.mark.parametrize(("batch_size", "decode_batch_size"), [(1, 1), (3, 7), (11, 1000), (64, 15), (4, 5)])
def test_batch_sizes_change_no_score(batch_size: int, decode_batch_size: int, mode: ScoreMode) -> None:
    expected = scored(IMAGES, mode=mode)
    assert_same(scored(IMAGES, batch_size=batch_size, decode_batch_size=decode_batch_size, mode=mode), expected)


def test_permuting_rows_permutes_scores() -> None:
    order = np.random.default_rng(1).permutation(len(IMAGES))
    expected = {name: values[order] for name, values in scored(IMAGES).items()}
    assert_same(scored(IMAGES[order]), expected)


def test_the_same_picture_among_others_gets_the_same_scores() -> None:
    among = scored(np.concatenate([IMAGES[5:], IMAGES[:1], IMAGES[:1]]))
    alone = scored(IMAGES[:1])
    for place in (-1, -2):
        assert_same({name: values[[place]] for name, values in among.items()}, alone)


def test_in_float64_batches_agree_to_rounding() -> None:
    one, other = scored(IMAGES, precision="float64"), scored(IMAGES[::-1], batch_size=3, precision="float64")
    for name in SCORES:
        np.testing.assert_allclose(one[name], other[name][::-1], rtol=1e-12, atol=1e-12, err_msg=name)
    assert_same(scored(IMAGES), one)


def test_batch_size_and_layout_of_the_input_do_not_matter() -> None:
    read_only = np.frombuffer(IMAGES.tobytes(), np.uint8).reshape(IMAGES.shape)
    for images in (np.asfortranarray(IMAGES), read_only, np.repeat(IMAGES, 2, axis=0)[::2]):
        assert_same(scored(images), scored(IMAGES))


def test_no_images_give_empty_scores() -> None:
    scores = scored(IMAGES[:0])
    assert set(scores) == set(NAMES)
    assert all(values.shape == (0,) and values.dtype == np.float64 for values in scores.values())


class _SmallMemory(VAE):
    """Runs out of memory where it is given more at once, and remembers the shapes it was given."""

    def __init__(self, *, most_encoded: int = 1000, most_decoded: int = 1000) -> None:
        model = small_model()
        super().__init__(model.settings)
        self.load_state_dict(model.state_dict())
        self.most_encoded, self.most_decoded = most_encoded, most_decoded
        self.encoded: list[int] = []

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        self.encoded.append(len(x_BCHW))
        self._take(len(x_BCHW), self.most_encoded)
        return super().encode(x_BCHW)

    def decode(self, z_BD: Tensor) -> Tensor:
        self._take(len(z_BD), self.most_decoded)
        return super().decode(z_BD)

    @staticmethod
    def _take(amount: int, most: int) -> None:
        if amount > most:
            raise torch.OutOfMemoryError(f"{amount} at once")


@pytest.mark.parametrize(("most_encoded", "most_decoded"), [(1000, 5), (3, 1000), (1, 1), (2, 15)])
def test_where_memory_is_short_batches_shrink_for_good_and_no_score_changes(
    most_encoded: int, most_decoded: int
) -> None:
    model = _SmallMemory(most_encoded=most_encoded, most_decoded=most_decoded)
    # float64 is computed by the model's own methods.
    settings = ScoringSettings(precision="float64")
    scorer = Scorer(model, variance=0.01, settings=settings, batch_size=8, decode_batch_size=64)
    assert_same(scorer.score(IMAGES), scored(IMAGES))
    assert scorer.batch_size <= most_encoded
    assert scorer.decode_batch_size <= most_decoded
    sizes = scorer.batch_size, scorer.decode_batch_size
    assert_same(scorer.score(IMAGES), scored(IMAGES))
    assert (scorer.batch_size, scorer.decode_batch_size) == sizes, "what did not fit is not tried again"


def test_no_memory_for_a_single_image_is_an_error() -> None:
    settings = ScoringSettings(precision="float64")
    scorer = Scorer(_SmallMemory(most_encoded=0), variance=0.01, settings=settings, batch_size=8, decode_batch_size=64)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.score(IMAGES)
    assert (scorer.batch_size, scorer.decode_batch_size) == (1, 1)


def test_the_model_sees_one_shape_however_many_images_are_left() -> None:
    model = _SmallMemory()
    scorer = Scorer(model, variance=0.01, settings=ScoringSettings(precision="float64"), batch_size=4)
    for count in (11, 1, 4):
        scorer.score(IMAGES[:count])
    assert set(model.encoded) == {4}


@pytest.mark.parametrize("mode", ["exact", "released"])
@pytest.mark.parametrize("num_samples", [1, 2, 15])
def test_a_scorer_is_the_bounds_of_the_image_s_own_draws(num_samples: int, mode: ScoreMode) -> None:
    """One image at a time through the pure parts, in float64, against the scorer's float32 batches."""
    scores = scored(IMAGES[:3], num_samples=num_samples, mode=mode, seed=9)
    model = small_model().eval().double()
    for row, image in enumerate(IMAGES[:3, None]):
        eps_BKD = torch.from_numpy(draw_noise(image, seed=9, num_samples=num_samples, num_latents=6)).double()
        with torch.inference_mode():
            draws = collect_draws(
                PlainNetwork(model), to_unit_range(torch.from_numpy(image)).double(), eps_BKD, decode_batch_size=1
            )
        expected = vars(scores_from_draws(draws, variance=0.01, mode=mode))
        for name in SCORES:
            np.testing.assert_allclose(scores[name][row], expected[name].item(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_more_draws_leave_the_first_ones_alone() -> None:
    """vae_reconst is a mean over draws, so k = 1 and k = 2 give the first two errors and k = 3 must contain them."""
    one, two, three = (scored(IMAGES, num_samples=k)["vae_reconst"] for k in (1, 2, 3))
    least = np.array([scored(IMAGES, num_samples=k)["iwae_reconst"] for k in (2, 3)])
    second = 2 * two - one
    third = 3 * three - one - second
    # min(a) <= -LME(-a) <= min(a) + log k over exactly these draws.
    for bound, draws in ((least[0], [one, second]), (least[1], [one, second, third])):
        smallest = np.min(draws, axis=0)
        assert (bound >= smallest - 1e-3).all()
        assert (bound <= smallest + np.log(len(draws)) + 1e-3).all()


def test_mode_seed_and_k_each_change_the_scores() -> None:
    base = scored(IMAGES)["iwae"]
    for other in ({"mode": "released"}, {"seed": 1}, {"num_samples": 14}, {"noise": "lhs"}):
        assert (scored(IMAGES, **other)["iwae"] != base).all()


def test_both_modes_rank_images_alike_by_the_vae_scores() -> None:
    images = np.random.default_rng(2).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    images = (images * np.linspace(0.2, 1, 60)[:, None, None, None]).astype(np.uint8)
    exact, released = scored(images, precision="float64"), scored(images, precision="float64", mode="released")
    for name in ("vae", "vae_reconst", "vae_kl"):
        assert exact[name].argsort().tolist() == released[name].argsort().tolist()


def test_reconstruct_is_the_decoded_posterior_mean() -> None:
    model = small_model()
    scorer = Scorer(model, variance=0.01, settings=ScoringSettings(), batch_size=4)
    with torch.inference_mode():
        mu_BD, _ = model.encode(to_unit_range(torch.from_numpy(IMAGES)))
        torch.testing.assert_close(scorer.reconstruct(IMAGES), model.decode(mu_BD), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("num_samples", 0), ("seed", -1), ("mode", "exakt"), ("precision", "float16"), ("noise", "sobol"), ("k", 15)],
)
def test_settings_refuse_bad_values_by_name(setting: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=setting):
        ScoringSettings(**{setting: value})


@pytest.mark.parametrize("batch_size", [1, 3, 11])
def test_a_latin_hypercube_is_the_same_for_every_image_in_every_batch(batch_size: int) -> None:
    expected = scored(IMAGES, noise="lhs", precision="float64")
    assert_same(scored(IMAGES[::-1], batch_size=batch_size, noise="lhs"), {k: v[::-1] for k, v in expected.items()})
    model = small_model().double()
    eps_KD = torch.from_numpy(latin_hypercube(seed=0, num_samples=15, num_latents=6))
    with torch.inference_mode():
        x_BCHW = to_unit_range(torch.from_numpy(IMAGES)).double()
        draws = collect_draws(PlainNetwork(model), x_BCHW, eps_KD.expand(len(IMAGES), -1, -1), decode_batch_size=15)
    by_hand = scores_from_draws(draws, variance=0.01, mode="exact")
    np.testing.assert_allclose(expected["iwae"], by_hand.iwae.numpy(), rtol=1e-9)
