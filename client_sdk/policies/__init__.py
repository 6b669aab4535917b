"""The rules that Umay ships, and policies made of them and a network's own part.

A policy file is rules (freshness, CPU, GPU, channel, …) and what a network publishes about
itself: [network], [registry], [witnesses], [[release]], [[model]], and for a simulated one its
roots.
"""

from __future__ import annotations

from importlib.resources import files

from attestation.errors import Refused, UsageError
from attestation.trust.policy import Policy

RULES = ("production", "simulation")


def make(rules: str, network: str) -> str:
    """A policy file. Raises UsageError for unknown rules, ParseError where both together are
    no policy, Refused("policy", …) where roots and rules do not belong together."""
    if rules not in RULES:
        raise UsageError(f"rules: expected {' or '.join(RULES)}, got {rules}")
    text = files(__package__).joinpath(f"{rules}.toml").read_text() + "\n" + network
    simulated = Policy.from_toml(text.encode()).roots.simulated
    if simulated != (rules == "simulation"):
        got = "simulated roots" if simulated else "no simulated roots"
        text = f"{rules} rules do not fit a network with {got}"
        raise Refused("policy", "rules-and-roots", text)
    return text
