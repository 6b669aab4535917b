"""Deploy a contract on a chain, above all AttestationLog.

Invariant: the address is computed from the committed code and the genesis before anything
is sent, so everybody who knows origin, key, genesis size and root can compute it too.
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
class DeployedLog:
    """The values that a policy pins: raw address, code hash (32 bytes), and the genesis."""

    address: str
    code_hash: bytes
    genesis: LogState


def plan(genesis: LogState) -> DeployedLog:
    """Address and code hash of the contract with this genesis. Raises ParseError for a stale
    build."""
    built = artefact.load(NAME)
    init = state_init(built.code, genesis.to_cell())
    return DeployedLog(address_of(init), built.code_hash, genesis)


def deploy(
    chain: Chain,
    wallet: Wallet,
    genesis: LogState,
    *,
    endowment: int = ENDOWMENT,
    timeout: float = 60,
) -> DeployedLog:
    """Deploy the contract unless it is active already; return when it can be read.

    `endowment` in nano stays on the contract for rent. Raises UsageError if the wallet has too
    few coins, Unavailable after `timeout` seconds.
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
    """Deploy a committed contract with this data unless it is active already.

    Returns its raw address and its code hash (32 bytes). Raises UsageError if the wallet has too
    few coins, Unavailable after `timeout` seconds.
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
            raise Unavailable(
                f"{address}: expected an active contract within {timeout} s, got an account in "
                "state "
                f"{account.state}; run the command again to look once more"
            )
        time.sleep(POLL_SECONDS)
    return account
