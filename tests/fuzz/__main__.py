"""`python -m tests.fuzz [NAME…] [--minutes M]`: libFuzzer on each target, one process each.

Ends with 1 where any target crashed, hung for ten seconds or took more than 256 MB; what
did it lies in .fuzz/ and belongs into the tests by name.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FINDINGS = Path(".fuzz")
MEMORY_MB = 256
HANG_SECONDS = 10
MAX_INPUT = 64 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="targets; all unless named")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    options = parser.parse_args()
    from tests.fuzz import targets

    names = options.names or list(targets.TARGETS)
    if unknown := [name for name in names if name not in targets.TARGETS]:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(targets.TARGETS)}")
    FINDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus, ThreadPoolExecutor(options.jobs) as pool:
        for seed in targets.seeds():
            (Path(corpus) / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
        arguments = [(name, corpus, int(options.minutes * 60)) for name in names]
        return 1 if any(list(pool.map(_one, arguments))) else 0


def _one(arguments: tuple[str, str, int]) -> bool:
    """Runs one target; whether it found something."""
    name, seeds, seconds = arguments
    with tempfile.TemporaryDirectory() as own:
        command = [
            sys.executable, "-m", "tests.fuzz.one", name, own, seeds,
            f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}",
            f"-timeout={HANG_SECONDS}", f"-max_len={MAX_INPUT}",
            f"-artifact_prefix={FINDINGS}/{name}-", "-print_final_stats=1", "-verbosity=0",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    stats = dict(line.split(": ", 1) for line in lines if line.startswith("stat::"))
    runs, peak = stats.get("stat::number_of_executed_units"), stats.get("stat::peak_rss_mb")
    verdict = "ok" if done.returncode == 0 else "FOUND " + " | ".join(lines[-12:])
    sys.stdout.write(f"{name}: {runs} runs, {peak} MB at most: {verdict}\n")
    sys.stdout.flush()
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
