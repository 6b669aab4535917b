"""The gpu step: chain, nonce, device, firmware and measurements, every bad case by its code."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, UmayError
from attestation.formats.evidence import GPU, SWITCH, Device
from attestation.nvidia import check_driver, check_measurements, check_revocation, check_set
from attestation.trust.roots import PRODUCTION
from enclave.simulator import pki
from enclave.simulator import rim as maker
from enclave.simulator.hopper import (
    DRIVER_INDICES,
    DRIVER_VERSION,
    MEASUREMENTS,
    OPAQUE,
    SWITCH_BIOS,
    SWITCH_MEASUREMENTS,
    VBIOS_INDICES,
    VBIOS_VERSION,
    published,
)
from enclave.simulator.nvidia import SimulatedNvidia
from tests.helpers.nvidia_machine import (
    DAY,
    FWID_OID,
    NONCE,
    NOW,
    TODAY,
    chain,
    checked,
    collateral,
    common_name,
    device,
    fresh_key,
    fwid,
    issue,
    opaque,
    public,
    rebuilt,
    refuses,
    roots,
    switch,
    vendor,
    with_chain,
)

P256 = ec.SECP256R1
OTHER = b"\xab" * 48


def test_good_device_passes_every_check() -> None:
    gpu = checked()
    assert (gpu.architecture, gpu.chip.product) == ("hopper", "GH100")
    assert gpu.report.nonce == NONCE
    check_set([gpu, checked(device(1))])
    check_driver(gpu, minimum=DRIVER_VERSION)
    signer_ends = int(pki.NOT_AFTER.timestamp())
    firmware = check_measurements(gpu, collateral(), roots=roots(), now=NOW)
    assert firmware.expires == signer_ends
    assert check_revocation(gpu, firmware, collateral(), now=NOW) > NOW


# The chain


def _other_simulator() -> SimulatedNvidia:
    return SimulatedNvidia(Path(tempfile.mkdtemp()), NOW)


def _p256_device() -> Device:
    """A chain that holds in every link, but for the curve of one key."""
    key, good = fresh_key(P256), chain()
    weak = issue(
        common_name(good[1]),
        key.public_key(),
        issuer=good[2],
        signer=vendor().keys["provisioner"],
        path_length=0,
    )
    leaf = issue(
        common_name(good[0]),
        good[0].public_key(),
        issuer=weak,
        signer=key,
        extensions=[(fwid(good[0]), False)],
        algorithm=hashes.SHA384(),
    )
    return with_chain((leaf, weak, *good[2:]))


def _with_root(certificates: tuple[x509.Certificate, ...]) -> Device:
    report = device(nvidia=vendor("Stranger")).report
    ders = tuple(pki.der(item) for item in (*certificates[:4], chain()[4]))
    return Device(GPU, report, ders)


def _with_der(change: Callable[[bytes], bytes]) -> Device:
    good = device()
    return dataclasses.replace(good, chain=(good.chain[0], change(good.chain[1]), *good.chain[2:]))


DEVICE, PROVISIONER, IDENTITY, ROOT = 1, 2, 3, 4
CHAINS: dict[str, tuple[str, Callable[[], Device]]] = {
    "no-certificate": ("bad-chain", lambda: with_chain(())),
    "four-certificates": ("bad-chain", lambda: with_chain(chain()[:4])),
    "four-without-provisioner": ("bad-chain", lambda: with_chain((*chain()[:2], *chain()[3:]))),
    "six-certificates": ("bad-chain", lambda: with_chain((*chain(), chain()[-1]))),
    "reversed": ("simulated-root", lambda: with_chain(chain()[::-1])),
    "device-and-provisioner-swapped": (
        "chain-order",
        lambda: with_chain([chain()[at] for at in (0, 2, 1, 3, 4)]),
    ),
    "leaf-and-device-swapped": (
        "not-a-ca",
        lambda: with_chain([chain()[at] for at in (1, 0, 2, 3, 4)]),
    ),
    "leaf-of-another-device": ("chain-order", lambda: with_chain((chain(1)[0], *chain()[1:]))),
    "chain-of-another-device": ("bad-signature", lambda: with_chain(chain(1), 0)),
    "stranger-device-below-our-provisioner": (
        "chain-order",
        lambda: with_chain((*vendor("Stranger").gpu(0)[1][:2], *chain()[2:])),
    ),
    "stranger-root-of-other-name": (
        "wrong-root",
        lambda: device(nvidia=vendor("Stranger")),
    ),
    "stranger-root-of-the-same-names": (
        "simulated-root",
        lambda: device(nvidia=_other_simulator()),
    ),
    "our-root-above-a-strangers-chain": (
        "chain-order",
        lambda: _with_root(vendor("Stranger").gpu(0)[1]),
    ),
    "leaf-expired": ("certificate-expired", lambda: rebuilt(0, end=TODAY - DAY)),
    "leaf-not-yet-valid": ("certificate-not-yet-valid", lambda: rebuilt(0, start=TODAY + DAY)),
    "device-expired": ("certificate-expired", lambda: rebuilt(DEVICE, end=TODAY - DAY)),
    "provisioner-expired": ("certificate-expired", lambda: rebuilt(PROVISIONER, end=TODAY - DAY)),
    "identity-not-yet-valid": (
        "certificate-not-yet-valid",
        lambda: rebuilt(IDENTITY, start=TODAY + DAY),
    ),
    "root-expired": ("certificate-expired", lambda: rebuilt(ROOT, end=TODAY - DAY)),
    "leaf-is-an-authority": ("not-a-ca", lambda: rebuilt(0, path_length=0)),
    "leaf-may-not-sign": ("key-usage", lambda: rebuilt(0, usage=True)),
    "device-is-no-authority": ("not-a-ca", lambda: rebuilt(DEVICE, authority=False,
                                                            path_length=None)),
    "device-without-constraints": ("not-a-ca", lambda: rebuilt(DEVICE, constraints=False)),
    "provisioner-may-not-certify": ("key-usage", lambda: rebuilt(PROVISIONER, usage=False)),
    "path-too-long-for-provisioner": ("path-length", lambda: rebuilt(PROVISIONER, path_length=0)),
    "path-too-long-for-identity": ("path-length", lambda: rebuilt(IDENTITY, path_length=1)),
    "path-too-long-for-root": ("path-length", lambda: rebuilt(ROOT, path_length=0)),
    "p-256-leaf": ("wrong-curve", lambda: rebuilt(0, public=public(P256))),
    "p-256-device": ("wrong-curve", _p256_device),
    "p-521-leaf": ("wrong-curve", lambda: rebuilt(0, public=public(ec.SECP521R1))),
    "rsa-leaf": (
        "wrong-curve",
        lambda: rebuilt(0, public=rsa.generate_private_key(65537, 2048).public_key()),
    ),
    "ed25519-leaf": (
        "wrong-curve",
        lambda: rebuilt(0, public=ed25519.Ed25519PrivateKey.generate().public_key()),
    ),
    "sha-256-certificate": ("wrong-algorithm", lambda: rebuilt(DEVICE, algorithm=hashes.SHA256())),
    "device-signed-by-another-key": (
        "chain-signature",
        lambda: rebuilt(DEVICE, signer=fresh_key()),
    ),
    "leaf-signed-by-another-device": (
        "chain-signature",
        lambda: rebuilt(0, signer=vendor()._derive("1/device")),
    ),
    "leaf-certified-by-itself": (
        "chain-signature",
        lambda: rebuilt(0, signer=vendor()._derive("0/leaf")),
    ),
    "issuer-of-another-name": ("chain-order", lambda: rebuilt(0, issuer=chain()[2])),
    "another-leaf-key": ("bad-signature", lambda: rebuilt(0, public=public())),
    "unknown-critical-extension": (
        "unknown-extension",
        lambda: rebuilt(DEVICE, extensions=[(x509.UnrecognizedExtension(
            x509.ObjectIdentifier("1.3.6.1.4.1.5703.1"), b"\5\0"), True)]),
    ),
    "name-constraints": (
        "unknown-extension",
        lambda: rebuilt(PROVISIONER, extensions=[(x509.NameConstraints(
            None, [x509.DirectoryName(pki.name("any"))]), True)]),
    ),
    "certificate-with-a-trailing-byte": ("bad-certificate", lambda: _with_der(lambda d: d + b"\0")),
    "certificate-cut": ("bad-certificate", lambda: _with_der(lambda d: d[:-1])),
    "certificate-as-pem": (
        "bad-certificate",
        lambda: _with_der(lambda d: x509.load_der_x509_certificate(d).public_bytes(Encoding.PEM)),
    ),
    "two-certificates-in-one": ("bad-certificate", lambda: _with_der(lambda d: d + d)),
    "no-bytes": ("bad-certificate", lambda: _with_der(lambda _: b"")),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_bad_chain_is_refused(name: str) -> None:
    code, make = CHAINS[name]
    with refuses(code, NotAuthentic):
        checked(make())


@pytest.mark.parametrize("position", range(5))
def test_certificate_made_anew_with_nothing_wrong_passes(position: int) -> None:
    """So that each case above fails for its one change only."""
    checked(rebuilt(position))


def test_simulated_device_never_passes_under_vendor_roots() -> None:
    with refuses("simulated-root", NotAuthentic):
        checked(roots=PRODUCTION)


def test_stranger_never_passes_under_vendor_roots() -> None:
    with refuses("wrong-root", NotAuthentic):
        checked(device(nvidia=vendor("NVIDIA")), roots=PRODUCTION)


def test_rim_root_is_no_device_root() -> None:
    mixed = dataclasses.replace(roots(), nvidia_device=roots().nvidia_rim)
    with refuses("simulated-root", NotAuthentic):
        checked(roots=mixed)


@example(0, 669, 1)  # unused bits of the signature
@given(st.integers(0, 4), st.integers(0, 2000), st.integers(1, 255))
def test_changed_certificate_byte_never_passes(position: int, at: int, change: int) -> None:
    good = device()
    ders = list(good.chain)
    at %= len(ders[position])
    der = ders[position]
    ders[position] = der[:at] + bytes([der[at] ^ change]) + der[at + 1 :]
    with pytest.raises(UmayError):
        checked(dataclasses.replace(good, chain=tuple(ders)))


@given(st.lists(st.binary(max_size=80), min_size=5, max_size=5))
def test_arbitrary_chain_raises_only_our_errors(ders: list[bytes]) -> None:
    with pytest.raises(UmayError):
        checked(dataclasses.replace(device(), chain=tuple(ders)))


# Nonce, kind, chip, mode, firmware identity


@pytest.mark.parametrize("nonce", [bytes(32), NONCE[::-1], NONCE[:31], NONCE + b"\0", b""])
def test_wrong_nonce(nonce: bytes) -> None:
    with refuses("wrong-nonce", NotAuthentic):
        checked(nonce=nonce)


def hung(*names: str, named: x509.UnrecognizedExtension | None = None) -> Device:
    """GPU 0 under certificates of other names: device, provisioner, identity. `named` is the
    extension in which its leaf names the firmware."""
    nvidia, keys = vendor(), vendor().keys
    made = [chain()[4]]
    signers = ("root", "identity", "provisioner")
    publics = (keys["identity"], keys["provisioner"], nvidia._derive("0/device"))
    for depth, (name, key) in enumerate(zip(names[::-1], publics, strict=True)):
        made.append(
            issue(name, key.public_key(), issuer=made[-1], signer=keys[signers[depth]],
                  path_length=2 - depth)
        )  # fmt: skip
    leaf = issue(
        common_name(chain()[0]),
        chain()[0].public_key(),
        issuer=made[-1],
        signer=nvidia._derive("0/device"),
        extensions=[(named or fwid(chain()[0]), False)],
    )
    return with_chain((leaf, *made[::-1]))


GSP, ICA, CA = "GH100 A01 GSP BROM", "NVIDIA GH100 Provisioner ICA 1", "NVIDIA GH100 Identity"


def test_names_of_a_real_hopper_pass() -> None:
    assert checked(hung(GSP, ICA, CA)).chip.product == "GH100"


STRANGE_DEVICES: dict[str, Callable[[], Device]] = {
    "switch-below-a-gpu-provisioner": lambda: hung("LS_10 A01 FSP BROM", ICA, CA),
    "unknown-architecture": lambda: hung(
        "GX900 A01 GSP BROM", "NVIDIA GX900 Provisioner ICA 1", "NVIDIA GX900 Identity"
    ),
    "hopper-below-another-family": lambda: hung(GSP, ICA, "NVIDIA GB100 Identity"),
    "no-identity-certificate": lambda: hung(GSP, ICA, "NVIDIA GH100"),
    "one-word": lambda: hung(GSP, ICA, "Identity"),
    "chip-as-a-part-of-a-word": lambda: hung("XGH100 BROM", ICA, CA),
}


OTHER_CLASS: dict[str, Callable[[], Device]] = {
    "gpu-called-a-switch": lambda: device(kind=SWITCH),
    "gpu-answers-31-blocks": lambda: device(measurements=MEASUREMENTS[:31]),
    "switch-called-a-gpu": lambda: dataclasses.replace(switch(0), kind=GPU),
    "gpu-report-below-switch-certificates": lambda: hung(
        "LS_10 A01 FSP BROM", "NVIDIA LS_10 Provisioner ICA 1", CA
    ),
}


@pytest.mark.parametrize("name", OTHER_CLASS)
def test_device_of_another_class(name: str) -> None:
    with refuses("wrong-class", NotAuthentic):
        checked(OTHER_CLASS[name]())


@pytest.mark.parametrize("name", STRANGE_DEVICES)
def test_device_that_is_no_hopper_gpu(name: str) -> None:
    with refuses("unsupported-device", Refused):
        checked(STRANGE_DEVICES[name]())


@pytest.mark.parametrize("mode", [b"\3\0", b"\0", b"", b"\1\0\0"])
def test_unknown_modes_are_refused(mode: bytes) -> None:
    with refuses("unsupported-mode", Refused):
        checked(device(opaque=opaque(f36=mode)))


@pytest.mark.parametrize("mode", [b"\0\0", b"\1\0", None])
def test_passthrough_modes_are_accepted(mode: bytes | None) -> None:
    checked(device(opaque=opaque(f36=mode)))


@pytest.mark.parametrize(
    ("code", "extensions"),
    [
        ("fwid-missing", []),
        ("fwid-mismatch", [(x509.UnrecognizedExtension(FWID_OID, b""), False)]),
        ("fwid-mismatch", [(x509.UnrecognizedExtension(FWID_OID, OPAQUE[20]), False)]),
        (
            "fwid-mismatch",
            [(x509.UnrecognizedExtension(FWID_OID, fwid(chain()[0]).value + b"\0"), False)],
        ),
        (
            "fwid-mismatch",
            [(x509.UnrecognizedExtension(FWID_OID, fwid(chain()[0]).value[:-48] + OTHER), False)],
        ),
    ],
    ids=["absent", "empty", "digest-alone", "trailing-byte", "other-firmware"],
)
def test_certificate_for_other_firmware(code: str, extensions: list) -> None:
    with refuses(code, NotAuthentic):
        checked(rebuilt(0, extensions=extensions))


@pytest.mark.parametrize("digest", [OTHER, OPAQUE[20][:-1], OPAQUE[20] + b"\0", b""])
def test_report_of_other_firmware(digest: bytes) -> None:
    with refuses("fwid-mismatch", NotAuthentic):
        checked(device(opaque=opaque(f20=digest)))


def blackwell(named: bytes) -> Device:
    """GPU 0 under the certificates of a GB100, whose leaf has `named` as its list of digests."""
    return hung(
        "GB100 A01 GSP BROM",
        "NVIDIA GB100 Provisioner ICA 1",
        "NVIDIA GB100 Identity",
        named=x509.UnrecognizedExtension(
            x509.ObjectIdentifier(f"{FWID_OID.dotted_string}.1"), named
        ),
    )


MARK = bytes.fromhex("06096086480165030402020430")


@pytest.mark.parametrize("before", [b"", b"\0", b"\x30\x39"])
def test_the_first_digest_of_a_blackwell_list_is_the_firmware(before: bytes) -> None:
    found = checked(blackwell(before + MARK + OPAQUE[20] + MARK + OTHER))
    assert found.architecture == "blackwell"


@pytest.mark.parametrize(
    "named",
    [
        b"",
        MARK,
        MARK + OTHER + MARK + OPAQUE[20],
        MARK + OPAQUE[20][:-1],
        bytes(len(MARK) - 1) + OPAQUE[20],
    ],
    ids=["empty", "no-digest", "second", "cut", "digest-alone"],
)
def test_a_blackwell_list_that_begins_with_other_firmware(named: bytes) -> None:
    with refuses("fwid-mismatch", NotAuthentic):
        checked(blackwell(named))


@pytest.mark.parametrize("length", [0, 1, 47])
def test_a_shorter_digest_is_none_even_where_the_leaf_has_it_too(length: int) -> None:
    leaf_names = x509.UnrecognizedExtension(FWID_OID, MARK + OTHER[:length])
    given_ = rebuilt(0, extensions=[(leaf_names, False)])
    report = device(opaque=opaque(f20=OTHER[:length])).report
    with refuses("fwid-mismatch", NotAuthentic):
        checked(dataclasses.replace(given_, report=report))


def test_report_may_omit_its_firmware_only_with_an_old_driver() -> None:
    checked(device(opaque=opaque(f20=None, f3=b"545.00\0")))
    for driver in (DRIVER_VERSION.encode(), b"550"):
        with refuses("fwid-missing", NotAuthentic):
            checked(device(opaque=opaque(f20=None, f3=driver + b"\0")))
    with refuses("driver-unknown", Refused):
        checked(device(opaque=opaque(f20=None, f3=b"r545\0")))


# A set of devices, and the driver


def test_same_report_twice() -> None:
    with refuses("duplicate-device", NotAuthentic):
        check_set([checked(), checked()])


def test_same_device_with_two_leaf_certificates() -> None:
    """A device makes itself a new leaf at each boot: it stays one device."""
    again = rebuilt(0, end=TODAY + 9 * DAY)
    assert again.chain[0] != device().chain[0]
    with refuses("duplicate-device", NotAuthentic):
        check_set([checked(), checked(device(1)), checked(again)])


def test_same_device_key_certified_twice() -> None:
    with refuses("duplicate-device", NotAuthentic):
        check_set([checked(), checked(rebuilt(DEVICE))])


def test_no_devices_are_no_duplicates() -> None:
    check_set([])


@pytest.mark.parametrize(
    ("got", "minimum", "passes"),
    [
        ("550.90.07", None, True),
        ("550.90.07", "550.90.07", True),
        ("550.90.07", "550.90", True),
        ("550.90.07", "550.90.7", True),
        ("550.90.07", "550.9.99", True),
        ("550.90.07", "99.99.99", True),
        ("550.90", "550.90.07", False),
        ("550.90.07", "550.90.08", False),
        ("550.90.07", "550.100", False),
        ("550.90.07", "1000", False),
    ],
)
def test_drivers_compare_by_number(got: str, minimum: str | None, passes: bool) -> None:
    gpu = checked(device(opaque=opaque(f3=got.encode() + b"\0")))
    if passes:
        return check_driver(gpu, minimum=minimum)
    with refuses("driver-too-old", Refused):
        check_driver(gpu, minimum=minimum)


@pytest.mark.parametrize("got", ["550.90.07b", "550..07", ".", "550.", "5" * 12])
def test_driver_that_is_no_number(got: str) -> None:
    gpu = checked(device(opaque=opaque(f3=got.encode())))
    with refuses("driver-unknown", Refused):
        check_driver(gpu, minimum="500")


# Measurements against RIMs

DRIVER_RIM, VBIOS_RIM = f"DRIVER_GH100_{DRIVER_VERSION}", "VBIOS_1010_0200_882_96009F0001"


def golden(indices: Iterable[int], **others: tuple[bytes, ...]) -> dict[int, tuple[bytes, ...]]:
    """The published digests, those named in `others` ("m35") replaced."""
    usual = {index: (MEASUREMENTS[index],) for index in indices}
    return usual | {int(name[1:]): digests for name, digests in others.items()}


def measure(given: Device | None = None, driver: bytes | None = b"", vbios: bytes | None = b""):
    """Checks `given` against the vendor's RIMs; either may be replaced, or left out by None."""
    changes = {DRIVER_RIM: driver, VBIOS_RIM: vbios}
    parts = collateral(**{name: data for name, data in changes.items() if data != b""})
    return check_measurements(checked(given), parts, roots=roots(), now=NOW)


