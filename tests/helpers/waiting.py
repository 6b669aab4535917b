"""Waiting without a clock to meet: a test that hangs ends, one on a busy machine passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANG_S = 1800
"""No good run comes near it: what takes this long hangs."""


def wait_for(good: Callable[[], object], what: str = "what was waited for") -> None:
    """Returns once `good()` is true."""
    until = time.monotonic() + HANG_S
    while not good():
        assert time.monotonic() < until, f"{what} did not come about"
        time.sleep(0.01)


@contextmanager
def at_most_cpu_seconds(limit: float) -> Iterator[None]:
    """What runs inside costs this process no more CPU than this, however busy the machine."""
    begun = time.process_time()
    yield
    spent = time.process_time() - begun
    assert spent < limit, f"expected at most {limit} s of CPU, got {spent:.1f}"
