"""`python -m contracts.localnet --dir DIR [--listen HOST:PORT]`: become the embedded chain.

Invariant: this process is replaced by Node, so its id, signals and stdin are the chain's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from attestation.errors import UmayError, Unavailable
from contracts import node

SERVER = Path(__file__).with_name("server.mjs")


def command(arguments: list[str]) -> list[str]:
    """The argument vector of the chain. Raises Unavailable where Node or a package lacks."""
    if not (node.LOCALNET / "node_modules").is_dir():
        raise Unavailable(
            "the chain's packages are missing; run `python -m contracts.node install`"
        )
    return [*node.find().node, str(SERVER), *arguments]


def main() -> None:
    """Replace this process with the chain's server."""
    try:
        vector = command(sys.argv[1:])
    except UmayError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    os.execv(vector[0], vector)  # noqa: S606 - the chain takes this process over


if __name__ == "__main__":
    main()
