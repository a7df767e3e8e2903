"""The demo's workers: a scorer and a trainer as processes of their own, watched, and started again when they die."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ops.embedded import Roles
from ops.embedded_launch import free_port
from ops.supervise import Child, ChildFailed, ChildSpec
from ops.up import worker_env
from streams.errors import Red10Error
from streams.settings import Origins

ROLES = ("scorer", "trainer")


class DemoFailed(Red10Error):
    """The demo cannot go on; the message says where to look."""


class DemoWorkers:
    """A scorer and a trainer, watched by a thread for the length of a block."""

    def __init__(self, roles: Roles, origins: Origins, log: Path, say: Callable[[str], None]) -> None:
        # Both URLs are handed on, so the workers need no hold on the embedded servers of their own.
        handed = {**origins, "streams_url": "flag", "models_url": "flag"}
        ports = [free_port(None, roles.settings.web_host) for _ in ROLES]
        self._children = [
            Child(
                ChildSpec(
                    role,
                    (sys.executable, "-m", "red10", "worker", "--role", role, "--lifeline"),
                    worker_env(roles.settings, handed, port),
                    log,
                )
            )
            for role, port in zip(ROLES, ports, strict=True)
        ]
        self.health = f"http://{roles.settings.web_host}:{ports[0]}/health"
        self._log = log
        self._say = say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="demo-workers", daemon=True)
        self._failed: str | None = None

    def __enter__(self) -> Self:
        for child in self._children:
            child.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for child in self._children:
            child.stop()

    @property
    def scorer_pid(self) -> int | None:
        """Process id of the scorer; `None` between two."""
        return self._children[0].pid

    def check(self) -> None:
        """Raise if a worker cannot run.

        Raises:
            DemoFailed: with what it said last.
        """
        if self._failed is not None:
            said = self._log.read_text("utf-8", "replace").strip().splitlines() if self._log.exists() else []
            raise DemoFailed(f"{self._failed}: {said[-1] if said else 'it said nothing'} (all of it: {self._log})")

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for child in self._children:
                try:
                    child.watch(lambda text: self._say(f"{text}; see {self._log}"))
                except ChildFailed as error:
                    self._failed = f"the {error.name} could not start"
                    return
