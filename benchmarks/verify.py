"""Measures the verification of one machine with empty caches, each of its steps with full caches,
and the library dcap-qvl alone on the same quote."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import dcap_qvl

from attestation import remembered
from attestation.platforms.tdx import tcb
from attestation.verify import verifier as plan
from attestation.verify.case import Case
from attestation.verify.verifier import Verifier
from tests.helpers.world import NOW, World

RUNS = 30


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as directory:
        world = World.start(Path(directory))
    presented, anchor = world.logged(world.presented())
    check, known = Verifier(world.policy, remember=0), Verifier(world.policy)
    known.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW)
    whole, steps = [], defaultdict[str, list[float]](list)
    for _ in range(RUNS):
        remembered.forget()
        whole.append(
            _ms(lambda: check.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW))
        )
        case = check._case(presented, anchor=anchor, beacon=world.beacon, now=NOW)
        for name, step in plan.PLAN:
            steps[name].append(_step(case, name, step))
    material = tcb._material({name: world.collateral.parts[name] for name in tcb.PARTS})
    quote, root = world.evidence.quote, world.simulator.intel.root_der
    alone = median(
        _ms(lambda: dcap_qvl.verify_with_root_ca(quote, material, root, NOW)) for _ in range(RUNS)
    )
    again = median(
        _ms(lambda: known.verify(presented, anchor=anchor, beacon=world.beacon, now=NOW))
        for _ in range(RUNS)
    )
    yield {"bench": "verify-tdx-gpu", "value": round(median(whole), 2), "unit": "ms", "n": RUNS}
    yield {
        "bench": "verify-repeated",
        "value": round(again, 4),
        "unit": "ms",
        "peer": "the first verification",
        "ratio": round(again / median(whole), 4),
        "n": RUNS,
    }
    for name, times in steps.items():
        value = round(median(times), 3)
        yield {"bench": f"verify-step-{name}", "value": value, "unit": "ms", "n": RUNS}
    ours = median(steps["cpu-tcb"])
    yield {
        "bench": "verify-cpu-tcb",
        "value": round(ours, 3),
        "unit": "ms",
        "peer": f"dcap-qvl alone, {alone:.3f} ms",
        "ratio": round(ours / alone, 2),
        "n": RUNS,
    }


def _step(case: Case, name: str, step: Callable[[Case], str]) -> float:
    taken = _ms(lambda: step(case))
    case.passed.add(name)
    return taken


def _ms(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1000
