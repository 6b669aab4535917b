"""From an account on the chain to an Anchor.

Invariant: the Anchor holds the strictly decoded data of the account and the hash of the
account's own code. Whether this is the right contract is decided by the policy.
"""

from __future__ import annotations

from attestation.errors import ParseError, Unavailable
from attestation.trust.anchor import Anchor
from contracts.chain import AccountState, ReadOnlyChain, raw_address
from contracts.codec import LogState, cell_from_boc


def read_anchor(chain: ReadOnlyChain, *, network: str, address: str) -> Anchor:
    """Read the AttestationLog at `address`, which may have any spelling.

    The Anchor holds the raw form of the address, and `network` as given. Raises UsageError for a
    malformed address, Unavailable if there is no active contract, ParseError if its data is not
    that of an AttestationLog.
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
        raise Unavailable(
            f"{account.address}: expected an active AttestationLog contract, got an account in "
            "state "
            f"{account.state}; check the address, or deploy the contract (umay net deploy)"
        )
    if not account.code or not account.data:
        raise ParseError(
            f"{account.address}: expected a contract with code and data, got "
            f"{len(account.code)} bytes of code and {len(account.data)} bytes of data"
        )
    code_hash: bytes = cell_from_boc(account.code).hash
    return LogState.from_boc(account.data), code_hash
