"""RIMs beside a second reader: libxmlsec1 says what a valid XML signature is.

It has a canonicaliser of its own, so that a fault that the simulator and the verifier share
shows here. It judges the signature alone, by the key in the first certificate.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import xmlsec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from attestation.errors import ParseError, UmayError
from attestation.nvidia.rim import Rim, read_rim
from attestation.trust.roots import PRODUCTION
from enclave.simulator import pki
from enclave.simulator import rim as maker
from enclave.simulator.hopper import CHIP, DRIVER_INDICES, DRIVER_VERSION, MEASUREMENTS
from tests.helpers.nvidia_machine import NOW, refuses, vendor
from tests.helpers.places import EVIDENCE

DS = "http://www.w3.org/2000/09/xmldsig#"
GOLDEN = {index: (MEASUREMENTS[index],) for index in DRIVER_INDICES}
Edit = Callable[[str], str]


def oracle(data: bytes) -> bool:
    """Whether libxmlsec1 finds the signature valid."""
    root = etree.fromstring(data)
    der = base64.b64decode(root.findtext(f".//{{{DS}}}X509Certificate"))
    key = x509.load_der_x509_certificate(der).public_key()
    context = xmlsec.SignatureContext()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    context.key = xmlsec.Key.from_memory(pem, xmlsec.constants.KeyDataFormatPem)
    try:
        context.verify(xmlsec.tree.find_node(root, xmlsec.constants.NodeSignature))
    except xmlsec.Error:
        return False
    return True


def signed_by_oracle(text: str) -> bytes:
    """A document whose signature libxmlsec1 filled in: digest and value."""
    root = etree.fromstring(text)
    pem = vendor().keys["rim"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    context = xmlsec.SignatureContext()
    context.key = xmlsec.Key.from_memory(pem, xmlsec.constants.KeyDataFormatPem)
    context.sign(xmlsec.tree.find_node(root, xmlsec.constants.NodeSignature))
    return etree.tostring(root)


def read(data: bytes) -> Rim:
    return read_rim(data, pinned=frozenset({vendor().rim_root_spki}), now=NOW)


def make(change: Edit = lambda text: text) -> bytes:
    keys = {"key": vendor().keys["rim"], "chain": vendor().rim_chain}
    return maker.make(CHIP, DRIVER_VERSION, GOLDEN, change=change, **keys)


GOOD = make()
TEXT = GOOD.decode()


@pytest.mark.parametrize(
    "name", [name for name in vendor().collateral(NOW) if name.startswith("nvidia/rim/")]
)
def test_simulated_rim_is_valid_for_both(name: str) -> None:
    data = vendor().collateral(NOW)[name]
    assert read(data).golden
    assert oracle(data)


RIMS = sorted(EVIDENCE.glob("nvidia_rim/*"))
BROKEN = {"rim-bad-digest", "rim-bad-signature"}


@pytest.mark.evidence
@pytest.mark.parametrize("path", RIMS, ids=lambda path: path.stem)
def test_real_rim_is_the_same_for_both(path: Path) -> None:
    entries = json.loads((EVIDENCE / "index.json").read_text())
    entry = next(item for item in entries if item["file"] == f"nvidia_rim/{path.name}")
    first, last = (datetime.fromisoformat(day) for day in entry["verification_time"])
    middle = int((first + (last - first) / 2).replace(tzinfo=UTC).timestamp())
    try:
        read_rim(path.read_bytes(), pinned=PRODUCTION.nvidia_rim, now=middle)
        code = ""
    except UmayError as error:
        code = error.code
    assert oracle(path.read_bytes()) == (code not in BROKEN)
    assert code in BROKEN | {"", "rim-wrong-root"}


def swap(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


HEX = MEASUREMENTS[32].hex()
MUTATIONS: dict[str, Edit] = {
    "digest of the firmware": swap(HEX, "0" * 96),
    "a resource made inactive": swap('active="True"', 'active="False"'),
    "another version": swap(DRIVER_VERSION, "550.90.08"),
    "a space in the payload": swap("</ns0:Payload>", " </ns0:Payload>"),
    "text after the signature": swap("</ds:Signature>", "</ds:Signature>x"),
    "another prefix": lambda text: text.replace("ns2:", "g:").replace("xmlns:ns2=", "xmlns:g="),
    "another prefix of the signature": lambda text: text.replace("ds:", "d:").replace(
        "xmlns:ds=", "xmlns:d="
    ),
    "one namespace more around SignedInfo": swap(
        "<ds:Signature ", '<ds:Signature xmlns:z="urn:z" '
    ),
    "one namespace more at the root": swap("<SoftwareIdentity ", '<SoftwareIdentity xmlns:z="z:" '),
    "a space in SignedInfo": swap("<ds:SignedInfo>", "<ds:SignedInfo> "),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_refused_by_both(name: str) -> None:
    data = MUTATIONS[name](TEXT).encode()
    assert not oracle(data)
    with pytest.raises(UmayError) as caught:
        read(data)
    assert caught.value.code in BROKEN


def unprefixed(text: str) -> str:
    """The signature in a default namespace of its own, below the document's."""
    at = text.index("<ds:Signature ")
    body = text[at:].replace("<ds:", "<").replace("</ds:", "</").replace("xmlns:ds=", "xmlns=")
    return text[:at] + body


