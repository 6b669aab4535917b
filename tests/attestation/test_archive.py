"""The collateral archive: what was kept comes back, or is an error; the vendors' agent."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import ParseError, Unavailable, UsageError
from attestation.formats.collateral import Collateral
from attestation.vendors.archive import Archive
from attestation.verify.verifier import Verifier
from client_sdk.cli import umay
from enclave.host.collateral import VendorCollateral
from tests.attestation.test_fetch import Vendors
from tests.helpers.world import NOW, World

DAY = 86_400


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.start(tmp_path_factory.mktemp("simulator"))


def test_what_was_kept_comes_back(tmp_path: Path, world: World) -> None:
    digest = Archive(tmp_path).add(world.collateral)
    again = Archive(tmp_path)
    assert again.collected(digest) == world.collateral
    assert again.current(NOW) == world.collateral
    assert again.add(world.collateral) == digest
    assert len(list(again.versions())) == len(world.collateral.parts)


def test_a_part_lies_there_once(tmp_path: Path, world: World) -> None:
    archive = Archive(tmp_path)
    archive.add(world.collateral)
    some = dict(list(world.collateral.parts.items())[:2])
    archive.add(Collateral(some))
    different = set(world.collateral.manifest().values())
    assert len(list((tmp_path / "parts").iterdir())) == len(different)
    assert len(list((tmp_path / "sets").iterdir())) == 2


def test_of_two_issues_the_later_counts(tmp_path: Path) -> None:
    from tests.helpers.tdx_machine import machine

    archive = Archive(tmp_path)
    first, second = (Collateral(machine().collateral(NOW + days * DAY)) for days in (0, 5))
    archive.add(first)
    archive.add(second)
    assert archive.current(NOW).parts["intel/tcb_info"] == first.parts["intel/tcb_info"]
    later = archive.current(NOW + 6 * DAY).parts
    assert later["intel/tcb_info"] == second.parts["intel/tcb_info"]
    assert "intel/tcb_info" not in archive.current(NOW + 400 * DAY).parts


def test_a_damaged_part_is_an_error(tmp_path: Path, world: World) -> None:
    archive = Archive(tmp_path)
    digest = archive.add(world.collateral)
    victim = sorted((tmp_path / "parts").iterdir())[0]
    victim.write_bytes(b"other")
    with pytest.raises(ParseError, match="expected bytes of this SHA-256"):
        archive.collected(digest)


def test_a_set_under_another_digest_is_an_error(tmp_path: Path, world: World) -> None:
    archive = Archive(tmp_path)
    digest = archive.add(world.collateral)
    (tmp_path / "sets" / digest.hex()).rename(tmp_path / "sets" / ("00" * 32))
    with pytest.raises(ParseError, match="expected the manifest of this digest"):
        archive.collected(bytes(32))
    with pytest.raises(Unavailable):
        archive.collected(digest)


def test_a_place_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        Archive(tmp_path / "file")


NAMES = st.from_regex(r"[a-z]{1,8}/[A-Za-z0-9._-]{1,20}", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=5))
def test_any_set_comes_back(tmp_path_factory: pytest.TempPathFactory, parts: dict) -> None:
    archive = Archive(tmp_path_factory.mktemp("archive"))
    assert archive.collected(archive.add(Collateral(parts))).parts == parts


class Guest:
    """Lists one boot and serves its evidence, while it is told to."""

    def __init__(self, evidence: bytes) -> None:
        self.evidence: bytes | None = evidence
        guest = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                boots = ["ab" * 16] if guest.evidence else []
                listed = json.dumps({"boots": boots}).encode()
                content = listed if self.path == "/umay/" else guest.evidence or b""
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def guest(world: World) -> Iterator[Guest]:
    served = Guest(world.evidence.to_bytes())
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def vendors(world: World) -> Iterator[Vendors]:
    served = Vendors(dict(world.collateral.parts))
    yield served
    served.server.shutdown()
    served.server.server_close()


def test_an_agent_asks_the_vendors_and_keeps_what_they_say(
    tmp_path: Path, world: World, guest: Guest, vendors: Vendors
) -> None:
    told: list[str] = []
    archive = Archive(tmp_path)
    ask = VendorCollateral(
        guest.url,
        archive,
        services=vendors.services,
        roots=world.policy.roots,
        tell=told.append,
        clock=lambda: NOW,
    )
    evidence, guest.evidence = guest.evidence, None
    with pytest.raises(Unavailable):
        ask()  # no evidence yet, and an empty archive
    guest.evidence = evidence
    fetched = ask()
    assert fetched.parts.items() <= world.collateral.parts.items()
    whole = dataclasses.replace(world, collateral=fetched)
    presented, anchor = whole.logged(whole.presented())
    Verifier(world.policy).verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    vendors.spoil = lambda *_: (503, {}, b"")
    assert ask() == fetched
    assert "the archive is used instead" in told[-1]


def test_the_command_shows_an_archive(tmp_path: Path, world: World) -> None:
    Archive(tmp_path).add(world.collateral)
    arguments = ["audit", "collateral", "--archive", str(tmp_path), "--json", "--at", str(NOW)]
    shown = CliRunner().invoke(umay, arguments)
    assert shown.exit_code == 0, shown.output
    assert len(json.loads(shown.output)["parts"]) == len(world.collateral.parts)
    late = CliRunner().invoke(umay, [*arguments[:-1], str(NOW + 10**9)])
    assert late.exit_code == 4
