"""One trial: a hostile relay in one process, a client in another, and what both saw."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

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
            relay.stdin.write("\n")
            relay.stdin.flush()
            return json.loads(done.stdout), json.loads(relay.stdout.readline())
        finally:
            relay.kill()