def changed(index: int, digest: bytes = OTHER) -> list[bytes]:
    return [*MEASUREMENTS[:index], digest, *MEASUREMENTS[index + 1 :]]


@pytest.mark.parametrize("index", [0, 6, 7, 12, 31, 32, 35, 40])
def test_measurement_that_is_not_published(index: int) -> None:
    with refuses("measurement-mismatch", Refused):
        measure(device(measurements=changed(index)))


def test_measurements_in_another_order() -> None:
    swapped = [MEASUREMENTS[1], MEASUREMENTS[0], *MEASUREMENTS[2:]]
    with refuses("measurement-mismatch", Refused):
        measure(device(measurements=swapped))


def test_any_published_alternative_is_accepted() -> None:
    rim = vendor().rim(DRIVER_VERSION, golden(DRIVER_INDICES, m40=(MEASUREMENTS[40], OTHER)))
    measure(device(measurements=changed(40)), driver=rim)
    measure(driver=rim)


def test_alternative_of_another_index_is_not() -> None:
    rim = vendor().rim(DRIVER_VERSION, golden(DRIVER_INDICES, m39=(MEASUREMENTS[39], OTHER)))
    with refuses("measurement-mismatch", Refused):
        measure(device(measurements=changed(40)), driver=rim)


def test_inactive_resource_is_not_compared() -> None:
    first, *others = DRIVER_INDICES
    rim = vendor().rim(DRIVER_VERSION, golden(others))
    measure(device(measurements=changed(first)), driver=rim)


