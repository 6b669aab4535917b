"""The committed gas table: what each named message costs, to the unit.

`UMAY_RECORD_GAS=1 make test` writes it anew after a change that was meant.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

PATH = Path(__file__).parent / "vectors" / "gas.json"


def table(contract: str) -> dict[str, int]:
    found: dict[str, dict[str, int]] = json.loads(PATH.read_text())
    return found.get(contract, {})


def check(contract: str, name: str, gas: int) -> None:
    """The message costs what is written; written anew where that was asked for."""
    if os.environ.get("UMAY_RECORD_GAS"):
        whole = json.loads(PATH.read_text())
        whole.setdefault(contract, {})[name] = gas
        PATH.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    assert table(contract).get(name) == gas, f"{contract}, {name}: {gas} gas"
