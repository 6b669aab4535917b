"""Which enclave a client talks to: up to three per model, verified, and kept warm.

- A search is done once for all who wait for it; no lock is held over I/O.
- Without a price cap the cheapest machine is taken. With one, two machines of those below it
  are drawn, and the one that is quicker and has less to do is taken.
- A machine that failed is left alone for a while and taken again only where nothing else
  passes. One that is full is not asked before the time that it named.
- Before a verification ends the machine is verified anew, beside the requests, once at a time.
  Where that fails, the old verification serves until its end.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from attestation.errors import ParseError, SessionBusy, UmayError, Unavailable, VerificationError
from attestation.net.error_text import redacted_url
from attestation.trust.anchor import Anchor
from attestation.verify.verdict import Report
from client_sdk.effects import Spawn, Work, fetch, wait, within
from client_sdk.finding import Chosen, Finder, Offer
from client_sdk.machines import Machine, Use
from client_sdk.presented import Place
from client_sdk.pricing import Price, price_of_table, weighed

WARM = 3
"""Machines of one model that are kept verified: one to use, one to fail over to, one spare."""

REST_SECONDS = 20.0
"""How long an enclave that failed is left alone; a later choice may take it again."""

FULL_SECONDS = 1.0
"""The same for one that is full and names no time."""

LONGEST_FULL_SECONDS = 600.0
"""Nobody keeps a machine out of use for longer by a Retry-After."""

ATTEMPT_SECONDS = 15.0
"""For one machine of a search, so that one that hangs does not take the time of all others."""

MAX_KNOWN = 1024
"""Boots, places and relays that failed; beyond that those whose time has passed are forgotten."""

MARGIN_SECONDS = 5
"""A verification that would end sooner than this is renewed before sealing."""

AGEING_SECONDS = 120
"""A verification that ends sooner than this is renewed beside the requests."""

IDLE_SECONDS = 15.0
"""A machine that gave no answer for longer is asked first, in the clear, whether it is there: a
question that goes to one that has ended may not be repeated."""

HEALTH_SECONDS = 3.0
"""For that answer."""

MAX_HEALTH_BYTES = 1024

UPKEEP_SECONDS = 30.0
"""Between two rounds of upkeep: what fails is not tried at every request."""


class Chooser:
    """Chooses among what `finder` finds. Serves many threads or tasks.

    `where` begins the error when nothing is found. `max_price`: the nano coins per prompt token
    and per completion token that are accepted; None sets no bound and takes the cheapest.
    """

    def __init__(
        self,
        finder: Finder,
        *,
        where: str = "",
        max_price: Price | None = None,
        on_verified: Callable[[Chosen], None] = lambda chosen: None,
    ) -> None:
        self.finder, self._where = finder, where
        self._max_price, self._on_verified = max_price, on_verified
        self._lock = threading.Lock()
        self._warm: dict[str, Machine] = {}
        self._resting: dict[str, float] = {}
        self._full: dict[str, float] = {}
        self._search: Future[None] | None = None
        self._models: set[str | None] = set()
        self._next_upkeep = 0.0
        self._kept = False

    def choose(self, model: str | None = None, *, avoid: Iterable[str] = ()) -> Work[Chosen]:
        """A guest that passes every step, verified now or not long ago. `model` is a name of the
        policy, None takes any; `avoid` names boots, and places by their base.

        Raises VerificationError of the cheapest refused one, or Unavailable.
        """
        shunned = frozenset(avoid)
        while True:
            with self._lock:
                found = self._pick(model, shunned)
                others = self._search
                if found is None and others is None:
                    mine = self._search = Future()
            if found is not None:
                chosen = yield from self._taken(found, model, shunned)
                if (yield from self._is_there(found, chosen)):
                    return chosen
                continue
            if others is not None:
                yield from wait(others)
                continue
            return (yield from self._searched(mine, model, shunned))

    def holds(self, chosen: Chosen) -> bool:
        """Whether its verification lasts long enough to seal to it."""
        return self.finder.now() + MARGIN_SECONDS < chosen.enclave.valid_until

    def report(self, place: Place | None) -> Work[Report]:
        """Of one guest, verified now, or of what is chosen. Raises as `choose`."""
        if place is None:
            return (yield from self.choose()).enclave.report
        anchor = yield from self.finder.anchor()
        return (yield from self.finder.verified(place, anchor)).enclave.report

    def warm(self) -> list[Chosen]:
        """What is verified and holds, without asking anybody."""
        with self._lock:
            return [m.chosen for m in self._warm.values() if self._holds(m)]

    def refresh(self, chosen: Chosen) -> Work[Chosen]:
        """The same guest verified anew: its keys may have changed."""
        anchor = yield from self.finder.anchor()
        fresh = yield from self.finder.verified(chosen.place, anchor)
        with self._lock:
            known = self._warm.get(chosen.place.boot)
            if known is not None:
                known.chosen = fresh
        return fresh

    def leave(self, chosen: Chosen) -> None:
        """Forget a machine that failed, and prefer others for a while."""
        self._rest(chosen.place.boot)
        with self._lock:
            self._warm.pop(chosen.place.boot, None)

    def leave_place(self, chosen: Chosen, *, reached: bool) -> None:
        """No enclave answered at this place, or its relay was not even `reached`: prefer another
        way to the same machine for a while."""
        place = chosen.place
        self._rest(place.base if reached else place.relay)
        with self._lock:
            machine = self._warm.get(place.boot)
            if machine is not None and all(map(self._rests, machine.places)):
                del self._warm[place.boot]

    def full(self, chosen: Chosen, seconds: float | None) -> None:
        """It has no room, and asks to wait for so many seconds."""
        pause = FULL_SECONDS if seconds is None else min(seconds, LONGEST_FULL_SECONDS)
        with self._lock:
            self._full[chosen.place.boot] = time.monotonic() + pause

    def use(self, chosen: Chosen) -> Use:
        """A request goes to it."""
        with self._lock:
            return Use(self._warm.get(chosen.place.boot) or Machine(chosen, (), (0, 0)))

    # Picking; the lock is held

    def _pick(self, model: str | None, avoid: frozenset[str]) -> Machine | None:
        good = [m for m in self._warm.values() if self._serves(m, model) and self._holds(m)]
        able = [m for m in good if self._way(m, avoid) is not None]
        if self._max_price is None:
            cheapest = min((m.price for m in able), key=weighed, default=None)
            able = [m for m in able if m.price == cheapest]
        drawn = random.sample(able, min(2, len(able)))
        return min(drawn, key=lambda m: m.load, default=None)

    def _serves(self, machine: Machine, model: str | None) -> bool:
        return model is None or machine.model == model

    def _holds(self, machine: Machine) -> bool:
        return self.holds(machine.chosen)

    def _way(self, machine: Machine, avoid: frozenset[str]) -> Place | None:
        """A place to reach it at, unless it is full or failed."""
        boot = machine.chosen.place.boot
        if boot in avoid or self._is_full(boot):
            return None
        ways = (p for p in machine.places if p.base not in avoid and not self._rests(p))
        return next(ways, None)

    def _rests(self, place: Place) -> bool:
        now = time.monotonic()
        return max(self._resting.get(key, 0.0) for key in place.keys) > now

    def _rest(self, key: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._resting[key] = now + REST_SECONDS
            for known in (self._resting, self._full):
                if len(known) > MAX_KNOWN:
                    for old in [name for name, until in known.items() if until < now]:
                        del known[old]

    def _is_full(self, boot: str) -> bool:
        return self._full.get(boot, 0.0) > time.monotonic()

    # Searching

    def _taken(self, machine: Machine, model: str | None, avoid: frozenset[str]) -> Work[Chosen]:
        with self._lock:
            self._models.add(model)  # one that nobody has is not looked for again by itself
            place = self._way(machine, avoid) or machine.chosen.place
            chosen = machine.chosen = Chosen(place, machine.chosen.enclave)
            due = self._upkeep_is_due()
        if not machine.told:
            machine.told = True
            self._on_verified(chosen)
        if due:
            yield Spawn(self._upkeep())
        return chosen

    def _is_there(self, machine: Machine, chosen: Chosen) -> Work[bool]:
        """Whether a machine that idled still answers. Anybody can say so: it saves a question."""
        if time.monotonic() - machine.seen < IDLE_SECONDS:
            return True
        asked = fetch(f"{chosen.place.base}healthz", limit=MAX_HEALTH_BYTES)
        try:
            yield from within(HEALTH_SECONDS, asked, told="no answer in time")
        except Unavailable:
            self.leave_place(chosen, reached=True)
            return False
        machine.seen = time.monotonic()
        return True

    def _searched(
        self, ticket: Future[None], model: str | None, avoid: frozenset[str]
    ) -> Work[Chosen]:
        """Does the search for all who hold the ticket."""
        try:
            found = yield from self._first(model, avoid)
        except UmayError as error:
            self._end_search(ticket, error)
            raise
        except BaseException:
            self._end_search(ticket, None)  # it was given up: those who wait do it themselves
            raise
        self._end_search(ticket, None)
        return (yield from self._taken(found, model, avoid))

    def _end_search(self, ticket: Future[None], error: UmayError | None) -> None:
        with self._lock:
            self._search = None
        if error is None:
            ticket.set_result(None)
        else:
            ticket.set_exception(error)

    def _first(self, model: str | None, avoid: frozenset[str]) -> Work[Machine]:
        anchor = yield from self.finder.anchor()
        offers = [offer.without(avoid) for offer in (yield from self.finder.offers())]
        offers = [offer for offer in offers if offer.places]
        refusal: VerificationError | None = None
        failure: UmayError | None = None
        for offer in sorted(offers, key=lambda offer: self._rests(offer.places[0])):
            if self._is_full(offer.boot):
                continue
            try:
                url = redacted_url(offer.places[0].base)
                told = f"{url}: not verified within {ATTEMPT_SECONDS:g} s"
                work = self._verified(offer, anchor)
                machine = yield from within(ATTEMPT_SECONDS, work, told=told)
            except VerificationError as error:
                refusal = refusal or error
                continue
            except (Unavailable, ParseError) as error:
                failure = failure or error
                self._rest(offer.places[0].base)
                continue
            if self._serves(machine, model) and self._affordable(machine):
                return machine
        raise refusal or self._nothing(model, offers, failure)

    def _nothing(
        self, model: str | None, offers: list[Offer], failure: UmayError | None
    ) -> Unavailable:
        if isinstance(failure, SessionBusy):
            return failure
        now = time.monotonic()
        waits = [self._full.get(offer.boot, 0.0) - now for offer in offers]
        if pauses := [pause for pause in waits if pause > 0]:
            pause = min(pauses)
            text = f"{self._where}: every machine is full; the first one asks to wait {pause:.0f} s"
            return Unavailable(text, again=True, retry_after=pause)
        what = "an enclave that answers" if model is None else f"an enclave that runs {model}"
        if self._max_price is not None:
            what += " below the highest price that you accept"
        why = f" (the first one: {failure})" if failure else ""
        text = f"{self._where}: expected {what}, got none{why}; try again later"
        return Unavailable(text, again=True, late=getattr(failure, "late", False))

    def _verified(self, offer: Offer, anchor: Anchor) -> Work[Machine]:
        """Kept warm from then on, with the price that its quote binds."""
        places = sorted(offer.places, key=self._rests)
        chosen = yield from self.finder.verified(places[0], anchor)
        machine = Machine(chosen, tuple(places), price_of_table(chosen.enclave.price_table))
        with self._lock:
            known = self._warm.get(offer.boot)
            if known is not None:
                known.chosen, known.places = chosen, machine.places
                known.price, known.seen = machine.price, machine.seen
                return known
            if self._affordable(machine):
                self._warm[offer.boot] = machine
        return machine

    def _affordable(self, machine: Machine) -> bool:
        cap = self._max_price
        return cap is None or all(
            price <= most for price, most in zip(machine.price, cap, strict=True)
        )

    # Upkeep

    def _upkeep_is_due(self) -> bool:
        """Not at the first request: a client that asks once needs one machine."""
        if not self._kept:
            self._kept = True
            return False
        if time.monotonic() < self._next_upkeep:
            return False
        ageing = any(map(self._ages, self._warm.values()))
        if not (ageing or self._lacking()):
            return False
        self._next_upkeep = time.monotonic() + UPKEEP_SECONDS
        return True

    def _ages(self, machine: Machine) -> bool:
        return self.finder.now() + AGEING_SECONDS >= machine.chosen.enclave.valid_until

    def _lacking(self) -> bool:
        return any(self._count(model) < WARM for model in self._models)

    def _count(self, model: str | None) -> int:
        return sum(self._serves(machine, model) for machine in self._warm.values())

    def _upkeep(self) -> Work[None]:
        """Verifies anew what ages, then others until there are enough, the cheapest first."""
        anchor = yield from self.finder.anchor()
        offers = yield from self.finder.offers()
        for offer in sorted(offers, key=lambda offer: offer.boot not in self._warm):
            if self._is_wanted(offer):
                try:
                    yield from self._verified(offer, anchor)
                except (VerificationError, Unavailable, ParseError):
                    continue
        with self._lock:
            self._forget_extra()

    def _is_wanted(self, offer: Offer) -> bool:
        with self._lock:
            if known := self._warm.get(offer.boot):
                return self._ages(known)
            return self._lacking() and not self._rests(offer.places[0])

    def _forget_extra(self) -> None:
        """The dearest beyond WARM of a model, and those that no longer hold."""
        kept: dict[str, int] = {}
        for boot, machine in sorted(self._warm.items(), key=lambda item: weighed(item[1].price)):
            kept[machine.model] = kept.get(machine.model, 0) + 1
            if kept[machine.model] > WARM or not self._holds(machine):
                del self._warm[boot]
