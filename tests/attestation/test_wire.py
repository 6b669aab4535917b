"""The wire: which targets are ours, which boot ids, and which pages may ask what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import wire
from attestation.errors import ParseError

BOOT = "0123456789abcdef" * 2
DIGEST = "ab" * 32
READS = (
    "evidence", f"evidence/{DIGEST}", "epochs", "ohttp-keys", "config/engine", "config/price",
    "config/host", "healthz", "collateral",
)  # fmt: skip
NO_BOOT_IDS = {
    "upper case": BOOT.upper(),
    "short": BOOT[:-1],
    "long": BOOT + "0",
    "no hex": "g" * 32,
    "line end": BOOT + "\n",
    "space before": " " + BOOT[1:],
    "other digits": "٠" * 32,
    "dashes of a UUID": "01234567-89ab-cdef-0123-456789abcdef",
    "bytes": BOOT.encode(),
    "number": 7,
    "none": None,
    "empty": "",
}


def test_a_boot_id_has_one_spelling() -> None:
    assert wire.read_boot_id(BOOT, where="x") == BOOT
    assert bytes.fromhex(wire.read_boot_id(bytes(16).hex(), where="x")) == bytes(wire.BOOT_BYTES)


@pytest.mark.parametrize("text", NO_BOOT_IDS.values(), ids=NO_BOOT_IDS)
def test_other_spellings_are_refused(text: object) -> None:
    with pytest.raises(ParseError, match="listing: expected a boot id of 32 lower-case hex digits"):
        wire.read_boot_id(text, where="listing")


@given(st.one_of(st.text(), st.binary().map(bytes.hex)))
def test_reading_a_boot_id_gives_it_back_or_refuses(text: str) -> None:
    try:
        assert bytes.fromhex(wire.read_boot_id(text, where="x")).hex() == text
    except ParseError:
        assert len(text) != 32 or set(text) - set("0123456789abcdef")


def target(method: str, path: str, query: bytes = b"") -> wire.Target | None:
    return wire.read_target(method, wire.base(BOOT).encode() + path.encode(), query)


@pytest.mark.parametrize("path", READS)
def test_reads_are_targets_without_a_query(path: str) -> None:
    assert target("GET", path) == wire.Target(BOOT, path, "", 0)
    for method, query in (("POST", b""), ("HEAD", b""), ("GET", b"x=1"), ("GET", b"\xff")):
        assert target(method, path, query) is None


def test_a_proof_names_its_size_in_one_way() -> None:
    found = target("GET", "proof", b"size=7")
    assert found is not None
    assert found.at("https://a.example") == f"https://a.example/umay/{BOOT}/proof?size=7"
    for query in (b"", b"size=", b"size=07", b"size=-1", b"size=7&x=1", b"size=7\n", b"Size=7"):
        assert target("GET", "proof", query) is None, query


def test_posts_have_their_limits() -> None:
    assert target("POST", "session") == wire.Target(BOOT, "session", "", 34)
    assert target("POST", "ohttp") == wire.Target(BOOT, "ohttp", "", wire.MAX_SEALED_BYTES)
    for path in ("retire", "metrics", "ohttp/", "OHTTP", ""):
        assert target("POST", path) is None
        assert target("GET", path) is None


@pytest.mark.parametrize("path", READS)
def test_any_page_may_read_what_is_public(path: str) -> None:
    assert wire.shared_method(f"/umay/{BOOT}/{path}".encode()) == "GET"


def test_any_page_may_ask_for_a_session_and_seal() -> None:
    for path in ("session", "ohttp"):
        assert wire.shared_method(f"/umay/{BOOT}/{path}".encode()) == "POST"
    assert wire.shared_method(b"/umay/") == "GET"


@pytest.mark.parametrize(
    "path",
    [
        f"/umay/{BOOT}/retire", f"/umay/{BOOT}/metrics", f"/umay/{BOOT}", f"/umay/{BOOT}/",
        f"/umay/{BOOT}/%65vidence", f"/umay/{BOOT}//evidence", f"/umay/{BOOT.upper()}/evidence",
        "/umay", "/beacon", "/anchored", "/collateral", "/status", "/retire", "/", "*",
        "/v1/chat/completions", "/v1/models", "/healthz",
    ],
)  # fmt: skip
def test_no_page_may_ask_for_the_rest(path: str) -> None:
    assert wire.shared_method(path.encode()) is None


def test_any_page_may_read_a_log_and_none_may_write() -> None:
    reads = (
        "checkpoint", "checkpoint/7", "cosigned", "tile/0/x001/067.p/44", "tile/entries/000",
        f"evidence/sha256/{DIGEST}", "submission/7", "proof", "consistency",
    )  # fmt: skip
    assert {wire.shared_log_method(path.encode()) for path in reads} == {"GET"}
    for path in ("submit", "release", "retire", "", "checkpoint/", "tile/", "submission/x", "a"):
        assert wire.shared_log_method(path.encode()) is None
