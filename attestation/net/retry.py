"""Retries: only for failures that may pass, and never sooner than the service says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from attestation.errors import Unavailable

TRIES = 4
FIRST_PAUSE = 0.4
"""Seconds, doubled each time."""

LONGEST_PAUSE = 10.0
"""Seconds. Where a service asks for a longer wait, the error is raised at once and says so."""

MAY_CHANGE = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""HTTP statuses after which the same question may be answered. Not 501, and not 4xx: asking
again does not help. 520 to 524 are a large CDN's words for a server that it cannot reach."""

T = TypeVar("T")


def with_retries(
    ask: Callable[[], T],
    *,
    tries: int = TRIES,
    pause: float = FIRST_PAUSE,
    longest: float = LONGEST_PAUSE,
) -> T:
    """What `ask` returns in at most `tries` tries. Raises what the last one raised."""
    while True:
        tries -= 1
        try:
            return ask()
        except Unavailable as error:
            wait = max(pause, error.retry_after or 0.0)
            if not error.again or tries < 1 or wait > longest:
                raise
        time.sleep(wait)
        pause *= 2


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header (RFC 9110 §10.2.3): a number, or a date."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0) if text else None
    except (ValueError, TypeError, OverflowError):
        return None
