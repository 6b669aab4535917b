"""Client: private requests to the cheapest enclave that passes every check.

    from client_sdk import connect

    with connect() as umay:
        answer = umay.chat("Good evening.")
        for text in answer.stream():    # as it arrives, once it has authenticated
            print(text, end="", flush=True)
        print(answer.receipt)           # checked; there once the last piece has come

Nothing is ever sent in the clear, and never under a weaker policy. What may have been executed is
never repeated in silence: a cut answer raises Truncated, and whoever asked must know.

This is the face for threads, `AsyncClient` that for asyncio; both run the same core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attestation.trust.policy import Policy
from client_sdk.face import TIMEOUT_SECONDS, ClientFace, located

if TYPE_CHECKING:
    from openai import OpenAI

    from attestation.trust.anchor import Anchor
    from attestation.verify.verdict import Report
    from attestation.verify.verifier import Presented
    from client_sdk.answer import Answer
    from client_sdk.asking import Patience
    from client_sdk.effects import Work
    from client_sdk.finding import Chosen, Directory
    from client_sdk.presented import Place
    from client_sdk.reading import Reading
    from client_sdk.transport import Transport
    from contracts.chain import ReadOnlyChain

__all__ = ["TIMEOUT_SECONDS", "Client", "connect"]


def connect(
    directory: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    network_file: str | os.PathLike[str] | None = None,
    policy: Policy | str | os.PathLike[str] | None = None,
    chain: ReadOnlyChain | str | None = None,
    pacing: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    max_price: tuple[float, float] | None = None,
    keep_answers: bool = False,
) -> Client:
    """A Client of the network that `directory` names: ~/.umay unless said otherwise.

        from client_sdk import connect

        with connect() as umay:
            answer = umay.chat("Good evening.")
            print(answer.text())
            print(answer.receipt)

    `umay up` writes umay.toml and policy.toml there. What is given here wins over that file:
    `url` of a relay, an agent or one guest, or a signed `network_file` that names relays; `policy`
    as a Policy or its file; `chain` as a toncenter v2 URL, "lite:CONFIG.json", or any reader of
    your own. Nothing is sent yet.
    Raises UsageError for what is missing or wrong.
    """
    where = located(directory, url=url, network_file=network_file, policy=policy, chain=chain)
    return Client(
        **where, pacing=pacing, timeout=timeout, max_price=max_price, keep_answers=keep_answers
    )


class Client(ClientFace):
    """Serves many threads; one verification at a time, shared by all of them.

        from client_sdk import Client, Policy
        from contracts.chain import ToncenterV2

        policy = Policy.from_toml(open("policy.toml", "rb").read())
        chain = ToncenterV2("https://toncenter.example/api/v2")
        with Client("https://relay.example", policy=policy, chain=chain) as umay:
            print(umay.chat("Good evening.").text())

    `url` is a relay, an agent or one guest (…/umay/<boot id>), several of them, or a Directory;
    `chain` an endpoint that the caller chose. `pacing` hides token timing ("clock", "strict") or
    not ("none"); None leaves it to the guest. `timeout` in seconds is the longest time until an
    answer begins, verification included, and the longest silence between two pieces of it.
    `max_price` in nano coins per prompt token and per completion token: without it the cheapest
    machine is asked, with it any machine below it that answers quickly. `network` is the directory
    of `umay up` that the addresses come from, for errors. `floors` is a file in which the client
    keeps what it has seen of the chain, so that nobody shows it less later; None keeps nothing.
    With `keep_answers` the receipt of an answer of any length can be disclosed; without it a longer
    answer than 1 MiB is not held in memory.
    Raises UsageError for an argument of a wrong type or value.
    """

    def __init__(
        self,
        url: str | Sequence[str] | Directory,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.time,
        pacing: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_price: tuple[float, float] | None = None,
        on_verified: Callable[[Chosen], None] = lambda chosen: None,
        network: Path | None = None,
        floors: Path | None = None,
        keep_answers: bool = False,
    ) -> None:
        from client_sdk.driver import Driver
        from client_sdk.transport import Transport

        super().__init__(
            url,
            policy=policy,
            chain=chain,
            clock=clock,
            pacing=pacing,
            timeout=timeout,
            max_price=max_price,
            on_verified=on_verified,
            network=network,
            floors=floors,
            keep_answers=keep_answers,
        )
        self._transport = transport or Transport(read_seconds=timeout)
        self._owns_transport = transport is None
        self._driver = Driver(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections; no request is possible afterwards. An answer that is still
        being read has a connection of its own: close that too."""
        self._closed = True
        self._driver.close()
        if self._owns_transport:
            self._transport.close()

    # Verification

    def places(self) -> tuple[Place, ...]:
        """What the relay or agent lists. Raises Unavailable or ParseError."""
        return self._driver.run(self._chooser.finder.places(), self._limit())

    def anchor(self) -> Anchor:
        """The log's anchor, read now from the chain. Raises Unavailable or ParseError."""
        return self._driver.run(self._chooser.finder.anchor(), self._limit())

    def present(self, place: Place, anchor: Anchor) -> Presented:
        """What the host presents for a verification against this anchor."""
        return self._driver.run(self._chooser.finder.present(place, anchor), self._limit())

    def verify(self, place: Place | None = None) -> Report:
        """Every step's result for one guest, verified now; without `place` for the one that a
        question would go to, verified now or not long ago.

        Raises VerificationError with its Report, Unavailable, ParseError.
        """
        return self._driver.run(self._chooser.report(place), self._limit())

    def examine(self, place: Place) -> Report:
        """Every step's result for one guest, whatever failed; never a key."""
        return self._driver.run(self._chooser.finder.examine(place), self._limit())

    def choose(self, model: str | None = None) -> Chosen:
        """The guest that a question about this model would go to, verified now or not long ago.

        Raises VerificationError of the cheapest refused one, or Unavailable.
        """
        return self._driver.run(self._chooser.choose(model), self._limit())

    # Requests

    def chat(
        self,
        body: str | Mapping[str, Any],
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Answer:
        """One chat completion: an OpenAI body, or just the text of a first message.

        A text goes to the model of the policy where that names exactly one. Raises
        UsageError for what is no JSON and for a model that the policy does not name, before
        anything is sent; else what `request` raises.
        """
        return self._answer(self._chat_work(body, timeout, idempotency_key))

    def request(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        max_price: tuple[float, float] | None = None,
    ) -> Answer:
        """One HTTP request inside the channel; returns when the inner head has come.

        `timeout` in seconds stands for the client's. `max_price`, in nano coins per prompt token
        and per completion token, is for this request alone: TooDear is raised, and nothing is
        sealed, where no machine's verified price table is within it. Raises VerificationError
        (nothing acceptable), Unavailable, ChannelError; `may_have_run` of the error says how often
        the request may have been executed.

        `idempotency_key`: 16 to 64 visible ASCII characters, random for each question. The same
        request under the same key goes to the machine that it was sent to before, which gives
        the same answer for ten minutes and charges once. None makes a new key.
        """
        patience = self._patience(timeout)
        return self._answer(
            self._request_work(method, path, content, patience, idempotency_key, max_price)
        )

    def ask(
        self,
        method: str,
        path: str,
        content: bytes,
        patience: Patience,
        idempotency_key: str | None = None,
    ) -> Answer:
        """The same with a time for each part of it."""
        return self._answer(self._request_work(method, path, content, patience, idempotency_key))

    def openai(self, **options: Any) -> OpenAI:
        """An `openai` client that seals in this process. `options` are its own, such as
        max_retries. Needs the package openai and the extra openai."""
        from client_sdk.openai_transport import openai_client

        return openai_client(self, **options)

    def _answer(self, work: Work[Reading]) -> Answer:
        from client_sdk.answer import Answer

        return Answer(self._driver.run(work), self._driver)
