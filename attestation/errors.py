"""Everything that Umay raises, in one tree.

UmayError                      exit code, so that every command ends alike
├── UsageError            2    what the caller asked for cannot be asked
├── ParseError            3    bytes that are not exactly what the format says
├── VerificationError          carries step, code and the Report
│   ├── NotAuthentic      3    forged, broken or not what it claims to be
│   └── Refused           4    authentic, but the policy does not accept it
├── ChannelError          3    the sealed exchange failed
│   ├── Truncated         3    an answer ended without its final chunk
│   ├── Replayed          4    this request was seen before
│   └── NotForUs          5    sealed to a key this enclave does not hold
├── LogError              1    a transparency log contradicts itself
├── Unavailable           5    a service did not answer
│   └── NotThere          5    it answered that it does not have this
└── Incomplete            6    something could not be checked
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attestation.verify.verdict import Report


class UmayError(Exception):
    """Root of the tree. `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(UmayError):
    exit_code = 2


class ParseError(UmayError):
    exit_code = 3


class VerificationError(UmayError):
    """A step of the verification plan failed.

    `step` is the name of a step in verifier.py's plan ("cpu-signature"), or "channel"
    where no accepted suite is on offer; `code` is a stable word for the reason
    ("wrong-root"), `report` every step's result.
    """

    exit_code = 3

    def __init__(self, step: str, code: str, message: str, report: Report | None = None) -> None:
        super().__init__(f"{step}: {message} [{code}]")
        self.step = step
        self.code = code
        self.message = message
        self.report = report


class NotAuthentic(VerificationError):
    exit_code = 3


class Refused(VerificationError):
    exit_code = 4


class ChannelError(UmayError):
    exit_code = 3


class Truncated(ChannelError):
    exit_code = 3


class Replayed(ChannelError):
    exit_code = 4


class NotForUs(ChannelError):
    exit_code = 5


class LogError(UmayError):
    exit_code = 1


class Unavailable(UmayError):
    exit_code = 5


class NotThere(Unavailable):
    """A service answered, and has no such thing."""


class Incomplete(UmayError):
    exit_code = 6
