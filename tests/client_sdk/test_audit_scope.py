"""Audits of less than everything, from elsewhere, twice over: what each may and may not say."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from attestation.errors import NotAuthentic, ParseError, UmayError, Unavailable, UsageError
from attestation.formats.collateral import Collateral
from attestation.formats.digests import sha256
from attestation.formats.keys import KeyBundle
from attestation.log import checkpoint as checkpoints
from attestation.log.checkpoint import Checkpoint
from attestation.log.cosignature import cosign
from attestation.log.leaf import Leaf
from attestation.log.note import COSIGNATURE, Note, VerifierKey
from attestation.log.tiles import encode_bundle
from attestation.trust.anchor import BlockRef
from attestation.trust.policy import WitnessRules
from attestation.trust.registry import GUEST, MODEL, Entry, RegistrySnapshot
from attestation.verify.verifier import Presented
from client_sdk.auditing import registry_check
from client_sdk.auditing.auditor import Auditor, AuditScope
from client_sdk.auditing.progress import ProgressDisplay
from client_sdk.auditing.results import Audit
from client_sdk.auditing.sources import open_source
from client_sdk.auditing.state import AuditState, audit_digest
from client_sdk.transport import MAX_ANSWER, Transport
from contracts import artefact
from contracts.chain import AccountState
from tests.client_sdk.test_break_audit import RELEASE, Net, boot, codes, start
from tests.client_sdk.test_client_audit import CONTRACT, ORIGIN
from tests.helpers import registries
from tests.helpers.world import NOW, World

LATER = NOW + 40 * 86_400


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return start(tmp_path_factory.mktemp("simulator"))


@pytest.fixture
def net(world: World) -> Net:
    return Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])


def run(net: Net, scope: AuditScope | None = None, mirror: str | None = None) -> Audit:
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net, mirror=mirror)  # type: ignore[arg-type]
    return auditor.run(CONTRACT, scope)


def finding_codes(found: Audit) -> set[str]:
    return {finding.code for finding in found.findings}


# -- a sample


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_sample_is_never_good(net: Net, count: int) -> None:
    found = run(net, AuditScope(sample=count))
    assert found.exit_code == 6 and codes(found) == {"sampled"}
    left_out = [entry for entry in found.entries if entry.detail == "not in the sample"]
    assert len(left_out) == max(0, 2 - count)


def test_a_sample_still_finds_what_the_tree_shows(world: World) -> None:
    net = Net(world, [RELEASE, boot(world, previous=0)], world.presented(), [])
    found = run(net, AuditScope(sample=1))
    assert found.exit_code == 1 and "bad-previous" in codes(found)


# -- a state


def asked(now: int = NOW, policy: bytes = b"policy") -> bytes:
    return audit_digest(contract=CONTRACT, policy=policy, collateral=None, now=now)


def test_what_verified_is_not_verified_again(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert run(net, AuditScope(state=AuditState(path, asked()))).exit_code == 0
    del net.answers["submission/1"]
    found = run(net, AuditScope(state=AuditState(path, asked())))
    assert found.exit_code == 0 and found.entries[1].verdict == "verified"
    assert found.entries[1].boot and found.entries[1].report is None


@pytest.mark.parametrize(
    "under",
    [asked(policy=b"other"), asked(now=NOW + 86_400)],
    ids=["another policy", "another day"],
)
def test_under_another_question_all_is_verified_again(
    net: Net, tmp_path: Path, under: bytes
) -> None:
    path = tmp_path / "state"
    run(net, AuditScope(state=AuditState(path, asked())))
    del net.answers["submission/1"]
    assert run(net, AuditScope(state=AuditState(path, under))).exit_code == 6


def test_a_state_spares_no_look_at_the_tree(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "state"
    run(net, AuditScope(state=AuditState(path, asked())))
    data = net.answers["tile/entries/000.p/2"]
    net.answers["tile/entries/000.p/2"] = data[:-1] + bytes([data[-1] ^ 1])
    assert run(net, AuditScope(state=AuditState(path, asked()))).exit_code == 1


def test_what_failed_is_not_kept(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "state"
    kept = net.answers.pop("submission/1")
    assert run(net, AuditScope(state=AuditState(path, asked()))).exit_code == 6
    assert len(path.read_bytes().splitlines()) == 1
    net.answers["submission/1"] = kept
    assert run(net, AuditScope(state=AuditState(path, asked()))).exit_code == 0


def test_findings_of_an_earlier_run_are_told_again(net: Net, tmp_path: Path) -> None:
    path, under = tmp_path / "state", asked(now=LATER)
    first = run(net, AuditScope(now=LATER, state=AuditState(path, under)))
    again = run(net, AuditScope(now=LATER, state=AuditState(path, under)))
    assert finding_codes(first) == finding_codes(again) != set()


HEAD = b'{"umay-audit-state": 3, "under": "%s"}\n' % asked().hex().encode()


@pytest.mark.parametrize(
    "content",
    [b"[]", b"a letter\nto somebody", b"\xff", HEAD + b"{}\n", HEAD + b"[]\n", HEAD + b"x\n"],
    ids=["a list", "text", "no text", "no index", "no entry", "no JSON"],
)
def test_another_file_is_no_state_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        AuditState(path, asked())
    assert path.read_bytes() == content


def test_an_entry_of_a_state_has_all_its_fields(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "state"
    run(net, AuditScope(state=AuditState(path, asked())))
    head, line = path.read_text().splitlines()
    path.write_text(head + "\n" + json.dumps({**json.loads(line), "keys": 7}) + "\n")
    with pytest.raises(UsageError, match="remove it"):
        run(net, AuditScope(state=AuditState(path, asked())))


def test_an_interrupted_audit_goes_on(world: World, tmp_path: Path) -> None:
    leaves = [boot(world), boot(world, kind=2, previous=0, statement=b"\x02" * 32)]
    net, path = Net(world, leaves, world.presented(), []), tmp_path / "state"

    def interrupted(what: str, done: int, total: int) -> None:
        if what == "entries verified":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(net, AuditScope(state=AuditState(path, asked()), progress=interrupted))
    path.write_bytes(path.read_bytes() + b'{"index": 1, "lea')
    del net.answers["submission/0"]
    found = run(net, AuditScope(state=AuditState(path, asked())))
    assert [entry.verdict for entry in found.entries] == ["verified", "refused"]
    assert path.read_bytes().endswith(b"}\n")


def test_a_state_is_of_a_leafs_bytes(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "state"
    state = AuditState(path, asked())
    state.keep(run(net).entries[1], b"leaf")
    state.close()
    assert AuditState(path, asked()).recall(1, b"leaf") is not None
    assert AuditState(path, asked()).recall(1, b"another leaf") is None
    assert AuditState(path, asked(policy=b"other")).recall(1, b"leaf") is None


def test_a_state_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        AuditState(tmp_path / "no" / "state", asked())


# -- a mirror


def test_a_static_export_serves_as_well_as_the_log(net: Net, tmp_path: Path) -> None:
    mirror = net.export(tmp_path / "mirror")
    net.answers.clear()
    found = run(net, mirror=str(mirror))
    assert found.exit_code == 0 and found.log_url == str(mirror), found.problems


def test_a_full_tile_serves_for_a_partial_one(net: Net) -> None:
    for level in ("entries", "0"):
        net.answers[f"tile/{level}/000"] = net.answers.pop(f"tile/{level}/000.p/2")
    assert run(net).exit_code == 0


MISSING = {
    "a hash tile": ("tile/0/000.p/2", "tiles-unavailable"),
    "an entry bundle": ("tile/entries/000.p/2", "tree-unavailable"),
    "the anchored checkpoint": ("checkpoints/2", "log-unavailable"),
    "the newest checkpoint": ("checkpoint", "log-unavailable"),
    "a record": ("submission/1", "unavailable"),
}


@pytest.mark.parametrize(("path", "code"), MISSING.values(), ids=MISSING)
def test_a_mirror_that_lacks_something_is_incomplete(
    net: Net, tmp_path: Path, path: str, code: str
) -> None:
    mirror = net.export(tmp_path / "mirror")
    (mirror / path).unlink()
    found = run(net, mirror=str(mirror))
    assert found.exit_code == 6 and code in codes(found), found.problems


def test_a_removed_evidence_file_is_incomplete(net: Net, tmp_path: Path) -> None:
    mirror = net.export(tmp_path / "mirror")
    evidence = sha256(net.world.presented().evidence).hex()
    (mirror / "evidence/sha256" / evidence).unlink()
    found = run(net, mirror=str(mirror))
    assert found.exit_code == 6 and found.problems[0].index == 1


DAMAGED = {
    "a leaf with other bytes": "tile/entries/000.p/2",
    "a tile with other hashes": "tile/0/000.p/2",
    "a checkpoint with another signature": "checkpoints/2",
    "evidence with other bytes": "evidence/sha256/EVIDENCE",
}


@pytest.mark.parametrize("path", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_mirror_is_named_and_the_log_is_not_blamed(
    net: Net, tmp_path: Path, path: str
) -> None:
    evidence = sha256(net.world.presented().evidence).hex()
    place = net.export(tmp_path / "mirror") / path.replace("EVIDENCE", evidence)
    data = place.read_bytes()
    place.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    found = run(net, mirror=str(tmp_path / "mirror"))
    assert found.exit_code == 6 and "damaged-mirror" in codes(found), found.problems
    assert f"the mirror {tmp_path / 'mirror'}" in found.problems[0].text


def test_a_directory_answers_nothing_outside_itself(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "mirror").mkdir()
    source = open_source(str(tmp_path / "mirror"), Transport())
    os.mkfifo(tmp_path / "mirror" / "pipe")
    for path in ("../secret", "proof?index=0", "nothing", "pipe"):
        with pytest.raises(Unavailable):
            source.get(path)


# -- the tail


def longer(net: Net, *more: Leaf) -> None:
    """The log goes on with these, unanchored, and serves them as a static export would."""
    from attestation.log.merkle import Tree
    from attestation.log.tiles import decode_bundle, encode_bundle

    leaves = [*decode_bundle(net.answers["tile/entries/000.p/2"])]
    leaves += [leaf.to_bytes() for leaf in more]
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    head = Checkpoint(ORIGIN, len(leaves), tree.root())
    net.answers["checkpoint"] = checkpoints.sign(head, key=net.world.log_key)
    net.answers[f"tile/entries/000.p/{len(leaves)}"] = encode_bundle(leaves)


def test_an_unanchored_tail_is_told(net: Net) -> None:
    longer(net, RELEASE)
    found = run(net)
    assert found.exit_code == 0 and finding_codes(found) == {"unanchored-tail"}
    assert found.tail == 1 and "not audited" in found.findings[0].text


def test_a_tail_that_is_never_anchored_is_incomplete(net: Net) -> None:
    longer(net, RELEASE)
    net.state = dataclasses.replace(net.state, time=NOW - 7200)
    found = run(net)
    assert found.exit_code == 6 and codes(found) == {"unanchored-tail"}


def test_a_tail_with_other_bytes_is_a_violation(net: Net) -> None:
    longer(net, RELEASE)
    data = net.answers["tile/entries/000.p/3"]
    net.answers["tile/entries/000.p/3"] = data[:-1] + bytes([data[-1] ^ 1])
    found = run(net)
    assert found.exit_code == 1 and codes(found) == {"log"}


def test_a_stale_endpoint_is_incomplete(net: Net) -> None:
    found = run(net, AuditScope(now=LATER))
    assert codes(found) == {"old-read"} and found.exit_code == 6


# -- keys


def reborn(world: World, receipt_key: bytes, configs: tuple[bytes, ...]) -> Presented:
    """Another boot with these keys."""
    bundle: KeyBundle = dataclasses.replace(
        world.bundle, boot_id=b"\x09" * 16, receipt_key=receipt_key, key_configs=configs
    )
    return world.presented(world.prove(bundle))


KEYS = {
    "the receipt key": (b"\x03" * 32, (b"\x07" * 41,)),
    "a channel key": (b"\x04" * 32, (b"\x01" * 41,)),
    "a channel key under another number": (b"\x04" * 32, (b"\x02" + b"\x01" * 40,)),
}


@pytest.mark.parametrize(("receipt_key", "configs"), KEYS.values(), ids=KEYS)
def test_a_key_of_another_boot_is_a_violation(
    world: World, receipt_key: bytes, configs: tuple[bytes, ...]
) -> None:
    second = reborn(world, receipt_key, configs)
    net = Net(world, [boot(world), boot(world, second)], world.presented(), [])
    net.about(1, second)
    assert codes(run(net)) == {"reused-key"}


def test_another_boot_with_its_own_keys_is_good(world: World) -> None:
    second = reborn(world, b"\x04" * 32, (b"\x07" * 41,))
    net = Net(world, [boot(world), boot(world, second)], world.presented(), [])
    net.about(1, second)
    assert run(net).exit_code == 0


# -- then and now


def test_what_fails_only_today_is_a_finding(net: Net, world: World) -> None:
    net.world.policy, kept = (
        dataclasses.replace(world.policy, max_anchor_age_s=1 << 30),
        world.policy,
    )
    try:
        found = run(net, AuditScope(now=LATER))
    finally:
        net.world.policy = kept
    assert found.exit_code == 0 and found.entries[1].verdict == "verified"
    assert any(code.startswith("now:cpu-tcb/") for code in finding_codes(found))
    assert "give today's" in found.findings[0].text


def test_collateral_of_today_counts_today(net: Net, world: World) -> None:
    parts = dict(world.collateral.parts)
    parts["intel/tcb_info"] = b"{}"
    found = run(net, AuditScope(current=Collateral(parts)))
    assert found.exit_code == 0 and found.entries[1].verdict == "verified"
    assert finding_codes(found) and found.entries[1].now


def test_more_collateral_of_today_than_fits_is_incomplete(net: Net) -> None:
    many = Collateral({f"intel/part{number}": b"" for number in range(256)})
    found = run(net, AuditScope(current=many))
    assert found.exit_code == 6 and found.entries[1].verdict == "not checked"


def test_at_its_own_time_nothing_is_found(net: Net) -> None:
    found = run(net)
    assert not found.findings and found.entries[1].now == ()


# -- progress


def test_progress_is_told_but_not_of_short_work(
    net: Net, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, int, int]] = []
    run(net, AuditScope(progress=lambda *told: seen.append(told)))
    assert ("entries verified", 2, 2) in seen and ("tiles compared", 1, 1) in seen
    with ProgressDisplay() as shown:
        shown("entries", 1, 2)
    monkeypatch.setattr("client_sdk.auditing.progress.QUIET_S", -1.0)
    assert capsys.readouterr().err == ""
    with ProgressDisplay() as shown:
        shown("entries", 1, 2)
        shown("entries", 2, 2)
        shown("entries", 2, 2)
        shown("blobs", 3, 3)
    assert capsys.readouterr().err == "entries: 1 of 2\nentries: 2 of 2\nblobs: 3 of 3\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client_sdk.auditing.progress.QUIET_S", -1.0)
    screen = io.StringIO()
    with ProgressDisplay(Console(file=screen, force_terminal=True, width=80)) as shown:
        shown("entries", 1, 2)
        shown("entries", 2, 2)
    assert "entries" in screen.getvalue() and "2/2" in screen.getvalue()


# -- what is served in an entry's place


class Junk:
    """Bytes that are no leaf."""

    kind = 0

    def to_bytes(self) -> bytes:
        return b"junk"


def test_a_leaf_that_is_none_is_a_violation(world: World) -> None:
    net = Net(world, [RELEASE, Junk()], world.presented(), [])  # type: ignore[list-item]
    found = run(net)
    assert codes(found) == {"malformed-leaf"} and found.entries[1].verdict == "refused"
    assert run(net, AuditScope(sample=1)).exit_code in (1, 6)


def test_the_record_of_another_entry_is_a_violation(net: Net) -> None:
    net.answers["submission/1"] = net.answers["submission/0"]
    assert codes(run(net)) == {"bad-entry"}


def test_a_file_without_end_is_not_there(net: Net, tmp_path: Path) -> None:
    mirror = net.export(tmp_path / "mirror")
    with (mirror / "submission/1").open("wb") as file:
        file.truncate(MAX_ANSWER + 1)
    assert codes(run(net, mirror=str(mirror))) == {"unavailable"}


def test_a_mirror_at_a_url_is_asked_in_the_logs_place(net: Net) -> None:
    """The log's own address would be another path, which nobody answers here."""
    moved = {f"http://127.0.0.1:7/copy/{path}": data for path, data in net.answers.items()}
    net.answers = {url.replace("checkpoint/", "checkpoints/"): d for url, d in moved.items()}
    found = run(net, mirror="http://127.0.0.1:7/copy/")
    assert found.exit_code == 0 and found.log_url == "http://127.0.0.1:7/copy"


