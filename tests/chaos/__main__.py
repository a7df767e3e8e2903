"""`make chaos`: one run of the chaos harness.

    python -m tests.chaos --duration 120 --seed 7 --json

Prints what was found; with `--json` one JSON object. Ends with 1 if anything was lost, doubled, reordered or wrong.
"""

from __future__ import annotations

import argparse
import sys
import time

import orjson

from tests.chaos.harness import Options, Run
from tests.chaos.mutants import MUTANTS
from tests.chaos.stage import HarnessError


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--duration", type=float, default=120.0, help="seconds in which faults happen")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--server", choices=["6.2", "7.0"], default="6.2")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=2500.0, help="ticks per second, all publishers together")
    parser.add_argument("--only", help="kinds of fault, with commas")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="break the workers on purpose")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    options = Options(
        duration_s=given.duration,
        seed=given.seed,
        server=given.server,
        workers=given.workers,
        rate=given.rate,
        mutant=given.mutant,
        only=tuple(given.only.split(",")) if given.only is not None else None,
    )
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:6.1f}] {text}\n")

    try:
        with Run(options) as run:
            result = run.run(say)
    except HarnessError as error:
        sys.stderr.write(f"the run could not be carried out: {error}\n")
        return 2
    for line in result.verdict.found:
        say(line)
    if given.json:
        sys.stdout.write(orjson.dumps(result.as_json()).decode() + "\n")
    else:
        sys.stdout.write("\n".join(f"{name:12} {value}" for name, value in result.as_json().items()) + "\n")
    return 0 if result.verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
