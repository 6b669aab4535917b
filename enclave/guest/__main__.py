"""`python -m enclave.guest`: begins and ends as every process of Umay does, and shows no
traceback for whatever is asked: it would hold what memory holds."""

import sys


def main() -> None:
    try:
        from attestation.process import run

        sys.exit(run("guest", _command, traces=False))
    except KeyboardInterrupt:
        sys.exit(130)


def _command() -> None:
    from enclave.guest.command import command

    command()


if __name__ == "__main__":
    main()
