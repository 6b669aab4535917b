"""One target under atheris: `python -m tests.fuzz.one NAME CORPUS… -libFuzzer options`."""

from __future__ import annotations

import sys

import atheris

ROOMS = ["attestation", "client_sdk", "enclave", "contracts"]

with atheris.instrument_imports(include=ROOMS):
    from tests.fuzz import targets


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, lambda data: targets.run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
