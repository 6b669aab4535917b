"""RIMs: what a signed document may look like, and every way to slip in another one."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import NotAuthentic, ParseError, Refused, UmayError
from attestation.nvidia import rim as rims
from attestation.nvidia.rim import Rim, read_rim
from enclave.simulator import rim as maker
from enclave.simulator.hopper import CHIP, DRIVER_INDICES, DRIVER_VERSION, MEASUREMENTS
from tests.helpers.nvidia_machine import DAY, NOW, TODAY, fresh_key, issue, refuses, vendor
from tests.helpers.waiting import at_most_cpu_seconds

GOLDEN = {index: (MEASUREMENTS[index],) for index in DRIVER_INDICES}
ZERO = "0" * 96
Edit = Callable[[str], str]


def make(change: Edit = lambda text: text, **options: object) -> bytes:
    """A RIM signed over the changed text."""
    nvidia = vendor()
    settings = {"key": nvidia.keys["rim"], "chain": nvidia.rim_chain} | options
    return maker.make(CHIP, DRIVER_VERSION, GOLDEN, change=change, **settings)


def read(data: bytes, *, pinned: bytes | None = None, now: int = NOW) -> Rim:
    return read_rim(data, pinned=frozenset({pinned or vendor().rim_root_spki}), now=now)


def swap(old: str, new: str, count: int = 1) -> Edit:
    def edit(text: str) -> str:
        if old not in text:
            raise ValueError(f"the document has no {old}")
        return text.replace(old, new, count)

    return edit


GOOD = make()
TEXT = GOOD.decode()
SIGNATURE = TEXT[TEXT.index("<ds:Signature ") : TEXT.index("</SoftwareIdentity>")]
INFO = SIGNATURE[SIGNATURE.index("<ds:SignedInfo>") : SIGNATURE.index("<ds:SignatureValue>")]
HEX = MEASUREMENTS[32].hex()
FIRST = re.search(r'<ns0:Resource [^>]*index="0"[^>]*/>', TEXT).group()
ACTIVE = re.search(r'<ns0:Resource [^>]*index="32"[^>]*/>', TEXT).group()
OPEN = '<ns0:Payload xmlns:SHA384="http://www.w3.org/2001/04/xmlenc#sha384">'
DS = 'xmlns:ds="http://www.w3.org/2000/09/xmldsig#"'


def test_good_rim_gives_its_golden_digests() -> None:
    rim = read(GOOD)
    assert (rim.product, rim.version, rim.golden) == (CHIP, DRIVER_VERSION, GOLDEN)
    assert rim.expires == int(min(c.not_valid_after_utc for c in rim.certificates).timestamp())


def test_inactive_resources_are_not_golden() -> None:
    assert set(read(GOOD).golden) == set(DRIVER_INDICES)


def test_alternatives_are_all_accepted() -> None:
    other = bytes.fromhex("ab" * 48)
    nvidia = vendor()
    data = nvidia.rim(DRIVER_VERSION, {5: (MEASUREMENTS[5], other)})
    assert read(data).golden == {5: (MEASUREMENTS[5], other)}


# Signed by NVIDIA's own key, and yet no RIM that we would read.
SIGNED: dict[str, Edit] = {
    "nested-resource": swap(FIRST, FIRST[:-2] + ">" + FIRST + "</ns0:Resource>"),
    "resource-outside-payload": swap(OPEN, FIRST + OPEN),
    "resource-in-meta": lambda text: re.sub(
        r"(<ns0:Meta [^>]*)/>", rf"\1>{FIRST}</ns0:Meta>", text
    ),
    "resource-of-another-namespace": swap(
        FIRST, FIRST.replace("ns0:", "o:")[:-2] + ' xmlns:o="urn:other"/>'
    ),
    "resource-of-another-type": swap('type="Measurement"', 'type="File"'),
    "xinclude": swap(FIRST, '<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="x"/>'),
    "xinclude-under-the-root": swap(
        OPEN, '<i:include xmlns:i="http://www.w3.org/2001/XInclude" href="x"/>' + OPEN
    ),
    "two-payloads": swap(OPEN, "<ns0:Payload/>" + OPEN),
    "two-metas": swap("<ns0:Meta ", '<ns0:Meta colloquialVersion="1" product="GH100"/><ns0:Meta '),
    "meta-of-another-namespace": swap("<ns0:Meta ", '<o:Meta xmlns:o="urn:other" '),
    "no-meta": lambda text: re.sub(r"<ns0:Meta [^>]*/>", "", text),
    "no-payload": lambda text: re.sub(f"{OPEN}.*</ns0:Payload>", "", text, flags=re.S),
    "version-of-another-namespace": swap(" colloquialVersion", " ns2:colloquialVersion"),
    "index-64": swap('index="63"', 'index="64"'),
    "index-negative": swap('index="63"', 'index="-1"'),
    "index-in-other-digits": swap('index="63"', 'index="٣"'),
    "index-of-many-digits": swap('index="63"', 'index="00063"'),
    "index-twice": swap('index="63"', 'index="32"'),
    "index-of-another-namespace": swap('index="63"', 'ns2:index="63"'),
    "no-alternative": swap('index="32" active="True" alternatives="1"',
                           'index="32" active="True" alternatives="0"'),
    "more-alternatives-than-digests": swap('index="32" active="True" alternatives="1"',
                                           'index="32" active="True" alternatives="2"'),
    "more-digests-than-alternatives": swap(HEX, f'{HEX}" ns2:Hash1="{ZERO}'),
    "too-many-alternatives": swap('index="32" active="True" alternatives="1"',
                                  'index="32" active="True" alternatives="17"'),
    "digest-of-47-bytes": swap(HEX, HEX[:-2]),
    "digest-of-49-bytes": swap(HEX, HEX + "00"),
    "digest-with-half-a-byte": swap(HEX, HEX[:-1]),
    "digest-not-hex": swap(HEX, "zz" + HEX[2:]),
    "digest-with-spaces": swap(HEX, HEX[:2] + "  " + HEX[4:]),
    "digest-of-another-namespace": swap(f'ns2:Hash0="{HEX}"', f'Hash0="{HEX}"'),
    "size-32": swap(ACTIVE, ACTIVE.replace('size="48"', 'size="32"')),
    "active-in-lower-case": swap('active="True"', 'active="true"'),
    "active-of-another-namespace": swap('active="True"', 'ns2:active="True"'),
    "xml-attribute": swap(OPEN, f'{OPEN[:-1]} xml:base="http://other/">'),
    "xml-id": swap(OPEN, f'{OPEN[:-1]} xml:id="p">'),
    "too-many-attributes": swap(OPEN, OPEN[:-1] + " " + " ".join(
        f'a{number}=""' for number in range(40)) + ">"),
    "another-root": lambda text: text.replace("SoftwareIdentity", "SoftwareIdentities"),
    "root-of-another-namespace": swap(
        "http://standards.iso.org/iso/19770/-2/2015/schema.xsd", "urn:other"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNED)
def test_signed_document_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        read(make(SIGNED[name]))


def text(change: Edit) -> bytes:
    """The good RIM, changed after it was signed."""
    return change(TEXT).encode()


def sign_info(change: Edit) -> bytes:
    """The good document, its SignedInfo changed and signed again by the right key."""
    return maker.sign_info(swap(INFO, change(INFO))(TEXT), key=vendor().keys["rim"])


C14N11 = 'Algorithm="http://www.w3.org/2006/12/xml-c14n11"'
C14N10 = 'Algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315"'
DTD = '<!DOCTYPE SoftwareIdentity [<!ENTITY x SYSTEM "file:///etc/passwd">]>'

UNSIGNED: dict[str, bytes] = {
    "empty": b"",
    "not-xml": b"MZ" + GOOD,
    "truncated": GOOD.rstrip()[:-1],
    "trailing-text": GOOD + b"x",
    "two-documents": GOOD + GOOD,
    "larger-than-2-mb": GOOD + b" " * (2 * 1024 * 1024),
    "larger-than-any-rim": GOOD + b" " * rims.MAX_RIM_BYTES,
    "dtd": DTD.encode() + GOOD,
    "dtd-without-entities": b"<!DOCTYPE SoftwareIdentity>" + GOOD,
    "external-entity": DTD.encode() + text(swap(DRIVER_VERSION, "&x;")),
    "undefined-entity": text(swap(DRIVER_VERSION, "&x;")),
    "cdata": text(swap(OPEN, OPEN + "<![CDATA[ ]]>")),
    "cdata-in-utf-16": ('<?xml version="1.0" encoding="UTF-16"?>' + TEXT).encode("utf-16"),
    "utf-16-without-mark": TEXT.encode("utf-16-le"),
    "utf-7": b'<?xml version="1.0" encoding="UTF-7"?>' + GOOD,
    "latin-1": b'<?xml version="1.0" encoding="ISO-8859-1"?>' + GOOD,
    "bytes-not-utf-8": GOOD.replace(b"SIMULATED NVIDIA", b"SIMULATED \xff\xfe", 1),
    "comment-in-a-digest": text(swap("<ds:DigestValue>", "<ds:DigestValue><!--x-->")),
    "comment-in-a-certificate": text(swap("<ds:X509Certificate>", "<ds:X509Certificate>M<!---->")),
    "comment-in-the-payload": text(swap(OPEN, OPEN + "<!-- -->")),
    "comment-before-the-document": b"<!-- -->" + GOOD,
    "instruction-in-the-payload": text(swap(OPEN, OPEN + "<?x y?>")),
    "instruction-before-the-document": b"<?x y?>" + GOOD,
    "instruction-after-the-document": GOOD + b"<?x y?>",
    "stylesheet": b'<?xml-stylesheet href="x"?>' + GOOD,
    "second-declaration": b'<?xml version="1.0"?><?xml version="1.0"?>' + GOOD,
    "no-signature": text(swap(SIGNATURE, "")),
    "two-signatures": text(swap(SIGNATURE, SIGNATURE * 2)),
    "signature-of-another-namespace": text(swap(DS, 'xmlns:ds="urn:other"')),
    "signature-below-the-payload": text(
        lambda t: t.replace(SIGNATURE, "").replace("</ns0:Payload>", SIGNATURE + "</ns0:Payload>")
    ),
    "wrapped-in-another-root": f"<Wrap>{TEXT}</Wrap>".encode(),
    "wrapped-below-another-identity": text(
        lambda t: t.replace(SIGNATURE, "").replace(HEX, ZERO).replace(
            "</SoftwareIdentity>", t.replace(SIGNATURE, "") + SIGNATURE + "</SoftwareIdentity>"
        )
    ),
    "wrapped-in-the-signature": text(
        swap("</ds:KeyInfo>", f"</ds:KeyInfo><ds:Object>{TEXT.replace(SIGNATURE, '')}</ds:Object>")
    ),
    "reference-to-an-id": text(swap('Reference URI=""', 'Reference URI="#id"')),
    "reference-to-an-id-signed-again": sign_info(swap('URI=""', 'URI="#id"')),
    "reference-to-another-file": sign_info(swap('URI=""', 'URI="file:///etc/passwd"')),
    "reference-without-uri": sign_info(swap(' URI=""', "")),
    "reference-with-an-id": sign_info(swap('URI=""', 'URI="" Id="r"')),
    "reference-of-a-type": sign_info(swap('URI=""', 'URI="" Type="t"')),
    "two-references": sign_info(
        lambda t: t.replace("</ds:SignedInfo>", t[t.index("<ds:Reference") :])
    ),
    "no-reference": sign_info(lambda t: re.sub("<ds:Reference.*</ds:Reference>", "", t)),
    "no-transform": sign_info(lambda t: re.sub("<ds:Transforms>.*</ds:Transforms>", "", t)),
    "transform-missing": sign_info(swap(f"<ds:Transform {C14N11}/>", "")),
    "extra-transform": sign_info(
        swap("</ds:Transforms>", '<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116">'
             "<ds:XPath>self::x</ds:XPath></ds:Transform></ds:Transforms>")
    ),
    "transforms-swapped": sign_info(
        lambda t: re.sub("(<ds:Transform [^>]*/>)(<ds:Transform [^>]*/>)", r"\2\1", t)
    ),
    "transform-with-content": sign_info(
        swap(f"<ds:Transform {C14N11}/>", f"<ds:Transform {C14N11}><ds:XPath/></ds:Transform>")
    ),
    "transform-under-another-name": sign_info(
        swap(f"<ds:Transform {C14N11}", f"<ds:Other {C14N11}")
    ),
    "other-canonicalisation": sign_info(swap(C14N11, C14N10)),
    "other-canonicalisation-of-the-document": sign_info(
        swap(f"<ds:Transform {C14N11}", f"<ds:Transform {C14N10}")
    ),
    "canonicalisation-with-comments": sign_info(swap("xml-c14n11", "xml-c14n11#WithComments")),
    "signature-method-sha-256": sign_info(swap("ecdsa-sha384", "ecdsa-sha256")),
    "signature-method-hmac": sign_info(swap("#ecdsa-sha384", "#hmac-sha384")),
    "signature-method-with-content": sign_info(
        lambda t: re.sub(r"<ds:(SignatureMethod) ([^>]*)/>",
                         r"<ds:\1 \2><ds:HMACOutputLength/></ds:\1>", t)
    ),
    "digest-method-sha-1": sign_info(
        swap("http://www.w3.org/2001/04/xmldsig-more#sha384",
             "http://www.w3.org/2000/09/xmldsig#sha1")
    ),
    "digest-of-20-bytes": sign_info(
        lambda t: re.sub("(<ds:DigestValue>)[^<]*", r"\1" + "A" * 27 + "=", t)
    ),
    "digest-not-base64": text(swap("<ds:DigestValue>", "<ds:DigestValue>*")),
    "signature-value-of-95-bytes": text(
        lambda t: re.sub("(<ds:SignatureValue>)[^<]*", r"\1" + "A" * 127 + "=", t)
    ),
    "signature-value-empty": text(
        lambda t: re.sub("<ds:SignatureValue>.*</ds:SignatureValue>", "<ds:SignatureValue/>", t)
    ),
    "signature-value-twice": text(swap("<ds:KeyInfo>", "<ds:SignatureValue/><ds:KeyInfo>")),
    "key-info-twice": text(swap("</ds:KeyInfo>", "</ds:KeyInfo><ds:KeyInfo/>")),
    "key-info-with-a-bare-key": text(swap("<ds:X509Data>", "<ds:KeyValue/><ds:X509Data>")),
    "certificate-data-twice": text(swap("</ds:X509Data>", "</ds:X509Data><ds:X509Data/>")),
    "certificate-alone": make(chain=vendor().rim_chain[:1]),
    "seven-certificates": make(chain=vendor().rim_chain * 3),
    "relative-namespace": text(swap("<ds:SignedInfo>", '<ds:SignedInfo xmlns:x="y" x:z="">')),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSIGNED)
def test_document_that_is_no_signed_rim_is_refused(name: str) -> None:
    with pytest.raises(ParseError):
        read(UNSIGNED[name])


@pytest.mark.parametrize(
    "change",
    [
        swap(HEX, ZERO),
        swap(HEX, HEX.upper()),
        swap('active="True"', 'active="False"'),
        swap(DRIVER_VERSION, "550.90.08"),
        swap(f'product="{CHIP}"', 'product="GB100"'),
        swap('index="32"', 'index="31"'),
        swap(OPEN, OPEN + " "),
        swap(OPEN, OPEN + "text"),
        swap(OPEN, f'{OPEN[:-1]} xmlns:z="urn:z">'),
        swap(OPEN, f'{OPEN[:-1]} name="">'),
        swap('role="softwareCreator tagCreator"', 'role="tagCreator softwareCreator"'),
        lambda t: t.replace(FIRST, ""),
        lambda t: t.replace("</SoftwareIdentity>", "tail</SoftwareIdentity>"),
        lambda t: t.replace(SIGNATURE, "").replace(OPEN, SIGNATURE + "x" + OPEN),
    ],
)
def test_anything_changed_after_signing_is_noticed(change: Edit) -> None:
    with refuses("rim-bad-digest", NotAuthentic):
        read(text(change))


def test_another_prefix_is_another_signed_text() -> None:
    """SignedInfo's inclusive C14N carries the namespaces around it."""
    with refuses("rim-bad-signature", NotAuthentic):
        read(text(lambda t: t.replace("ns2:", "g:").replace("xmlns:ns2=", "xmlns:g=")))


