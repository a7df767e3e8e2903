"""Times, and what is told of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np


def show_progress(what: str, done: int, total: int) -> None:
    """One line of progress, written over the last one; only on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def median(seconds: Sequence[float]) -> float:
    """The median."""
    return float(np.median(seconds))


def in_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile, ms."""
    return {
        "ms": round(1000 * median(seconds), 3),
        "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 3),
    }


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """How many times as long the first take as the others, by the medians."""
    return round(median(of) / median(to), 3)
