"""How many CPU threads torch uses for an engine."""

from __future__ import annotations

import os

import torch

VARIABLE = "UMAY_TORCH_THREADS"


def use_threads(threads: int | None) -> None:
    """For what the calling thread computes: OpenMP's count belongs to the thread that sets it. None
    is the value of the environment variable, or 1 without it."""
    torch.set_num_threads(threads or int(os.environ.get(VARIABLE, "1")))
