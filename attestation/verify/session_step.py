"""The half of the step "freshness" that asks the machine itself: a session that it quotes now.

A quote over a nonce shows that the machine lives, but not that it holds the key which a prompt is
sealed to: whoever stole that key passes the nonce on to it. So what is quoted is a key that was
made for this nonce, beside the keys that are logged, and a prompt is sealed to both.
"""

from __future__ import annotations

import dataclasses
import hmac

from attestation.errors import LogError, NotAuthentic, Refused
from attestation.formats.evidence import fresh_session
from attestation.formats.session import SessionAnswer, session_leaf
from attestation.log.merkle import leaf_hash, root_from_inclusion
from attestation.trust.policy import Policy
from attestation.verify.case import Case
from attestation.verify.verdict import VerifiedSession

SESSION_USE_S = 540
"""A guest holds a session for 600 s from its making, which is at most a minute ago."""


def on_record(policy: Policy) -> Policy:
    """The same policy for evidence that is logged, or kept in a file: it was made for everybody,
    and no nonce of ours can be in it."""
    return dataclasses.replace(policy, challenge="optional")


def session(case: Case) -> str:
    """The session that the host presents was quoted for our nonce, by the machine and with the
    keys of the Evidence.

    Source: docs/spec/formats.md, "Session"; RFC 6962 §2.1.1 for the path. Raises
    Refused("freshness", "no-session") where there is none and the policy demands one.
    """
    if case.session is None:
        if case.policy.challenge == "required":
            text = "expected one for our own nonce (policy [freshness] challenge), got none"
            raise Refused("freshness", "no-session", f"session: {text}")
        return ""
    case.needs("cpu-signature", "cpu-attributes", "cpu-tcb")
    answer = SessionAnswer.from_bytes(case.session.answer)
    expected = case.cpu.report_data[:32] + fresh_session(_root(answer, case.session.nonce))
    _quoted(case, answer.quote, expected)
    until = case.now + SESSION_USE_S
    case.verified_session = VerifiedSession(answer.config, until)
    case.expiries.append(until)
    return "; a session of this machine answers our nonce"


def _quoted(case: Case, quote: bytes, expected: bytes) -> None:
    """The quote is of the machine that made the Evidence, and names what is expected."""
    quoted = case.cpu.answer(quote)
    quoted.check_signature(roots=case.policy.roots, now=case.now)
    quoted.check_attributes(case.policy)
    # Not always the certificates and the quoting enclave that signed the Evidence.
    quoted.check_tcb(case.collateral, case.policy, now=case.now)
    if not case.cpu.same_machine(quoted):
        text = "expected a quote of the machine and guest that made the Evidence, got another's"
        raise NotAuthentic("freshness", "other-machine", f"session: {text}")
    if not hmac.compare_digest(quoted.report_data, expected):
        text = f"expected REPORT_DATA {expected.hex()} for our nonce, the session's key and the "
        text += f"keys of the Evidence, got {quoted.report_data.hex()}"
        raise NotAuthentic("freshness", "wrong-session", f"session: {text}")


def _root(answer: SessionAnswer, nonce: bytes) -> bytes:
    leaf = leaf_hash(session_leaf(nonce, answer.config))
    try:
        return root_from_inclusion(leaf, index=answer.index, size=answer.size, proof=answer.path)
    except LogError:
        text = f"expected one from entry {answer.index} of {answer.size} to a root, got "
        text += f"{len(answer.path)} hashes, another number than that takes"
        raise NotAuthentic("freshness", "wrong-session", f"session path: {text}") from None
