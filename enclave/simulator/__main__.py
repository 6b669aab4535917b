"""`python -m enclave.simulator --socket PATH --state DIR`: serve until SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from attestation.errors import UmayError
from enclave.simulator.server import Server
from enclave.simulator.service import Simulator


def main() -> int:
    parser = argparse.ArgumentParser(prog="enclave.simulator", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--state", type=Path, required=True, help="directory for the PKI's keys")
    options = parser.parse_args()
    try:
        server = Server(options.socket, Simulator(options.state))
    except UmayError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stdout.write(json.dumps({"listening": str(options.socket)}) + "\n")
    sys.stdout.flush()
    with server:
        server.serve_forever(poll_interval=0.1)
    options.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