FORMS: dict[str, Edit] = {
    "as the simulator's": lambda text: text,
    "signature without a prefix": unprefixed,
    "signature without a prefix, document with one": lambda text: (
        unprefixed(text)
        .replace("SoftwareIdentity", "ns0:SoftwareIdentity")
        .replace("<ns0:SoftwareIdentity xmlns=", "<ns0:SoftwareIdentity xmlns:unused=")
    ),
    "prefix declared at the root": lambda text: text.replace(f' xmlns:ds="{DS}"', "").replace(
        "<SoftwareIdentity ", f'<SoftwareIdentity xmlns:ds="{DS}" '
    ),
    "two prefixes for one namespace": swap("<ds:SignedInfo>", f'<ds:SignedInfo xmlns:s="{DS}">'),
    "prefix changed inside": lambda text: text.replace(
        "<ds:Transforms>", f'<t:Transforms xmlns:t="{DS}">'
    ).replace("</ds:Transforms>", "</t:Transforms>"),
    "default namespace taken away": swap("<ds:SignedInfo>", '<ds:SignedInfo xmlns="">'),
    "default namespace changed": swap("<ds:Signature ", '<ds:Signature xmlns="urn:other" '),
    "a namespace declared again": swap("<ds:SignedInfo>", '<ds:SignedInfo xmlns:ns2="urn:other">'),
    "white space in SignedInfo": swap("<ds:SignedInfo>", "<ds:SignedInfo>\r\n\t "),
    "characters beyond ASCII": swap('name="SIMULATED NVIDIA"', 'name="SIMULATED Ñ 中 &#x1F680;"'),
    "escaped white space": swap(
        'name="SIMULATED NVIDIA"', 'name="a&#9;b&#10;c&#13;&amp;&lt;&quot;"'
    ),
    "escaped return in text": swap("</ns0:Payload>", "&#13;&gt;</ns0:Payload>"),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_the_oracle_signed_is_read(name: str) -> None:
    """Whatever prefixes its author chose: C14N carries the namespaces in scope."""
    data = signed_by_oracle(FORMS[name](TEXT))
    assert oracle(data)
    assert read(data).golden == GOLDEN


def test_signature_over_another_canonical_form_is_refused_by_both() -> None:
    """What lxml writes of an element inside a document: `xmlns=""` on what has a namespace."""
    text = unprefixed(TEXT)
    root = etree.fromstring(text)
    wrong = etree.tostring(root[-1][0], method="c14n")
    assert b'xmlns=""' in wrong
    value = base64.b64encode(pki.sign_raw(vendor().keys["rim"], wrong)).decode()
    before, _, rest = text.partition("<SignatureValue>")
    after = rest[rest.index("</SignatureValue>") :]
    data = f"{before}<SignatureValue>{value}{after}".encode()
    assert not oracle(data)
    with refuses("rim-bad-signature"):
        read(data)


PREFIXES = st.sampled_from(["", "ds", "a", "zz", "ns0"])
EXTRA = st.dictionaries(
    st.sampled_from(["b", "c", "ns2", "ns9", "y"]),
    st.sampled_from(["urn:b", "urn:c", DS, "http://www.w3.org/2001/04/xmlenc#sha384"]),
    max_size=3,
)


def dressed(prefix: str, above: dict[str, str], inside: dict[str, str]) -> str:
    """The good document with another prefix on its signature, and namespaces that it need not."""
    at = TEXT.index("<ds:Signature ")
    colon = prefix and f"{prefix}:"
    body = TEXT[at:].replace("<ds:", f"<{colon}").replace("</ds:", f"</{colon}")
    body = body.replace("xmlns:ds=", f"xmlns:{prefix}=" if prefix else "xmlns=")
    for element, names in (("Signature ", above), ("SignedInfo>", inside)):
        declared = "".join(f' xmlns:{name}="{uri}"' for name, uri in names.items())
        opened = f"<{colon}{element}"
        body = body.replace(opened, opened[:-1] + declared + opened[-1], 1)
    return TEXT[:at] + body


@settings(max_examples=40, deadline=None)
@given(PREFIXES, EXTRA, EXTRA)
def test_any_dress_is_canonical_for_both(
    prefix: str, above: dict[str, str], inside: dict[str, str]
) -> None:
    data = signed_by_oracle(dressed(prefix, above, inside))
    try:
        assert read(data).golden == GOLDEN
    except ParseError as error:  # this reader wants SignedInfo itself in the usual namespace
        raise AssertionError(f"refused what the oracle signed: {error}") from error


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.sampled_from([b"A", b" ", b"0", b"<", b"\n"]))
def test_what_this_reader_accepts_the_oracle_does_too(at: int, new: bytes) -> None:
    data = GOOD[:at] + new + GOOD[at + 1 :]
    try:
        read(data)
    except UmayError:
        return
    assert oracle(data)
