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

import functools
from dataclasses import dataclass, field

from attestation import wire
from attestation.channel import bhttp
from attestation.errors import (
    NotForUs,
    SessionExpired,
    UmayError,
    Unavailable,
    VerificationError,
)
from attestation.net.error_text import redacted_url
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
UNREAD = 503
"""One of these: an enclave says it also where it did not look whether it runs the question already,
because requests came too fast."""


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


@dataclass
class _Question:
    """One question, and what has come of it: `avoid` names boots, and places by their base;
    `full` is the newest answer of a machine that did not take it."""

    request: bhttp.Request
    model: str | None
    patience: Patience
    max_price: Price | None
    count: Count = field(default_factory=Count)
    avoid: set[str] = field(default_factory=set)
    full: Reading | None = None
    failure: UmayError | None = None

    @functools.cached_property
    def key(self) -> bytes | None:
        return wire.read_idempotency_key(self.request.headers)

    def pass_over(self, machine: str, failure: UmayError) -> None:
        self.failure = failure
        self.avoid.add(machine)

    def left(self, full: Reading | None) -> None:
        """`full` stands from now on, and the one before it is nobody's."""
        if self.full is not None:
            self.full.close()
        self.full = full

    def best(self) -> Reading:
        """Where no machine takes it: what the last one said. Raises what failed."""
        if self.full is not None:
            return self.full
        raise self.failure or Unavailable("expected an enclave that answers, got none")


class Asker:
    """Seals to what `chooser` chooses. `pq` is the policy's floor; `keep` whether whole contents
    are kept for disclosure; `on_end` hears of each answer that ended, with the error that ended
    it."""

    def __init__(
        self,
        chooser: Chooser,
        *,
        pq: str,
        keep: bool = False,
        on_end: Ended = lambda reading, error: None,
    ) -> None:
        self._chooser, self._pq, self._keep, self._on_end = chooser, pq, keep, on_end
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
        question = _Question(request, model, patience, max_price)
        told = f"no answer within {patience.whole:g} s"
        try:
            reading = yield from within(patience.whole, self._ask(question), told=told)
        except UmayError as error:
            error.may_have_run = question.count.ran
            raise
        reading.asked, reading.may_have_run = question.count.asked, question.count.ran
        return reading

    def _ask(self, question: _Question) -> Work[Reading]:
        try:
            for _ in range(MAX_ENCLAVES_TRIED):
                before = self._sent.of(question.key)
                try:
                    chosen = yield from self._chosen(before, question)
                except (Unavailable, VerificationError) as error:
                    question.failure = question.failure or error
                    break
                reading = yield from self._asked(chosen, question, again=before is not None)
                if reading is not None:
                    return reading
        except BaseException:
            question.left(None)
            raise
        return question.best()

    def _chosen(self, before: Chosen | None, question: _Question) -> Work[Chosen]:
        """The machine that may have run this already, while it verifies; else any that does."""
        if before is not None and self._chooser.holds(before):
            return before
        seconds = question.patience.choose
        told = f"no machine was verified within {seconds:g} s"
        work = (
            self._chooser.choose(question.model, avoid=question.avoid)
            if before is None
            else self._chooser.refresh(before)
        )
        return (yield from within(seconds, work, told=told))

    def _asked(self, chosen: Chosen, question: _Question, *, again: bool) -> Work[Reading | None]:
        """Its answer; None where another machine may be asked. `again`: this one may have run the
        question before."""
        if dear := too_dear(chosen.enclave.price_table, question.max_price):
            question.pass_over(chosen.place.boot, question.failure or dear)
            return None
        try:
            reading = yield from self._send(chosen, question)
        except (Unavailable, VerificationError) as error:
            if again or question.count.ran:
                raise
            question.pass_over(chosen.place.base, error)
            return None
        if reading is None:
            return None
        taken = reading.status not in NOT_TAKEN or (again and reading.status == UNREAD)
        question.left(None if taken else reading)
        if taken:
            return reading
        question.count.ran -= 1
        self._chooser.full(chosen, reading.retry_after)
        question.avoid.add(chosen.place.boot)
        return None if self._sent.forget(question.key) else reading

    def _send(self, chosen: Chosen, question: _Question) -> Work[Reading | None]:
        try:
            return (yield from self._exchange(chosen, question))
        except SessionExpired:
            fresh = yield from self._chooser.refresh(chosen)
        except NotForUs:
            self._chooser.leave(chosen)  # its keys may have changed: it is verified anew
            raise
        return (yield from self._exchange(fresh, question))

    def _exchange(self, chosen: Chosen, question: _Question) -> Work[Reading | None]:
        """None where a request under the same key went to another machine meanwhile."""
        exchange = self._sealed(chosen, question)
        if not self._sent.keep(question.key, chosen):
            return None
        use = self._chooser.use(chosen)

        def ended(reading: Reading, error: UmayError | None) -> None:
            use.over()
            if error is not None:
                self._chooser.leave(chosen)
            self._on_end(reading, error)

        arrived = True
        try:
            url = f"{chosen.place.base}ohttp"
            work = _opened(exchange, url, question, ended)
            told = f"{redacted_url(url)}: no answer in time"
            reading = yield from within(question.patience.head, work, told=told)
        except BaseException as error:
            use.over()
            if isinstance(error, Unavailable):
                self._chooser.leave_place(chosen, reached=error.sent)
                arrived = error.sent
            elif isinstance(error, SessionExpired):
                arrived = False
            raise
        finally:
            self._sent.over(question.key, arrived=arrived)
        use.began()
        return reading

    def _sealed(self, chosen: Chosen, question: _Question) -> SealedExchange:
        before = self._sent.of(question.key)
        try:
            return SealedExchange(
                chosen.enclave,
                question.request,
                pq=self._pq,
                now=self._chooser.finder.now(),
                earlier=(before.enclave,) if before is not None else (),
                keep=self._keep,
            )
        except VerificationError:
            self._chooser.leave(chosen)
            raise


def _opened(exchange: SealedExchange, url: str, question: _Question, ended: Ended) -> Work[Reading]:
    count, patience = question.count, question.patience
    count.asked += 1
    headers = wire.sealed_headers(exchange.media_type)
    try:
        answer = yield Open(url, exchange.body, headers, patience.connect)
    except Unavailable as error:
        count.ran += error.sent
        raise
    count.ran += 1
    shown = redacted_url(url)
    reading = Reading(exchange, answer, url=shown, idle=patience.idle, on_end=ended)
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
