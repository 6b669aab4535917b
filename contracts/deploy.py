"""Put a contract on a chain, AttestationLog first of all.

Invariant: the address is computed from the committed code and the genesis before anything
is sent, so whoever knows origin, key, genesis size and root can compute it too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pytoniq_core import Cell

from attestation.errors import Unavailable
from contracts import artefact
from contracts.chain import AccountState, Chain
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
    put(chain, wallet, NAME, genesis.to_cell(), endowment=endowment, timeout=timeout)
    decode(chain.account(planned.address))
    return planned


def put(
    chain: Chain,
    wallet: Wallet,
    name: str,
    data: Cell,
    *,
    endowment: int = ENDOWMENT,
    timeout: float = 60,
) -> tuple[str, bytes]:
    """Deploy a committed contract on this data unless it stands there; (address, code hash).

    Raises UsageError for a poor wallet, Unavailable after `timeout` seconds.
    """
    built = artefact.load(name)
    init = state_init(built.code, data)
    address = address_of(init)
    if chain.account(address).state != "active":
        wallet.transfer(address, endowment, state_init=init, bounce=False)
    _wait_active(chain, address, timeout)
    return address, built.code_hash


def _wait_active(chain: Chain, address: str, timeout: float) -> AccountState:
    until = time.monotonic() + timeout
    while (account := chain.account(address)).state != "active":
        if time.monotonic() > until:
            raise Unavailable(f"{address}: expected an active contract within {timeout} s")
        time.sleep(POLL_SECONDS)
    return account
