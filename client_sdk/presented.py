"""Fetches what hosts present: listings, evidence, configs, proofs. All of it is unverified.

`places_at`, `price_of` and `presented_at` are parts of the client's core (client_sdk/effects.py);
`fetch_places` and `fetch_presented` do the same with a Transport, for those who need no client.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from attestation import wire
from attestation.channel.kem import X_WING_ID
from attestation.channel.key_config import KeyConfig, choose
from attestation.errors import (
    NotThere,
    ParseError,
    Refused,
    SessionBusy,
    Unavailable,
    UsageError,
)
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import MAX_EVIDENCE_BYTES, Evidence
from attestation.formats.keys import KeyBundle
from attestation.formats.session import SessionRequest
from attestation.net.error_text import redacted_url
from attestation.net.url import checked_url
from attestation.verify.verifier import OpenedSession, Presented
from client_sdk.driver import Driver
from client_sdk.effects import Work, fetch
from client_sdk.transport import MAX_ANSWER, Transport, check_url


@dataclass(frozen=True)
class Place:
    """Where one guest's boot is reached: `base` is a URL that ends in a slash."""

    boot: str
    base: str
    state: str

    @property
    def relay(self) -> str:
        """The URL of the relay or agent that it is reached through."""
        return self.base.removesuffix(wire.base(self.boot))

    @property
    def keys(self) -> tuple[str, str, str]:
        """What may fail of it: the boot, the way to it, the relay."""
        return self.boot, self.base, self.relay


def fetch_places(transport: Transport, url: str) -> tuple[Place, ...]:
    """What `places_at` finds."""
    return Driver(transport).run(places_at(url))


def fetch_presented(
    transport: Transport,
    place: Place,
    *,
    size: int,
    nonce: bytes | None = None,
    pq: str = "preferred",
) -> Presented:
    """What `presented_at` finds."""
    return Driver(transport).run(presented_at(place, size=size, nonce=nonce, pq=pq))


def places_at(url: str) -> Work[tuple[Place, ...]]:
    """The guests that a relay's or agent's /umay/ lists, in its order.

    A URL that names one guest, …/umay/<boot id>, lists just that. Raises Unavailable or
    ParseError, UsageError for another URL.
    """
    root, _, tail = f"{check_url(url)}/".partition(wire.LISTING)
    root = root.rstrip("/")
    if tail:
        return (_named(root, tail.rstrip("/")),)
    listing = yield from _listing(root)
    try:
        boots = json.loads(listing)["boots"]
        if isinstance(boots, list) and any(isinstance(item, str) for item in boots):
            raise ParseError(
                f"{redacted_url(root)}: expected the URL of an agent or relay, got a guest's own"
            )
        # The base is made here: a listing must not send the client anywhere else.
        return tuple(_place(root, item) for item in boots[: wire.MAX_LISTED])
    except (ValueError, KeyError, TypeError, RecursionError):
        where = f"{redacted_url(root)}{wire.LISTING}"
        text = 'expected JSON {"boots": [{"boot", "state", …}]}'
        raise ParseError(f"{where}: {text}") from None


def _listing(root: str) -> Work[bytes]:
    try:
        return (yield from fetch(root + wire.LISTING, limit=wire.MAX_LISTING_BYTES))
    except NotThere:
        raise NotThere(
            f"{redacted_url(root)}: no relay or agent stands at this URL, since it has no "
            f"{wire.LISTING}; `umay up` prints the relay's address"
        ) from None


def _named(root: str, boot: str) -> Place:
    try:
        return _place(root, {"boot": boot, "state": "unknown"})
    except ParseError:
        text = f"expected {root}{wire.LISTING}BOOT with 32 lower-case hex digits, got {boot!r}"
        raise UsageError(text) from None


def _place(root: str, listed: dict[str, object]) -> Place:
    boot = wire.read_boot_id(listed["boot"], where="listing")
    return Place(boot, root + wire.base(boot), str(listed["state"]))


def price_of(place: Place) -> Work[bytes]:
    """The price table that a host claims to have. Raises Unavailable."""
    return (yield from fetch(f"{place.base}config/price", limit=wire.MAX_CONFIG_BYTES))


def presented_at(place: Place, *, size: int, nonce: bytes | None, pq: str) -> Work[Presented]:
    """All that a verification needs of this guest; the proof to the anchored `size`.

    `nonce` (32 bytes) asks for a session too, of the KEM that the policy's `pq` takes among
    those of the Evidence. Raises Unavailable (SessionBusy where the guest has no room for one)
    or ParseError.
    """
    base = place.base
    evidence = yield from fetch(f"{base}evidence", limit=MAX_EVIDENCE_BYTES)
    engine = yield from fetch(f"{base}config/engine", limit=wire.MAX_CONFIG_BYTES)
    price = yield from price_of(place)
    host = yield from fetch(f"{base}config/host", limit=wire.MAX_CONFIG_BYTES)
    collateral = yield from fetch(f"{base}collateral", limit=MAX_ANSWER)
    proof = yield from _proof(base, size)
    parsed = Collateral.from_bytes(collateral)
    session = None
    if nonce is not None:  # last, because an unused one lives for two minutes
        session = yield from _session(base, session_asked(evidence, nonce=nonce, pq=pq))
    return Presented(evidence, engine, price, host, parsed, proof, session)


def session_asked(evidence: bytes, *, nonce: bytes, pq: str) -> SessionRequest:
    """What to ask for: the session's key must be of the KEM that a request will be sealed with.
    For Evidence that offers none the verification says what is wrong, not this."""
    try:
        bundle = KeyBundle.from_bytes(Evidence.from_bytes(evidence).bundle)
        _, suite = choose([KeyConfig.from_bytes(data) for data in bundle.key_configs], pq=pq)
    except (ParseError, Refused):
        return SessionRequest(nonce, X_WING_ID)
    return SessionRequest(nonce, suite.kem_id)


def _proof(base: str, size: int) -> Work[bytes | None]:
    """None where the host has no proof to this size: the verifier decides what that means."""
    try:
        return (yield from fetch(f"{base}proof?size={size}", limit=wire.MAX_PROOF_BYTES))
    except Unavailable:
        return None


def _session(base: str, asked: SessionRequest) -> Work[OpenedSession]:
    url = f"{base}session"
    try:
        answer = yield from fetch(url, limit=wire.MAX_SESSION_BYTES, body=asked.to_bytes())
    except Unavailable as error:
        if error.status != 429:
            raise
        text = f"{redacted_url(url)}: too many clients ask this enclave for a session now"
        raise SessionBusy(text, again=True, retry_after=error.retry_after) from None
    return OpenedSession(answer, asked.nonce)


def host_of(url: str) -> str:
    """host:port, for people: never a name and password that stand before it."""
    return checked_url(url).netloc.rpartition("@")[2]
