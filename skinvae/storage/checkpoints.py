"""Training state in a local folder: weights and optimizer as safetensors, the rest as JSON. No pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write the training state; `state` holds JSON values."""
    safetensors.torch.save_file(_on_cpu(model.state_dict()), folder / _WEIGHTS)
    moments = {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    safetensors.torch.save_file(_on_cpu(moments), folder / _OPTIMIZER)
    (folder / _STATE).write_text(json.dumps(state))


def load_checkpoint(folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put weights and moments back and return `state`."""
    model.load_state_dict(load_weights(folder))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in safetensors.torch.load_file(folder / _OPTIMIZER).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return load_state(folder)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Only the model's weights, on the CPU."""
    return dict(safetensors.torch.load_file(folder / _WEIGHTS))


def load_state(folder: Path) -> dict[str, Any]:
    """Only what `save_checkpoint` was given as `state`."""
    state: dict[str, Any] = json.loads((folder / _STATE).read_text())
    return state


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
