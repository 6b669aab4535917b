"""From an account on the chain to an Anchor.

Invariant: the Anchor holds what the account's data says, decoded strictly, under the hash
of the account's own code; whether that contract is the right one is the policy's matter.
"""

from __future__ import annotations

from attestation.errors import ParseError, Unavailable
from attestation.trust.anchor import Anchor
from contracts.chain import AccountState, ReadOnlyChain, raw_address
from contracts.codec import LogState, cell_from_boc


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
