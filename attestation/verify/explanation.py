"""What each step of the plan checks, and against which document: from the steps' own docstrings."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.verify.verifier import PLAN


@dataclass(frozen=True)
class Explanation:
    """A step of the plan in words: what it `checks`, and the `source` that says how."""

    number: int
    name: str
    checks: str
    source: str


def explained() -> tuple[Explanation, ...]:
    """Every step of the plan, in its order. The texts are empty where Python runs with -OO."""
    return tuple(
        Explanation(number, name, *_parts(step.__doc__ or ""))
        for number, (name, step) in enumerate(PLAN, 1)
    )


def _parts(docstring: str) -> tuple[str, str]:
    checks, _, source = " ".join(docstring.split()).partition("Source: ")
    return checks.strip(), source.strip()
