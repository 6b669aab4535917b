"""Runs: one execution of a request, and everybody who listens to its one answer.

A retry repeats the request and its idempotency key. It joins the run while that lasts, and is
given the same bytes with the same receipt afterwards, so that nothing runs or is charged twice.
A run ends when nobody listens any more, and is then forgotten: a retry begins a new one. So is a
run that failed or was refused; none of these has a receipt. An answer that no engine ran for has
one, but costs nothing: it is forgotten too, so that it takes no room of those that do.

Answers stay in this process's memory only, bounded in bytes, number and time. They are found by a
hash of the key and given for a request of the same hash, so whoever asks knows both already.
Everything here runs on the event loop's thread, and what finds or begins a run does not wait.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from attestation.channel.messages import Fields
from attestation.errors import Truncated, Unavailable, UsageError
from attestation.formats.digests import domain_digest
from attestation.wire import RECEIPT_SALTS_FIELD

KEEP_S = 600.0
"""From the end of a run: as long as the keys that its request was sealed to outlive their epoch."""

MOST_KEYS = 1 << 16
"""Of runs and answers at a time. One whose answer is no longer kept takes 0.7 kB; one that is
kept, about 3.5 kB besides its content."""

MOST_BYTES = 128 << 20
"""Of all the answers that are kept."""

MOST_ANSWER_BYTES = 8 << 20
"""Of one that is kept, padding included."""


class KeyReused(UsageError):
    """The idempotency key was used before, for another request (HTTP 422)."""

    code = "idempotency-key-reused"


class AnswerGone(UsageError):
    """The request was answered whole under this key, and the answer is not kept (HTTP 410)."""

    code = "idempotency-answer-gone"


class TooManyKeys(Unavailable):
    """As many idempotency keys are remembered as may be: ask again later (HTTP 429)."""

    code = "idempotency-full"


class Source(Protocol):
    """What a run answers with. `pieces` leave as they come; reading raises what the engine does.
    `ran`: the engine took it, so that its answer is kept for retries."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Fields: ...

    @property
    def pieces(self) -> AsyncGenerator[bytes]: ...

    @property
    def ran(self) -> bool: ...

    def trailers(self, content: bytes) -> Fields:
        """Of the whole content, called once at its end: the receipt, or nothing."""

    async def aclose(self) -> None:
        """Cancels what still runs, even where not one piece was read."""


Ask = Callable[[], Awaitable[Source]]


class Run:
    """One execution. `salts` open its receipt, and are those of the exchange that began it.

    `over` is called once: when the answer is whole, has failed, or has lost its last listener.
    """

    def __init__(self, ask: Ask, salts: bytes, over: Callable[[Run], None]) -> None:
        self.status = 0
        self.headers: Fields = ()
        self.trailers: Fields = ()
        self.pieces: list[bytes] = []
        self.salts, self.listeners = salts, 0
        self.whole, self.ended, self.ran = False, False, False
        self.error: Exception | None = None
        self._over = over
        self._changed: asyncio.Event | None = None
        self._task = asyncio.create_task(self._work(ask))

    async def change(self) -> None:
        """Until there is more of the answer, or its end."""
        if self._changed is None:
            self._changed = asyncio.Event()
        await self._changed.wait()

    async def leave(self) -> None:
        """One listener less; the last one ends what still runs."""
        self.listeners -= 1
        if not self.listeners and not self.ended:
            self._end()
            if not self.whole and not self._task.cancelling():  # it would interrupt its closing
                self._task.cancel()
            await asyncio.wait({self._task})  # which, unlike gather, does not cancel it again

    def check(self) -> None:
        """Raises what ended it, unless its answer is whole."""
        if not self.whole:
            raise self.error or Truncated("answer: expected all of it, its run was stopped")

    async def _work(self, ask: Ask) -> None:
        try:
            source = await ask()
            del ask  # which holds the request
            async with contextlib.aclosing(source):
                self.status, self.headers, self.ran = source.status, source.headers, source.ran
                async for piece in source.pieces:
                    self.pieces.append(piece)
                    self._tell()
                self.trailers = source.trailers(b"".join(self.pieces))
                self.whole = True  # before it closes, which may take long or fail
        except Exception as error:
            self.error = error
        finally:
            self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._over(self)
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None


