"""`python -m contracts.localnet --dir DIR [--listen HOST:PORT]`: run the embedded chain.

The process becomes the chain's server. Exit codes are those of `umay net chain`.
"""

import sys


def main() -> None:
    try:
        from attestation.process import run

        sys.exit(run("chain", _command))
    except KeyboardInterrupt:
        sys.exit(130)


def _command() -> None:
    from contracts.localnet.server import become

    become(sys.argv[1:])


if __name__ == "__main__":
    main()