def test_wrapping_a_changed_copy_around_the_signed_one_fails() -> None:
    inner = TEXT.replace(SIGNATURE, "")
    outer = inner.replace(HEX, ZERO).replace("</SoftwareIdentity>", "")
    with refuses("rim-bad-digest", NotAuthentic):
        read((outer + SIGNATURE + "</SoftwareIdentity>").encode())


@pytest.mark.parametrize("at", ["first", "middle", "before-a-line-end"])
def test_signature_may_stand_elsewhere_under_the_root(at: str) -> None:
    """Enveloped: where it stands changes nothing that is signed."""
    moved = TEXT.replace(SIGNATURE, "")
    place = moved.index("\n") if at == "first" else moved.index(OPEN)
    if at == "before-a-line-end":
        place = moved.rindex("\n", 0, place)
    data = (moved[:place] + SIGNATURE + moved[place:]).encode()
    assert read(data).golden == GOLDEN


def test_declaration_and_spaces_around_the_document_change_nothing() -> None:
    assert read(b'<?xml version="1.0" encoding="utf-8"?>\n' + GOOD + b"\n").golden == GOLDEN


def test_signature_with_another_key_of_the_same_names() -> None:
    with refuses("rim-bad-signature", NotAuthentic):
        read(make(key=fresh_key()))


