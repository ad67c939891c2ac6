"""Training that resumes from a checkpoint goes on exactly where it was."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors
import torch

from skinvae.model.objective import Objective, ObjectiveSettings
from skinvae.model.vae import VAE, ModelSettings
from skinvae.storage.checkpoints import load_checkpoint, load_state, load_weights, save_checkpoint

SETTINGS = ModelSettings(image_size=32, base_channels=2, num_latents=3)


def fresh(seed: int) -> tuple[VAE, torch.optim.Adam]:
    torch.manual_seed(seed)
    model = VAE(SETTINGS).to(memory_format=torch.channels_last)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def train(model: VAE, optimizer: torch.optim.Adam, *, steps: range) -> None:
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        x_BCHW = torch.rand(4, 3, 32, 32, generator=rng) * 2 - 1
        loss = Objective(ObjectiveSettings())(model, x_BCHW, torch.randn(4, 1, 3, generator=rng))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads have no fixed order
    try:
        model, optimizer = fresh(0)
        train(model, optimizer, steps=range(3))
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, state={"epoch": 3, "best": 1.25})
        train(model, optimizer, steps=range(3, 6))
        resumed, its_optimizer = fresh(1)
        assert load_checkpoint(tmp_path, model=resumed, optimizer=its_optimizer) == {"epoch": 3, "best": 1.25}
        train(resumed, its_optimizer, steps=range(3, 6))
    finally:
        torch.set_num_threads(threads)
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    ours, theirs = its_optimizer.state_dict()["state"], optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for index, moments in theirs.items():
        assert ours[index].keys() == moments.keys()
        assert all(torch.equal(ours[index][name], value) for name, value in moments.items())


def test_saving_changes_nothing_in_training(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    train(model, optimizer, steps=range(1))
    before = copy.deepcopy(model.state_dict())
    save_checkpoint(tmp_path, model=model, optimizer=optimizer, state={})
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(load_weights(tmp_path)[name], tensor) for name, tensor in before.items())


def test_before_the_first_step_there_are_no_moments(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    save_checkpoint(tmp_path, model=model, optimizer=optimizer, state={"epoch": 0})
    resumed, its_optimizer = fresh(1)
    assert load_checkpoint(tmp_path, model=resumed, optimizer=its_optimizer) == load_state(tmp_path) == {"epoch": 0}
    assert its_optimizer.state_dict()["state"] == {}


def test_the_files_are_safetensors_and_json(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    train(model, optimizer, steps=range(1))
    save_checkpoint(tmp_path, model=model, optimizer=optimizer, state={"epoch": 1})
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    for path in tmp_path.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="pt") as file:
            assert len(file.keys()) > 0


def test_state_that_is_no_json_is_refused(tmp_path: Path) -> None:
    model, optimizer = fresh(0)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, state={"loss": torch.tensor(1.0)})