class Listener:
    """One exchange that a run answers. Close it."""

    def __init__(self, run: Run) -> None:
        run.listeners += 1
        self._run, self._closed = run, False

    @property
    def status(self) -> int:
        return self._run.status

    @property
    def headers(self) -> Fields:
        """With the salts of the receipt, in time to hash what follows. Only who came late needs
        them, and whoever watches must not see who did."""
        return (*self._run.headers, (RECEIPT_SALTS_FIELD, base64.b64encode(self._run.salts)))

    async def begin(self) -> Listener:
        """Itself, once the first piece is there. Raises what the run raised before it."""
        run = self._run
        try:
            while not run.pieces and not run.ended:
                await run.change()
            if not run.pieces:
                run.check()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The content from its beginning, as it comes. Raises what the run raised."""
        run, at = self._run, 0
        while True:
            if at < len(run.pieces):
                yield run.pieces[at]
                at += 1
                if at < len(run.pieces):
                    await asyncio.sleep(0)  # others are served while much is given at once
            elif run.ended:
                run.check()
                return
            else:
                await run.change()

    def trailers(self) -> Fields:
        """Once the content has ended."""
        return self._run.trailers

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._run.leave()


@dataclass(eq=False)
class _Known:
    """A key that was used: the hash of its request, and the run unless it is no longer kept."""

    request: bytes
    run: Run | None = None


class Runs:
    """The runs of one boot, by idempotency key. `repeated` counts the answers that needed no run
    of their own. `keep_s` may be shorter in tests."""

    def __init__(
        self,
        *,
        keep_s: float = KEEP_S,
        most: int = MOST_KEYS,
        most_bytes: int = MOST_BYTES,
        most_answer_bytes: int = MOST_ANSWER_BYTES,
    ) -> None:
        self._keep_s, self._most = keep_s, most
        self._most_bytes, self._most_answer_bytes = most_bytes, most_answer_bytes
        self._known: dict[bytes, _Known] = {}
        self._kept: dict[bytes, int] = {}  # bytes of answers by key, oldest first
        self._bytes = 0
        self._cleared = False
        self.repeated = 0

    def listen(self, key: bytes | None, request: bytes, ask: Ask, salts: bytes) -> Listener:
        """To the run of this key, begun where there is none; without a key, to a new run.

        Raises KeyReused where the key belongs to another `request` (its whole message),
        AnswerGone where the answer is no longer kept, TooManyKeys.
        """
        if key is None:
            return Listener(Run(ask, salts, lambda run: None))
        name = domain_digest("umay/idempotency-key/v1", key)
        digest = domain_digest("umay/idempotency-request/v1", request)
        known = self._known.get(name)
        if known is None:
            return self._begin(name, digest, ask, salts)
        if not hmac.compare_digest(known.request, digest):
            raise KeyReused(
                "idempotency-key: expected the request that this key was used for before, got "
                "another one; give each request a key of its own"
            )
        if known.run is None:
            raise AnswerGone(
                "idempotency-key: this request was answered before, and the answer is no longer "
                "kept; to ask again and pay again, use a new key"
            )
        self.repeated += 1
        return Listener(known.run)

    def clear(self) -> None:
        """Frees every answer, and keeps none of a run that ends later: nobody can ask any more."""
        self._cleared = True
        for name in list(self._kept):
            self._drop(name)

    def _begin(self, name: bytes, digest: bytes, ask: Ask, salts: bytes) -> Listener:
        if len(self._known) >= self._most:
            raise TooManyKeys("idempotency-key: too many keys are remembered; try again later")
        known = self._known[name] = _Known(digest)
        known.run = Run(ask, salts, lambda run: self._over(name, run))
        return Listener(known.run)

    def _over(self, name: bytes, run: Run) -> None:
        """Keeps what is whole, ran and has a receipt; forgets the rest, which costs nothing."""
        if self._cleared or not (run.whole and run.ran and run.trailers):
            del self._known[name]
            return
        size = self._kept[name] = sum(map(len, run.pieces))
        self._bytes += size
        if size > self._most_answer_bytes:
            self._drop(name)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))
        asyncio.get_running_loop().call_later(self._keep_s, self._forget, name)

    def _drop(self, name: bytes) -> None:
        """Frees an answer; its key is still known, so that it is not run again."""
        self._bytes -= self._kept.pop(name, 0)
        self._known[name].run = None

    def _forget(self, name: bytes) -> None:
        self._drop(name)
        del self._known[name]
