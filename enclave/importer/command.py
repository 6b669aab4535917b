"""What the importer's process says: lines of JSON on standard output.

Each line is {"progress": text}, {"done": {…}} or {"failed": {code, message, exit_code}}; the last
line is one of the latter two. The host's command reads them (`host/models/importing.py`).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from attestation.process import interrupt


def command() -> None:
    """Raises UmayError where nothing was made."""
    from enclave.importer.importing import import_model

    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    done = import_model(
        options.source,
        options.out,
        dtype=options.dtype,
        threads=options.threads,
        tell=lambda text: line({"progress": text}),
    )
    line({"done": done})


def line(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="enclave.importer", description="Import a model.")
    parser.add_argument("--source", type=Path, required=True, help="the file or directory")
    parser.add_argument("--out", type=Path, required=True, help="the directory to make")
    parser.add_argument("--dtype", help="float32 or bfloat16; default: the faster one here")
    parser.add_argument("--threads", type=int, help="threads of the engine while it is timed")
    return parser
