"""What to do after a refusal, by its step and code: one place for reports and for the reference.

A refusal that is not authentic (exit code 3) and has no line of its own is a machine or a document
that lies. One of the policy (exit code 4) always has a line: a test looks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

ANOTHER = "Choose another machine"

FORGED = (
    "Do not use this machine: what it shows is forged, or was changed on the way. Ask through "
    "another relay; if it stays, keep the evidence and report it to the operator of the network."
)
_COLLATERAL = (
    "The vendor's documents that the host handed over are missing, old or broken; nothing is said "
    f"about the machine itself. {ANOTHER}, or ask the host to fetch its collateral again."
)
_EARLY = (
    "Compare the clock of this computer with the dates in the message, and set it. If the clock is "
    f"right: {ANOTHER.lower()}."
)
_AGAIN = (
    "Read the chain again. If it stays, the endpoint lags behind: use another one (--chain), and "
    "look at the clock of this computer."
)
_RENEWED = (
    "Ask the machine again in a few minutes: a guest renews its keys every hour. If it stays, "
    "choose another machine, and look at the clock of this computer."
)
_SESSION = (
    "Ask once more: a guest that renews its keys at this very moment answers so. If it stays, do "
    "not use this machine: somebody between you and it answers with keys that are not its own."
)
_UNPROTECTED = (
    "The host could read or change this VM, and no policy accepts that. Choose another machine; "
    "the operator has to start the VM without this setting."
)
_UNKNOWN_KIND = (
    "This hardware or firmware is of a kind that Umay does not know yet. Choose another machine, "
    "or look for a newer version of Umay."
)
_FIRMWARE = (
    "The firmware is not one that the vendor lists as current. Choose another machine; the "
    "operator has to update the firmware and then fetch the collateral again."
)
_WITHDRAWN = (
    "The vendor has withdrawn this certificate, so its key may be known to others. Do not use this "
    "machine, whatever else it shows."
)
_LOG = (
    "The proof does not belong to the log that the contract holds. Ask again in a few minutes. If "
    "it stays, run `umay audit run`, and report what it finds: a log may show different people "
    "different histories."
)
_SERVER = (
    "The answer of this chain server does not follow from blocks that you trust. Use another "
    "server (--chain); nothing is said about the machine."
)
_RECEIPT = (
    "Keep the answer and its receipt: the machine signed something else than it did. Choose "
    "another machine, and report it to the operator of the network."
)
_BESIDE = (
    "The files do not belong together, or one of them was changed. Take all of them again from the "
    "same machine at the same moment."
)
_REGISTRY = (
    "Choose another machine: the Registry that your policy pins does not allow what this one runs. "
    "Its owner can propose an entry, which counts after the notice period."
)
_WITNESS = (
    "Ask again in a few minutes: witnesses cosign a checkpoint before it is anchored. If it stays, "
    "they are away, or do not see the tree that you see: tell the operator of the log, and do not "
    "lower [witnesses] required to get an answer."
)
_SUBMISSION = "For hosts: submit it again with the documents of this boot, from the same agent."
_WHOSE_LOG = (
    "Compare [network] in the policy with the contract. If the policy is right, this is not the "
    "log that you want; never change the policy to fit a machine."
)

_RULES = {
    "wrong-network": "[network] id",
    "platform-not-accepted": "[cpu] platforms",
    "family-not-accepted": "[cpu] families",
    "instance-not-accepted": "[cpu] instances",
    "signer-not-accepted": "[cpu.snp] signers",
    "tcb-status": "[cpu] tcb_status",
    "advisory": "[cpu] refuse_advisories",
    "evaluation-number": "[cpu] min_tcb_evaluation_number",
    "collateral-too-old": "[cpu] max_collateral_age_s",
    "out-of-date": "[cpu.snp] min_tcb",
    "alias-check": "[cpu.snp] alias_check",
    "id-block": "launch_ids of a [[release]]",
    "launch-id": "launch_ids of the [[release]]",
    "mr-config-id": "launch_ids of a [[release]]",
    "mr-owner": "launch_ids of a [[release]]",
    "mr-owner-config": "launch_ids of a [[release]]",
    "unknown-measurement": "[[release]] shapes",
    "unknown-config": "engine_configs or host_configs of the [[release]]",
    "unknown-model": "[[model]]",
    "beacon-too-old": "[freshness] max_beacon_age_s",
    "no-session": "[freshness] challenge",
    "beacon-level": "[network] anchor",
    "anchor-level": "[network] anchor",
    "registry-level": "[network] anchor",
    "architecture-not-accepted": "[gpu] architectures",
    "driver-too-old": "[gpu] min_driver",
    "gpu/wrong-count": "[gpu] count",
    "pq-required": "[channel] pq",
}
"""What the policy decides, and the key that decides it."""

_TEXTS: Mapping[str, str] = {
    _COLLATERAL: "signer-missing revocation-unknown other-platform",
    _RENEWED: "dated-before-beacon lives-too-long freshness/expired mint/expired session-expired",
    _SESSION: "wrong-session",
    _AGAIN: "anchor-too-old anchor-before-beacon registry-too-old registry/other-block stale-head "
    "behind",
    _EARLY: "beacon-in-future anchor-in-future registry-in-future future-head",
    "Keep the network file that you have. Somebody offers an older one, or skips a version; ask "
    "another mirror, and tell the operator of the network.": "rollback gap",
    "Give the URL of a relay that you know, or run `umay client network update`. Nobody is asked "
    "at the places of an expired file.": "network/expired",
    "Use the network file that belongs to this policy. What a network pins stands in the policy, "
    "and never in a network file.": "pin-conflict",
    "The chain showed more to this computer before. Use another endpoint (--chain), and report "
    "this one; remove the file in the message only if the network was begun anew.": "shrank "
    "unrevoked",
    _REGISTRY: "registry/unlisted registry/pending",
    _WITNESS: "witness/too-few witness/too-old",
    "Do not use this machine: the Registry's owner has withdrawn what it runs, for the reason in "
    "the message. No policy accepts it while it pins this Registry.": "registry/revoked",
    _UNPROTECTED: "debug migratable profiling partitioned perfmon tpa reserved-bit reserved-bits "
    "service-td sept-ve-disable vmpl seam-attributes seam-signer attributes masked-chip qe-debug",
    _UNKNOWN_KIND: "unsupported-device unsupported-mode driver-unknown mixed-modes incomplete-set "
    "unknown-family no-common-suite",
    "Choose another machine. No policy accepts code under the guest that nobody has measured "
    "(docs/adr/0005).": "azure-paravisor",
    _FIRMWARE: "no-matching-tcb qe-identity tcb-inconsistent measurement-mismatch",
    _WITHDRAWN: "revoked certificate-hold",
    _LOG: "no-proof not-included other-history other-leaf log/bad-signature unsigned bad-previous "
    "other-bytes bad-cosignature",
    _WHOSE_LOG: "other-network other-contract other-code-hash other-log-key other-origin other-log "
    "log/other-* rules-and-roots",
    _SUBMISSION: "other-boot other-record unknown-previous unknown-release bad-retirement",
    _BESIDE: "pcr-mismatch claim-mismatch event-content rtmr-mismatch td-info",
    "Do not use any machine of this log: the contract holds the log's own contradicting "
    "signatures. Ask the operator of the network for a policy with another log.": "forked",
    "This is a simulated machine, which proves nothing. Use the policy that `umay up` wrote for "
    "it; never add simulated roots to a policy for real machines.": "simulated-root",
    "A certificate of this machine has ended. Look at the clock of this computer; if it is right, "
    "choose another machine.": "certificate-expired",
    "The bytes are not in the format that this version of Umay reads. Ask again; if it stays, look "
    "for a newer version of Umay, or choose another machine.": "malformed",
    "Something was not there to check, or a step before this one did not pass: read the message "
    "and the steps above it.": "not-checked",
    "Start the log with --registry, or ask its operator to.": "closed",
    "Start a new boot of the guest: a boot that has retired never comes back.": "retired",
    "Compare the Registry's address with the one that the operator published.": "other-code",
}
"""Codes, or step/code where one code means different things."""

_OF_STEP = {"chain": _SERVER, "receipt": _RECEIPT, "certificate": _BESIDE}
"""For every code of a step that has no line of its own."""
_OF_DOCUMENTS = ("collateral-", "crl-", "ocsp-", "rim-")


def advice(step: str, code: str, *, refused: bool = False) -> str:
    """What to do about a step that did not pass, in one to three sentences.

    `refused`: the evidence is authentic, and the policy does not accept it. Empty where nobody has
    thought about such a refusal.
    """
    known, plain = _by_code(), code.removeprefix("rim-").removeprefix("ocsp-")
    names = (f"{step}/{code}", code, plain)
    if refused and (rule := next((_RULES[name] for name in names if name in _RULES), "")):
        return f"{ANOTHER}, or, if you decide to accept this one, change {rule} in the policy."
    if found := next((known[name] for name in names if name in known), ""):
        return found
    if code.endswith("not-yet-valid"):
        return _EARLY
    if code.startswith(_OF_DOCUMENTS):
        return _COLLATERAL
    return _OF_STEP.get(step, "" if refused else FORGED)


@cache
def _by_code() -> dict[str, str]:
    return {code: text for text, codes in _TEXTS.items() for code in codes.split()}
