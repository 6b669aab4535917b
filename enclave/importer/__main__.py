"""`python -m enclave.importer --source FILE --out DIR`: for `umay host model import`."""

import sys


def main() -> None:
    try:
        from attestation.process import run

        sys.exit(run("import", _command, told=lambda failure: _failed(failure.to_json())))
    except KeyboardInterrupt:
        sys.exit(130)


def _command() -> None:
    from enclave.importer.command import command

    command()


def _failed(failure: dict[str, object]) -> None:
    from enclave.importer.command import line

    line({"failed": failure})


if __name__ == "__main__":
    main()
