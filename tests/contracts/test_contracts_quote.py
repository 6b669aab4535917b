"""QuoteVerifier in the real TVM: quotes that hold, and every attack by name and exit code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from nacl.signing import SigningKey
from pytoniq_core import Cell, begin_cell

from attestation.errors import ParseError, UmayError
from attestation.formats.measurement import measurement_digest
from attestation.platforms import tdx
from attestation.platforms.tdx import parse_quote
from attestation.trust.roots import PRODUCTION
from contracts import artefact, node, p256, quote_verifier
from contracts.codec import cell_from_boc, state_init
from contracts.localnet.process import LocalChain
from contracts.quote_verifier import Exit, Floor
from contracts.wallet import Wallet, address_of
from enclave.simulator.intel import FMSPC, TEE_TCB_SVN, sgx_extension
from tests.contracts.test_contracts_log import Bench, Outcome
from tests.helpers import gas
from tests.helpers.places import EVIDENCE
from tests.helpers.quote_machine import PCK, PLATFORM, PROCESSOR, ROOT, IntelLike

pytestmark = pytest.mark.skipif(not node.installed(), reason="contracts/localnet not installed")
QUOTES = sorted(EVIDENCE.glob("tdx_quote/*.bin"))
FLOOR = Floor(TEE_TCB_SVN, 4)
VALUE = 10**9


@functools.cache
def machine(authority: str = PLATFORM) -> IntelLike:
    return IntelLike(authority=authority)


@functools.cache
def good() -> bytes:
    return machine().quote(report_data=bytes(range(64)), mr_td=b"\1" * 48, rt_mr2=b"\2" * 48)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with LocalChain.start(tmp_path_factory.mktemp("chain of quotes")) as local:
        chain = local.client()
        wallet = Wallet(chain, SigningKey.generate())
        local.faucet(wallet.address, 10**16)
        yield Bench(local, chain, wallet)


def deployed(
    bench: Bench, root_key: bytes, registry: str | None = None, nano: int = 2 * 10**9
) -> str:
    data = quote_verifier.genesis(root_key=root_key, registry=registry or bench.wallet.address)
    init = state_init(artefact.load("quote_verifier").code, data)
    address = address_of(init)
    if bench.chain.account(address).state != "active":
        bench.wallet.transfer(address, nano, state_init=init, bounce=False)
    return address


@pytest.fixture(scope="module")
def target(bench: Bench) -> str:
    """A contract that pins the test root, with a floor, and knows the test machine."""
    address = deployed(bench, machine().root_key)
    assert bench.send(address, quote_verifier.set_floor(FMSPC, FLOOR)).exit_code == Exit.OK
    outcome = bench.send(address, quote_verifier.verify_full(good()), VALUE)
    assert outcome.exit_code == Exit.OK
    return address


def recorded(bench: Bench, address: str, pck: bytes) -> quote_verifier.RecordedQuote | None:
    return quote_verifier.read_machine(cell_from_boc(bench.chain.account(address).data), pck)


FORMS = {
    "full": quote_verifier.verify_full,
    "under-ca": quote_verifier.verify_under_ca,
    "cached": quote_verifier.verify_cached,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_quote_is_recorded_as_off_chain(bench: Bench, target: str, form: str) -> None:
    data = bytes(form.encode()).ljust(64, b"\0")
    quote = machine().bent(good(), report_data=data)
    outcome = bench.send(target, FORMS[form](quote), VALUE)
    assert outcome.exit_code == Exit.OK
    parsed, found = parse_quote(quote), recorded(bench, target, machine().pck_x)
    assert found is not None
    assert found.measurement == measurement_digest("tdx", parsed.registers)
    assert (found.mr_td, found.report_data) == (parsed.mr_td, data)
    assert found.tee_tcb_svn == parsed.tee_tcb_svn


def test_the_processor_ca_serves_too(bench: Bench) -> None:
    other = machine(PROCESSOR)
    address = deployed(bench, other.root_key)
    bench.send(address, quote_verifier.set_floor(FMSPC, FLOOR))
    outcome = bench.send(address, quote_verifier.verify_full(other.quote()), VALUE)
    assert outcome.exit_code == Exit.OK


# ---- attacks on the quote, each signed anew but for what it breaks

Make = Callable[[], Cell]


def bent(qe: dict[int, bytes] | None = None, **fields: Any) -> Make:
    return lambda: quote_verifier.verify_cached(machine().bent(good(), qe, **fields))


def broken(field: str, at: int) -> Make:
    """One byte of a field of the finished quote changed, hints made for what it is then."""

    def make() -> Cell:
        parsed = parse_quote(good())
        value = bytearray(getattr(parsed, field))
        value[at] ^= 1
        other = dataclasses.replace(parsed, **{field: bytes(value)})
        return quote_verifier.verify_cached(other.to_bytes())

    return make


def attribute(*bits: int) -> bytes:
    return sum(1 << bit for bit in bits).to_bytes(8, "little")


def lowered(at: int) -> bytes:
    return bytes(v - 1 if n == at else v for n, v in enumerate(TEE_TCB_SVN))


ATTACKS: dict[str, tuple[Make, Exit]] = {
    "quote signature": (broken("signature", 40), Exit.SIGNATURE),
    "body not signed": (broken("mr_td", 0), Exit.SIGNATURE),
    "report data not signed": (broken("report_data", 0), Exit.SIGNATURE),
    "QE report signature": (broken("qe_report_signature", 40), Exit.SIGNATURE),
    "QE report not signed": (broken("qe_report", 0), Exit.SIGNATURE),
    "another attestation key": (bent({320: bytes(32)}), Exit.QE_BINDING),
    "authentication data not named": (broken("qe_auth_data", 0), Exit.QE_BINDING),
    "QE report data goes on": (bent({352: b"\1"}), Exit.QE_BINDING),
    "QE in debug": (bent({48: b"\7"}), Exit.QE),
    "QE not initialised": (bent({48: b"\4"}), Exit.QE),
    "QE of another signer": (bent({128: bytes(32)}), Exit.QE),
    "QE of another product": (bent({256: b"\1\0"}), Exit.QE),
    "QE below the floor": (bent({258: b"\3\0"}), Exit.TCB),
    "debug TD": (bent(td_attributes=attribute(0, 28)), Exit.ATTRIBUTES),
    "migratable TD": (bent(td_attributes=attribute(28, 29)), Exit.ATTRIBUTES),
    "reserved attribute": (bent(td_attributes=attribute(28, 45)), Exit.ATTRIBUTES),
    "SEPT_VE_DISABLE=0": (bent(td_attributes=attribute(27)), Exit.ATTRIBUTES),
    "MRCONFIGID": (bent(mr_config_id=bytes(47) + b"\1"), Exit.LAUNCH),
    "MROWNER": (bent(mr_owner=b"\1" + bytes(47)), Exit.LAUNCH),
    "MROWNERCONFIG": (bent(mr_owner_config=bytes(47) + b"\1"), Exit.LAUNCH),
    "module of another signer": (bent(mrsigner_seam=b"\1" + bytes(47)), Exit.MODULE),
    "module attributes": (bent(seam_attributes=b"\1" + bytes(7)), Exit.MODULE),
    "TCB below the floor in an even byte": (bent(tee_tcb_svn=lowered(0)), Exit.TCB),
    "TCB below the floor in an odd byte": (bent(tee_tcb_svn=lowered(1)), Exit.TCB),
    "quoting enclave of another vendor": (bent(qe_vendor_id=bytes(16)), Exit.QUOTE_VERSION),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_on_the_quote(bench: Bench, target: str, name: str) -> None:
    make, expected = ATTACKS[name]
    before = bench.chain.account(target).data
    assert bench.send(target, make(), VALUE).exit_code == expected
    assert bench.chain.account(target).data == before


# ---- attacks on the chain of certificates


class Chained(IntelLike):
    """The test machine's keys, with other certificates around them."""

    def __init__(self, **certificates: tuple[str, str, str, str, dict[str, Any]]) -> None:
        self.__dict__.update(machine().__dict__)
        for attribute_name, (subject, issuer, key, signer, options) in certificates.items():
            made = self.certify(subject, issuer, key, signer, **options)
            setattr(self, f"_{attribute_name}", made)