# -- evidence that is gone


def without_evidence(net: Net, index: int) -> Net:
    path = f"evidence/sha256/{sha256(net.world.presented().evidence).hex()}"
    del net.answers[path]
    net.gone.add(path)
    return net


def renewed(world: World) -> Net:
    leaves = [boot(world), boot(world, kind=2, previous=0, statement=b"\x02" * 32)]
    return Net(world, leaves, world.presented(), [])


def test_a_log_that_has_no_evidence_violates_and_one_that_is_silent_does_not(net: Net) -> None:
    found = run(without_evidence(net, 1))
    assert found.exit_code == 1 and codes(found) == {"missing-evidence"}
    net.gone.clear()
    assert run(net).exit_code == 6


DAY = 86_400
GRANTS = {
    "nothing granted": (None, LATER, {"missing-evidence"}),
    "kept longer than that": (365 * DAY, LATER, {"missing-evidence"}),
    "not old enough": (DAY, NOW + DAY // 2, {"missing-evidence"}),
    "old enough": (DAY, LATER, {"missing-evidence", "passed"}),
}


@pytest.mark.parametrize(("kept", "now", "expected"), GRANTS.values(), ids=GRANTS)
def test_a_renewals_evidence_may_pass_where_the_auditor_grants_it_and_a_boots_never(
    world: World, kept: int | None, now: int, expected: set[str]
) -> None:
    net = without_evidence(renewed(world), 1)
    found = run(net, AuditScope(now=now, renewals_kept_s=kept))
    assert found.exit_code == 1
    assert {p.code for p in found.problems if p.code in ("missing-evidence", "passed")} == expected
    assert {p.index for p in found.problems if p.code == "passed"} <= {1}


# -- leaves with other bytes


def test_entries_with_other_bytes_are_told_from_the_rest(world: World) -> None:
    net = Net(world, [RELEASE, boot(world, release=0)], world.presented(), [])
    leaves = [b"something else", boot(world, release=0).to_bytes()]
    net.answers["tile/entries/000.p/2"] = encode_bundle(leaves)
    found = run(net)
    assert {(p.code, p.index) for p in found.problems} == {("other-leaf", 0)}
    assert [entry.verdict for entry in found.entries] == ["refused", "verified"]


def test_entries_and_tiles_that_both_lie_make_no_tree(net: Net) -> None:
    net.answers["tile/entries/000.p/2"] = encode_bundle([b"a", b"b"])
    net.answers["tile/0/000.p/2"] = bytes(64)
    found = run(net)
    assert found.exit_code == 1 and "tree" in codes(found) and not found.entries


# -- a registry


def listed(kind: int, digest: str, active: int = 1, revoked: int = 0) -> Entry:
    return Entry(
        kind,
        bytes(32),
        1,
        active,
        revoked,
        3 if revoked else 0,
        bytes(32),
        {bytes.fromhex(digest): 1},
    )


REGISTRIES = {
    "allowed": ({}, {}, 0, set(), set()),
    "no release listed": (None, {}, 1, {"unlisted-release"}, set()),
    "no model listed": ({}, None, 1, {"unlisted-model"}, set()),
    "revoked before": ({"revoked": 5}, {}, 1, {"revoked-release"}, set()),
    "revoked since": ({"revoked": NOW + 5}, {}, 0, set(), {"revoked-release"}),
    "model revoked since": ({}, {"revoked": NOW + 5}, 0, set(), {"revoked-model"}),
    "not yet in force": ({"active": NOW + 5}, {}, 1, {"pending-release"}, set()),
}


@pytest.mark.parametrize(
    ("release", "model", "code", "problems", "findings"), REGISTRIES.values(), ids=REGISTRIES
)
def test_a_registry_is_asked_about_its_time_and_now(
    net: Net,
    monkeypatch: pytest.MonkeyPatch,
    release: dict[str, int] | None,
    model: dict[str, int] | None,
    code: int,
    problems: set[str],
    findings: set[str],
) -> None:
    seen = run(net).entries[1]
    entries = []
    if release is not None:
        entries.append(listed(GUEST, seen.measurement, **release))
    if model is not None:
        entries.append(listed(MODEL, seen.model, **model))
    state = RegistrySnapshot(CONTRACT, bytes(32), 1, NOW, "reported", tuple(entries))
    monkeypatch.setattr(registry_check, "read_registry", lambda chain, address: state)
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net, registry=CONTRACT)  # type: ignore[arg-type]
    found = auditor.run(CONTRACT, AuditScope(now=NOW + 60))
    assert found.exit_code == code and codes(found) == problems
    assert {f.code for f in found.findings if f.code.startswith("revoked")} == findings


