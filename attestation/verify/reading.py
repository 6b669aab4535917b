"""How old and how well known a reading of the chain is: for every contract that a policy pins."""

from __future__ import annotations

from attestation.errors import Refused
from attestation.formats.dates import in_future, too_old
from attestation.trust.anchor import reaches
from attestation.trust.policy import Policy

MAX_CLOCK_SKEW_S = 60


def check_reading(
    step: str, what: str, *, read_at: int, level: str, policy: Policy, now: int
) -> None:
    """Raises Refused(step, "<what>-level"), "<what>-in-future" or "<what>-too-old".

    `read_at` is the time of the block at which the contract was read, `now` this party's clock,
    both in Unix seconds.
    """
    if not reaches(level, policy.anchor):
        raise Refused(step, f"{what}-level", level_text(what, policy.anchor, level))
    if read_at > now + MAX_CLOCK_SKEW_S:
        text = in_future(f"the reading of the {what}", read_at, now)
        raise Refused(step, f"{what}-in-future", text)
    if now - read_at > policy.max_anchor_age_s:
        text = too_old(f"the reading of the {what}", read_at, now, policy.max_anchor_age_s)
        text += " (policy [network] max_anchor_age_s); read it again"
        raise Refused(step, f"{what}-too-old", text)


def level_text(what: str, expected: str, got: str) -> str:
    """A refusal in words: `what` is known at a lower level than the policy demands."""
    return f"{what}: expected level {expected!r} or better (policy [network] anchor), got {got!r}"