@pytest.mark.parametrize(
    ("code", "chain"),
    [
        ("rim-simulated-root", lambda c: (c[0], c[1])),
        ("rim-simulated-root", lambda c: (c[2], c[1], c[0])),
        ("rim-not-a-ca", lambda c: (c[1], c[0], c[2])),
        ("rim-chain-order", lambda c: (c[0], c[2])),
        ("rim-not-a-ca", lambda c: (c[1], c[2])),
        ("rim-simulated-root", lambda c: vendor("SIMULATED Stranger").rim_chain),
        ("rim-wrong-root", lambda c: vendor("Stranger").rim_chain),
        ("rim-chain-order", lambda c: (*vendor("Stranger").rim_chain[:2], c[2])),
        ("rim-simulated-root", lambda c: vendor().gpu(0)[1]),
    ],
    ids=[
        "root-missing", "reversed", "swapped", "intermediate-missing", "authority-signs",
        "simulated-stranger", "stranger", "strangers-under-our-root", "gpus-own-chain",
    ],
)  # fmt: skip
def test_wrong_signer_chain(code: str, chain: Callable) -> None:
    with refuses(code, NotAuthentic):
        read(make(chain=chain(vendor().rim_chain)))


def signer(**changes: object) -> bytes:
    """A RIM whose signer's certificate was made anew."""
    nvidia = vendor()
    _, authority, root = nvidia.rim_chain
    options = {"issuer": authority, "signer": nvidia.keys["rim-ca"]} | changes
    public = options.pop("public", nvidia.keys["rim"].public_key())
    leaf = issue("SIMULATED NVIDIA Reference Value Signing", public, **options)
    return make(chain=(leaf, authority, root))


