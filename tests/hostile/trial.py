"""One trial: a hostile relay in one process, a client in another, and what both saw."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import IO, Any

from tests.helpers.places import ROOT
from tests.helpers.waiting import HANG_S


def trial(face: str, first: int, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the client and what the relay tell at the end."""
    words = [sys.executable, "-m", "tests.hostile.relay"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as relay:
        try:
            assert relay.stdout and relay.stdin
            told = relay.stdout.readline()
            done = subprocess.run(
                [sys.executable, "-m", "tests.hostile.asking", face, str(first), str(count)],
                input=told,
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=HANG_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-4000:]
            return json.loads(done.stdout), _settled(relay.stdin, relay.stdout)
        finally:
            relay.kill()


def _settled(commands: IO[str], answers: IO[str]) -> dict[str, Any]:
    """What the relay saw, once the connections have ended that it still plays on."""
    until = time.monotonic() + HANG_S
    while True:
        commands.write("\n")
        commands.flush()
        seen = json.loads(answers.readline())
        if not seen["connections"] or time.monotonic() > until:
            return dict(seen)
        time.sleep(0.5)