def test_a_release_is_no_model(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(net).entries[1]
    entries = [listed(MODEL, seen.measurement), listed(GUEST, seen.model)]
    state = RegistrySnapshot(CONTRACT, bytes(32), 1, NOW, "reported", tuple(entries))
    monkeypatch.setattr(registry_check, "read_registry", lambda chain, address: state)
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net, registry=CONTRACT)  # type: ignore[arg-type]
    assert codes(auditor.run(CONTRACT)) == {"unlisted-release", "unlisted-model"}


@dataclasses.dataclass
class WithRegistry:
    """The chain of a Net, with a Registry beside the log's contract."""

    net: Net
    entries: list[Entry]

    def account(self, address: str) -> AccountState:
        found = self.net.account(address)
        if address != registries.CONTRACT:
            return found
        code = artefact.load("registry").code_boc
        return dataclasses.replace(found, code=code, data=registries.storage(tuple(self.entries)))

    def block(self, seqno: int) -> BlockRef:
        return self.net.block(seqno)

    def head(self) -> BlockRef:
        raise NotImplementedError


def by_policy(net: Net, chain: object, source: str = "both") -> Audit:
    pinned = dataclasses.replace(
        registries.rules(source), code_hash=artefact.load("registry").code_hash
    )
    policy = dataclasses.replace(net.world.policy, registry=pinned)
    return Auditor(policy=policy, chain=chain, transport=net).run(  # type: ignore[arg-type]
        CONTRACT, AuditScope(now=NOW + 60)
    )


