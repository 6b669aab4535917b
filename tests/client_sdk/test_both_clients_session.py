"""Sessions through both clients: a session that ends costs one more, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attestation import wire
from attestation.errors import NotForUs, SessionExpired, Unavailable
from tests.client_sdk.test_both_clients import Make, asker
from tests.helpers.fake_enclave import DONE, PIECES, FakeEnclave

__all__ = ["asker"]


@pytest.fixture
def enclave(ada: FakeEnclave) -> Iterator[FakeEnclave]:
    """One that a policy with challenge = "required" was satisfied with."""
    ada.open_session()
    return ada


def end_sessions(enclave: FakeEnclave) -> None:
    enclave.ring.sessions.retire(enclave.epoch.guard)


def test_an_answer_to_a_request_that_needs_both_keys(asker: Make, enclave: FakeEnclave) -> None:
    asked = asker(enclave).ask()
    assert asked.content == b"".join([*PIECES, DONE]) and asked.receipt is not None


def test_one_session_serves_many_requests(asker: Make, enclave: FakeEnclave) -> None:
    umay = asker(enclave)
    for _ in range(3):
        umay.ask()
    assert len(umay.client.verifications) == len(enclave.ring.sessions) - 1 == 1


def test_a_session_that_has_ended_costs_one_verification_and_one_retry(
    asker: Make, enclave: FakeEnclave
) -> None:
    umay = asker(enclave)
    umay.ask()
    end_sessions(enclave)
    asked = umay.ask()
    assert (asked.status, asked.asked, asked.may_have_run) == (200, 2, 1)
    assert len(enclave.script.seen) == 2 and len(umay.client.verifications) == 2


def test_a_second_end_is_told_and_not_tried_again(asker: Make, enclave: FakeEnclave) -> None:
    umay = asker(enclave)
    umay.ask()
    enclave.with_sessions = False  # the next verification brings the old session again
    end_sessions(enclave)
    with pytest.raises(SessionExpired) as caught:
        umay.ask()
    assert caught.value.code == "session-expired" and caught.value.may_have_run == 0
    assert len(enclave.script.seen) == 1


@pytest.mark.parametrize("word", [b"\0" * 64, b"x", b"\0" * 65, wire.REFUSED])
def test_only_the_enclave_can_say_that_a_session_has_ended(
    asker: Make, enclave: FakeEnclave, bela: FakeEnclave, word: bytes
) -> None:
    umay = asker(enclave, bela)
    umay.ask()
    end_sessions(enclave)
    enclave.script.word = word
    with pytest.raises(Unavailable, match="does not come from an enclave") as caught:
        umay.ask()
    assert caught.value.may_have_run == 1 and not bela.script.seen


def test_a_relay_that_says_so_of_a_request_that_ran(asker: Make, enclave: FakeEnclave) -> None:
    """With the enclave's word about an earlier request: it is of that one alone."""
    umay = asker(enclave)
    enclave.script.unsealed = (400, wire.SESSION_GONE, enclave.key.sign(b"an earlier one"))
    with pytest.raises(Unavailable) as caught:
        umay.ask()
    assert enclave.script.opened == 1 and caught.value.may_have_run == 1


def test_the_word_means_nothing_where_there_is_no_session(asker: Make, ada: FakeEnclave) -> None:
    ada.script.unsealed = (400, wire.SESSION_GONE, bytes(64))
    with pytest.raises(Unavailable) as caught:
        asker(ada).ask()
    assert not isinstance(caught.value, NotForUs) and ada.script.opened == 1
