"""Put an AttestationLog on a chain.

Invariant: the address is computed from the committed code and the genesis before anything
is sent, so whoever knows origin, key, genesis size and root can compute it too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from attestation.errors import Unavailable
from contracts import artefact
from contracts.chain import Chain
from contracts.codec import LogState, state_init
from contracts.reader import decode
from contracts.wallet import POLL_SECONDS, Wallet, address_of

NAME = "attestation_log"
ENDOWMENT = 200_000_000  # nano: rent for years, before anybody anchors


@dataclass(frozen=True)
class Deployed:
    """What a policy pins: raw address, code hash (32 bytes), and the genesis."""

    address: str
    code_hash: bytes
    genesis: LogState


def plan(genesis: LogState) -> Deployed:
    """Where the contract of this genesis stands. Raises ParseError for a stale build."""
    built = artefact.load(NAME)
    init = state_init(built.code, genesis.to_cell())
    return Deployed(address_of(init), built.code_hash, genesis)


def deploy(
    chain: Chain,
    wallet: Wallet,
    genesis: LogState,
    *,
    endowment: int = ENDOWMENT,
    timeout: float = 60,
) -> Deployed:
    """Deploy unless it stands there already; returns when it can be read.

    `endowment` in nano stays on the contract for rent. Raises UsageError for a poor
    wallet, Unavailable after `timeout` seconds.
    """
    planned = plan(genesis)
    if chain.account(planned.address).state != "active":
        init = state_init(artefact.load(NAME).code, genesis.to_cell())
        wallet.transfer(planned.address, endowment, state_init=init, bounce=False)
    _wait_active(chain, planned.address, timeout)
    return planned


def _wait_active(chain: Chain, address: str, timeout: float) -> None:
    until = time.monotonic() + timeout
    while (account := chain.account(address)).state != "active":
        if time.monotonic() > until:
            raise Unavailable(f"{address}: expected an active contract within {timeout} s")
        time.sleep(POLL_SECONDS)
    decode(account)
