"""From the log's contract to every machine that ever stood in it, trusting no server.

`python examples/audit_a_log.py [DIRECTORY]` ends with the audit's exit code: 0 good, 1 a
violation was found, 6 something could not be checked.
"""

import sys

from client_sdk import connect
from client_sdk.auditing.auditor import Auditor

with connect(*sys.argv[1:]) as umay:
    auditor = Auditor(policy=umay.policy, chain=umay.chain)
    audit = auditor.run(umay.policy.log_contract)
for entry in audit.entries:
    print(f"{entry.index:>4} {entry.kind:<11} {entry.boot[:16]:<16} {entry.verdict}")
for problem in audit.problems:
    print(f"{problem.severity}: {problem.text}")
print(audit.verdict)
sys.exit(audit.exit_code)
