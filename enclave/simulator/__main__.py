"""`python -m enclave.simulator --socket PATH --state DIR`: serve until SIGTERM."""

import sys


def main() -> None:
    try:
        from attestation.process import run

        sys.exit(run("simulator", _command))
    except KeyboardInterrupt:
        sys.exit(130)


def _command() -> None:
    import argparse
    import json
    import signal
    import threading
    from pathlib import Path

    from enclave.simulator.server import Server
    from enclave.simulator.service import Simulator

    parser = argparse.ArgumentParser(prog="enclave.simulator", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket to listen on")
    parser.add_argument("--state", type=Path, required=True, help="directory for the PKI's keys")
    options = parser.parse_args()
    server = Server(options.socket, Simulator(options.state))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stdout.write(json.dumps({"listening": str(options.socket)}) + "\n")
    sys.stdout.flush()
    with server:
        server.serve_forever(poll_interval=0.1)
    options.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
