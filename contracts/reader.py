"""From accounts on the chain to an Anchor, with the Registry at the same block.

Invariant: the Anchor holds the strictly decoded data of the account and the hash of the
account's own code. Whether this is the right contract is decided by the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from attestation.errors import ParseError, Unavailable
from attestation.trust.anchor import Anchor
from attestation.trust.registry import RegistrySnapshot, Unread
from contracts.chain import AccountState, ReadOnlyChain, raw_address
from contracts.codec import LogState, root_hash

READS = 4
"""Of each contract, until both are of one block. A masterchain block takes seconds."""


@runtime_checkable
class OneBlock(Protocol):
    """A chain that reads several accounts at one block."""

    def accounts(self, addresses: tuple[str, ...]) -> tuple[AccountState, ...]: ...


def read_anchor(
    chain: ReadOnlyChain, *, network: str, address: str, registry: str | None = None
) -> Anchor:
    """Read the AttestationLog at `address` and, at the same block, the Registry at `registry`.

    The addresses may have any spelling; the Anchor holds their raw forms, and `network` as given.
    Raises UsageError for a malformed address, Unavailable if there is no active contract,
    ParseError if its data is not that of an AttestationLog. A Registry that alone cannot be read is
    Unread in the Anchor. An endpoint that never answers of one block gives an Anchor and a Registry
    of two; the verification plan refuses those.
    """
    if registry is None:
        account, found = chain.account(raw_address(address)), None
    else:
        account, found = _at_one_block(chain, raw_address(address), raw_address(registry))
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
        seqno=account.seqno,
        registry=found,
    )


def _at_one_block(
    chain: ReadOnlyChain, address: str, registry: str
) -> tuple[AccountState, RegistrySnapshot | Unread]:
    if isinstance(chain, OneBlock):
        account, listed = chain.accounts((address, registry))
        return account, _snapshot(lambda: listed)
    account = chain.account(address)
    for _ in range(READS):
        found = _snapshot(lambda: chain.account(registry))
        if isinstance(found, Unread) or found.seqno == account.seqno:
            break
        account = chain.account(address)
        if found.seqno == account.seqno:
            break
    return account, found


def _snapshot(read: Callable[[], AccountState]) -> RegistrySnapshot | Unread:
    from contracts.registry import snapshot_of  # which a client without a Registry need not load

    try:
        return snapshot_of(read())
    except (Unavailable, ParseError) as error:
        return Unread(str(error))


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
    code_hash = root_hash(account.code)
    return LogState.from_boc(account.data), code_hash
