"""Questions that are asked again under their key: where they go, and what comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attestation import wire
from attestation.errors import NotForUs, Truncated, Unavailable, UsageError
from client_sdk.asking import Asker
from client_sdk.choosing import Chooser
from client_sdk.effects import Work
from client_sdk.finding import Chosen, Finder, Offer, Relays
from client_sdk.presented import Place
from client_sdk.sent import SentTo
from tests.client_sdk.test_client_session import BODY
from tests.client_sdk.test_sealed_transport import Api, AsyncApi
from tests.enclave.test_guest_runs import renewed
from tests.helpers.fake_enclave import (
    POLICY,
    REFUSED,
    FakeAsyncClient,
    FakeClient,
    FakeEnclave,
    NoChain,
)
from tests.helpers.guest_room import CHAT, MODEL, Room, Script, room, stream

KEY = "a-key-of-one-question"


def keys(enclave: FakeEnclave) -> list[bytes | None]:
    return [wire.read_idempotency_key(request.headers) for request in enclave.script.seen]


def lose_answer(client: FakeClient, enclave: FakeEnclave) -> None:
    """The question under KEY runs at this enclave, and its answer is cut."""
    enclave.script.fault = "connection cut"
    with pytest.raises(Truncated):
        client.chat(BODY, idempotency_key=KEY).read()


def test_each_question_has_a_key_of_its_own(ada: FakeEnclave) -> None:
    with FakeClient([ada]) as client:
        for _ in range(2):
            client.chat(BODY).read()
    first, second = keys(ada)
    assert first and second and first != second


def test_what_has_no_content_has_no_key(ada: FakeEnclave) -> None:
    with FakeClient([ada]) as client:
        client.request("GET", wire.MODELS).read()
    assert keys(ada) == [None]


def test_the_same_question_goes_to_the_machine_that_may_have_run_it(
    ada: FakeEnclave, bela: FakeEnclave
) -> None:
    with FakeClient([ada, bela]) as client:
        lose_answer(client, ada)
        client.chat(BODY).read()
        assert len(bela.script.seen) == 1, "another question goes to another machine"
        ada.script.fault = ""
        assert client.chat(BODY, idempotency_key=KEY).read()
    assert keys(ada) == [KEY.encode()] * 2 and len(bela.script.seen) == 1


def test_it_goes_nowhere_else_when_that_machine_is_gone(
    ada: FakeEnclave, bela: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    exchange = Asker._exchange

    def counted(asker: Asker, chosen: Chosen, *rest: Any) -> Any:
        tried.append(chosen.place.boot)
        return exchange(asker, chosen, *rest)

    monkeypatch.setattr(Asker, "_exchange", counted)
    with FakeClient([ada, bela]) as client:
        lose_answer(client, ada)
        ada.close()
        for _ in range(2):
            with pytest.raises(Unavailable):
                client.chat(BODY, idempotency_key=KEY)
        assert tried == ["aa" * 16] * 3 and not bela.script.seen
        assert client.chat(BODY).read(), "another question does"


def test_it_goes_elsewhere_once_that_machine_has_said_that_it_did_not_take_it(
    ada: FakeEnclave, bela: FakeEnclave
) -> None:
    ada.script.status, ada.script.fault = 429, "no receipt"
    with FakeClient([ada, bela]) as client:
        for _ in range(2):
            assert client.chat(BODY, idempotency_key=KEY).status == 200
    assert keys(ada) == [KEY.encode()] and keys(bela) == [KEY.encode()] * 2


def test_it_stays_where_it_may_run_while_that_machine_does_not_look(
    ada: FakeEnclave, bela: FakeEnclave
) -> None:
    """A machine to which requests come too fast says 503 before it looks what it runs."""
    with FakeClient([ada, bela]) as client:
        lose_answer(client, ada)
        ada.script.status, ada.script.fault = 503, "no receipt"
        again = client.chat(BODY, idempotency_key=KEY)
        assert again.status == 503 and again.may_have_run == 1
        assert not bela.script.seen


def test_what_was_not_sent_goes_elsewhere(ada: FakeEnclave, bela: FakeEnclave) -> None:
    ada.close()
    with FakeClient([ada, bela]) as client:
        for _ in range(2):
            assert client.chat(BODY, idempotency_key=KEY).read()
    assert keys(bela) == [KEY.encode()] * 2


def test_a_refusal_outside_the_seal_proves_nothing(ada: FakeEnclave, bela: FakeEnclave) -> None:
    """Anybody between could have said it, after the enclave ran the question."""
    ada.script.unsealed = REFUSED
    with FakeClient([ada, bela]) as client:
        with pytest.raises(NotForUs):
            client.chat(BODY, idempotency_key=KEY)
        ada.script.unsealed = None
        assert client.chat(BODY, idempotency_key=KEY).read()
    assert keys(ada) == [KEY.encode()] and not bela.script.seen


@pytest.mark.parametrize(
    "key", ["", "short", "x" * 65, "a key with some spaces", "schlüssel-schlüssel"]
)
def test_a_key_of_another_form_is_refused_before_anything_is_sent(
    ada: FakeEnclave, key: str
) -> None:
    with FakeClient([ada]) as client, pytest.raises(UsageError, match="16 to 64 visible ASCII"):
        client.chat(BODY, idempotency_key=key)
    assert not ada.script.opened


def test_a_key_that_is_no_text_is_refused(ada: FakeEnclave) -> None:
    wrong: Any = KEY.encode()
    with FakeClient([ada]) as client, pytest.raises(UsageError, match="idempotency_key"):
        client.chat(BODY, idempotency_key=wrong)


def test_asyncio_does_the_same(ada: FakeEnclave) -> None:
    async def ask() -> None:
        async with FakeAsyncClient([ada]) as client:
            for ask in (client.chat(BODY, idempotency_key=KEY),
                        client.request("POST", wire.CHAT, b"{}", idempotency_key=KEY)):  # fmt: skip
                async with await ask as answer:
                    await answer.read()

    asyncio.run(ask())
    assert keys(ada) == [KEY.encode()] * 2


@pytest.mark.parametrize("kind", [Api, AsyncApi])
def test_the_openai_package_passes_a_key_on(ada: FakeEnclave, kind: Callable[..., Any]) -> None:
    api = kind([ada])
    api.stream(extra_headers={"Idempotency-Key": KEY})
    api.close()
    assert keys(ada) == [KEY.encode()]


def at(boot: str) -> Chosen:
    return Chosen(Place(boot, "", "ready"), None)  # type: ignore[arg-type]


def test_the_memory_of_keys_is_bounded() -> None:
    sent, one = SentTo(size=2), at("a")
    assert all(sent.keep(key, one) for key in (b"1", b"2", b"2", b"3", None))
    assert [sent.of(key) is one for key in (b"1", b"2", b"3", None)] == [False, True, True, False]
    for key in (b"1", None):
        sent.over(key, arrived=True)
        assert sent.forget(key)


def test_a_key_stays_with_its_machine_until_nothing_may_have_run_there() -> None:
    sent, key = SentTo(), b"1"
    assert sent.keep(key, at("a")) and sent.keep(key, at("a"))
    assert not sent.keep(key, at("b")), "another machine would run it again"
    sent.over(key, arrived=False)
    assert not sent.forget(key), "the other request is still on its way"
    sent.over(key, arrived=False)
    assert sent.of(key) is None and sent.keep(key, at("b"))
    sent.over(key, arrived=True)
    assert not sent.keep(key, at("a"))
    assert sent.forget(key) and sent.of(key) is None


# With a real guest


class RoomFinder(Finder):
    """Finds one Room, and verifies nothing."""

    def __init__(self, guest: Room) -> None:
        super().__init__(Relays(()), policy=POLICY, chain=NoChain(), clock=time.time)
        self._guest = guest
        self._place = Place(guest.boot, guest.base, "ready")

    def anchor(self) -> Work[Any]:
        yield from ()

    def offers(self) -> Work[list[Offer]]:
        yield from ()
        return [Offer((self._place,), 0)]

    def verified(self, place: Place, anchor: Any) -> Work[Chosen]:
        yield from ()
        return Chosen(place, self._guest.verified)


@pytest.fixture
def guest() -> Iterator[Room]:
    with room() as opened:
        yield opened


def client_of(guest: Room) -> FakeClient:
    client = FakeClient([])
    client.policy = dataclasses.replace(client.policy, models=((MODEL, b"\x44" * 32),))
    client._use(Chooser(RoomFinder(guest)))
    return client


def test_a_question_asked_twice_runs_once_and_has_one_receipt(guest: Room) -> None:
    with client_of(guest) as client:
        answers = [client.chat(CHAT, idempotency_key=KEY) for _ in range(2)]
        contents = [json.loads(answer.read()) for answer in answers]
    assert contents[0] == contents[1] and len(guest.engine.asked) == 1
    assert answers[0].receipt is not None and answers[0].receipt == answers[1].receipt


def test_after_a_cut_the_rest_is_had_by_asking_again(guest: Room) -> None:
    guest.engine.script = Script(pieces=["word "] * 100, pause=0.01)
    with client_of(guest) as client:
        first = client.chat(stream(), idempotency_key=KEY)
        next(first.stream())
        again = client.chat(stream(), idempotency_key=KEY)
        first.close()
        assert again.text() == "word " * 100
    assert len(guest.engine.asked) == 1


def test_after_the_keys_have_changed_the_first_receipt_still_holds(
    guest: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(guest) as client:
        first = client.chat(CHAT, idempotency_key=KEY)
        first.read()
        before = guest.verified.evidence_digest
        renewed(guest)
        monkeypatch.setattr(type(client._chooser), "holds", lambda self, chosen: False)
        second = client.chat(CHAT, idempotency_key=KEY)
        second.read()
    assert second.enclave.evidence_digest != before
    assert first.receipt is not None and second.receipt == first.receipt
    assert len(guest.engine.asked) == 1


def test_the_machine_is_verified_anew_when_its_verification_ended(
    ada: FakeEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeClient([ada]) as client:
        client.chat(BODY, idempotency_key=KEY).read()
        monkeypatch.setattr(type(client._chooser), "holds", lambda self, chosen: False)
        client.chat(BODY, idempotency_key=KEY).read()
    assert client.verifications == ["aa" * 16] * 2
