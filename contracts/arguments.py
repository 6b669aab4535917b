"""Help texts and checks of options that `umay log` and `umay net` share."""

from __future__ import annotations

from pathlib import Path

from attestation.errors import ParseError, UsageError
from attestation.formats.origin import check_log_name
from attestation.net.url import base_url

KEEP_ALIVE = "Seconds after which the server closes an idle connection."
LOG_URL = "Address of the log, for example https://log.example/umay."
READ_CHAIN = (
    "Where the chain is read: the URL of a toncenter v2 endpoint, or lite:CONFIG.json "
    "(a TON global config) for answers proven by validators' signatures."
)
SEND_CHAIN = "URL of the toncenter v2 endpoint that reads the chain and takes messages for it."
WALLET = (
    "Key file of the wallet that pays the fees, or env:NAME for an environment variable with the "
    "same content. A missing file is created with a new key."
)
SIGNING_KEY = "File with the Ed25519 signing key. A missing file is created with a new key."
TON_WITNESS = ("--contract", "--chain", "--log")
LOG_KEY = "Ed25519 public key of the log: 64 lower-case hex digits."


def check_name(option: str, name: str) -> None:
    """Raises UsageError unless `name` names a log or a witness in its only valid spelling."""
    try:
        check_log_name(name)
    except ParseError as error:
        raise UsageError(f"{option}: {error}") from None


def log_address(url: str) -> str:
    """The URL of --log without its last slash. Raises UsageError unless it is an http(s) URL."""
    return base_url(url, name="--log")


def public_key(text: str) -> bytes:
    """The 32 bytes of --log-key. Raises UsageError unless it is 64 lower-case hex digits."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise UsageError(
            f"--log-key: expected 64 lower-case hex digits, got {len(text)} characters"
        )
    return bytes.fromhex(text)


def content(path: Path) -> bytes:
    """The bytes of a file that the command line names. Raises UsageError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: the file cannot be read: {error.strerror}") from None
