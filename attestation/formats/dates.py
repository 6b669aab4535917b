"""Moments and windows of time in words: ISO 8601 with its zone, beside Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

Window = tuple[int, int]
"""The first and the last Unix second at which something counts."""
Lapse = tuple[Literal["not-yet-valid", "expired"], str]
"""On which side of its window a moment lies, and both in words."""


def stamp(second: int) -> str:
    """A Unix second for people: ISO 8601, UTC. Raises ValueError outside the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, OSError):
        raise ValueError(f"{second} is in no year from 1 to 9999") from None


def dated(second: int) -> str:
    """A Unix second for people and for programs: "2026-03-01T00:00:00Z (1772323200)"."""
    try:
        return f"{stamp(second)} ({second})"
    except ValueError:
        return f"Unix second {second}"


def seconds(moment: datetime) -> int:
    """Whole Unix seconds of a moment with a zone."""
    return int(moment.timestamp())


def lapse(window: Window, now: int, *, skew: int = 0) -> Lapse | None:
    """Why `now` (Unix seconds) lies outside of a window; None where it lies inside.

    Both ends belong to the window, and `skew` seconds before it, for clocks that differ.
    """
    start, end = window
    if now < start - skew:
        return "not-yet-valid", f"valid from {dated(start)}, now is {dated(now)}"
    if now > end:
        return "expired", f"valid until {dated(end)}, now is {dated(now)}"
    return None


def too_old(what: str, since: int, now: int, most: int) -> str:
    """A refusal in words: `what` is of the second `since`, and more than `most` seconds old."""
    times = f"it is of {dated(since)} and now is {dated(now)}"
    return f"{what} is {now - since} s old, {times}; expected at most {most} s"


def in_future(what: str, since: int, now: int) -> str:
    """A refusal in words: `what` is of a second after now."""
    late = f"{what} is of {dated(since)}, and now is {dated(now)}"
    return f"{late}; expected a time that is not after now: check the clock"