@pytest.mark.parametrize(
    ("code", "kind", "changes"),
    [
        ("rim-expired", Refused, {"end": TODAY - DAY}),
        ("rim-not-yet-valid", Refused, {"start": TODAY + DAY}),
        ("rim-not-a-ca", NotAuthentic, {"path_length": 0}),
        ("rim-key-usage", NotAuthentic, {"usage": True}),
        ("rim-wrong-algorithm", NotAuthentic, {"algorithm": hashes.SHA256()}),
    ],
    ids=["expired", "not-yet-valid", "an-authority", "may-not-sign", "sha-256"],
)
def test_wrong_signer(code: str, kind: type, changes: dict) -> None:
    with refuses(code, kind):
        read(signer(**changes))


def test_rim_expires_with_its_signer() -> None:
    end = TODAY + 5 * DAY
    assert read(signer(end=end)).expires == int(end.timestamp())
    assert read(signer(end=end), now=int(end.timestamp())).golden == GOLDEN
    with refuses("rim-expired", Refused):
        read(signer(end=end), now=int((end + timedelta(seconds=1)).timestamp()))


def test_certificate_that_is_none() -> None:
    with refuses("rim-bad-certificate", NotAuthentic):
        read(text(swap("<ds:X509Certificate>MI", "<ds:X509Certificate>MJ")))


