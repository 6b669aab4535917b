"""Everything that Umay raises, in one tree.

UmayError            70  internal          the root; no command ends with it by itself
├── UsageError        2  usage             what the caller asked for cannot be asked
├── ParseError        3  malformed         bytes that are not exactly what the format says
├── VerificationError    (its own codes)   carries step, code and the Report
│   ├── NotAuthentic  3                    forged, broken or not what it claims to be
│   ├── Refused       4                    authentic, but the policy does not accept it
│   └── NotChecked    6  not-checked       a step had nothing to run on
├── ChannelError      3  channel           the sealed exchange failed
│   ├── Truncated     3  truncated         an answer ended without its final chunk
│   ├── Replayed      4  replayed          this request was seen before
│   └── NotForUs      5  not-for-us        sealed to a key this enclave does not hold
│       └── SessionExpired  5  session-expired  sealed to a session that has ended
├── LogError          1  log-violation     a transparency log contradicts itself
├── Unavailable       5  unavailable       a service did not answer
│   ├── NotThere      5  not-there         it answered that it does not have this
│   ├── TooDear       5  too-dear          it asks for a higher price than the caller accepts
│   ├── SessionBusy   5  session-busy      it makes no new session now
│   └── TooManyRequests  5  too-many-requests  it takes no more requests for the moment
└── Incomplete        6  incomplete        something could not be checked

The number is the exit code of a command that ends with the error, the word its `code`.
Rooms have subclasses of their own, with the exit codes of these. Exit code 1 says that a
violation was found and nothing else: no class has it by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from attestation.verify.verdict import Report

EXIT_INTERNAL = 70
"""EX_SOFTWARE of sysexits.h: a fault of Umay itself, which says nothing about the matter."""


class UmayError(Exception):
    """Root of the tree: `exit_code` is what a command ends with, `code` a stable word.

    `may_have_run`: how many times a machine may have executed the question that failed so; 0
    where it never left, or where no question was asked.
    """

    exit_code: ClassVar[int] = EXIT_INTERNAL
    code: str = "internal"
    may_have_run: int = 0


class UsageError(UmayError):
    """What the caller asked for, or a file or option of theirs, cannot be used as it is."""

    exit_code = 2
    code = "usage"


class ParseError(UmayError):
    """Bytes are not exactly what their format says."""

    exit_code = 3
    code = "malformed"


class VerificationError(UmayError):
    """A step of the verification plan did not pass.

    `step` is the name of a step in verifier.py's plan ("cpu-signature"), or "channel"
    where no accepted suite is on offer; `code` is a stable word for the reason
    ("wrong-root"), `report` every step's result.
    """

    exit_code = 3

    def __init__(self, step: str, code: str, message: str, report: Report | None = None) -> None:
        super().__init__(step, code, message)
        self.step = step
        self.code = code
        self.message = message
        self.report = report

    def __str__(self) -> str:
        return f"{self.step}: {self.message} [{self.code}]"


class NotAuthentic(VerificationError):
    """Evidence is forged, broken, or not what it claims to be."""

    exit_code = 3


class Refused(VerificationError):
    """Evidence is authentic, and the policy does not accept it."""

    exit_code = 4


class NotChecked(VerificationError):
    """A step could not run: what it builds on did not pass, or was not given.

    Whoever raises it need not know the step; the verifier names it.
    """

    exit_code = 6

    def __init__(self, message: str, *, step: str = "") -> None:
        super().__init__(step, "not-checked", message)
        self.args = (message,)

    def __str__(self) -> str:
        return super().__str__() if self.step else self.message


class ChannelError(UmayError):
    """The sealed exchange failed: what arrived was not made by the other end."""

    exit_code = 3
    code = "channel"


class Truncated(ChannelError):
    """An answer ended without its final chunk; what came before it is genuine but incomplete.

    `late`: because nothing more came in time.
    """

    exit_code = 3
    code = "truncated"
    late: bool = False


class Replayed(ChannelError):
    """The enclave has seen this very request before, and did not answer it again."""

    exit_code = 4
    code = "replayed"


class NotForUs(ChannelError):
    """The enclave says that the request is not sealed to a key that it holds."""

    exit_code = 5
    code = "not-for-us"


class SessionExpired(NotForUs):
    """The enclave does not hold this session any more, and has not executed the request.

    `clear` is the part of the request before its first chunk, which the enclave signs to say so.
    """

    code = "session-expired"

    def __init__(self, message: str = "", *, clear: bytes = b"") -> None:
        super().__init__(message)
        self.clear = clear


class LogError(UmayError):
    """A transparency log contradicts itself, or what it signed or anchored."""

    exit_code = 1
    code = "log-violation"


class Unavailable(UmayError):
    """A service did not answer as asked.

    `again`: the same question may be answered later; `retry_after`: the seconds that the
    service asked to wait, where it did; `late`: it did not answer in time; `sent`: the whole
    question may have reached it; `status`: that of its HTTP answer, where that was not 200.
    """

    exit_code = 5
    code = "unavailable"

    def __init__(
        self,
        message: str = "",
        *,
        again: bool = False,
        retry_after: float | None = None,
        late: bool = False,
        sent: bool = False,
    ) -> None:
        super().__init__(message)
        self.again = again
        self.retry_after = retry_after
        self.late = late
        self.sent = sent
        self.status: int | None = None


class NotThere(Unavailable):
    """A service answered, and has no such thing."""

    code = "not-there"


class TooDear(Unavailable):
    """Every machine asks for a higher price than the caller accepts; nothing was sent."""

    code = "too-dear"


class SessionBusy(Unavailable):
    """An enclave makes no new session now: too many clients ask for one."""

    code = "session-busy"


class TooManyRequests(Unavailable):
    """An enclave takes no request for the moment. This one was not executed and never will be."""

    code = "too-many-requests"


class Incomplete(UmayError):
    """Something could not be checked, so nothing is claimed about it."""

    exit_code = 6
    code = "incomplete"
