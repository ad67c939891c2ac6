"""A function of tensors, recorded once on a GPU and replayed: no kernel waits for Python to launch it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UPS = 3
"""Runs before the recording, in which libraries choose their kernels and allocate their workspaces, and in which a lack
of memory shows: while recording it would break the stream."""


class Graphed:
    """Calls of one function, recorded for the shapes of its inputs; other shapes are recorded anew.

    The result is overwritten by the next call: copy it, on the same stream, before that.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Give back the recording and its memory; the next call records anew."""
        self._shapes: list[torch.Size] = []
        self._inputs: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Tensor | None = None

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if [one.shape for one in inputs] != self._shapes:
            self.forget()
            self._record(function, inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        assert self._graph is not None
        assert self._output is not None
        self._graph.replay()
        return self._output

    def _record(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        own = [one.clone() for one in inputs]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's omission
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function(*own)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = function(*own)
        self._graph, self._inputs, self._output = graph, own, output
        self._shapes = [one.shape for one in inputs]
