"""Sessions: one quote of the machine for all clients that ask within 50 ms.

A quote takes the machine tens of milliseconds, so clients share it: each gets a fresh key, and
the path from it to the root that is quoted (docs/spec/formats.md). The first who asks is served
at once. Where 256 wait already, the next is told so, and nothing is made for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from attestation.channel.suite import KEMS
from attestation.errors import ParseError, SessionBusy, Unavailable
from attestation.formats.evidence import fresh_session
from attestation.formats.session import (
    MAX_SESSIONS_PER_QUOTE,
    SessionAnswer,
    SessionRequest,
    session_leaf,
)
from attestation.log.merkle import Tree
from attestation.platforms.tdx.quote import parse_quote
from enclave.guest.epochs import Epoch, Epochs
from enclave.guest.platforms.tsm import Platform

QUOTE_SECONDS = 0.05
"""From the beginning of one quote to that of the next."""


@dataclass(frozen=True)
class _Waiting:
    request: SessionRequest
    answer: asyncio.Future[bytes] = field(repr=False)


class Sessions:
    """Makes the sessions of one boot. Belongs to one event loop."""

    def __init__(self, epochs: Epochs, platform: Platform) -> None:
        self._epochs, self._platform = epochs, platform
        self._waiting: list[_Waiting] = []
        self._serving: asyncio.Task[None] | None = None

    async def open(self, request: SessionRequest) -> bytes:
        """The SessionAnswer for one client, as bytes.

        Raises ParseError for another KEM, SessionBusy where there is no room for one more,
        Unavailable where there is no current epoch or no quote.
        """
        if request.kem_id not in KEMS:
            raise ParseError(f"session: expected KEM 0x0020 or 0x647a, got {request.kem_id:#06x}")
        if len(self._waiting) >= MAX_SESSIONS_PER_QUOTE:
            raise SessionBusy("session: too many clients ask for one; ask again in a second")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(request, loop.create_future())
        self._waiting.append(waiting)
        if self._serving is None:
            self._serving = loop.create_task(self._serve())
        return await waiting.answer

    async def _serve(self) -> None:
        """Quotes until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                next_quote = loop.time() + QUOTE_SECONDS
                batch, self._waiting = self._waiting, []
                await self._answer([one for one in batch if not one.answer.done()])
                await asyncio.sleep(next_quote - loop.time())
        finally:
            self._serving = None

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        try:
            requests = [one.request for one in batch]
            results: Sequence[object] = await asyncio.to_thread(self._quoted, requests)
        except Exception as error:
            results = [error] * len(batch)
        for one, result in zip(batch, results, strict=True):
            _settle(one.answer, result)

    def _quoted(self, requests: Sequence[SessionRequest]) -> list[object]:
        """An answer or a SessionBusy for each, in order. Raises Unavailable, or SessionBusy where
        what room there was is gone."""
        epoch = self._epochs.current
        if epoch is None:
            raise Unavailable("session: expected an epoch that is anchored, there is none yet")
        configs, keys = [], self._epochs.ring.sessions
        try:
            for request in requests[: keys.room]:
                configs.append(keys.open(request.kem_id, epoch.keys.guard))
            answers = self._proved(requests[: len(configs)], configs, epoch)
        except BaseException:
            keys.forget(configs)
            raise
        busy = SessionBusy("session: every one is in use or was given just now; ask again")
        return [*answers, *[busy] * (len(requests) - len(answers))]

    def _proved(
        self, requests: Sequence[SessionRequest], configs: Sequence[bytes], epoch: Epoch
    ) -> list[SessionAnswer]:
        if not configs:
            return []
        tree, size = Tree(), len(configs)
        for request, config in zip(requests, configs, strict=True):
            tree.append(session_leaf(request.nonce, config))
        half = parse_quote(epoch.quote).report_data[:32]
        quote = self._platform.quote(half + fresh_session(tree.root())).quote
        return [
            SessionAnswer(quote, config, tuple(tree.inclusion(index, size)), index, size)
            for index, config in enumerate(configs)
        ]


def _settle(answer: asyncio.Future[bytes], result: object) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):  # its client has gone
        if isinstance(result, SessionAnswer):
            answer.set_result(result.to_bytes())
        elif isinstance(result, Exception):
            answer.set_exception(result)
