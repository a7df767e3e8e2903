"""`python -m benchmarks NAME …`: one entry point; `python -m benchmarks` lists the names."""

from __future__ import annotations

import importlib
import sys

#: Name -> what it measures. Each is a module here with `main(arguments)`.
BENCHMARKS = {
    "memory": "ten million ticks against 256 MB: is anything lost, does Redis stay within it",
    "snapshots": "snapshots of ten thousand models: time and memory of take, verify, promote, rollback",
    "models": "ten thousand models: scoring, reload, memory, beside XGBoost and treelite; docs/benchmarks.md",
    "results": "skill and paper accounts on real series and on the controls; writes docs/results.md",
}


def main() -> None:
    """Run the benchmark named first."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in BENCHMARKS:
        width = max(map(len, BENCHMARKS))
        sys.exit("\n".join(f"python -m benchmarks {name:{width}}  {what}" for name, what in BENCHMARKS.items()))
    importlib.import_module(f"benchmarks.{name}").main(arguments)


if __name__ == "__main__":
    main()
