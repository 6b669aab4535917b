"""Amounts as people read them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.errors import UsageError
from contracts.coin import NAME, shown


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (250_000_000, "0.25"),
        (10**10, "10"),
        (-(10**9) - 1, "-1.000000001"),
    ],
)
def test_exactly_and_short(nano: int, text: str) -> None:
    assert shown(nano) == f"{text} TON"


@given(st.integers(-(2**70), 2**70))
def test_nothing_is_rounded(nano: int) -> None:
    assert int(Decimal(shown(nano).removesuffix(" TON")).scaleb(9)) == nano


def test_the_name_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "GRAM")
    assert shown(10**9) == "1 GRAM"


@pytest.mark.parametrize("name", ["", " ", " TON", "a\nb", "x" * 13, "\x1b[31m"])
def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(NAME, name)
    with pytest.raises(UsageError, match=NAME):
        shown(1)
