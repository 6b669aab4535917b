"""The embedded chain's server: Node replaces this process.

Invariant: the process is replaced, so its id, signals and stdin are the chain's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from attestation.errors import Unavailable
from attestation.files import own_directory
from contracts import node

SERVER = Path(__file__).with_name("server.mjs")


def command(arguments: list[str]) -> list[str]:
    """The argument vector of the chain. Raises Unavailable if Node or a package is missing."""
    if not (node.LOCALNET / "node_modules").is_dir():
        raise Unavailable(
            f"{node.LOCALNET / 'node_modules'}: expected the packages of the embedded chain, but "
            "the "
            "directory is missing; run `python -m contracts.node install`"
        )
    return [*node.find().node, str(SERVER), *arguments]


def become(arguments: list[str]) -> NoReturn:
    """Replace this process with the chain's server. Raises Unavailable."""
    if "--dir" in arguments[:-1]:
        own_directory(Path(arguments[arguments.index("--dir") + 1]))
    vector = command(arguments)
    try:
        os.execv(vector[0], vector)  # noqa: S606 - the chain takes this process over
    except OSError as error:
        text = f"{vector[0]}: the program cannot be started ({error.strerror}); {node.HINT}"
        raise Unavailable(text) from None
