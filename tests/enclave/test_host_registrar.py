"""The registrar's loop outlives whatever its steps meet."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from attestation.formats.collateral import Collateral
from enclave.host.registrar import Registrar


def test_an_unexpected_error_is_told_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    stopped, steps = threading.Event(), 0
    chain: Any = object()
    registrar = Registrar(
        guest="http://127.0.0.1:1",
        log="http://127.0.0.1:1/log",
        chain=chain,
        contract="0:" + "00" * 32,
        collateral=lambda: Collateral({}),
        tell=told.append,
    )

    def fail() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            stopped.set()
        raise RuntimeError("something private")

    monkeypatch.setattr(registrar, "step", fail)
    registrar.run(stopped)
    assert steps == 3
    assert told == ["internal error RuntimeError; the agent tries again"] * 3