@pytest.mark.parametrize("what", ["namespaces", "attributes", "elements", "depth"])
def test_flood_costs_no_time(what: str) -> None:
    """C14N of 5000 namespaces over 1000 elements took a minute, before any signature."""
    many = 4000
    floods = {
        "namespaces": "<ds:SignedInfo "
        + " ".join(f'xmlns:n{i}="n:{i}"' for i in range(many))
        + ">",
        "attributes": "<ds:SignedInfo " + " ".join(f'a{i}=""' for i in range(many)) + ">",
        "elements": "<ds:SignedInfo>" + "<b/>" * 9 * many,
        "depth": "<ds:SignedInfo>" + "<b>" * many + "</b>" * many,
    }
    with at_most_cpu_seconds(6), pytest.raises(ParseError):
        read(text(swap("<ds:SignedInfo>", floods[what])))


def survives(data: bytes) -> Rim | None:
    try:
        return read(data)
    except UmayError:
        return None


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_our_errors(data: bytes) -> None:
    for given_bytes in (data, b"<SoftwareIdentity>" + data, GOOD[:200] + data + GOOD[200:]):
        rim = survives(given_bytes)
        assert rim is None or rim.golden == GOLDEN


@settings(max_examples=600)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_changed_byte_never_gives_another_golden_set(at: int, change: int) -> None:
    rim = survives(GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :])
    assert rim is None or (rim.golden, rim.product, rim.version) == (GOLDEN, CHIP, DRIVER_VERSION)


