"""From an account on the chain to an Anchor, and a log's small answers.

Invariant: the Anchor holds what the account's data says, decoded strictly, under the hash
of the account's own code; whether that contract is the right one is the policy's matter.
"""

from __future__ import annotations

import json

from attestation.errors import NotAuthentic, ParseError, Refused, Unavailable
from attestation.log.submission import Logged
from attestation.net.again import MAY_CHANGE
from attestation.net.http import Http
from attestation.net.timing import Deadlines
from attestation.net.told import printable
from attestation.trust.anchor import Anchor
from contracts import artefact
from contracts.chain import AccountState, ReadOnlyChain, raw_address
from contracts.codec import LogState, cell_from_boc
from contracts.registry import RegistryState

MAX_ANSWER = 64 * 1024  # bytes from a log
HTTP_SECONDS = 10.0
"""For one answer of a log as a whole."""

REFUSAL = ("step", "code", "message")


def read_anchor(chain: ReadOnlyChain, *, network: str, address: str) -> Anchor:
    """Read the AttestationLog at `address`, in any spelling; the Anchor has its one form, and
    repeats the network as given.

    Raises UsageError for what is no address, Unavailable where there is no such contract,
    ParseError where its data is not that of an AttestationLog.
    """
    account = chain.account(raw_address(address))
    state, code_hash = decode(account)
    return Anchor(
        network=network,
        address=raw_address(address),
        code_hash=code_hash,
        origin=state.origin,
        log_key=state.log_key,
        sequence=state.sequence,
        size=state.size,
        root=state.root,
        time=state.time,
        forked=state.forked,
        read_at=account.read_at,
        level=account.level,
    )


def decode(account: AccountState) -> tuple[LogState, bytes]:
    """Storage and code hash of an active account. Raises Unavailable or ParseError."""
    if account.state != "active":
        raise Unavailable(f"{account.address}: expected an active contract, got {account.state}")
    if not account.code or not account.data:
        raise ParseError(f"{account.address}: expected code and data, got none")
    code_hash: bytes = cell_from_boc(account.code).hash
    return LogState.from_boc(account.data), code_hash


def read_registry(chain: ReadOnlyChain, *, address: str) -> tuple[RegistryState, int]:
    """The Registry at `address`, in any spelling, and the Unix second at which it was read.

    Raises UsageError for what is no address, Unavailable where there is none, NotAuthentic
    where other code stands there, ParseError for data that is not its own.
    """
    account = chain.account(raw_address(address))
    if account.state != "active":
        raise Unavailable(f"{address}: expected an active contract, got {account.state}")
    expected = artefact.load("registry").code_hash
    if not account.code or (got := cell_from_boc(account.code).hash) != expected:
        found = got.hex() if account.code else "none"
        text = f"{address}: expected the code {expected.hex()}, got {found}"
        raise NotAuthentic("registry", "other-code", text)
    return RegistryState.from_boc(account.data), account.read_at


def fetch_checkpoint(log_url: str) -> bytes:
    """A log's present checkpoint, unverified. Raises Unavailable."""
    return fetch(f"{log_url.rstrip('/')}/checkpoint")


def submit(url: str, body: bytes) -> Logged:
    """What a log answers to a submission. Raises Refused with its reason, Unavailable, or
    ParseError for an answer that is none."""
    with _http() as http:
        answer = http.ask("POST", url, body, limit=MAX_ANSWER)
    if answer.status == 200:
        return Logged.from_bytes(answer.good())
    try:
        refusal = json.loads(answer.body)["error"]
        step, code, text = (printable(str(refusal[key]), 300) for key in REFUSAL)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise answer.refusal() from None
    if answer.status in MAY_CHANGE:
        raise Unavailable(f"{answer.url}: {text}", again=True)
    raise Refused(step, code, text)


def fetch(url: str) -> bytes:
    """One small answer of a log. Raises NotThere or Unavailable."""
    with _http() as http:
        return http.get(url, limit=MAX_ANSWER).body


def _http() -> Http:
    return Http(Deadlines(whole=HTTP_SECONDS))
