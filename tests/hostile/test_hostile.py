"""No fault of a relay gives a wrong answer, lets text out, or leaves anything open.

68 questions through each face in `make test`, 10,000 in `make test-hostile`.
"""

from __future__ import annotations

import pytest

from tests.hostile.asking import FACES
from tests.hostile.trial import trial

FEW, MANY, AT_A_TIME = 68, 10_000 // len(FACES), 1000
MAX_MORE_MIB = 64


def check(face: str, first: int, count: int) -> None:
    client, relay = trial(face, first, count)
    assert not client["wrong"] and not client["escaped"], client
    assert client["right"] and client["right"] + sum(client["errors"].values()) == count, client
    left = client["more"]
    assert left["sockets"] <= 0 and left["threads"] <= 0 and left["mib"] <= MAX_MORE_MIB, client
    assert relay["most"] == 1, relay  # no question was executed twice
    assert (relay["in_clear"], relay["cookies"], relay["connections"]) == (0, 0, 0), relay


@pytest.mark.parametrize("face", FACES)
def test_a_hostile_relay_gets_nothing_and_breaks_nothing(face: str) -> None:
    check(face, 0, FEW)


@pytest.mark.hostile
@pytest.mark.parametrize("face", FACES)
def test_ten_thousand_faults(face: str) -> None:
    for first in range(FEW, FEW + MANY, AT_A_TIME):
        check(face, first, min(AT_A_TIME, FEW + MANY - first))
