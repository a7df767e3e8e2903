"""A trainer for one command: embedded servers that run for one command alone have nobody to carry requests out."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ops.embedded import Roles
from ops.embedded_launch import free_port
from ops.supervise import Child, ChildSpec, supervise
from ops.up import worker_env
from streams.settings import Origins


@contextmanager
def trainer_if_alone(roles: Roles, origins: Origins, say: Callable[[str], None]) -> Iterator[None]:
    """Run a trainer for the length of the block, if the streams Redis was started for this command.

    Args:
        roles: both.
    """
    held = roles.embedded.get("streams")
    if held is None or not held.started_by_us:
        yield
        return
    say("no `red10 up` is running: a trainer runs for this command only")
    handed = {**origins, "streams_url": "flag", "models_url": "flag"}
    env = worker_env(roles.settings, handed, free_port(None, roles.settings.web_host))
    child = Child(
        ChildSpec("trainer", (sys.executable, "-m", "red10", "worker", "--role", "trainer", "--lifeline"), env)
    )
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=([child], stop, say), name="helper-trainer", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
