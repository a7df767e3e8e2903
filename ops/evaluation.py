"""Evaluating tables of bars: every series is walked through, the fits shared out among processes.

Needs no Redis and touches none. The work is `consumers.evaluate`; here are the processes and the order of things.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consumers.evaluate import Evaluation, evaluate
from consumers.features import load_feature_set
from consumers.fit import FitOutcome, FitRequest, fit_series
from consumers.fitpool import processes_wanted
from consumers.history import BarWindow
from consumers.policy import load_policy
from consumers.walkforward import Fits, Walk
from producers.bars import Bars
from streams.settings import Settings

#: What a policy that names no cost is held against: basis points per unit.
COST_BPS = 5.0

#: Told after each fit: the series, how many fits are done, and how many there are in all.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class SeriesBars:
    """One series of a table; `ends` int64 (n,) are the ends of its bars, epoch ns."""

    name: str
    bars: BarWindow
    ends: NDArray[np.int64]


def series_of(table: Bars) -> list[SeriesBars]:
    """The series of a table of bars, in the order of its symbols."""
    columns = np.stack((table.open, table.high, table.low, table.close, table.volume), axis=1)
    found = []
    for code, symbol in enumerate(table.names):
        rows = np.flatnonzero(table.codes == code)
        rows = rows[np.argsort(table.start[rows], kind="stable")]
        bars = BarWindow(table.start[rows], np.ascontiguousarray(columns[rows]))
        found.append(SeriesBars(f"{symbol}:{table.interval}", bars, bars.start + table.interval.ns))
    return found


def evaluate_all(
    series: Sequence[SeriesBars],
    settings: Settings,
    *,
    step: int | None = None,
    count: int = 1000,
    on_progress: OnProgress = lambda series, fit, fits: None,
) -> Iterator[Evaluation]:
    """Walk through every series as a tenant with these settings would train and forecast it.

    Args:
        step: bars between two trainings; see `consumers.walkforward.Walk`.
        count: random policies.

    Raises:
        ConfigurationError: the feature set or the policy cannot be loaded.
        BadModel: a version failed its check.
    """
    pipeline = settings.pipeline
    walk, policy = Walk.of(settings, pipeline, step), load_policy(pipeline)
    window = load_feature_set(walk.feature_set).window
    total = sum(len(walk.cuts(window, len(one.bars))) for one in series)
    cost_bps = float(getattr(policy, "cost_bps", COST_BPS))
    done = 0
    with _processes(processes_wanted(settings.processes)) as fits:

        def told(requests: Sequence[FitRequest]) -> Iterator[FitOutcome]:
            nonlocal done
            for request, outcome in zip(requests, fits(requests), strict=True):
                done += 1
                on_progress(request.series, done, total)
                yield outcome

        for one in series:
            yield evaluate(one.name, one.bars, one.ends, walk, policy, cost_bps=cost_bps, fits=told, count=count)


@contextmanager
def _processes(count: int) -> Iterator[Fits]:
    """Processes that carry out fits, one thread each; broken off, what they have not begun is dropped."""
    executor = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_alone
    )

    def fits(requests: Sequence[FitRequest]) -> Iterable[FitOutcome]:
        return executor.map(fit_series, requests)

    try:
        yield fits
    finally:
        executor.shutdown(cancel_futures=True)


def _leave_interrupts_alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