def test_the_policys_registry_is_asked_without_being_named(net: Net) -> None:
    seen = run(net).entries[1]
    model = dataclasses.replace(listed(MODEL, seen.model), manifest=b"\1" * 32)
    for release, source, code, found in (
        ({}, "both", 0, set()),
        ({"revoked": NOW + 5}, "file", 0, {"revoked-release"}),
        ({"revoked": 5}, "file", 1, {"bad-evidence", "revoked-release"}),
        ({"active": NOW + 5}, "both", 1, {"bad-evidence", "pending-release"}),
        ({"active": NOW + 5}, "file", 0, set()),
    ):
        chain = WithRegistry(net, [listed(GUEST, seen.measurement, **release), model])
        audit = by_policy(net, chain, source)
        assert audit.exit_code == code, (release, audit.problems)
        assert found <= codes(audit) | finding_codes(audit)


def test_an_audit_without_the_policys_registry_is_incomplete(net: Net) -> None:
    audit = by_policy(net, net)  # its account at the Registry's address is a log's
    assert audit.exit_code == 6 and codes(audit) == {"registry-unavailable", "not-checked"}


def test_an_audit_without_the_policys_witnesses_is_incomplete(net: Net) -> None:
    key = Ed25519PrivateKey.generate()
    vkey = VerifierKey("w.example", key.public_key().public_bytes_raw(), COSIGNATURE)
    rules = WitnessRules(1, 600, ((vkey, "somebody"),))
    policy = dataclasses.replace(net.world.policy, witnesses=rules)

    def audited() -> Audit:
        auditor = Auditor(policy=policy, chain=net, transport=net)  # type: ignore[arg-type]
        return auditor.run(CONTRACT, AuditScope(now=NOW + 60))

    assert codes(audited()) == {"witness-too-few"} and audited().exit_code == 6
    note = Note.from_bytes(net.get(f"http://{ORIGIN}/checkpoint/2"))
    line = cosign(note.text, name="w.example", key=key, now=NOW)
    net.answers["cosigned/2"] = Note(note.text, (line,)).to_bytes()
    assert audited().exit_code == 0, audited().problems
    net.answers["cosigned/2"] = b"nothing of the kind"
    assert audited().exit_code == 6


FAILURES = {
    "no answer": (Unavailable("silence"), 6, "registry-unavailable"),
    "other code": (NotAuthentic("registry", "other-code", "x"), 1, "registry"),
    "other data": (ParseError("x"), 1, "registry"),
}


@pytest.mark.parametrize(("error", "code", "name"), FAILURES.values(), ids=FAILURES)
def test_a_registry_that_cannot_be_read_is_never_good(
    net: Net, monkeypatch: pytest.MonkeyPatch, error: UmayError, code: int, name: str
) -> None:
    def fail(chain: object, address: str) -> None:
        raise error

    monkeypatch.setattr(registry_check, "read_registry", fail)
    auditor = Auditor(policy=net.world.policy, chain=net, transport=net, registry=CONTRACT)  # type: ignore[arg-type]
    found = auditor.run(CONTRACT)
    assert found.exit_code == code and codes(found) == {name}
