"""Measures the CPU seconds that a new interpreter spends before a program's first private byte.

`imports-client` is `from client_sdk import Client`; `imports-first-byte` is every module that a
first prompt loads until its sealed request leaves, to a TDX machine with a GPU; a test compares
them with those of a real prompt. `imports-python` is the interpreter alone, which is in both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

RUNS = 9
CLIENT = "from client_sdk import Client"
FIRST_BYTE = """
from client_sdk import connect, Client, Policy, Answer, errors
import attestation.net.causes
import attestation.net.connections
import attestation.nvidia.firmware
import attestation.nvidia.ocsp
import attestation.nvidia.rim
import attestation.platforms.tdx.cpu
import attestation.trust.policy_file
import contracts.endpoint
import client_sdk.answer
import client_sdk.asking
import client_sdk.config
import client_sdk.driver
import client_sdk.floors
"""
FIGURES = {"imports-python": "", "imports-client": CLIENT, "imports-first-byte": FIRST_BYTE}


def run() -> Iterator[dict[str, Any]]:
    for name, statement in FIGURES.items():
        seconds = statistics.median(cpu_seconds(statement) for _ in range(RUNS))
        yield {"bench": name, "value": round(seconds, 3), "unit": "s", "n": RUNS}


def cpu_seconds(statement: str, *, python: str = sys.executable, cwd: str | None = None) -> float:
    """Of a new interpreter that executes this one statement."""
    code = f"{statement}\nimport time\nprint(time.process_time())"
    words = [python, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=cwd)
    return float(done.stdout)