def chained(form: str = "full", **certificates: Any) -> Make:
    return lambda: FORMS[form](Chained(**certificates).bent(good()))


OLD, LATER, CA_ENDED = {"years": (2020, 2021)}, {"years": (2039, 2040)}, {"years": (2019, 2020)}
MARK = sgx_extension(bytes(16))
CERTIFICATES: dict[str, tuple[Make, Exit]] = {
    "CA not signed by the root": (
        chained(platform=(PLATFORM, ROOT, "platform", "pck", {})),
        Exit.SIGNATURE,
    ),
    "CA of another name": (
        chained(platform=("Intel SGX TCB Signing", ROOT, "platform", "root", {})),
        Exit.NAME,
    ),
    "CA of another issuer": (
        chained(platform=(PLATFORM, PLATFORM, "platform", "root", {})),
        Exit.NAME,
    ),
    "PCK not signed by its CA": (chained(pck=(PCK, PLATFORM, "pck", "root", {})), Exit.SIGNATURE),
    "PCK under the other CA's name": (
        chained(pck=(PCK, PROCESSOR, "pck", "platform", {})),
        Exit.NAME,
    ),
    "PCK of another name": (
        chained(pck=("Intel SGX PCK Platform CA", PLATFORM, "pck", "platform", {})),
        Exit.NAME,
    ),
    "PCK expired": (chained(pck=(PCK, PLATFORM, "pck", "platform", OLD)), Exit.DATES),
    "PCK not yet valid": (chained(pck=(PCK, PLATFORM, "pck", "platform", LATER)), Exit.DATES),
    "CA expired": (chained(platform=(PLATFORM, ROOT, "platform", "root", CA_ENDED)), Exit.DATES),
    "PCK without FMSPC": (
        chained(pck=(PCK, PLATFORM, "pck", "platform", {"extensions": (b"\x30\x00",)})),
        Exit.NO_FMSPC,
    ),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_attack_on_the_chain(bench: Bench, target: str, name: str) -> None:
    make, expected = CERTIFICATES[name]
    before = bench.chain.account(target).data
    assert bench.send(target, make(), VALUE).exit_code == expected
    assert bench.chain.account(target).data == before


def test_root_of_another_key(bench: Bench, target: str) -> None:
    stranger = IntelLike()
    quote = stranger.quote()
    assert bench.send(target, quote_verifier.verify_full(quote), VALUE).exit_code == Exit.HINT
    ca = x509.load_der_x509_certificate(parse_quote(quote).pck_chain[1])
    hinted = quote_verifier.certificate(ca, machine().root_key)  # as if the pinned key had signed
    body = quote_verifier.verify_full(quote)
    posing = begin_cell().store_bits(body.bits).store_ref(hinted)
    posing.store_ref(body.refs[1]).store_ref(body.refs[2])
    assert bench.send(target, posing.end_cell(), VALUE).exit_code == Exit.SIGNATURE


def test_a_ca_or_machine_that_nobody_registered(bench: Bench, target: str) -> None:
    stranger = IntelLike().quote()
    for form in ("under-ca", "cached"):
        outcome = bench.send(target, FORMS[form](stranger), VALUE)
        assert outcome.exit_code == Exit.UNKNOWN_KEY


def test_a_pck_is_no_ca(bench: Bench, target: str) -> None:
    body = quote_verifier.verify_under_ca(good()).begin_parse()
    head = begin_cell().store_bits(body.load_bits(96)).store_bytes(machine().pck_x)
    posing = head.store_ref(body.refs[0]).store_ref(body.refs[1]).end_cell()
    assert bench.send(target, posing, VALUE).exit_code == Exit.UNKNOWN_KEY


# ---- form, floors, money


def rebuilt(cell: Cell, path: tuple[int, ...], change: Callable[[Cell], Cell]) -> Cell:
    """The tree with one cell, found by references, put through `change`."""
    if not path:
        return change(cell)
    body = begin_cell().store_bits(cell.bits)
    for number, ref in enumerate(cell.refs):
        body.store_ref(rebuilt(ref, path[1:], change) if number == path[0] else ref)
    return body.end_cell()


def longer(cell: Cell) -> Cell:
    body = begin_cell().store_bits(cell.bits).store_uint(0, 8)
    for ref in cell.refs:
        body.store_ref(ref)
    return body.end_cell()


def without_refs(cell: Cell) -> Cell:
    return begin_cell().store_bits(cell.bits).end_cell()


BODY, QE, KEY = (0, 0), (0, 3, 0), (0, 2)  # in VerifyCached
TBS = (1, 0)  # the PCK's, in VerifyFull
BAD_FORMS: dict[str, tuple[Make, set[int]]] = {
    "a byte more in the body": (
        lambda: rebuilt(quote_verifier.verify_cached(good()), BODY, longer),
        {Exit.FORM},
    ),
    "the body ends early": (
        lambda: rebuilt(quote_verifier.verify_cached(good()), BODY, without_refs),
        {Exit.CELL_UNDERFLOW},
    ),
    "a byte more in the QE report": (
        lambda: rebuilt(quote_verifier.verify_cached(good()), QE, longer),
        {Exit.FORM},
    ),
    "a byte more of the key": (
        lambda: rebuilt(quote_verifier.verify_cached(good()), KEY, longer),
        {Exit.QE_BINDING},
    ),
    "a byte more in a certificate": (
        lambda: rebuilt(quote_verifier.verify_full(good()), TBS, longer),
        {Exit.FORM},
    ),
    "a certificate cut short": (
        lambda: rebuilt(quote_verifier.verify_full(good()), TBS, without_refs),
        {Exit.FORM},
    ),
    "an empty part in a certificate": (
        lambda: rebuilt(quote_verifier.verify_full(good()), TBS, lambda c: begin_cell().end_cell()),
        {Exit.FORM, Exit.CELL_UNDERFLOW},
    ),
    "bits after the message": (
        lambda: rebuilt(quote_verifier.verify_cached(good()), (), longer),
        {Exit.CELL_UNDERFLOW},
    ),
    "unknown operation": (
        lambda: begin_cell().store_uint(0x554D51FF, 32).end_cell(),
        {Exit.UNKNOWN_OP},
    ),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_bad_form(bench: Bench, target: str, name: str) -> None:
    make, expected = BAD_FORMS[name]
    before = bench.chain.account(target).data
    assert bench.send(target, make(), VALUE).exit_code in expected
    assert bench.chain.account(target).data == before


def test_a_family_without_a_floor(bench: Bench) -> None:
    address = deployed(bench, machine().root_key, "0:" + "1" * 64)
    outcome = bench.send(address, quote_verifier.verify_full(good()), VALUE)
    assert outcome.exit_code == Exit.NO_FLOOR


def test_only_the_registry_sets_floors_and_blocks(bench: Bench) -> None:
    address = deployed(bench, machine().root_key, "0:" + "2" * 64)
    for message in (quote_verifier.set_floor(FMSPC, FLOOR), quote_verifier.block(bytes(32))):
        assert bench.send(address, message).exit_code == Exit.SENDER


@pytest.mark.parametrize("which", ["pck_x", "ca_x"])
def test_a_blocked_key_serves_no_more(bench: Bench, which: str) -> None:
    other = IntelLike()
    address = deployed(bench, other.root_key)
    bench.send(address, quote_verifier.set_floor(FMSPC, FLOOR))
    quote = other.quote()
    assert bench.send(address, quote_verifier.verify_full(quote), VALUE).exit_code == Exit.OK
    kept = recorded(bench, address, other.pck_x)
    assert kept is not None and not kept.blocked
    bench.send(address, quote_verifier.block(getattr(other, which)))
    for verify in (quote_verifier.verify_full, quote_verifier.verify_cached):
        assert bench.send(address, verify(quote), VALUE).exit_code == Exit.BLOCKED
    kept = recorded(bench, address, other.pck_x)
    assert kept is not None and kept.blocked


def test_what_the_registry_orders_needs_no_rent(bench: Bench) -> None:
    """A contract whose rent has run low must not miss a block: nobody would be told."""
    other = IntelLike()
    address = deployed(bench, other.root_key, nano=3 * 10**7)
    pushed = 50_000 * 400  # what a Registry sends along, in nano
    for order in (quote_verifier.set_floor(FMSPC, FLOOR), quote_verifier.block(other.pck_x)):
        before = bench.chain.account(address).balance
        outcome = bench.send(address, order, pushed)
        assert outcome.exit_code == Exit.OK and outcome.gas < 10_000
        assert bench.chain.account(address).balance > before
    refused = bench.send(address, quote_verifier.verify_full(other.quote()), VALUE)
    assert refused.exit_code == Exit.BLOCKED


def test_a_stranger_pays_the_rent_that_lacks(bench: Bench) -> None:
    address = deployed(bench, IntelLike().root_key, "0:" + "3" * 64, nano=3 * 10**7)
    outcome = bench.send(address, quote_verifier.verify_full(good()), 10**8)
    assert outcome.exit_code != Exit.OK


def test_rent_covers_what_is_recorded(bench: Bench) -> None:
    """Every kind of entry, against the figures in the source."""
    other = IntelLike()
    address = deployed(bench, other.root_key)
    empty = gas.occupied(bench.chain.account(address))
    assert empty[0] <= 60_000 and empty[1] <= 160
    for number in range(8):
        floor = quote_verifier.set_floor(number.to_bytes(6), FLOOR)
        assert bench.send(address, floor).exit_code == Exit.OK
        blocked = quote_verifier.block(hashlib.sha256(bytes([number])).digest())
        assert bench.send(address, blocked).exit_code == Exit.OK
    bench.send(address, quote_verifier.set_floor(FMSPC, FLOOR))
    outcome = bench.send(address, quote_verifier.verify_full(other.quote()), VALUE)
    assert outcome.exit_code == Exit.OK
    bits, cells = gas.occupied(bench.chain.account(address))
    entries = 8 + 8 + 1 + 2  # floors, blocks, the test family's floor, CA and machine
    assert bits - empty[0] <= entries * 3200 and cells - empty[1] <= entries * 5


def test_too_little_money(bench: Bench, target: str) -> None:
    before = bench.chain.account(target)
    outcome = bench.send(target, quote_verifier.verify_cached(good()), 25_000_000)
    assert outcome.exit_code == Exit.UNDERFUNDED
    assert bench.chain.account(target).data == before.data


def test_version_5_is_refused_by_name() -> None:
    fields = {"tee_tcb_svn2": TEE_TCB_SVN, "mr_servicetd": bytes(48), "version": 5}
    with pytest.raises(ParseError, match="expected version 4"):
        quote_verifier.verify_full(machine().bent(good(), **fields))


# ---- the signature identity, by digest: every condition by a case that it alone stops


@dataclass(frozen=True)
class Numbers:
    digest: int
    r: int
    s: int
    s1: int
    s2: int
    parity: int
    tx: int
    x: int


def numbers(signed: bytes = bytes(range(32)), **changes: int) -> Numbers:
    """A genuine signature over this digest with its hints, and then other numbers in it."""
    secret = ec.derive_private_key(77, ec.SECP256R1())
    point = secret.public_key().public_numbers()
    algorithm = ec.ECDSA(Prehashed(hashes.SHA256()), deterministic_signing=True)
    r, s = decode_dss_signature(secret.sign(signed, algorithm))
    return dataclasses.replace(with_hints(signed, r, s, (point.x, point.y)), **changes)


def with_hints(signed: bytes, r: int, s: int, key: tuple[int, int]) -> Numbers:
    x, y = key
    found = p256.hinted(signed, r.to_bytes(32) + s.to_bytes(32), x.to_bytes(32) + y.to_bytes(32))
    point = found.point[0], int.from_bytes(found.point[1:])
    return Numbers(int.from_bytes(signed), r, s, found.s1, found.s2, *point, x)


def small_s() -> Numbers:
    """A genuine signature with s = 5, made by choosing the key to fit; s + n says the same."""
    signed, s, k = bytes(range(32)), 5, 1234567
    nonce = ec.derive_private_key(k, ec.SECP256R1()).public_key().public_numbers()
    r = nonce.x % p256.N
    secret = (s * k - int.from_bytes(signed)) * pow(r, -1, p256.N) % p256.N
    point = ec.derive_private_key(secret, ec.SECP256R1()).public_key().public_numbers()
    return with_hints(signed, r, s, (point.x, point.y))


def decide(bench: Bench, address: str, given: Numbers) -> int:
    return bench.chain.run_get_method(address, "checkEcdsa", tuple(vars(given).values())).exit_code


def test_a_signature_holds(bench: Bench, target: str) -> None:
    assert decide(bench, target, numbers()) == 0
    assert decide(bench, target, small_s()) == 0


def zero_digest() -> Numbers:
    """With e = 0 and x = r the first equation holds for every s1: only e ≢ 0 stops it."""
    good_numbers = numbers()
    s1 = good_numbers.s1
    s2 = s1 * good_numbers.s * pow(good_numbers.x, -1, p256.N) % p256.N
    return dataclasses.replace(good_numbers, digest=0, r=good_numbers.x, s1=s1, s2=s2)


def small_key() -> Numbers:
    """An x-coordinate below p − n, with equations that hold: only its range stops it."""
    given = numbers()
    x = 5
    s1 = p256.E * (x - given.r) * pow(given.digest, -1, p256.N) % p256.N
    s2 = s1 * given.s * pow(x, -1, p256.N) % p256.N
    return dataclasses.replace(given, s1=s1, s2=s2, x=x)


G = numbers()
CONDITIONS: dict[str, tuple[Callable[[], Numbers], Exit]] = {
    "digest zero": (zero_digest, Exit.RANGE),
    "digest n": (lambda: dataclasses.replace(zero_digest(), digest=p256.N), Exit.RANGE),
    "s is s + n": (lambda: dataclasses.replace(small_s(), s=5 + p256.N), Exit.RANGE),
    "s zero": (lambda: numbers(s=0, s2=0), Exit.SIGNATURE),
    "r zero": (lambda: numbers(r=0), Exit.HINT),
    "x below p - n": (small_key, Exit.RANGE),
    "s1 another": (lambda: numbers(s1=G.s1 + 1), Exit.HINT),
    "s2 another": (lambda: numbers(s2=G.s2 + 1), Exit.HINT),
    "another digest": (lambda: numbers(digest=G.digest + 1), Exit.HINT),
    "T of the other sign": (lambda: numbers(parity=5 - G.parity), Exit.SIGNATURE),
    "T another point": (lambda: numbers(tx=p256.G[0]), Exit.SIGNATURE),
    "T no point": (lambda: numbers(tx=1), Exit.SIGNATURE),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition(bench: Bench, target: str, name: str) -> None:
    make, expected = CONDITIONS[name]
    assert decide(bench, target, make()) == expected


def test_a_hundred_digests(bench: Bench, target: str) -> None:
    rng = random.Random(5)
    for _ in range(100):
        given = numbers(rng.randbytes(32))
        assert decide(bench, target, given) == 0
        field = rng.choice(("digest", "r", "s", "s1", "s2", "tx", "x"))
        bit = 1 << rng.randrange(256)
        bad = dataclasses.replace(given, **{field: vars(given)[field] ^ bit})
        assert decide(bench, target, bad) != 0, field


# ---- every bit of a message


def cells_of(cell: Cell, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], int]]:
    """(path, bits) of every cell of the tree."""
    yield path, len(cell.bits)
    for number, ref in enumerate(cell.refs):
        yield from cells_of(ref, (*path, number))


def flip(bit: int) -> Callable[[Cell], Cell]:
    def change(cell: Cell) -> Cell:
        bits = cell.bits.to01()
        other = "0" if bits[bit] == "1" else "1"
        body = begin_cell().store_bits(bits[:bit] + other + bits[bit + 1 :])
        for ref in cell.refs:
            body.store_ref(ref)
        return body.end_cell()

    return change


def flips(message: Cell, count: int, seed: int) -> Iterator[Cell]:
    """Messages with one bit flipped; the query id (bits 32 to 95 of the root) is left out."""
    places = [(path, bit) for path, bits in cells_of(message) for bit in range(bits)]
    places = [(path, bit) for path, bit in places if path or not 32 <= bit < 96]
    for path, bit in random.Random(seed).sample(places, min(count, len(places))):
        yield rebuilt(message, path, flip(bit))


def refused_flips(bench: Bench, address: str, message: Cell, count: int) -> None:
    before = bench.chain.account(address).data
    for number, changed in enumerate(flips(message, count, 1)):
        assert bench.send(address, changed, VALUE).exit_code != Exit.OK, number
    assert bench.chain.account(address).data == before


def test_any_flipped_bit_is_refused(bench: Bench, target: str) -> None:
    refused_flips(bench, target, quote_verifier.verify_full(good()), 100)


# ---- real quotes

FLIPS = int(os.environ.get("UMAY_QUOTE_FLIPS", "5"))


def off_chain(quote: bytes) -> str:
    """What the verifier says of a quote's form and attributes, collateral apart."""
    try:
        parsed = parse_quote(quote)
        tdx.check_signature(parsed, roots=PRODUCTION, now=1_795_000_000)
        tdx.check_attributes(parsed)
    except UmayError as error:
        return str(getattr(error, "code", "malformed"))
    return "ok"


SAME_REASON = {
    "ok": Exit.OK,
    "debug": Exit.ATTRIBUTES,
    "sept-ve-disable": Exit.ATTRIBUTES,
    "mr-config-id": Exit.LAUNCH,
}


@pytest.mark.evidence
@pytest.mark.parametrize("path", QUOTES, ids=lambda path: path.stem[-20:])
def test_real_quote(bench: Bench, path: Path) -> None:
    quote = path.read_bytes()
    if parse_quote(quote).version != 4:
        with pytest.raises(ParseError, match="expected version 4"):
            quote_verifier.verify_full(quote)
        return
    parsed = parse_quote(quote)
    signer = tdx.check_signature(parsed, roots=PRODUCTION, now=1_795_000_000)
    address = deployed(bench, quote_verifier.root_key_of(quote))
    bench.send(address, quote_verifier.set_floor(signer.fmspc, Floor(bytes(16), 0)))
    message = quote_verifier.verify_full(quote)
    outcome: Outcome = bench.send(address, message, VALUE)
    assert outcome.exit_code == SAME_REASON[off_chain(quote)]
    refused_flips(bench, address, message, FLIPS)


# ---- gas


@pytest.mark.parametrize("form", FORMS)
def test_gas_is_as_recorded(bench: Bench, form: str) -> None:
    fixed = IntelLike()
    address = deployed(bench, fixed.root_key)
    bench.send(address, quote_verifier.set_floor(FMSPC, FLOOR))
    quote = fixed.quote()
    first = bench.send(address, quote_verifier.verify_full(quote), VALUE)
    outcome = first if form == "full" else bench.send(address, FORMS[form](quote), VALUE)
    assert outcome.exit_code == Exit.OK
    limit = {"full": 115_000, "under-ca": 90_000, "cached": 40_000}[form]
    assert outcome.gas <= limit
    gas.check("quote_verifier", form, outcome.gas, within=2)
