"""`umay`, also as `python -m client_sdk`: begins and ends as every process of Umay does.

Ctrl-C is heard before anything large is imported.
"""

import sys


def main() -> None:
    """Ends the process with the command's exit code."""
    try:
        from attestation.process import run

        sys.exit(run("umay", _command, told=lambda failure: _tell(failure.to_json())))
    except KeyboardInterrupt:
        sys.exit(130)


def _command() -> int:
    from client_sdk.cli import command

    return command()


def _tell(failure: dict[str, object]) -> None:
    from client_sdk.cli import tell

    tell(failure)


if __name__ == "__main__":
    main()
