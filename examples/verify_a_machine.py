"""Every step of the verification of every machine on offer; nothing is asked of a model.

`python examples/verify_a_machine.py [DIRECTORY]` ends with exit code 0 where every step of
every machine passed, else with 1.
"""

import sys

from attestation import Report
from client_sdk import connect


def show(boot: str, report: Report) -> None:
    print(f"machine {boot}{' (SIMULATED: it proves nothing)' if report.simulated else ''}")
    for step in report.steps:
        print(f"  {step.number:>2} {step.name:<15} {step.status:<12} {step.code or step.detail}")


with connect(*sys.argv[1:]) as umay:
    reports = {place.boot: umay.examine(place) for place in umay.places()}
for boot, report in reports.items():
    show(boot, report)
sys.exit(0 if reports and all(report.ok for report in reports.values()) else 1)