@pytest.mark.parametrize("index", [13, 20, 41, 63])
def test_a_slot_that_no_rim_names_is_not_compared(index: int) -> None:
    """Zero on real devices; NVIDIA's own verifier does not look at them either."""
    assert not any(MEASUREMENTS[index])
    measure(device(measurements=changed(index)))


@pytest.mark.parametrize("index", [12, 23, 35, 36])
def test_a_digest_of_another_version_in_the_same_rim_is_accepted(index: int) -> None:
    for digest in published([index])[index]:
        measure(device(measurements=changed(index, digest)))


def test_index_35_is_skipped_only_where_nvdec0_is_disabled() -> None:
    disabled = opaque(f11=b"\xaa")
    measure(device(measurements=changed(35), opaque=disabled))
    measure(device(opaque=disabled))
    for other in (b"\x55", b"\x00", b"\xaa\xaa", b"", None):
        with refuses("measurement-mismatch", Refused):
            measure(device(measurements=changed(35), opaque=opaque(f11=other)))
    for index in (34, 36):
        with refuses("measurement-mismatch", Refused):
            measure(device(measurements=changed(index), opaque=disabled))


@pytest.mark.parametrize("which", ["driver", "vbios"])
def test_missing_rim(which: str) -> None:
    with refuses("rim-missing", Refused):
        measure(**{which: None})


