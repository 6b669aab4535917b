"""`python -m tests.helpers.dying_guest`: a guest whose engine stops once the file is there that
UMAY_TEST_DIES names, with the tokens of a question in its error."""

from __future__ import annotations

import os
from pathlib import Path

from enclave.guest.__main__ import main
from enclave.guest.engines.slots import Scheduler

DIES = "UMAY_TEST_DIES"


def install() -> None:
    step, file = Scheduler.step, Path(os.environ[DIES])

    def dying(self: Scheduler) -> None:
        jobs = self.jobs()
        if jobs and file.exists():
            raise RuntimeError(f"the question was {jobs[0].prompt}")
        step(self)

    Scheduler.step = dying  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    main()