@given(st.integers(0, len(GOOD)), st.integers(0, 400), st.sampled_from([b"", b" ", b"<", b"&#0;"]))
def test_cut_piece_never_gives_another_golden_set(at: int, size: int, new: bytes) -> None:
    rim = survives(GOOD[:at] + new + GOOD[at + size :])
    assert rim is None or (rim.golden, rim.product, rim.version) == (GOLDEN, CHIP, DRIVER_VERSION)


def test_a_rim_has_at_most_256_kib() -> None:
    most = 256 * 1024
    assert read(GOOD + b"\n" * (most - len(GOOD))).golden == GOLDEN
    with pytest.raises(ParseError, match="at most 262144 bytes"):
        read(GOOD + b"\n" * (most + 1 - len(GOOD)))


@pytest.mark.parametrize(("namespaces", "good"), [(32, True), (33, False)])
def test_a_rim_has_at_most_32_namespaces(namespaces: int, good: bool) -> None:
    more = "".join(f' xmlns:n{at}="urn:n"' for at in range(namespaces - TEXT.count("xmlns")))
    data = make(swap(OPEN, OPEN[:-1] + more + ">"))
    assert data.count(b"xmlns") == namespaces
    if good:
        assert read(data).golden == GOLDEN
    else:
        with pytest.raises(ParseError, match="at most 32 namespaces"):
            read(data)


def test_marks_in_a_text_are_no_markup() -> None:
    assert read(make(swap('name="SIMULATED NVIDIA"', 'name="SIMULATED! NVIDIA?"'))).golden == GOLDEN


def test_other_elements_among_the_certificates() -> None:
    other = swap("</ds:X509Data>", "<ds:X509SKI>AAAA</ds:X509SKI></ds:X509Data>")
    with pytest.raises(ParseError, match="2 to 6 X"):
        read(other(TEXT).encode())


@pytest.mark.parametrize(("count", "code"), [(6, "rim-"), (7, "2 to 6 X.509")])
def test_a_rim_has_at_most_six_certificates(count: int, code: str) -> None:
    with pytest.raises(UmayError, match=code):
        read(make(chain=(vendor().rim_chain * 3)[:count]))
