"""Fetches what hosts present: listings, evidence, configs, proofs. All of it is unverified."""

from __future__ import annotations

import json
from dataclasses import dataclass

from attestation import wire
from attestation.errors import NotThere, ParseError, Unavailable, UsageError
from attestation.formats import cbor
from attestation.formats.collateral import Collateral
from attestation.formats.evidence import MAX_EVIDENCE_BYTES
from attestation.net.error_text import redacted_url
from attestation.net.url import checked_url
from attestation.verify.verifier import Challenge, Presented
from client_sdk.transport import Transport, check_url


@dataclass(frozen=True)
class Place:
    """Where one guest's boot is reached: `base` is a URL that ends in a slash."""

    boot: str
    base: str
    state: str


def fetch_places(transport: Transport, url: str) -> tuple[Place, ...]:
    """The guests that a relay's or agent's /umay/ lists, in its order.

    A URL that names one guest, …/umay/<boot id>, lists just that. Raises Unavailable or
    ParseError, UsageError for another URL.
    """
    root, _, tail = f"{check_url(url)}/".partition(wire.LISTING)
    root = root.rstrip("/")
    if tail:
        return (_named(root, tail.rstrip("/")),)
    listing = _listing(transport, root)
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


def _listing(transport: Transport, root: str) -> bytes:
    try:
        return transport.get(root + wire.LISTING, limit=wire.MAX_LISTING_BYTES)
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


def fetch_presented(
    transport: Transport, place: Place, *, size: int, nonce: bytes | None = None
) -> Presented:
    """All that a verification needs of this guest; the proof to the anchored `size`.

    `nonce` (32 bytes) asks for a challenge too. Raises Unavailable or ParseError.
    """
    base = place.base
    return Presented(
        evidence=transport.get(f"{base}evidence", limit=MAX_EVIDENCE_BYTES),
        engine_config=transport.get(f"{base}config/engine", limit=wire.MAX_CONFIG_BYTES),
        price_table=transport.get(f"{base}config/price", limit=wire.MAX_CONFIG_BYTES),
        host_config=transport.get(f"{base}config/host", limit=wire.MAX_CONFIG_BYTES),
        collateral=Collateral.from_bytes(transport.get(f"{base}collateral")),
        proof=_proof(transport, base, size),
        challenge=_challenge(transport, base, nonce) if nonce is not None else None,
    )


def _proof(transport: Transport, base: str, size: int) -> bytes | None:
    """None where the host has no proof to this size: the verifier decides what that means."""
    try:
        return transport.get(f"{base}proof?size={size}", limit=wire.MAX_PROOF_BYTES)
    except Unavailable:
        return None


def _challenge(transport: Transport, base: str, nonce: bytes) -> Challenge:
    body = transport.post(f"{base}challenge", nonce, limit=wire.MAX_CHALLENGE_BYTES)
    answer = cbor.decode_map(body, required=frozenset({0}), limit=wire.MAX_CHALLENGE_BYTES)
    if type(answer[0]) is not bytes:
        raise ParseError(f"{redacted_url(base)}challenge: expected a quote as CBOR bytes")
    return Challenge(answer[0], nonce)


def host_of(url: str) -> str:
    """host:port, for people: never a name and password that stand before it."""
    return checked_url(url).netloc.rpartition("@")[2]
