"""Files that hold secrets or are trusted: whatever another user could have prepared is refused."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attestation import files
from attestation.errors import Unavailable, UsageError

NOBODY = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def made(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(b"planted")
    path.chmod(mode)
    return path


def link(place: Path) -> Path:
    path = place / "file"
    path.symlink_to(made(place / "target"))
    return path


def dangling(place: Path) -> Path:
    path = place / "file"
    path.symlink_to(place / "nowhere")
    return path


def pipe(place: Path) -> Path:
    os.mkfifo(place / "file", 0o600)
    return place / "file"


def folder(place: Path) -> Path:
    (place / "file").mkdir(0o700)
    return place / "file"


def of_another(place: Path) -> Path:
    path = made(place / "file")
    os.chown(path, NOBODY, NOBODY)
    return path


Make = Callable[[Path], Path]
PLANTED: dict[str, Any] = {
    "a link": link,
    "a link to nowhere": dangling,
    "a pipe that nobody writes": pipe,
    "a directory": folder,
    "written by all": lambda place: made(place / "file", 0o666),
    "written by a group": lambda place: made(place / "file", 0o620),
    "another user's": pytest.param(of_another, marks=ROOT_ONLY),
}
EVERY = pytest.mark.parametrize("make", PLANTED.values(), ids=PLANTED)


@EVERY
@pytest.mark.parametrize("read", [files.read_secret, files.read_trusted])
def test_what_another_could_have_prepared_is_not_read(
    tmp_path: Path, make: Make, read: Callable[[Path], bytes | None]
) -> None:
    path = make(tmp_path)
    with pytest.raises(UsageError, match=str(path)):
        read(path)


@EVERY
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDWR])
def test_nor_is_it_written(tmp_path: Path, make: Make, flags: int) -> None:
    path = make(tmp_path)
    with pytest.raises(UsageError, match=str(path)):
        files.open_own(path, flags)
    assert not (tmp_path / "nowhere").exists()
    assert all(p.read_bytes() == b"planted" for p in tmp_path.rglob("*") if p.is_file())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_is_read_by_its_owner_alone(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path / "key", mode)
    with pytest.raises(UsageError, match=rf"expected mode 0600, got 0{mode:o}.*chmod 600"):
        files.read_secret(path)
    assert files.read_trusted(path) == b"planted"


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert files.read_secret(tmp_path / "key") is None
    assert files.read_trusted(tmp_path / "none" / "key") is None
    assert files.read_trusted(made(tmp_path / "file") / "key") is None


def test_a_file_is_as_long_as_expected(tmp_path: Path) -> None:
    path = made(tmp_path / "file")
    assert files.read_trusted(path, limit=7) == b"planted"
    with pytest.raises(UsageError, match="at most 6 bytes"):
        files.read_trusted(path, limit=6)


def test_a_directory_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = files.own_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert files.own_directory(path) == path


def open_to_all(place: Path) -> Path:
    (place / "dir").mkdir()
    (place / "dir").chmod(0o777)
    return place / "dir"


def sticky(place: Path) -> Path:
    (place / "dir").mkdir()
    (place / "dir").chmod(0o1777)
    return place / "dir"


def of_a_group(place: Path) -> Path:
    (place / "dir").mkdir()
    (place / "dir").chmod(0o770)
    return place / "dir"


def given_away(place: Path) -> Path:
    (place / "dir").mkdir(0o700)
    os.chown(place / "dir", NOBODY, NOBODY)
    return place / "dir"


def linked(place: Path) -> Path:
    (place / "other").mkdir(0o700)
    (place / "dir").symlink_to(place / "other")
    return place / "dir"


DIRECTORIES: dict[str, Any] = {
    "0777": open_to_all,
    "1777, as /tmp": sticky,
    "0770": of_a_group,
    "a link": linked,
    "a file": lambda place: made(place / "dir"),
    "another user's": pytest.param(given_away, marks=ROOT_ONLY),
}


@pytest.mark.parametrize("make", DIRECTORIES.values(), ids=DIRECTORIES)
def test_a_prepared_directory_is_refused_by_name(tmp_path: Path, make: Make) -> None:
    path = make(tmp_path)
    with pytest.raises(UsageError, match=str(path)):
        files.own_directory(path)


def test_a_replaced_file_is_new_and_nobody_s_link_is_followed(tmp_path: Path) -> None:
    victim = made(tmp_path / "victim", 0o644)
    for name in ("file", "file.new", ".file.new", "file.tmp"):
        (tmp_path / name).symlink_to(victim)
    files.replace(tmp_path / "file", b"ours")
    assert (tmp_path / "file").read_bytes() == b"ours" and victim.read_bytes() == b"planted"
    found = (tmp_path / "file").lstat()
    assert stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600


def test_a_new_file_never_replaces(tmp_path: Path) -> None:
    for make in (link, dangling):
        place = tmp_path / make.__name__
        place.mkdir()
        path = make(place)
        assert files.create(path, b"ours") is False and path.is_symlink()
        assert not (place / "nowhere").exists()
    assert files.create(tmp_path / "new", b"ours") is True
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert files.create(tmp_path / "new", b"other") is False
    assert (tmp_path / "new").read_bytes() == b"ours"


@contextmanager
def full_disk() -> Iterator[None]:
    """For no longer than the write: pytest's own output may go to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("write", [files.create, files.replace])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, write: Callable[[Path, bytes], object]
) -> None:
    with full_disk(), pytest.raises(Unavailable, match=f"{tmp_path}/key: "):
        write(tmp_path / "key", b"secret")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((full, Unavailable) for full in (errno.ENOSPC, errno.EMFILE, errno.EIO, errno.EDQUOT)),
        *((path, UsageError) for path in (errno.EACCES, errno.EISDIR, errno.EROFS)),
        (None, Unavailable),
    ],
)
def test_a_machine_that_cannot_is_another_thing_than_a_path_that_cannot(
    number: int | None, kind: type[Exception]
) -> None:
    error = OSError() if number is None else OSError(number, os.strerror(number))
    assert type(files.unusable(Path("/x"), error)) is kind


def test_where_no_home_is_known_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(UsageError, match="set HOME, or give --dir"):
        files.home(Path("~/.umay"))


@EVERY
def test_files_that_a_library_opens_are_looked_at_first(tmp_path: Path, make: Make) -> None:
    files.check_own(tmp_path / "none")
    files.check_own(made(tmp_path / "good"))
    path = make(tmp_path)
    with pytest.raises(UsageError, match=str(path)):
        files.check_own(path)
