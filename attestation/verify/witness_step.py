"""Step "witness" of the verification plan: enough independent witnesses saw the anchored tree.

A log, an endpoint and a host that work together can show one client an old or a private tree. A
witness signs a checkpoint only if it continues the last one it saw, with the time of its signature.
"""

from __future__ import annotations

from attestation.errors import NotAuthentic, Refused
from attestation.formats.dates import dated
from attestation.log.cosignature import cosigned_at
from attestation.log.note import Note
from attestation.log.proof import Proof
from attestation.trust.policy import WitnessRules
from attestation.verify.case import Case
from attestation.verify.reading import MAX_CLOCK_SKEW_S
from attestation.verify.registry_step import NOT_DEMANDED

STEP = "witness"


def witness(case: Case) -> str:
    """The anchored checkpoint, as in the log proof, has recent cosignatures of enough domains.

    Source: C2SP tlog-cosignature; docs/spec/policy.md.
    """
    rules = case.policy.witnesses
    if rules is None:
        return NOT_DEMANDED
    case.needs("log")
    note = Note.from_bytes(Proof.from_bytes(case.proof or b"").checkpoint)
    oldest = check_witnesses(note, rules, now=case.now)
    case.expiries.append(oldest + rules.max_age_s)
    return f"cosigned by {rules.required} of {len(rules.domains)} domains since {dated(oldest)}"


def check_witnesses(note: Note, rules: WitnessRules, *, now: int) -> int:
    """When the oldest of the newest `rules.required` domains cosigned `note`, in Unix seconds.

    Raises Refused("witness", "too-few") or "too-old", NotAuthentic("witness", "other-checkpoint")
    for a line of a demanded witness that is over another text.
    """
    times = sorted(_by_domain(note, rules, now).values(), reverse=True)
    if len(times) < rules.required:
        text = f"expected {rules.required} of the domains {', '.join(rules.domains)} (policy "
        text += f"[witnesses]), got {len(times)}; each domain counts once"
        raise Refused(STEP, "too-few", f"cosignatures of the anchored checkpoint: {text}")
    oldest = times[rules.required - 1]
    if now - oldest > rules.max_age_s:
        text = f"expected {rules.required} of at most {rules.max_age_s} s (policy [witnesses] "
        text += f"max_age_s), got one of {dated(oldest)}, and now is {dated(now)}"
        raise Refused(STEP, "too-old", f"cosignatures of the anchored checkpoint: {text}")
    return oldest


def _by_domain(note: Note, rules: WitnessRules, now: int) -> dict[str, int]:
    """The newest time of each domain. A time in the future is none that a witness can know."""
    found: dict[str, int] = {}
    for key, domain in rules.witnesses:
        try:
            moment = cosigned_at(note, key)
        except NotAuthentic:
            text = f"expected the line of {key.name} to be over the anchored checkpoint, got one "
            text += "that is over another text"
            raise NotAuthentic(STEP, "other-checkpoint", f"cosignature: {text}") from None
        if moment is not None and moment <= now + MAX_CLOCK_SKEW_S:
            found[domain] = max(moment, found.get(domain, 0))
    return found
