"""An export keeps nothing that does not fit, and mends what was damaged where it lies."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from attestation.errors import LogError, NotAuthentic, Unavailable, UsageError
from attestation.formats.digests import sha256
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.submission import ArchiveRecord
from contracts.logservice.export import Export
from contracts.logservice.files import MAX_FILE, ExportFiles
from tests.helpers.log_served import KEY, serving
from tests.helpers.planted import (
    DAMAGE,
    FIRST,
    PUBLIC,
    RELEASES,
    SIZE,
    Place,
    export,
    planted,
    replace,
)
from tests.helpers.world import World


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("log")
    with planted(World.start(tmp_path_factory.mktemp("simulator")), directory) as place:
        yield place


def get(place: Place) -> Callable[[str], bytes]:
    def fetch(path: str) -> bytes:
        answer = requests.get(f"{place.url}/{path}", timeout=600)
        if answer.status_code != 200:
            raise Unavailable(f"{path}: HTTP {answer.status_code}")
        return answer.content

    return fetch


def contents(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def test_a_second_run_keeps_everything(place: Place, tmp_path: Path) -> None:
    asked: list[str] = []

    def count(path: str) -> bytes:
        asked.append(path)
        return get(place)(path)

    mirror = place.copy(tmp_path / "mirror")
    assert export(place.url, mirror, count) == (0, ["checkpoint"])
    assert asked == ["checkpoint"]
    assert contents(mirror) == contents(place.export)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_fit_is_fetched_again(
    place: Place, tmp_path: Path, damage: Callable[[Place, Path], str]
) -> None:
    mirror = place.copy(tmp_path / "mirror")
    path = damage(place, mirror)
    mended, new = export(place.url, mirror, get(place))
    assert mended >= 1 and path in new
    assert contents(mirror) == contents(place.export)


NOT_ASKED_FOR = "an older size's tile with a bit changed"
"""It is cut from the newer tile. The newest checkpoint is read under another name."""

SERVED = {
    name: damage
    for name, damage in DAMAGE.items()
    if name != NOT_ASKED_FOR and "checkpoint" not in name
}


@pytest.mark.parametrize("damage", SERVED.values(), ids=SERVED)
def test_a_log_that_serves_it_is_not_believed(
    place: Place, tmp_path: Path, damage: Callable[[Place, Path], str]
) -> None:
    """Nothing of it is kept, and no checkpoint promises it."""
    path = damage(place, place.copy(tmp_path / "liar"))

    def lie(wanted: str) -> bytes:
        if wanted == path:
            return (tmp_path / "liar" / path).read_bytes()
        return get(place)(wanted)

    mirror = place.copy(tmp_path / "mirror")
    for gone in (path, "checkpoint"):
        (mirror / gone).unlink()
    with pytest.raises((NotAuthentic, Unavailable)) as caught:  # it names what the log has not
        export(place.url, mirror, lie)
    if isinstance(caught.value, NotAuthentic):
        assert caught.value.code in ("other-bytes", "other-record")
    assert not (mirror / "checkpoint").exists() and not (mirror / path).exists()


def test_unfinished_tiles_that_do_not_give_the_root_are_refused(
    place: Place, tmp_path: Path
) -> None:
    def lie(wanted: str) -> bytes:
        data = get(place)(wanted)
        return data[:-1] + bytes((data[-1] ^ 1,)) if wanted.startswith("tile/0/001.p/") else data

    with pytest.raises(NotAuthentic) as caught:
        export(place.url, tmp_path / "mirror", lie)
    assert caught.value.code == "other-bytes"
    assert not (tmp_path / "mirror" / "checkpoint").exists()


def test_tiles_of_another_log_do_not_fit(place: Place, tmp_path: Path) -> None:
    """Every tile and bundle of a log of the same size, with the same key."""
    others = [b"another %d" % number for number in range(SIZE)]
    with serving(tmp_path / "store", (others[:260], others[260:]), name="other") as url:
        (tmp_path / "other").mkdir()

        def fetch(path: str) -> bytes:
            return requests.get(f"{url}/{path}", timeout=600).content

        export(url, tmp_path / "other", fetch)
    mirror = place.copy(tmp_path / "mirror")
    foreign = contents(tmp_path / "other")
    for path, data in foreign.items():
        if not path.startswith("evidence/"):
            replace(mirror / path, data)
    mended, _ = export(place.url, mirror, get(place))
    assert mended >= 8
    for path, data in contents(place.export).items():
        assert (mirror / path).read_bytes() == data, path


def test_a_file_larger_than_any_is_fetched_again(place: Place, tmp_path: Path) -> None:
    mirror = place.copy(tmp_path / "mirror")
    (mirror / "tile/0/000").unlink()
    with (mirror / "tile/0/000").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    export(place.url, mirror, get(place))
    assert contents(mirror) == contents(place.export)


def test_a_pipe_in_a_files_place_is_replaced(place: Place, tmp_path: Path) -> None:
    mirror = place.copy(tmp_path / "mirror")
    (mirror / "tile/0/000").unlink()
    os.mkfifo(mirror / "tile/0/000")
    export(place.url, mirror, get(place))
    assert contents(mirror) == contents(place.export)


def test_a_record_that_nobody_can_complete_ends_the_export(place: Place, tmp_path: Path) -> None:
    """The log's own record names another blob that it has: no hash covers it, the leaf does."""
    kept = ArchiveRecord.from_bytes((place.export / f"submission/{FIRST}").read_bytes())
    changes = {"price_table": "price", "host_config": "host config", "collateral": "collateral"}
    for field in changes:
        lie = dataclasses.replace(kept, **{field: sha256(RELEASES[0])})

        def served(path: str, lie: ArchiveRecord = lie) -> bytes:
            return lie.to_bytes() if path == f"submission/{FIRST}" else get(place)(path)

        mirror = place.copy(tmp_path / field)
        (mirror / f"submission/{FIRST}").unlink()
        with pytest.raises(NotAuthentic) as caught:
            export(place.url, mirror, served)
        assert caught.value.code in ("other-bytes", "other-record")
        assert not (mirror / f"submission/{FIRST}").exists()


def signed(place: Place, size: int, root: bytes) -> bytes:
    origin = place.url.partition("://")[2]
    return checkpoints.sign(Checkpoint(origin, size, root), key=KEY)


def test_two_trees_that_the_log_signed_are_its_violation(place: Place, tmp_path: Path) -> None:
    """A note in the export that no damage can make: it has the log's signature."""
    mirror = place.copy(tmp_path / "mirror")
    replace(mirror / "checkpoints/260", signed(place, 260, b"\1" * 32))
    with pytest.raises(LogError, match="size 260: the log signed two trees"):
        export(place.url, mirror, get(place))


def test_a_size_that_the_log_does_not_have_yet(place: Place, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"at most 300, .*, got 301"):
        Export(tmp_path, get(place)).run(
            origin=place.url.partition("://")[2], log_key=PUBLIC, sizes=[301]
        )


# -- the disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    files = ExportFiles(tmp_path)
    files.write("a", b"before")

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=str(tmp_path / "a")):
        files.write("a", b"after")
    assert contents(tmp_path) == {"a": b"before"}


def test_a_directory_in_a_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match=str(tmp_path / "a")):
        ExportFiles(tmp_path).write("a", b"data")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
