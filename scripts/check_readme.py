"""Compares the README's command help with the real one; `--write` puts the real one in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- help:begin -->\n", "<!-- help:end -->"
COMMANDS = ((), ("client",), ("audit",), ("host",), ("log",), ("net",))


def real_help() -> str:
    """The help of the root and every group, 80 columns wide."""
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    blocks = []
    for words in COMMANDS:
        argv = [sys.executable, "-m", "client_sdk", *words, "--help"]
        run = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
        blocks.append(
            f"```\n$ {' '.join(('umay', *words, '--help'))}\n{run.stdout.rstrip()}\n```\n"
        )
    return "\n".join(blocks)


def main() -> int:
    text = README.read_text()
    before, rest = text.split(BEGIN)
    written, after = rest.split(END)
    real = real_help()
    if "--write" in sys.argv:
        README.write_text(before + BEGIN + real + END + after)
        return 0
    if written != real:
        sys.stderr.write("README's help is stale: python -m scripts.check_readme --write\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
