"""The processes of a run: started, killed, paused, and started again when they die, as a supervisor would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.proxy import Gate

ROOT = Path(__file__).parents[2]
#: Seconds between two looks at who has died.
_LOOK_EVERY_S = 0.05
#: Seconds that a process stays dead.
_RESTART_S = 0.2


@dataclass
class Child:
    """One process that is started again whenever it ends before it is done.

    Attributes:
        role: worker, trainer, publisher, tap, scratch.
        gate: its way to the streams Redis.
        deaths: exit codes of lives that ended without having been killed.
    """

    name: str
    role: str
    argv: Sequence[str]
    env: dict[str, str]
    gate: Gate
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    done: bool = False
    paused: bool = False
    deaths: list[int] = field(default_factory=list)
    _died: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    def start(self) -> None:
        with self._lock, open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.argv],
                env={**os.environ, "PYTHONPATH": str(ROOT), "RED10_STREAMS_URL": self.gate.url, **self.env},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> bool:
        """SIGKILL; whether there was something to kill."""
        with self._lock:
            if self.process is None or self.process.poll() is not None:
                return False
            self.process.kill()
            self.process.wait()
            self._buried()
            return True

    def pause(self) -> int | None:
        """SIGSTOP; the process that was stopped."""
        with self._lock:
            if self.process is None or self.process.poll() is not None:
                return None
            self.process.send_signal(signal.SIGSTOP)
            self.paused = True
            return self.process.pid

    def wake(self, pid: int | None = None) -> bool:
        """SIGCONT, if it is still that process; whether it was."""
        with self._lock:
            self.paused = False
            if self.process is None or self.process.poll() is not None or pid not in (None, self.process.pid):
                return False
            self.process.send_signal(signal.SIGCONT)
            return True

    def stop(self, timeout_s: float = 20.0) -> int | None:
        """SIGTERM; the exit code, `None` if it had to be killed."""
        with self._lock:
            self.done = True
            if self.process is None:
                return 0
            self.wake()
            self.process.send_signal(signal.SIGTERM)
            try:
                return self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
                return None

    def tend(self) -> None:
        """Notice that it has ended, and start it again if it has to."""
        with self._lock:
            if self.done:
                return
            if self.process is not None:
                code = self.process.poll()
                if code is None:
                    return
                if code == 0 and self.role == "publisher":
                    self.done = True
                    return
                self.deaths.append(code)
                self._buried()
            if time.monotonic() - self._died >= _RESTART_S:
                self.start()

    def _buried(self) -> None:
        self.process = None
        self.paused = False
        self._died = time.monotonic()


class Crew:
    """All children; a thread tends them. A context manager that kills whoever is left."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="crew")

    def of(self, *roles: str) -> list[Child]:
        """The children of these roles that are not done."""
        return [child for child in self.children if child.role in roles and not child.done]

    def logs(self) -> str:
        """The end of what each said."""
        return "\n".join(f"--- {c.name}\n{c.log.read_text()[-3000:]}" for c in self.children if c.log.exists())

    def _tend(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            for child in self.children:
                child.tend()

    def __enter__(self) -> Crew:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
        for child in self.children:
            child.kill()