@pytest.mark.parametrize(
    ("which", "version"), [("driver", DRIVER_VERSION), ("vbios", VBIOS_VERSION)]
)
def test_rim_that_names_nothing(which: str, version: str) -> None:
    """A VBIOS RIM alone is no reason to pass a driver whose RIM is empty."""
    with refuses("rim-empty", Refused):
        measure(**{which: vendor().rim(version, {})})


@pytest.mark.parametrize(
    ("which", "version"),
    [
        ("driver", "550.90.08"),
        ("driver", VBIOS_VERSION),
        ("driver", ""),
        ("vbios", "96.00.9F.00.02"),
        ("vbios", DRIVER_VERSION),
    ],
)
def test_rim_of_another_version(which: str, version: str) -> None:
    with refuses("rim-other", NotAuthentic):
        measure(**{which: vendor().rim(version, golden(DRIVER_INDICES))})


def test_rim_of_another_product() -> None:
    nvidia = vendor()
    keys = {"key": nvidia.keys["rim"], "chain": nvidia.rim_chain}
    for product in ("GB100", "LS10", "gh100", ""):
        rim = maker.make(product, DRIVER_VERSION, golden(DRIVER_INDICES), **keys)
        with refuses("rim-other", NotAuthentic):
            measure(driver=rim)


