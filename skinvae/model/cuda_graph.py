"""A function of tensors, recorded once on a GPU and replayed: no kernel waits for Python to launch it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3
"""Runs before the recording, in which libraries choose their kernels and allocate their workspaces."""


class Graphed:
    """`function`, whose inputs keep their shapes; other shapes are recorded anew. The result is overwritten by the next
    call: copy it, on the same stream, before that."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._shapes: list[torch.Size] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        if [one.shape for one in inputs] != self._shapes:
            self._record(inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = [one.clone() for one in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's omission
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = self._function(*self._inputs)
        self._shapes = [one.shape for one in inputs]
