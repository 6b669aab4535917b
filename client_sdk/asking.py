"""One question to one enclave after the other, until one takes it: the core of both clients.

What may have been executed is never repeated unasked. Another machine is asked only where the
question did not leave whole, or where an enclave says inside the seal that it is full (429) or
has stopped (503). Everything that is said outside the seal is anybody's word, but for the end of
a session, which the enclave signs: it is verified anew, and asked once more.

A request carries an idempotency key, so that a machine that was sent it twice runs it once. A
question that its caller repeats under the same key goes to the machine that may have run it, and
to another one only after that machine has said that it did not take it.
"""

from __future__ import annotations

from dataclasses import dataclass

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import (
    NotForUs,
    SessionExpired,
    UmayError,
    Unavailable,
    VerificationError,
)
from client_sdk.choosing import Chooser
from client_sdk.effects import Open, Work, within
from client_sdk.finding import Chosen
from client_sdk.pricing import Price, too_dear
from client_sdk.reading import Ended, Reading
from client_sdk.sent import SentTo
from client_sdk.session import SealedExchange

MAX_ENCLAVES_TRIED = 8
NOT_TAKEN = (429, 503)
"""Inner statuses of an enclave that did not answer the question, and says so inside the seal."""


@dataclass(frozen=True)
class Patience:
    """Seconds. whole: until an answer begins, whatever is tried; choose: for a machine that is
    verified; connect and head: for the sealed request to one machine; idle: between two pieces
    of the answer."""

    whole: float
    choose: float
    connect: float | None
    head: float
    idle: float

    @classmethod
    def all(cls, seconds: float) -> Patience:
        """The same for each, so that an answer begins in this time or not at all."""
        return cls(seconds, seconds, None, seconds, seconds)


@dataclass
class Count:
    """Of one question: `asked` how many sealed requests were sent or begun to be, `ran` how many
    of them a machine may have executed."""

    asked: int = 0
    ran: int = 0


class Asker:
    """Seals to what `chooser` chooses. `pq` is the policy's floor; `on_end` hears of each answer
    that ended, with the error that ended it."""

    def __init__(
        self,
        chooser: Chooser,
        *,
        pq: str,
        on_end: Ended = lambda reading, error: None,
    ) -> None:
        self._chooser, self._pq, self._on_end = chooser, pq, on_end
        self._sent = SentTo()

    def ask(
        self,
        request: bhttp.Request,
        *,
        model: str | None,
        patience: Patience,
        max_price: Price | None = None,
    ) -> Work[Reading]:
        """An answer whose head is there. Raises VerificationError (nothing acceptable),
        Unavailable (TooDear where only `max_price` stood against it), ChannelError; their
        `may_have_run` says whether it may have been executed."""
        count = Count()
        told = f"no answer within {patience.whole:g} s"
        try:
            work = self._ask(request, model, patience, count, max_price)
            reading = yield from within(patience.whole, work, told=told)
        except UmayError as error:
            error.may_have_run = count.ran
            raise
        reading.asked, reading.may_have_run = count.asked, count.ran
        return reading

    def _ask(
        self,
        request: bhttp.Request,
        model: str | None,
        patience: Patience,
        count: Count,
        max_price: Price | None,
    ) -> Work[Reading]:
        full: Reading | None = None
        failure: UmayError | None = None
        avoid: set[str] = set()
        key = wire.read_idempotency_key(request.headers)
        for _ in range(MAX_ENCLAVES_TRIED):
            before = self._sent.of(key)
            try:
                chosen = yield from self._chosen(before, model, avoid, patience)
            except (Unavailable, VerificationError) as error:
                if full is not None:
                    return full
                raise failure or error from None
            if dear := too_dear(chosen.enclave.price_table, max_price):
                failure = failure or dear
                avoid.add(chosen.place.boot)
                continue
            try:
                reading = yield from self._send(chosen, request, patience, count)
            except (Unavailable, VerificationError) as error:
                if before is not None or (isinstance(error, Unavailable) and error.sent):
                    raise
                failure = error
                avoid.add(chosen.place.base)
                continue
            if full is not None:
                full.close()
            if reading.status not in NOT_TAKEN:
                return reading
            full = reading
            count.ran -= 1
            self._sent.forget(key)
            self._chooser.full(chosen, reading.retry_after)
            avoid.add(chosen.place.boot)
        if full is not None:
            return full
        raise failure or Unavailable("expected an enclave that answers, got none")

    def _chosen(
        self, before: Chosen | None, model: str | None, avoid: set[str], patience: Patience
    ) -> Work[Chosen]:
        """The machine that may have run this already, while it verifies; else any that does."""
        if before is not None and self._chooser.holds(before):
            return before
        told = f"no machine was verified within {patience.choose:g} s"
        work = (
            self._chooser.choose(model, avoid=avoid)
            if before is None
            else self._chooser.refresh(before)
        )
        return (yield from within(patience.choose, work, told=told))

    def _send(
        self, chosen: Chosen, request: bhttp.Request, patience: Patience, count: Count
    ) -> Work[Reading]:
        try:
            return (yield from self._exchange(chosen, request, patience, count))
        except SessionExpired:
            fresh = yield from self._chooser.refresh(chosen)
        except NotForUs:
            self._chooser.leave(chosen)  # its keys may have changed: it is verified anew
            raise
        return (yield from self._exchange(fresh, request, patience, count))

    def _exchange(
        self, chosen: Chosen, request: bhttp.Request, patience: Patience, count: Count
    ) -> Work[Reading]:
        key = wire.read_idempotency_key(request.headers)
        try:
            now = self._chooser.finder.now()
            before = self._sent.of(key)
            exchange = SealedExchange(
                chosen.enclave,
                request,
                pq=self._pq,
                now=now,
                earlier=(before.enclave,) if before is not None else (),
            )
        except VerificationError:
            self._chooser.leave(chosen)
            raise
        use, first = self._chooser.use(chosen), self._sent.keep(key, chosen)

        def ended(reading: Reading, error: UmayError | None) -> None:
            use.over()
            if error is not None:
                self._chooser.leave(chosen)
            self._on_end(reading, error)

        try:
            url = f"{chosen.place.base}ohttp"
            work = _opened(exchange, url, patience, ended, count)
            reading = yield from within(patience.head, work, told=f"{url}: no answer in time")
        except Unavailable as error:
            use.over()
            self._chooser.leave_place(chosen, reached=error.sent)
            if first and not error.sent:
                self._sent.forget(key)
            raise
        except BaseException:
            use.over()
            raise
        use.began()
        return reading


def _opened(
    exchange: SealedExchange, url: str, patience: Patience, ended: Ended, count: Count
) -> Work[Reading]:
    count.asked += 1
    headers = wire.sealed_headers(exchange.media_type)
    try:
        answer = yield Open(url, exchange.body, headers, patience.connect)
    except Unavailable as error:
        count.ran += error.sent
        raise
    count.ran += 1
    reading = Reading(exchange, answer, url=url, idle=patience.idle, on_end=ended)
    try:
        yield from reading.begin()
    except SessionExpired:
        count.ran -= 1  # the enclave signed that it ran nothing
        reading.close()
        raise
    except BaseException:
        reading.close()
        raise
    return reading
