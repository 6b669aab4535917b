"""The audit of a log, from its contract to every enclave: `Auditor(…).run(contract)`."""

from client_sdk.auditing.auditor import Auditor, Scope
from client_sdk.auditing.results import Audit, EntryVerdict, Problem
from client_sdk.auditing.sources import log_url

__all__ = ["Audit", "Auditor", "EntryVerdict", "Problem", "Scope", "log_url"]
