"""Finds enclaves and verifies them: the client's core before anything is sealed.

Nothing that a directory or a host says is believed: a directory gives places alone, and only
what passes every step of the plan is handed on. Everything here is a generator of effects.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from attestation.errors import NotAuthentic, ParseError, UmayError, Unavailable
from attestation.formats.evidence import Evidence
from attestation.formats.keys import KeyBundle
from attestation.trust.anchor import Anchor
from attestation.trust.policy import Policy
from attestation.verify.verdict import Report, VerifiedEnclave
from attestation.verify.verifier import Presented, Verifier
from client_sdk.chain_reader import ChainReader
from client_sdk.config import asking
from client_sdk.effects import Work, blocking, compute, together
from client_sdk.presented import Place, places_at, presented_at, price_of
from client_sdk.pricing import claimed_offer
from contracts.chain import ReadOnlyChain

AT_ONCE = 16
"""Requests of one search that run at the same time."""


class Directory(Protocol):
    """Says where guests are reached. Only places: nothing else of it is believed."""

    def places(self) -> Work[tuple[Place, ...]]:
        """One boot may be reached at several places. Raises Unavailable or ParseError."""


@dataclass(frozen=True)
class Relays:
    """A Directory of relays, agents or guests by their URLs: the listings of all that answer."""

    urls: tuple[str, ...]

    def places(self) -> Work[tuple[Place, ...]]:
        """Raises the first error where none of them answers."""
        answers = yield from together([places_at(url) for url in self.urls], at_once=AT_ONCE)
        found = [answer for answer in answers if not isinstance(answer, UmayError)]
        if not found:
            raise next(answer for answer in answers if isinstance(answer, UmayError))
        return tuple(dict.fromkeys(place for listed in found for place in listed))


@dataclass(frozen=True)
class Offer:
    """One boot, where it is reached, and the price that its host claims."""

    places: tuple[Place, ...]
    price: float

    @property
    def boot(self) -> str:
        return self.places[0].boot

    def without(self, avoid: frozenset[str]) -> Offer:
        """Its places whose boot and base are not in `avoid`; there may be none left."""
        left = tuple(p for p in self.places if p.boot not in avoid and p.base not in avoid)
        return Offer(left, self.price)


@dataclass(frozen=True)
class Chosen:
    """A guest that passed every step, and where it is reached."""

    place: Place
    enclave: VerifiedEnclave


class Finder:
    """Looks into `directory` and verifies under one policy. Keeps nothing but the verifier's
    memory. `network` is the directory of `umay up` that the addresses come from, for errors;
    `floors` the file of what was seen of the chain."""

    def __init__(
        self,
        directory: Directory,
        *,
        policy: Policy,
        chain: ReadOnlyChain,
        clock: Callable[[], float],
        network: Path | None = None,
        floors: Path | None = None,
    ) -> None:
        self._directory, self._policy = directory, policy
        self._reader = ChainReader(chain, policy, floors)
        self._verifier = Verifier(policy)
        self._clock = clock
        self._network = network

    def now(self) -> int:
        """Unix seconds by this client's clock."""
        return int(self._clock())

    def places(self) -> Work[tuple[Place, ...]]:
        """What the directory lists. Raises Unavailable or ParseError."""
        with asking(self._network):
            return (yield from self._directory.places())

    def anchor(self) -> Work[Anchor]:
        """The log's anchor, read now from the chain. Raises Unavailable or ParseError."""
        with asking(self._network):
            return (yield from blocking(self._reader.anchor))

    def present(self, place: Place, anchor: Anchor) -> Work[Presented]:
        """What the host presents for a verification against this anchor."""
        nonce = secrets.token_bytes(32) if self._policy.challenge == "required" else None
        return (yield from presented_at(place, size=anchor.size, nonce=nonce, pq=self._policy.pq))

    def offers(self) -> Work[list[Offer]]:
        """The boots that are listed and say a price, the cheapest first.

        The price is claimed; it is bound by the quote and compared after the verification. Raises
        the first error where boots are listed and none of them answers.
        """
        ways: dict[str, list[Place]] = {}
        for place in (yield from self.places()):
            ways.setdefault(place.boot, []).append(place)
        works = [self._offer(places) for places in ways.values()]
        answers = yield from together(works, at_once=AT_ONCE)
        offers = [answer for answer in answers if isinstance(answer, Offer)]
        if not offers:
            for error in (answer for answer in answers if isinstance(answer, UmayError)):
                raise error
        return sorted(offers, key=lambda offer: offer.price)

    def verified(self, place: Place, anchor: Anchor) -> Work[Chosen]:
        """One guest, verified now. Raises VerificationError, Unavailable, ParseError."""
        try:
            return (yield from self._verified(place, anchor))
        except NotAuthentic as error:
            if error.code != "wrong-session":
                raise
        # Its epoch may have changed between its evidence and its session.
        return (yield from self._verified(place, anchor))

    def _verified(self, place: Place, anchor: Anchor) -> Work[Chosen]:
        presented = yield from self.present(place, anchor)
        seqno = _bundle(presented).beacon[0]
        beacon = yield from blocking(partial(self._reader.beacon, seqno))
        verify = partial(self._verifier.verify, presented, anchor=anchor, beacon=beacon)
        return Chosen(place, (yield from compute(lambda: verify(now=self.now()))))

    def examine(self, place: Place) -> Work[Report]:
        """Every step's result for one guest; never a key."""
        anchor = yield from self.anchor()
        presented = yield from self.present(place, anchor)
        beacon = None
        try:
            seqno = _bundle(presented).beacon[0]
            beacon = yield from blocking(partial(self._reader.beacon, seqno))
        except (ParseError, Unavailable):
            pass  # the report says which steps could not be checked for want of it
        examine = partial(self._verifier.examine, presented, anchor=anchor, beacon=beacon)
        return (yield from compute(lambda: examine(now=self.now())))

    def _offer(self, places: Sequence[Place]) -> Work[Offer]:
        """From the first place that answers; those that do not come last."""
        for at, place in enumerate(places):
            try:
                price = claimed_offer((yield from price_of(place)))
            except Unavailable:
                if at + 1 == len(places):
                    raise
            else:
                return Offer((*places[at:], *places[:at]), price)
        raise AssertionError("every boot has a place")


def _bundle(presented: Presented) -> KeyBundle:
    return KeyBundle.from_bytes(Evidence.from_bytes(presented.evidence).bundle)