@pytest.mark.parametrize("index", [7, 40])
def test_rims_that_both_name_an_index(index: int) -> None:
    rim = vendor().rim(VBIOS_VERSION, golden(VBIOS_INDICES) | golden(range(index, index + 1)))
    with refuses("rim-overlap", NotAuthentic):
        measure(vbios=rim)


def test_the_first_index_that_two_rims_name_is_told() -> None:
    rim = vendor().rim(VBIOS_VERSION, golden(VBIOS_INDICES) | golden((7, 40)))
    with pytest.raises(NotAuthentic, match="got 7 in both"):
        measure(vbios=rim)


def test_rim_of_a_stranger() -> None:
    rim = vendor("Stranger").rim(DRIVER_VERSION, golden(DRIVER_INDICES))
    with refuses("rim-wrong-root", NotAuthentic):
        measure(driver=rim)


def test_device_root_is_no_rim_root() -> None:
    mixed = dataclasses.replace(roots(), nvidia_rim=roots().nvidia_device)
    with refuses("rim-simulated-root", NotAuthentic):
        check_measurements(checked(), collateral(), roots=mixed, now=NOW)


def test_rims_expire() -> None:
    late = int(pki.NOT_AFTER.timestamp()) + 1
    with refuses("rim-expired", Refused):
        check_measurements(checked(), collateral(), roots=roots(), now=late)


