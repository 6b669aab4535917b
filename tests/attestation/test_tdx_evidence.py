"""Quotes, collateral and event logs of real machines, under Intel's own root."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from attestation.formats.collateral import Collateral
from attestation.platforms.tdx import (
    check_attributes,
    check_replay,
    check_signature,
    check_status,
    check_tcb,
    parse_ccel,
    parse_quote,
    tcb,
)
from attestation.platforms.tdx.eventlog import cut_fill
from attestation.trust.roots import PRODUCTION
from tests.helpers.places import EVIDENCE
from tests.helpers.tdx_machine import refuses

QUOTES = sorted(EVIDENCE.glob("tdx_quote/*.bin"))

pytestmark = [
    pytest.mark.evidence,
    pytest.mark.skipif(not QUOTES, reason=f"no real evidence in {EVIDENCE}: set UMAY_EVIDENCE"),
]
NOW = int(datetime.fromisoformat("2026-11-23T00:00:00+00:00").timestamp())


def quote_named(part: str) -> bytes:
    return next(path for path in QUOTES if part in path.name).read_bytes()


def bundle(name: str) -> Collateral:
    """dcap-qvl's bundle file as the parts that Intel's service answers with."""
    raw = json.loads((EVIDENCE / "collateral_bundle" / f"{name}.json").read_text())

    def answer(kind: str, part: str) -> bytes:
        text, signature = raw[part], raw[f"{part}_signature"]
        return f'{{"{kind}":{text},"signature":"{signature}"}}'.encode()

    return Collateral(
        {
            tcb.TCB_INFO: answer("tcbInfo", "tcb_info"),
            tcb.TCB_INFO_CHAIN: raw["tcb_info_issuer_chain"].encode(),
            tcb.QE_IDENTITY: answer("enclaveIdentity", "qe_identity"),
            tcb.QE_IDENTITY_CHAIN: raw["qe_identity_issuer_chain"].encode(),
            tcb.PCK_CRL: bytes.fromhex(raw["pck_crl"]),
            tcb.PCK_CRL_CHAIN: raw["pck_crl_issuer_chain"].encode(),
            tcb.ROOT_CRL: bytes.fromhex(raw["root_ca_crl"]),
        }
    )


@pytest.mark.parametrize("path", QUOTES, ids=lambda path: path.stem[-20:])
def test_real_quote_is_signed_up_to_intels_root(path: Path) -> None:
    data = path.read_bytes()
    quote = parse_quote(data)
    assert quote.to_bytes() == data
    who = check_signature(quote, roots=PRODUCTION, now=NOW)
    assert any(who.ppid)
    assert any(who.fmspc)


def judge(quote_part: str, bundle_name: str, at: str):
    data, now = quote_named(quote_part), int(datetime.fromisoformat(at).timestamp())
    who = check_signature(parse_quote(data), roots=PRODUCTION, now=now)
    return check_tcb(data, bundle(bundle_name), root_der=who.root_der, now=now)


def test_real_platform_up_to_date_at_its_time() -> None:
    at = "2026-02-19T00:00:00+00:00"
    result = judge("quote-report", "90c06f000000-tdx-2026-02-18", at)
    assert (result.status, result.tcb_evaluation_number) == ("UpToDate", 18)
    check_status(
        result,
        accepted=frozenset({"UpToDate"}),
        refused_advisories=frozenset(),
        min_evaluation_number=18,
    )


def test_real_platform_out_of_date_a_year_later() -> None:
    at = "2026-10-09T00:00:00+00:00"
    result = judge("phala-network-tdx_quote", "b0c06f000000-tdx-2026-10-08", at)
    assert result.status == "OutOfDate"
    assert "INTEL-SA-01313" in result.advisory_ids


def test_real_collateral_after_its_time() -> None:
    with refuses("collateral-expired"):
        judge("quote-report", "90c06f000000-tdx-2026-02-18", "2026-11-23T00:00:00+00:00")


def test_real_version_5_quote_is_judged_by_intels_lists() -> None:
    at = "2026-02-19T00:00:00+00:00"
    with refuses("no-matching-tcb"):
        judge("tdx_quote_outdated", "90c06f000000-tdx-2026-02-18", at)


def test_real_debug_td_is_refused() -> None:
    with refuses("debug"):
        check_attributes(parse_quote(quote_named("tdx_quote_4")))


def test_real_td_without_sept_ve_disable_is_refused() -> None:
    with refuses("sept-ve-disable"):
        check_attributes(parse_quote(quote_named("evidence-v0")))


def test_real_event_log_replays_to_its_quote() -> None:
    area = EVIDENCE / "event_log" / "google-ccel_data.dat"
    if not area.exists():
        pytest.skip(f"no {area.name} in {EVIDENCE}")
    log = cut_fill(area.read_bytes())
    check_replay(parse_quote(quote_named("cos-113")), log, ())
    assert len(parse_ccel(log).events) == 43
    with refuses("rtmr-mismatch"):
        check_replay(parse_quote(quote_named("quote-report")), log, ())
