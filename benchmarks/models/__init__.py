"""Ten thousand models: scored in one call, back in about a second. See docs/benchmarks.md.

    python -m benchmarks models [--json] [--models N] [--repeat N] [--only MEMBER …]

One object whose members are `score_one_row`, `score_batch`, `reload`, `memory` and `search_ms`, each with figures and
ratios by name. Peers are measured in the same run. The models are trained once and kept under `build/benchmarks`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import orjson

#: Fewest repetitions that say anything.
_FEWEST = 5
MEMBERS = ("score_one_row", "score_batch", "reload", "memory", "search_ms")
#: Member -> figure -> what it has to be: at least (`>=`) or at most (`<=`).
TARGETS: dict[str, dict[str, tuple[str, float]]] = {
    "score_one_row": {"ratio_inplace_predict": (">=", 120), "ratio_gtil": (">=", 12)},
    "reload": {"ms": ("<=", 1500), "ratio_load_model": (">=", 4), "ratio_floor": ("<=", 2)},
    "memory": {"forest_kb": ("<=", 12), "version_kb": ("<=", 36)},
    "search_ms": {"ms": ("<=", 100)},
}


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks models", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--models", type=int, default=10_806, help="how many models; fewer, to try it out")
    parser.add_argument(
        "--repeat", type=int, default=_FEWEST, help=f"repetitions of each measurement, from {_FEWEST} on"
    )
    parser.add_argument("--only", nargs="+", choices=MEMBERS, default=MEMBERS, help="these members only")
    given = parser.parse_args(arguments)
    if given.repeat < _FEWEST or given.models < 100:
        parser.error(f"at least {_FEWEST} repetitions and 100 models")
    # One thread each, for OpenMP's too: on a busy machine XGBoost loads ten times as slowly with more.
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"{given.models:,} models; {_machine()}", file=sys.stderr)
    found = measure(given.models, given.repeat, given.only)
    if given.json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    for member, figures in found.items():
        for name, value in figures.items():
            print(f"{member:14} {name:34} {value:>14} {judged(member, name, value)}".rstrip())


def measure(count: int, repeat: int, members: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure some members."""
    from benchmarks.models import memory, reload, score, search
    from benchmarks.models.made import make, read
    from benchmarks.models.peers import Boosters, Gtil

    def said(member: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        print(f"measuring {member}", file=sys.stderr)
        return work()

    made = make(count)
    print(f"{made.splits:.2f} splits a tree", file=sys.stderr)
    pack, ubj = read(made)
    boosters = Boosters(ubj)
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "score_one_row": lambda: score.measure_one_row(pack, boosters, Gtil(boosters), repeat),
        "score_batch": lambda: score.measure_batch(pack, boosters, repeat),
        "reload": lambda: reload.measure(made, boosters, repeat),
        "memory": lambda: memory.measure(made, repeat),
        "search_ms": lambda: search.measure(repeat),
    }
    return {member: said(member, work) for member, work in works.items() if member in members}


def _machine() -> str:
    """What the figures depend on besides the code."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "xgboost-cpu", "treelite"))
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


def judged(member: str, name: str, value: Any) -> str:
    """What a figure has to be, and whether it is; "" where nothing is asked."""
    target = TARGETS.get(member, {}).get(name)
    if target is None:
        return ""
    sign, bound = target
    met = value >= bound if sign == ">=" else value <= bound
    return f"{sign} {bound:g}: {'met' if met else 'NOT MET'}"