@pytest.mark.parametrize("which", ["driver", "vbios"])
def test_the_rim_that_ends_first_bounds_both(which: str) -> None:
    nvidia, (signer, authority, root) = vendor(), vendor().rim_chain
    soon = issue(
        common_name(signer),
        signer.public_key(),
        issuer=authority,
        signer=nvidia.keys["rim-ca"],
        end=TODAY + DAY,
    )
    version, indices = {
        "driver": (DRIVER_VERSION, DRIVER_INDICES),
        "vbios": (VBIOS_VERSION, VBIOS_INDICES),
    }[which]
    chain_ = (soon, authority, root)
    rim = maker.make("GH100", version, golden(indices), key=nvidia.keys["rim"], chain=chain_)
    assert measure(**{which: rim}).expires == int((TODAY + DAY).timestamp())


@pytest.mark.parametrize("index", [31, 63])
def test_a_rim_of_a_switch_that_names_more_than_it_measures(index: int) -> None:
    usual = {at: (digest,) for at, digest in enumerate(SWITCH_MEASUREMENTS)}
    keys = {"key": vendor().keys["rim"], "chain": vendor().rim_chain}
    for more, whole in (({}, True), ({index: (OTHER,)}, False)):
        rim = maker.make("LS10", SWITCH_BIOS, usual | more, **keys)
        parts = collateral(NV_SWITCH_BIOS=rim)
        if whole:
            check_measurements(checked(switch(0)), parts, roots=roots(), now=NOW)
            continue
        with refuses("measurement-mismatch", Refused):
            check_measurements(checked(switch(0)), parts, roots=roots(), now=NOW)


def test_report_of_an_unreadable_board_is_refused() -> None:
    for broken in (opaque(f6=bytes(7)), opaque(f3=b"550\x0090"), opaque(f17=b"../x")):
        with pytest.raises(ParseError):
            measure(device(opaque=broken))


def signed_wrongly(given: Device) -> Device:
    return dataclasses.replace(given, report=given.report[:-1] + bytes([given.report[-1] ^ 1]))


CALLED_BY_KIND: dict[str, Callable[[Device], object]] = {
    "wrong-signature": lambda given: checked(signed_wrongly(given)),
    "another-nonce": lambda given: checked(given, nonce=bytes(32)),
    "cut-short": lambda given: checked(dataclasses.replace(given, report=given.report[:-1])),
    "bytes-after": lambda given: checked(dataclasses.replace(given, report=given.report + b"x")),
}


@pytest.mark.parametrize("name", CALLED_BY_KIND)
def test_a_bad_report_is_told_as_that_of_its_device(name: str) -> None:
    for given_, called in ((switch(0), "NVSwitch report"), (device(), "GPU report")):
        with pytest.raises(UmayError, match=called):
            CALLED_BY_KIND[name](given_)
