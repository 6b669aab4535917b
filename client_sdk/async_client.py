"""AsyncClient: the client for asyncio, over the same core as `Client`.

    from client_sdk import connect_async

    async with connect_async() as umay:
        answer = await umay.chat("Good evening.")
        async for text in answer.stream():
            print(text, end="", flush=True)
        print(answer.receipt)

It needs the extra `openai`, for httpx. A task that is cancelled leaves nothing behind: its
connection ends, and the enclave stops.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from attestation.trust.policy import Policy
from client_sdk.answer import AnswerHead
from client_sdk.face import TIMEOUT_SECONDS, ClientFace, located

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from attestation.trust.anchor import Anchor
    from attestation.verify.verdict import Report
    from attestation.verify.verifier import Presented
    from client_sdk.asking import Patience
    from client_sdk.async_driver import AsyncDriver
    from client_sdk.async_transport import AsyncTransport
    from client_sdk.effects import Work
    from client_sdk.finding import Chosen, Directory
    from client_sdk.presented import Place
    from client_sdk.reading import Reading
    from contracts.chain import ReadOnlyChain


def connect_async(
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
) -> AsyncClient:
    """An AsyncClient of the network that `directory` names, as `connect` does it.

        from client_sdk import connect_async

        async def ask() -> None:
            async with connect_async() as umay:
                print(await (await umay.chat("Good evening.")).text())

    Raises UsageError for what is missing or wrong.
    """
    where = located(directory, url=url, network_file=network_file, policy=policy, chain=chain)
    return AsyncClient(
        **where, pacing=pacing, timeout=timeout, max_price=max_price, keep_answers=keep_answers
    )


class AsyncAnswer(AnswerHead):
    """The inner HTTP response of one exchange, for asyncio. Use it once, or `close` it.

        answer = await umay.chat({"model": "umay-demo", "messages": messages, "stream": True})
        async for text in answer.stream():
            print(text, end="", flush=True)
        print(answer.status, answer.receipt)

    Its methods raise as those of `Answer` do.
    """

    def __init__(self, reading: Reading, driver: AsyncDriver) -> None:
        super().__init__(reading)
        self._driver = driver

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Content as it arrives."""
        while (piece := await self._driver.run(self._reading.piece())) is not None:
            yield piece

    async def read(self) -> bytes:
        """All of the content."""
        return await self._driver.run(self._reading.read())

    async def text(self) -> str:
        """What the model said: the whole message of a chat completion, streamed or not."""
        return await self._driver.run(self._reading.text())

    async def stream(self) -> AsyncIterator[str]:
        """The same, piece by piece as it arrives; an answer that does not stream is one piece."""
        while (texts := await self._driver.run(self._reading.texts())) is not None:
            for text in texts:
                yield text

    async def json(self) -> Any:
        """The content as JSON."""
        return await self._driver.run(self._reading.json())

    async def raise_for_status(self) -> None:
        """Raises Unavailable or UsageError unless the status is 200."""
        await self._driver.run(self._reading.raise_for_status())

    async def aclose(self) -> None:
        """Stop reading; the enclave notices and stops too. Returns when the connection has
        ended."""
        self.close()
        await self._driver.transport.settle()


class AsyncClient(ClientFace):
    """Serves the tasks of one event loop; one verification at a time, shared by all of them.

        import asyncio
        from client_sdk import AsyncClient, Policy
        from contracts.chain import ToncenterV2

        async def ask() -> None:
            policy = Policy.from_toml(open("policy.toml", "rb").read())
            chain = ToncenterV2("https://toncenter.example/api/v2")
            async with AsyncClient("https://relay.example", policy=policy, chain=chain) as umay:
                print(await (await umay.chat("Good evening.")).text())

        asyncio.run(ask())

    The arguments are those of `Client`. Reads of the chain and verifications run in threads.
    """

    _name = "AsyncClient"

    def __init__(
        self,
        url: str | Sequence[str] | Directory,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        transport: AsyncTransport | None = None,
        clock: Callable[[], float] = time.time,
        pacing: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        max_price: tuple[float, float] | None = None,
        on_verified: Callable[[Chosen], None] = lambda chosen: None,
        network: Path | None = None,
        floors: Path | None = None,
        keep_answers: bool = False,
    ) -> None:
        from client_sdk.async_driver import AsyncDriver
        from client_sdk.async_transport import AsyncTransport

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
        self._transport = transport or AsyncTransport(read_seconds=timeout)
        self._owns_transport = transport is None
        self._driver = AsyncDriver(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections; no request is possible afterwards. Close an answer that is
        still being read, too."""
        self._closed = True
        await self._driver.close()
        if self._owns_transport:
            await self._transport.close()

    # Verification

    async def places(self) -> tuple[Place, ...]:
        """What the relay or agent lists. Raises Unavailable or ParseError."""
        return await self._driver.run(self._chooser.finder.places(), self._limit())

    async def anchor(self) -> Anchor:
        """The log's anchor, read now from the chain. Raises Unavailable or ParseError."""
        return await self._driver.run(self._chooser.finder.anchor(), self._limit())

    async def present(self, place: Place, anchor: Anchor) -> Presented:
        """What the host presents for a verification against this anchor."""
        return await self._driver.run(self._chooser.finder.present(place, anchor), self._limit())

    async def verify(self, place: Place | None = None) -> Report:
        """As `Client.verify`."""
        return await self._driver.run(self._chooser.report(place), self._limit())

    async def examine(self, place: Place) -> Report:
        """Every step's result for one guest, whatever failed; never a key."""
        return await self._driver.run(self._chooser.finder.examine(place), self._limit())

    async def choose(self, model: str | None = None) -> Chosen:
        """The guest that a question about this model would go to."""
        return await self._driver.run(self._chooser.choose(model), self._limit())

    # Requests

    async def chat(
        self,
        body: str | Mapping[str, Any],
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncAnswer:
        """One chat completion, as `Client.chat`."""
        return await self._answer(self._chat_work(body, timeout, idempotency_key))

    async def request(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
        max_price: tuple[float, float] | None = None,
    ) -> AsyncAnswer:
        """One HTTP request inside the channel, as `Client.request`."""
        patience = self._patience(timeout)
        return await self._answer(
            self._request_work(method, path, content, patience, idempotency_key, max_price)
        )

    async def ask(
        self,
        method: str,
        path: str,
        content: bytes,
        patience: Patience,
        idempotency_key: str | None = None,
    ) -> AsyncAnswer:
        """The same with a time for each part of it."""
        return await self._answer(
            self._request_work(method, path, content, patience, idempotency_key)
        )

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        """An asynchronous `openai` client that seals in this process. `options` are its own, such
        as max_retries. Needs the package openai and the extra openai."""
        from client_sdk.openai_transport import async_openai_client

        return async_openai_client(self, **options)

    async def _answer(self, work: Work[Reading]) -> AsyncAnswer:
        return AsyncAnswer(await self._driver.run(work), self._driver)
