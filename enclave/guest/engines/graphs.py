"""CUDA graphs: a decoding step of one shape is recorded once and then started with one call.

A step of a model is a thousand small kernels. Started one by one they take longer than they run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Step = Callable[[torch.Tensor, int], torch.Tensor]
"""Of inputs [2, rows] and a length: the logits [rows, vocabulary]."""


class Graphs:
    """A `step` on a CUDA device, recorded for each shape at its first use.

    What it returns is overwritten by the next step of the same shape.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._pool = torch.cuda.graph_pool_handle()
        self._kept: dict[
            tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]
        ] = {}

    def __call__(self, inputs: torch.Tensor, length: int) -> torch.Tensor:
        key = inputs.shape[1], length
        if key not in self._kept:
            self._kept[key] = self._record(inputs.clone(), length)
        graph, buffer, logits = self._kept[key]
        buffer.copy_(inputs)
        graph.replay()
        return logits

    def _record(
        self, buffer: torch.Tensor, length: int
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        """Runs the step twice, which writes the same keys and values twice."""
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):  # libraries choose their ways here, before the recording
            self._step(buffer, length)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._step(buffer, length)
        return graph, buffer, logits
