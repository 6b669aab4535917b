"""Moments and windows in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.formats.dates import dated, in_future, lapse, stamp, too_old

MARCH = 1_772_323_200


def test_a_moment_is_told_for_people_and_programs() -> None:
    assert stamp(MARCH) == "2026-03-01T00:00:00Z"
    assert dated(MARCH) == "2026-03-01T00:00:00Z (1772323200)"


@pytest.mark.parametrize("second", [-(1 << 62), 1 << 40, 1 << 62, 1 << 80])
def test_a_second_in_no_year_is_told_as_it_is(second: int) -> None:
    with pytest.raises(ValueError):
        stamp(second)
    assert dated(second) == f"Unix second {second}"


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_told_can_be_read_again(moment: datetime) -> None:
    second = int(moment.replace(microsecond=0).timestamp())
    told, number = dated(second).split(" ")
    assert int(datetime.fromisoformat(told).timestamp()) == second == int(number.strip("()"))


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (MARCH - 6, "valid from 2026-03-01T00:00:00Z (1772323200), now is "
                    "2026-02-28T23:59:54Z (1772323194)"),
        (MARCH + 101, "valid until 2026-03-01T00:01:40Z (1772323300), now is "
                      "2026-03-01T00:01:41Z (1772323301)"),
    ],
)  # fmt: skip
def test_each_side_of_a_window_has_its_word(now: int, text: str) -> None:
    word = "not-yet-valid" if now < MARCH else "expired"
    assert lapse((MARCH, MARCH + 100), now, skew=5) == (word, text)


@pytest.mark.parametrize("now", [MARCH - 5, MARCH, MARCH + 100])
def test_the_ends_and_the_skew_belong_to_a_window(now: int) -> None:
    assert lapse((MARCH, MARCH + 100), now, skew=5) is None


def test_ages_are_told_with_both_moments() -> None:
    assert too_old("the beacon", MARCH, MARCH + 901, 900) == (
        "the beacon is 901 s old, it is of 2026-03-01T00:00:00Z (1772323200) and now is "
        "2026-03-01T00:15:01Z (1772324101); expected at most 900 s"
    )
    assert in_future("the beacon", MARCH, MARCH - 1) == (
        "the beacon is of 2026-03-01T00:00:00Z (1772323200), and now is "
        "2026-02-28T23:59:59Z (1772323199); expected a time that is not after now: check the clock"
    )
