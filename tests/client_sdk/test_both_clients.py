"""One core under two drivers: what Client does AsyncClient does, with threads and with asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from attestation import wire
from attestation.errors import (
    NotAuthentic,
    NotForUs,
    Replayed,
    TooDear,
    Truncated,
    UmayError,
    Unavailable,
    UsageError,
)
from attestation.verify.verdict import _MINT
from client_sdk.choosing import Chooser
from client_sdk.effects import Work
from client_sdk.finding import Chosen, Finder, Relays
from client_sdk.machines import Machine, Use
from tests.client_sdk.test_client_session import BODY, NOT_THE_ENCLAVE
from tests.helpers.fake_enclave import (
    DONE,
    PIECES,
    POLICY,
    REFUSED,
    FakeAsyncClient,
    FakeClient,
    FakeEnclave,
    NoChain,
)
from tests.helpers.raw_server import Forwarder, answer, head_of, serving

WHOLE = {"choices": [{"message": {"content": "Good evening to you."}}]}


class Asked:
    """What came of one question, by whichever client."""

    def __init__(self, answer: Any, content: bytes) -> None:
        self.content, self.receipt, self.status = content, answer.receipt, answer.status
        self.asked, self.may_have_run, self.id = answer.asked, answer.may_have_run, answer.id


class Threads:
    """Questions to Client."""

    def __init__(self, enclaves: list[FakeEnclave], **options: Any) -> None:
        self.client = FakeClient(enclaves, **options)

    def ask(self, body: Any = BODY, **options: Any) -> Asked:
        with self.client.chat(body, **options) as answer:
            return Asked(answer, answer.read())

    def request(self, **options: Any) -> Any:
        return self.client.request("POST", wire.CHAT, b"{}", **options)

    def text(self, body: Any) -> str:
        return self.client.chat(body).text()

    def stream(self, body: Any) -> list[str]:
        return list(self.client.chat(body).stream())

    def many(self, count: int) -> list[Asked]:
        results: list[Asked] = []
        threads = [
            threading.Thread(target=lambda: results.append(self.ask())) for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def leave_early(self) -> None:
        with self.client.chat(BODY) as answer:
            next(iter(answer))

    def close(self) -> None:
        self.client.close()


class Tasks:
    """The same questions to AsyncClient, each in the one loop that is its own."""

    def __init__(self, enclaves: list[FakeEnclave], **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.client = FakeAsyncClient(enclaves, **options)

    def ask(self, body: Any = BODY, **options: Any) -> Asked:
        return self._runner.run(self._ask(body, **options))

    async def _ask(self, body: Any = BODY, **options: Any) -> Asked:
        async with await self.client.chat(body, **options) as answer:
            return Asked(answer, await answer.read())

    def request(self, **options: Any) -> Any:
        return self._runner.run(self.client.request("POST", wire.CHAT, b"{}", **options))

    def text(self, body: Any) -> str:
        async def text() -> str:
            return await (await self.client.chat(body)).text()

        return self._runner.run(text())

    def stream(self, body: Any) -> list[str]:
        async def stream() -> list[str]:
            return [text async for text in (await self.client.chat(body)).stream()]

        return self._runner.run(stream())

    def many(self, count: int) -> list[Asked]:
        async def many() -> list[Asked]:
            return await asyncio.gather(*(self._ask() for _ in range(count)))

        return self._runner.run(many())

    def leave_early(self) -> None:
        async def leave() -> None:
            async with await self.client.chat(BODY) as answer:
                async for _ in answer:
                    break

        self._runner.run(leave())

    def close(self) -> None:
        self._runner.run(self.client.close())
        self._runner.close()


Asker = Threads | Tasks
Make = Callable[..., Asker]


@pytest.fixture(params=[Threads, Tasks])
def asker(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Asker] = []

    def make(*enclaves: FakeEnclave, **options: Any) -> Asker:
        made.append(request.param(list(enclaves), **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_an_answer_is_whole_and_its_receipt_is_in_the_book(asker: Make, ada: FakeEnclave) -> None:
    umay = asker(ada)
    asked = umay.ask()
    assert asked.content == b"".join([*PIECES, DONE])
    assert (asked.status, asked.asked, asked.may_have_run) == (200, 1, 1)
    assert asked.receipt is not None and umay.client.receipts[asked.id] is asked.receipt
    assert list(umay.client.receipts) == [asked.id] and len(asked.id) == 24
    with pytest.raises(KeyError):
        umay.client.receipts["0" * 24]


def test_text_and_stream(asker: Make, ada: FakeEnclave) -> None:
    umay = asker(ada)
    assert umay.text(BODY) == "0 1 2 3 4 5 6 7 "
    assert umay.stream(BODY) == [f"{n} " for n in range(8)]
    ada.script.media_type, ada.script.pieces = "application/json", [json.dumps(WHOLE).encode()]
    assert umay.stream("x") == ["Good evening to you."] and umay.text("x")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("other key", NotAuthentic),
        ("other response", NotAuthentic),
        ("connection cut", Truncated),
        ("final chunk missing", Truncated),
    ],
)
def test_a_spoilt_answer_may_have_run_and_has_no_receipt(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave, fault: str, error: type[UmayError]
) -> None:
    umay = asker(ada, bela)
    ada.script.fault = fault
    with pytest.raises(error) as caught:
        umay.ask()
    assert caught.value.may_have_run == 1 and not umay.client.receipts
    assert len(ada.script.seen) == 1 and not bela.script.seen
    assert umay.ask().receipt is not None and len(bela.script.seen) == 1


@pytest.mark.parametrize("unsealed", NOT_THE_ENCLAVE.values(), ids=NOT_THE_ENCLAVE)
def test_what_is_not_sealed_is_nobodys_word_and_nothing_is_repeated(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave, unsealed: tuple[int, str, bytes]
) -> None:
    ada.script.unsealed = unsealed
    with pytest.raises(Unavailable) as caught:
        asker(ada, bela).ask()
    assert caught.value.may_have_run == 1 == ada.script.opened and not bela.script.opened


@pytest.mark.parametrize(
    ("said", "error"),
    [(REFUSED, NotForUs), ((400, wire.PROBLEM, wire.REPLAYED), Replayed)],
)
def test_a_refusal_outside_the_seal_is_not_repeated(
    asker: Make,
    ada: FakeEnclave,
    bela: FakeEnclave,
    said: tuple[int, str, bytes],
    error: type[UmayError],
) -> None:
    ada.script.unsealed = said
    with pytest.raises(error) as caught:
        asker(ada, bela).ask()
    assert caught.value.may_have_run == 1 == ada.script.opened and not bela.script.opened


@pytest.mark.parametrize("status", [429, 503])
def test_a_machine_that_is_full_or_stopped_is_left_for_another(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave, status: int
) -> None:
    umay = asker(ada, bela)
    ada.script.status, ada.script.fault = status, "no receipt"
    asked = umay.ask()
    assert (asked.status, asked.asked, asked.may_have_run) == (200, 2, 1)
    assert len(bela.script.seen) == 1


def test_where_all_are_full_their_answer_is_given_and_their_time_is_honoured(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave
) -> None:
    umay = asker(ada, bela)
    for enclave in (ada, bela):
        enclave.script.status, enclave.script.fault = 429, "no receipt"
        enclave.script.retry_after = "300"
    asked = umay.ask()
    assert (asked.status, asked.asked, asked.may_have_run) == (429, 2, 0)
    with pytest.raises(Unavailable, match=r"every machine is full; .* asks to wait") as caught:
        umay.ask()
    assert 0 < (caught.value.retry_after or 0) <= 300 and caught.value.may_have_run == 0
    assert len(ada.script.seen) == len(bela.script.seen) == 1


def test_a_machine_that_cannot_be_reached_costs_nothing(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave
) -> None:
    ada.close()
    asked = asker(ada, bela).ask()
    assert asked.may_have_run == 1 and asked.asked == 2 and bela.script.seen


def test_of_two_relays_one_may_end_at_any_time(asker: Make, ada: FakeEnclave) -> None:
    """The machine is verified once: it is the same one, and the chain need not answer again."""
    relay = Forwarder(ada.server.server_port)
    with serving(relay) as server:
        ada.lead_through(server.url().rstrip("/"))
        umay = asker(ada)
        assert umay.ask().receipt and server.connections
        umay.client._chooser.finder.down = Unavailable("https://chain.example: no answer")
        server.close()
        relay.kill()
        for _ in range(3):
            asked = umay.ask()
            assert asked.receipt and asked.may_have_run == 1
    assert len(umay.client.verifications) == 1


def test_after_the_verification_has_ended_the_error_says_why(asker: Make, ada: FakeEnclave) -> None:
    umay = asker(ada)
    umay.ask()
    finder = umay.client._chooser.finder
    finder.down = Unavailable("https://chain.example: no answer")
    assert umay.ask().receipt
    finder._clock = lambda: ada.verified.valid_until - 1.0
    with pytest.raises(Unavailable, match=r"chain\.example") as caught:
        umay.ask()
    assert caught.value.may_have_run == 0 and len(ada.script.seen) == 2


def test_no_question_counts_as_one_at_work_once_it_has_ended(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave
) -> None:
    umay = asker(ada, bela)
    chooser = umay.client._chooser
    machines: list[Machine] = []
    use = chooser.use

    def used(chosen: Chosen) -> Use:
        made = use(chosen)
        machines.append(made._machine)
        return made

    chooser.use = used  # type: ignore[method-assign]
    ada.move("http://127.0.0.1:1")
    bela.script.unsealed = (502, "", b"")
    for script in ({}, {"unsealed": None, "fault": "connection cut"}, {"fault": ""}):
        vars(bela.script).update(script)
        with contextlib.suppress(Unavailable, Truncated):
            umay.ask()
    assert machines and {machine.busy for machine in machines} == {0}


def test_many_questions_share_one_verification(asker: Make, ada: FakeEnclave) -> None:
    umay = asker(ada)
    assert [asked.status for asked in umay.many(12)] == [200] * 12
    assert len(umay.client.verifications) == 1 and len(umay.client.receipts) == 12


def test_an_answer_that_is_left_ends_the_work(asker: Make, ada: FakeEnclave) -> None:
    ada.script.pieces, ada.script.pause = PIECES * 200, 0.02
    asker(ada).leave_early()
    assert ada.script.left.wait(60)


def test_a_closed_client_asks_nothing(asker: Make, ada: FakeEnclave) -> None:
    umay = asker(ada)
    umay.ask()
    umay.client._closed = True
    with pytest.raises(UsageError, match="closed"):
        umay.ask()


# Time


def silent(connection: socket.socket) -> None:
    head_of(connection)
    time.sleep(60)


def drips(connection: socket.socket) -> None:
    head_of(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\na: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def dripping_body(connection: socket.socket) -> None:
    """A head as an enclave gives it, and then bytes that never become a chunk."""
    head_of(connection)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: message/ohttp-chunked-res\r\n"
    connection.sendall(head + b"content-length: 99999\r\n\r\n" + b"\x3f")
    while True:
        connection.sendall(b"\x00")
        time.sleep(0.02)


@pytest.mark.parametrize("serve", [silent, drips, dripping_body])
def test_an_answer_that_does_not_begin_in_time_is_an_error_that_may_have_run(
    asker: Make, ada: FakeEnclave, serve: Callable[[socket.socket], None]
) -> None:
    with serving(serve) as server:
        ada.move(server.url().rstrip("/"))
        with pytest.raises((Unavailable, Truncated)) as caught:
            asker(ada).ask(timeout=2.0)
    assert caught.value.late and caught.value.may_have_run == 1


def test_silence_between_two_pieces_ends_the_answer(asker: Make, ada: FakeEnclave) -> None:
    ada.script.pause = 20.0
    with pytest.raises(Truncated) as caught:
        asker(ada).ask(timeout=2.0)
    assert caught.value.late


class ChainAlone(Finder):
    """Verifies what a relay presents, as everywhere; its chain answers at once."""

    def anchor(self) -> Work[Any]:
        yield from ()
        return SimpleNamespace(size=1)


@pytest.mark.parametrize("hangs", ["config/price", "evidence"])
def test_invented_boots_that_hang_end_with_the_time_of_the_question(
    asker: Make, hangs: str
) -> None:
    boots = [{"boot": f"{at:032x}", "state": "ready"} for at in range(wire.MAX_LISTED)]
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        if hangs.encode() in heads[-1]:
            time.sleep(60)
        body = json.dumps({"boots": boots} if b"/umay/ HTTP" in heads[-1] else {}).encode()
        connection.sendall(answer(body, "connection: close"))

    with serving(serve) as server:
        umay = asker()
        relays = Relays((server.url().rstrip("/"),))
        finder = ChainAlone(relays, policy=POLICY, chain=NoChain(), clock=time.time)
        umay.client._use(Chooser(finder, where="relay"))
        with pytest.raises(Unavailable) as caught:
            umay.ask(timeout=1.0)
    assert caught.value.may_have_run == 0 and caught.value.late
    assert all(head.startswith(b"GET ") for head in heads)


def test_time_is_wanted_in_seconds(asker: Make, ada: FakeEnclave) -> None:
    for wrong in (0, -1, "3", float("nan"), True):
        with pytest.raises(UsageError, match="timeout: expected"):
            asker(ada).ask(timeout=wrong)


def priced(enclave: FakeEnclave, price: tuple[int, int]) -> None:
    enclave.verified = dataclasses.replace(
        enclave.verified,
        price_table={"prompt": price[0], "completion": price[1]},
        minted_by=_MINT,
    )


def test_a_price_cap_for_one_request_takes_another_machine(
    asker: Make, ada: FakeEnclave, bela: FakeEnclave
) -> None:
    priced(ada, (1, 20))
    priced(bela, (4, 2))
    umay = asker(ada, bela)
    umay.request(max_price=(4, 2))
    assert (ada.script.opened, bela.script.opened) == (0, 1)


@pytest.mark.parametrize("cap", [(0, 2), (1, 1)])
def test_a_price_above_the_cap_is_refused_before_sealing(
    asker: Make, ada: FakeEnclave, cap: tuple[int, int]
) -> None:
    umay = asker(ada)
    said = rf"at most {cap[0]} nano coins per prompt token and {cap[1]} per completion.*got 1 and 2"
    with pytest.raises(TooDear, match=said) as caught:
        umay.request(max_price=cap)
    assert (caught.value.code, caught.value.may_have_run) == ("too-dear", 0)
    assert ada.script.opened == 0
    with pytest.raises(UsageError, match="max_price"):
        umay.request(max_price="5")


def test_kept_machines_are_told_without_asking(asker: Make, ada: FakeEnclave) -> None:
    umay = asker(ada)
    assert umay.client.machines() == []
    umay.ask()
    assert [chosen.place.boot for chosen in umay.client.machines()] == ["aa" * 16]
    assert umay.client.verifications == ["aa" * 16]
