"""Child processes kept running: started, restarted with a growing pause when they die, and stopped in order.

Each child runs in its own session, so that a Ctrl-C in the terminal reaches only the supervisor, which then stops the
children one after another. Its standard input is a pipe that nobody writes to: should the supervisor be killed, the
pipe closes and the child stops by itself (`stop_when_orphaned`), so that a kill -9 leaves no worker behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from streams.clients import Backoff
from streams.errors import Red10Error

#: Seconds after which a child counts as having started well.
SETTLED_S = 10.0
#: Seconds that a child gets to finish its commit and release its leases before it is killed.
STOP_S = 20.0
#: Exit code for what will not pass by itself, such as a wrong setting; the message is already on the screen.
HOPELESS = 2

Say = Callable[[str], None]


class ChildFailed(Red10Error):
    """A child cannot start, and starting it again would not help; carries its `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the {name} could not start, for the reason given above: correct it and try again")
        self.name = name


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run.

    Attributes:
        name: for messages.
        argv: program and arguments.
        env: variables on top of the supervisor's own.
        log: a file that takes what it prints; left out, the supervisor's own output does.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path | None = None


class Child:
    """One supervised process."""

    def __init__(self, spec: ChildSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self.spec = spec
        self.restarts = 0
        self._clock = clock
        self._backoff = Backoff(first=0.5, cap=30.0)
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._due = 0.0

    def __repr__(self) -> str:
        return f"Child({self.spec.name}, pid={self.pid}, restarts={self.restarts})"

    @property
    def pid(self) -> int | None:
        """The running process, or `None` between two."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process."""
        with open(self.spec.log, "ab") if self.spec.log is not None else nullcontext() as log:
            self._process = subprocess.Popen(
                self.spec.argv,
                env={**os.environ, **self.spec.env},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT if log is not None else None,
                start_new_session=True,
            )
        self._started = self._clock()

    def watch(self, say: Say) -> None:
        """Look once: notice a death, and start again when the pause is over.

        Raises:
            ChildFailed: it ended at once with the exit code of a wrong setting.
        """
        now = self._clock()
        if self._process is None:
            if now >= self._due:
                self.restarts += 1
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        settled = now - self._started >= SETTLED_S
        self._forget()
        if code == HOPELESS and not settled:
            raise ChildFailed(self.spec.name)
        if settled:
            self._backoff.reset()
        pause = self._backoff.next()
        self._due = now + pause
        say(f"the {self.spec.name} ended ({describe_exit(code)}); it starts again in {pause:g} s")

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ask the process to stop, wait, and kill it if it does not."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def supervise(children: Sequence[Child], stop: threading.Event, say: Say, *, poll_s: float = 0.2) -> None:
    """Start the children, keep them running until `stop` is set, then stop them in the order given.

    Raises:
        ChildFailed: one cannot start; the others are stopped.
    """
    try:
        for child in children:
            child.start()
        while not stop.wait(poll_s):
            for child in children:
                child.watch(say)
    finally:
        for child in children:
            child.stop()


def stop_when_orphaned() -> None:
    """In a child: send ourselves SIGTERM when standard input closes, that is, when the supervisor has died."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
