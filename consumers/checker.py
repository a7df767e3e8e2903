"""Checks versions before they are stored or promoted: in a child process of their own, its memory and time bounded.

What is checked is what `modelstore.check` says. It opens XGBoost models, and a model that XGBoost cannot read may crash
the process, take all memory, or never end; here that is a reason to refuse the versions, and nothing else happens.

One child per request, so that no request can touch another's check. Children are forked off a server process that has
imported XGBoost once and done nothing else (Python's `forkserver`), which makes one in some ten milliseconds. Server
and children end with this process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from consumers.patience import Stopped
from modelstore.errors import BadModel
from modelstore.version import NewVersion

_PRELOAD = ["consumers.checker", "modelstore.check"]


class Checker:
    """Checks the versions of one request after the other, or of several at once; `close` ends what is under way."""

    def __init__(self, memory_mb: int, timeout_s: float) -> None:
        """Put one together; nothing is started yet.

        Args:
            memory_mb: what a child may take beyond the libraries that it has loaded, MB.
            timeout_s: how long it may take, s.
        """
        self._memory = memory_mb << 20
        self._timeout_s = timeout_s
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self._running: set[BaseProcess] = set()
        self._lock = threading.Lock()
        self._closed = False

    async def check(self, versions: Sequence[NewVersion]) -> str | None:
        """Check versions; the reason why they must not be stored, or `None`.

        Raises:
            Stopped: the checker was closed.
        """
        return await asyncio.to_thread(self.check_now, versions)

    def check_now(self, versions: Sequence[NewVersion]) -> str | None:
        """The same, blocking."""
        return self._check(list(versions))

    def close(self) -> None:
        """End the children at once."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()

    def _check(self, versions: list[NewVersion]) -> str | None:
        ours, theirs = self._context.Pipe()
        child = self._context.Process(target=_run, args=(theirs, self._memory, self._timeout_s), daemon=True)
        with self._lock:
            if self._closed:
                raise Stopped
            child.start()
            self._running.add(child)
        theirs.close()
        try:
            return self._verdict(child, ours, versions)
        finally:
            with self._lock:
                self._running.discard(child)
                child.kill()
            child.join()
            child.close()
            ours.close()

    def _verdict(self, child: BaseProcess, pipe: Connection, versions: list[NewVersion]) -> str | None:
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        # Not only around the answer: sending waits for the child as well.
        timer = threading.Timer(self._timeout_s, end)
        timer.start()
        try:
            pipe.send(versions)
            found: str | None = pipe.recv()
            return found
        except (EOFError, OSError):
            child.join()
        finally:
            timer.cancel()
            timer.join()
        if self._closed:
            raise Stopped
        if late.is_set():
            return f"the check of the versions took over {self._timeout_s:g} s (check_timeout_s): not to be trusted"
        return (
            f"the process that checked the versions {_ending(child.exitcode)}: not to be trusted. It may have taken "
            "more memory than check_memory_mb allows; look at the system's log"
        )


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"


def _run(pipe: Connection, memory: int, timeout_s: float) -> None:
    """In the child: take versions, answer with a reason or `None`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bound(memory, timeout_s)
    # Imported when the child was forked; not at the head, so that a trainer itself never loads XGBoost.
    from modelstore.check import check_version

    reason = None
    try:
        versions = pipe.recv()
    except (EOFError, OSError):
        # The trainer died before it had sent all: nobody waits for an answer.
        os._exit(0)
    try:
        threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
        for version in versions:
            check_version(version)
    except BadModel as error:
        reason = str(error)
    except MemoryError:
        reason = "checking the versions takes more memory than check_memory_mb allows: not to be trusted"
    with contextlib.suppress(OSError):
        pipe.send(reason)


def _end_with_parent(pipe: Connection) -> None:
    """Wait for what never comes, until the parent has closed its end or died."""
    with contextlib.suppress(EOFError, OSError):
        pipe.recv_bytes()
    os._exit(0)


def _bound(memory: int, timeout_s: float) -> None:
    seconds = int(timeout_s) + 1
    bounds = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _address_space() + memory),
    ]
    for what, bound in bounds:
        # Systems that lack one, or have a lower one already.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (bound, bound))


def _address_space() -> int:
    """Bytes of address space that this process has; 1 GB where that cannot be told."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 30
