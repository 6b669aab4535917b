"""`umay` without a process of its own: a process for each command takes a second."""

from __future__ import annotations

from click.testing import CliRunner, Result

from attestation.errors import UmayError
from client_sdk.cli import umay


def command(*words: str) -> Result:
    """What it printed, and the exit code that `umay` would end with."""
    done = CliRunner().invoke(umay, words)
    if isinstance(done.exception, UmayError):
        done.exit_code = done.exception.exit_code
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
