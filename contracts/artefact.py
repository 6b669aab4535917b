"""Compiled contracts as committed in build/: loaded, compared with source, rebuilt.

Invariant: `load` returns code only when the source beside it has the digest that the
build file names, and the code cell has the hash that the build file names.
`python -m contracts.artefact build|check` compiles with Node and writes or compares.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pytoniq_core import Cell

from attestation.errors import ParseError, Unavailable
from attestation.formats.json import decode
from contracts import node
from contracts.codec import cell_from_boc

ROOM = Path(__file__).parent
NAMES = ("attestation_log", "quote_verifier", "registry")


@dataclass(frozen=True)
class Artefact:
    """One compiled contract. Digests are 32 bytes; `code_boc` is the code cell's bag."""

    source: str
    source_sha256: bytes
    compiler: str
    code_hash: bytes
    code_boc: bytes

    @property
    def code(self) -> Cell:
        return cell_from_boc(self.code_boc)


def load(name: str) -> Artefact:
    """The committed artefact, checked against the committed source. Raises ParseError."""
    artefact = parse((ROOM / "build" / f"{name}.json").read_bytes())
    found = hashlib.sha256((ROOM / "src" / f"{name}.tolk").read_bytes()).digest()
    if found != artefact.source_sha256:
        raise ParseError(
            f"contracts/src/{name}.tolk: expected the source of the committed build, SHA-256 "
            f"{artefact.source_sha256.hex()}, got {found.hex()}; run `make contracts`"
        )
    return artefact


def parse(text: bytes) -> Artefact:
    """Read a build file; the code must have the hash it names. Raises ParseError."""
    try:
        raw = decode(text, what="build file")
        artefact = Artefact(
            source=str(raw["source"]),
            source_sha256=bytes.fromhex(raw["source_sha256"]),
            compiler=str(raw["compiler"]),
            code_hash=bytes.fromhex(raw["code_hash"]),
            code_boc=base64.b64decode(raw["code_boc"], validate=True),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ParseError(
            "build file: expected JSON with source, source_sha256, compiler, code_hash and "
            "code_boc, "
            f"got another content ({type(error).__name__}: {error})"
        ) from error
    if artefact.code.hash != artefact.code_hash:
        raise ParseError(
            f"build file: code_boc: expected a cell with hash {artefact.code_hash.hex()}, got "
            f"{artefact.code.hash.hex()}; run `make contracts`"
        )
    return artefact


def compile_source(name: str) -> bytes:
    """Compile src/<name>.tolk to the text of a build file. Raises Unavailable."""
    command = [*node.find().node, str(ROOM / "compile.mjs"), str(ROOM / "src" / f"{name}.tolk")]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace")[-800:]
        raise Unavailable(
            f"contracts/src/{name}.tolk: the compiler ended with exit code {done.returncode}: "
            f"{tail}"
        )
    return (json.dumps(decode(done.stdout, what="compiler"), indent=2) + "\n").encode()


def build(name: str) -> None:
    """Compile src/<name>.tolk and write build/<name>.json."""
    text = compile_source(name)
    parse(text)
    (ROOM / "build").mkdir(exist_ok=True)
    (ROOM / "build" / f"{name}.json").write_bytes(text)


def check(name: str) -> None:
    """Compile src/<name>.tolk and compare with build/<name>.json. Raises ParseError if they
    differ."""
    if parse(compile_source(name)) != load(name):
        raise ParseError(
            f"contracts/build/{name}.json: expected what the compiler makes of the source, got "
            "another build; run `make contracts`"
        )


def main(arguments: list[str]) -> int:
    actions = {"build": build, "check": check}
    if len(arguments) != 1 or arguments[0] not in actions:
        sys.stderr.write("usage: python -m contracts.artefact build|check\n")
        return 2
    for name in NAMES:
        actions[arguments[0]](name)
    return 0


if __name__ == "__main__":
    from attestation.process import run

    sys.exit(run("artefact", lambda: main(sys.argv[1:])))
