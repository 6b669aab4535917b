"""Attacks on both clients: what would run a question twice, what stays behind, what is shown."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attestation import wire
from attestation.channel import bhttp, varint
from attestation.channel.chunks import ChunkedWriter
from attestation.channel.protocol import FINAL_AAD
from attestation.channel.server import ServerRequest
from attestation.errors import ChannelError, NotAuthentic, Unavailable, UsageError
from attestation.net.timing import Clock, Deadlines
from client_sdk.asking import Asker
from client_sdk.async_client import AsyncClient
from client_sdk.choosing import Chooser
from client_sdk.client import Client
from client_sdk.effects import Work
from client_sdk.finding import Chosen
from client_sdk.presented import Place
from client_sdk.sent import SentTo
from tests.client_sdk.test_both_clients import Make, asker
from tests.client_sdk.test_client_session import BODY
from tests.helpers.fake_enclave import (
    PIECES,
    POLICY,
    FakeAsyncClient,
    FakeClient,
    FakeEnclave,
    FakeFinder,
    NoChain,
)

__all__ = ["asker"]

KEY = "a-key-of-one-question"


class InOne(FakeEnclave):
    """Its whole answer, head and trailers too, stands in the final chunk."""

    def sealed(self, request: ServerRequest, message: bytes) -> list[bytes]:
        writer, encoder = request.response(), bhttp.ResponseEncoder()
        assert isinstance(writer, ChunkedWriter)
        content = b"".join(self.script.pieces)
        head = encoder.head(200, ((b"content-type", self.script.media_type.encode()),))
        whole = head + encoder.content(content)
        whole += encoder.finish(self.trailers(request, message, content))
        return [writer._take_head() + varint.encode(0) + writer._sealer.seal(whole, FINAL_AAD)]


@pytest.fixture
def in_one() -> Iterator[InOne]:
    enclave = InOne("aa" * 16)
    yield enclave
    enclave.close()


def test_an_answer_in_one_chunk_is_read(asker: Make, in_one: InOne) -> None:
    asked = asker(in_one).ask()
    assert asked.receipt and asked.content.startswith(PIECES[0])


@pytest.mark.parametrize("fault", ["no receipt", "other amount", "other evidence", "other key"])
def test_a_receipt_that_does_not_hold_is_refused_and_nobody_else_is_asked(
    asker: Make,
    in_one: InOne,
    bela: FakeEnclave,
    fault: str,
) -> None:
    """Also where it is known before the answer has begun."""
    in_one.script.fault = fault
    with pytest.raises((NotAuthentic, ChannelError), match="receipt") as caught:
        asker(in_one, bela).ask()
    assert caught.value.may_have_run == 1
    assert in_one.script.opened == 1 and not bela.script.opened


def test_one_key_at_a_time_goes_to_one_machine(ada: FakeEnclave, bela: FakeEnclave) -> None:
    """The second question under a key has chosen ada when the first one goes to bela."""
    with FakeClient([ada, bela]) as client:

        def meanwhile(chosen: Chosen) -> None:
            if chosen.place.boot == ada.chosen.place.boot:
                client._chooser.full(chosen, 60)
                client.chat(BODY, idempotency_key=KEY).read()

        finder = FakeFinder([ada, bela], [])
        client._use(Chooser(finder, where="", on_verified=meanwhile))
        client.chat(BODY, idempotency_key=KEY).read()
    assert (ada.script.opened, bela.script.opened) == (0, 2)


def test_a_machine_that_takes_another_of_the_same_key_is_not_left_for_a_third(
    ada: FakeEnclave, bela: FakeEnclave
) -> None:
    """It says that it did not take this one, but the other may yet arrive."""
    ada.script.status, ada.script.fault = 429, "no receipt"
    with FakeClient([ada, bela]) as client:
        sent: SentTo = client._asker._sent
        assert sent.keep(KEY.encode(), ada.chosen)
        assert client.chat(BODY, idempotency_key=KEY).status == 429
        assert ada.script.opened == 1
        sent.over(KEY.encode(), arrived=False)
        assert client.chat(BODY, idempotency_key=KEY).status == 200
    assert bela.script.opened == 1


def test_another_machine_is_asked_where_one_has_signed_that_nothing_ran_and_is_gone(
    asker: Make,
    ada: FakeEnclave,
    bela: FakeEnclave,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(chooser: Chooser, chosen: Chosen) -> Work[Chosen]:
        yield from ()
        raise Unavailable("no answer in time", late=True, sent=True)

    monkeypatch.setattr(Chooser, "refresh", gone)
    ada.open_session()
    umay = asker(ada, bela)
    umay.client._chooser.full(bela.chosen, 60)
    umay.ask()
    umay.client._chooser._full.clear()
    ada.ring.sessions.retire(ada.epoch.guard)
    asked = umay.ask(idempotency_key=KEY)
    assert asked.status == 200 and (asked.asked, asked.may_have_run) == (2, 1)
    assert bela.script.opened == 1


# What stays behind


def machines_at_work(client: Any) -> int:
    return sum(machine.busy for machine in client._chooser._warm.values())


def test_the_answer_of_a_full_machine_is_closed_where_the_next_one_fails(
    asker: Make,
    ada: FakeEnclave,
    bela: FakeEnclave,
) -> None:
    ada.script.status, ada.script.pause, ada.script.pieces = 429, 0.05, PIECES * 200
    bela.script.unsealed = (502, "", b"")
    umay = asker(ada, bela)
    with pytest.raises(Unavailable, match="502") as caught:
        umay.ask()
    assert caught and machines_at_work(umay.client) == 0


def test_an_answer_that_is_dropped_ends_the_work(ada: FakeEnclave) -> None:
    ada.script.pieces, ada.script.pause = PIECES * 200, 0.02
    with FakeClient([ada]) as client:
        for _ in client.chat(BODY).stream():
            break
        assert ada.script.left.wait(60) and machines_at_work(client) == 0


def test_an_answer_that_is_dropped_ends_the_work_with_asyncio_too(ada: FakeEnclave) -> None:
    ada.script.pieces, ada.script.pause = PIECES * 200, 0.02

    async def drop() -> None:
        async with FakeAsyncClient([ada]) as client:
            async for _ in (await client.chat(BODY)).stream():
                break
            await asyncio.to_thread(ada.script.left.wait, 60)
            assert ada.script.left.is_set() and machines_at_work(client) == 0

    asyncio.run(drop())


def test_an_answer_may_be_closed_from_any_thread_and_after_its_loop(ada: FakeEnclave) -> None:
    ada.script.pieces, ada.script.pause = PIECES * 200, 0.02

    async def leave() -> Any:
        client = FakeAsyncClient([ada])
        first, second = await client.chat(BODY), await client.chat(BODY)
        thread = threading.Thread(target=first.close)
        thread.start()
        await asyncio.to_thread(thread.join)
        await asyncio.to_thread(ada.script.left.wait, 60)
        assert ada.script.left.is_set() and machines_at_work(client) == 1
        await client.close()
        return second

    asyncio.run(leave(), debug=True).close()


def test_who_gives_up_a_shared_search_leaves_no_error_unheard(ada: FakeEnclave) -> None:
    told: list[Any] = []

    async def ask() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        async with FakeAsyncClient([ada]) as client:
            finder: Any = client._chooser.finder
            finder.pause, finder.down = 0.2, Unavailable("the chain is down")
            first = asyncio.create_task(client.chat(BODY))
            while client._chooser._search is None:
                await asyncio.sleep(0)
            with pytest.raises(Unavailable, match=r"within 0\.01 s"):
                await client.chat(BODY, timeout=0.01)
            with pytest.raises(Unavailable, match="chain is down"):
                await first

    asyncio.run(ask())
    gc.collect()
    assert not told


def test_a_forked_process_has_connections_of_its_own(ada: FakeEnclave) -> None:
    with FakeClient([ada]) as client:
        client.chat(BODY).read()
        made = client._transport._http._pools()
        child = os.fork()
        if not child:
            try:
                own = client._transport._http._pools() is not made
            finally:
                os._exit(0 if own else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert client._transport._http._pools() is made


def test_upkeep_beside_others_looks_at_the_machines_one_at_a_time(ada: FakeEnclave) -> None:
    """Or it would end at a dictionary that changes while it is walked."""
    with FakeClient([ada]) as client:
        chooser, held = client._chooser, list[bool]()
        lacking = chooser._lacking
        chooser._lacking = lambda: held.append(chooser._lock.locked()) or lacking()  # type: ignore
        client._driver.run(chooser._upkeep())
        assert held == [True]


def test_a_model_that_nobody_has_is_not_looked_for_by_upkeep(ada: FakeEnclave) -> None:
    with FakeClient([ada]) as client:
        with pytest.raises(Unavailable):
            client.choose("another")
        client.choose()
        assert client._chooser._models == {None}


# What is shown, and what is no argument


def test_no_message_of_the_channel_shows_its_contents() -> None:
    pair = (b"x-secret", b"umay")
    request = bhttp.Request("POST", wire.CHAT, (pair,), b"umay", (pair,))
    messages = (
        request,
        bhttp.Response(200, (pair,), b"umay", (pair,), (bhttp.Informational(103, (pair,)),)),
        bhttp.RequestHead("POST", "https", "", wire.CHAT, (pair,)),
        bhttp.ResponseHead(200, (pair,)),
        bhttp.Content(b"umay"),
        bhttp.Trailers((pair,)),
    )
    assert "umay" not in repr(messages) and "secret" not in repr(messages)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("end", ["?token=umay", "/umay/?x", "#part"])
def test_an_address_has_no_parameters(kind: Callable[..., Any], end: str) -> None:
    with pytest.raises(UsageError, match="without a user") as caught:
        kind(f"https://relay.example{end}", policy=POLICY, chain=NoChain())
    assert "token=umay" not in str(caught.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_has_no_password(kind: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="without a user") as caught:
        kind(["https://ada:wonder@relay.example"], policy=POLICY, chain=NoChain())
    assert "wonder" not in str(caught.value)


@pytest.mark.parametrize("script", [{"unsealed": (502, "", b"")}, {"pause": 30.0}])
def test_no_error_shows_the_password_of_a_place(ada: FakeEnclave, script: dict[str, Any]) -> None:
    """A Directory of one's own may name one."""
    vars(ada.script).update(script)
    place = ada.chosen.place
    base = place.base.replace("http://", "http://ada:wonder@")
    ada.chosen = Chosen(Place(place.boot, base, "ready"), ada.verified)
    with FakeClient([ada]) as client, pytest.raises((Unavailable, ChannelError)) as caught:
        client.chat(BODY, timeout=1).read()
    assert "wonder" not in str(caught.value)


@pytest.mark.parametrize("timeout", [1e10, 1e300])
def test_a_time_that_no_clock_counts_is_refused(asker: Make, timeout: float) -> None:
    umay = asker()
    with pytest.raises(UsageError, match="at most 1000000000, got"):
        umay.ask(timeout=timeout)


def test_a_socket_never_waits_for_more_milliseconds_than_it_can_count() -> None:
    """4,294,967.3 s are 4 ms to poll(2)."""
    clock = Clock(Deadlines(head=2.0**32 / 1000, whole=None))
    assert clock.left() == 10**6
    clock.begin_body()
    assert clock.left() == Deadlines().idle


def test_a_question_is_described_without_its_contents(ada: FakeEnclave) -> None:
    """Crash reporters show what local variables hold."""
    seen: list[str] = []
    original = Asker._ask

    def watched(self: Asker, question: Any) -> Any:
        seen.append(repr(question))
        return original(self, question)

    with pytest.MonkeyPatch.context() as patch, FakeClient([ada]) as client:
        patch.setattr(Asker, "_ask", watched)
        client.chat("the secret of Umay", idempotency_key=KEY).read()
    assert seen and "secret of" not in seen[0] and KEY not in seen[0]
