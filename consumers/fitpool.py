"""Training processes: fits run in children, and files are read there, so that a crash of native code or a hostile file
takes one request down and not the trainer.

Children are spawned, one thread each. They hold one end of a pipe whose other end only this process has: when that is
closed, by `close` or because this process died in any way, they exit at once, in the midst of a fit if need be.

When a child dies, every fit that was under way is tried once more, alone in a process of its own. Whichever kills that
one too is reported as failed; the others finish. A fit that does not end within its time counts as one that dies: a
watchdog, which needs neither the interpreter nor its lock, ends the child and writes where it was to standard error.
"""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection

from consumers.datasets import BadDataset, Roots, read_dataset
from consumers.fit import FitOutcome, FitRequest, fit_series
from consumers.patience import Stopped
from consumers.table_file import parse_rows
from consumers.table_fit import TableFit, fit_table
from streams.errors import Red10Error

#: How long a fit may take if no other limit is set, s.
FIT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class FitFailure:
    """A fit that raised, or whose process died.

    Attributes:
        reason: what went wrong, for the requester.
        trace: the traceback, for the log, if this is no error that Red10 raises on purpose.
        refused: whether what is asked for cannot be, rather than went wrong.
    """

    reason: str
    trace: str | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class TableRead:
    """Read the rows of a dataset, `most` at most."""

    dataset: str
    roots: Roots
    most: int

    @property
    def what(self) -> str:
        """For messages."""
        return self.dataset


@dataclass(frozen=True, slots=True)
class TableRows:
    """What a `TableRead` gives: column -> cell, row by row."""

    rows: tuple[dict[str, object], ...]


Job = FitRequest | TableFit | TableRead
Fitted = FitOutcome | TableRows | FitFailure


def fit_or_explain(request: Job) -> Fitted:
    """Carry out a job, with errors as values: an exception that cannot be pickled would break the pool."""
    try:
        if isinstance(request, FitRequest):
            return fit_series(request)
        if isinstance(request, TableFit):
            return fit_table(request)
        return TableRows(tuple(parse_rows(read_dataset(request.dataset, request.roots), request.most)))
    except BadDataset as error:
        return FitFailure(str(error), refused=True)
    except Red10Error as error:
        return FitFailure(str(error))
    # Users' feature sets run in here, and may raise anything.
    except Exception as error:
        return FitFailure(f"{type(error).__name__}: {error}", traceback.format_exc())


def processes_wanted(setting: int) -> int:
    """The setting, or with 0 one per core that this process may use."""
    if setting:
        return setting
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Workers:
    """One executor and the pipe that its children hang on."""

    def __init__(self, processes: int) -> None:
        child_end, self._leash = multiprocessing.Pipe(duplex=False)
        self._child_end = child_end
        self.executor = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(child_end,),
        )

    def end(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)
        self._leash.close()
        self._child_end.close()


class FitPool:
    """Runs fits in `processes` children, which start when first needed."""

    def __init__(
        self, processes: int, work: Callable[[Job], Fitted] = fit_or_explain, timeout_s: float = FIT_TIMEOUT_S
    ) -> None:
        """Put it together; nothing is started yet.

        Args:
            processes: how many children.
            work: what they do with a job.
            timeout_s: how long one job may take; each of its two tries.
        """
        self.processes = processes
        self._work = work
        self._timeout_s = timeout_s
        self._shared: _Workers | None = None
        self._open: set[_Workers] = set()
        self._alone = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._open else "idle"
        return f"<FitPool processes={self.processes} {state}>"

    async def fit(self, request: Job) -> Fitted:
        """Run one fit; call it for many requests at once.

        Raises:
            Stopped: the pool was closed.
        """
        workers = self._shared = self._shared or self._start(self.processes)
        try:
            return await self._run(workers, request)
        except BrokenProcessPool:
            # All that was under way lands here, and cannot tell who did it.
            if self._shared is workers:
                self._shared = None
            self._end(workers)
        async with self._alone:
            workers = self._start(1)
            began = time.monotonic()
            try:
                return await self._run(workers, request)
            except BrokenProcessPool:
                if self._closed:
                    raise Stopped from None
                if time.monotonic() - began >= self._timeout_s:
                    return FitFailure(
                        f"the work on {request.what} did not end within {self._timeout_s:g} s, tried twice: the "
                        "trainer's log has where it was; train on fewer bars (max_bars) or rows, or raise fit_timeout_s"
                    )
                return FitFailure(
                    f"the process that worked on {request.what} died twice: it was killed, ran out of memory, or "
                    "native code crashed; look at the system's log, and train on fewer bars (max_bars) or rows"
                )
            finally:
                self._end(workers)

    async def _run(self, workers: _Workers, request: Job) -> Fitted:
        return await asyncio.get_running_loop().run_in_executor(
            workers.executor, _work_within, self._timeout_s, self._work, request
        )

    def _start(self, processes: int) -> _Workers:
        if self._closed:
            raise Stopped
        workers = _Workers(processes)
        self._open.add(workers)
        return workers

    def _end(self, workers: _Workers) -> None:
        if workers in self._open:
            self._open.remove(workers)
            workers.end()

    def close(self) -> None:
        """End the children at once; what they were fitting is lost."""
        self._closed = True
        self._shared = None
        for workers in tuple(self._open):
            self._end(workers)


def _work_within(seconds: float, work: Callable[[Job], Fitted], request: Job) -> Fitted:
    """In the child: work, or exit when it takes too long."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return work(request)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _begin(leash: Connection) -> None:
    """In the child: leave Ctrl-C to the parent, and exit when the leash is let go."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(leash,), daemon=True).start()


def _exit_with_parent(leash: Connection) -> None:
    try:
        leash.recv_bytes()
    except (EOFError, OSError):
        # Not sys.exit: the main thread may be in native code for minutes, and nothing here needs to be finished.
        os._exit(0)
