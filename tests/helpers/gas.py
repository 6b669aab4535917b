"""The committed gas table: what each named message costs, to the unit.

`UMAY_RECORD_GAS=1 make test` writes it anew after a change that was meant.
"""

from __future__ import annotations

import json
import os

from contracts.chain import AccountState
from contracts.codec import cell_from_boc
from tests.helpers.places import VECTORS

PATH = VECTORS / "gas.json"


def table(contract: str) -> dict[str, int]:
    found: dict[str, dict[str, int]] = json.loads(PATH.read_text())
    return found.get(contract, {})


def check(contract: str, name: str, gas: int, *, within: int = 0) -> None:
    """The message costs what is written; written anew where that was asked for.

    `within` is for messages whose random signatures are now and then a byte shorter.
    """
    if os.environ.get("UMAY_RECORD_GAS"):
        whole = json.loads(PATH.read_text())
        whole.setdefault(contract, {})[name] = gas
        PATH.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    assert abs(table(contract)[name] - gas) <= within, f"{contract}, {name}: {gas} gas"


def occupied(account: AccountState) -> tuple[int, int]:
    """Bits and cells that it pays rent for: code, data, each cell once, and its own frame."""
    seen: dict[bytes, int] = {}
    waiting = [cell_from_boc(account.code), cell_from_boc(account.data)]
    while waiting:
        cell = waiting.pop()
        seen[cell.hash] = len(cell.bits)
        waiting += cell.refs
    return sum(seen.values()) + 400, len(seen) + 1
