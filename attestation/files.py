"""Files that hold secrets, or that we trust for what they say: whose they are.

Invariants: no such file is read or written through a symbolic link; each belongs to this user
(or root) and nobody else can change it, secrets can be read by nobody else; what is replaced is
replaced whole, by way of a new file with a name that nobody could prepare.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from attestation.errors import UmayError, Unavailable, UsageError

MAX_FILE_BYTES = 8 << 20
"""Of a secret or trusted file: the longest, a policy, has some kilobytes."""

OTHERS_READ, OTHERS_WRITE = 0o077, 0o022
_PATHS = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    *(errno.EEXIST, errno.ENAMETOOLONG, errno.EROFS, errno.EINVAL, errno.ENOTEMPTY, errno.ENXIO),
}
"""The caller named something that cannot serve. Anything else is this machine's state: a full
disk, too many open files."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # at a planted pipe
_READ = os.O_RDONLY | _NO_LINK | _NO_WAIT
_OWN = os.O_CREAT | _NO_LINK | _NO_WAIT


def unusable(path: Path | str, error: OSError) -> UmayError:
    """What an operating system's refusal means: UsageError for a path that cannot serve,
    Unavailable for a machine that cannot, as with a full disk."""
    text = f"{path}: {error.strerror or type(error).__name__}"
    return UsageError(text) if error.errno in _PATHS else Unavailable(text)


def home(path: Path) -> Path:
    """`path` with ~ written out. Raises UsageError where no home directory is known."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: no home directory is known: set HOME, or give --dir") from None


def own_directory(path: Path) -> Path:
    """`path`, made with mode 0700 where there is nothing.

    Raises UsageError where it is a link or no directory, belongs to another user, or can be
    written by others: whoever could prepare it would choose our keys.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from None
    check_own_directory(path)
    return path


def check_own_directory(path: Path) -> None:
    """Raises UsageError as `own_directory`, which makes one; this one only looks."""
    try:
        found = path.lstat()
    except OSError as error:
        raise unusable(path, error) from None
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{path}: expected a directory of your own, got a symbolic link")
    _check(path, found, OTHERS_WRITE, "700")


def check_own(path: Path) -> None:
    """Raises UsageError unless `path` is a regular file of this user that others cannot write,
    or does not exist: for files that a library opens."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise unusable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path}: expected a regular file, got a link or something else")
    _check(path, found, OTHERS_WRITE, "600")


def read_secret(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """A key or token; None where there is no such file. Raises UsageError for a link, another
    user's file, and one that others can read."""
    return _read(path, limit, OTHERS_READ)


def read_trusted(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """What we act upon; None where there is no such file. Raises UsageError for a link, another
    user's file, and one that others can write."""
    return _read(path, limit, OTHERS_WRITE)


def create(path: Path, data: bytes) -> bool:
    """A new file with mode 0600, whole or not at all; False where something is there already."""
    try:
        fresh = _fresh(path, data, 0o600)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return False
        finally:
            fresh.unlink()
    except OSError as error:
        raise unusable(path, error) from None
    return True


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """A reader sees the old file or the new one; a link in its place is replaced, not followed."""
    try:
        fresh = _fresh(path, data, mode)
        try:
            os.replace(fresh, path)
        except OSError:
            fresh.unlink()
            raise
    except OSError as error:
        raise unusable(path, error) from None


def open_own(path: Path, flags: int) -> int:
    """A descriptor of this user's own file, made where there is none, mode 0600; never through
    a link. `flags` as for os.open. Raises UsageError, or Unavailable as for a full disk."""
    try:
        number = os.open(path, flags & ~os.O_TRUNC | _OWN, 0o600)
    except OSError as error:
        raise _named(path, error) from None
    try:
        _check_regular(path, os.fstat(number), OTHERS_WRITE)
        os.fchmod(number, 0o600)
        if flags & os.O_TRUNC:
            os.ftruncate(number, 0)
    except BaseException:
        os.close(number)
        raise
    return number


def _read(path: Path, limit: int, forbidden: int) -> bytes | None:
    try:
        number = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _named(path, error) from None
    try:
        _check_regular(path, os.fstat(number), forbidden)
        with os.fdopen(number, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise unusable(path, error) from None
    finally:
        os.close(number)
    if len(data) > limit:
        raise UsageError(f"{path}: expected at most {limit} bytes")
    return data


def _check_regular(path: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path}: expected a regular file, got something else")
    _check(path, found, forbidden, "600")


def _check(path: Path, found: os.stat_result, forbidden: int, wanted: str) -> None:
    user = os.geteuid()
    if found.st_uid not in (0, user):
        raise UsageError(
            f"{path}: expected it to belong to you (user {user}), got user {found.st_uid}: "
            "do not use what another user prepared; give another place"
        )
    if found.st_mode & forbidden:
        may = "read" if forbidden == OTHERS_READ else "write"
        raise UsageError(
            f"{path}: expected mode 0{wanted}, got 0{stat.S_IMODE(found.st_mode):o}: others could "
            f"{may} it; look at what is there, then `chmod {wanted} {path}`, or give another place"
        )


def _named(path: Path, error: OSError) -> UmayError:
    if error.errno == errno.ELOOP:
        return UsageError(f"{path}: expected a regular file, got a symbolic link; remove it")
    return unusable(path, error)


def _fresh(path: Path, data: bytes, mode: int) -> Path:
    """A new file beside `path`, on disk. Raises OSError, and then leaves nothing."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, mode)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            fresh.unlink()
        raise
    return fresh
