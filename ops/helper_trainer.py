"""A trainer for one command: embedded servers that run for single commands alone have nobody to carry requests out."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from consumers.identity import trainer_runs
from ops.embedded import Roles
from ops.embedded_launch import free_port
from ops.supervise import Child, ChildFailed, ChildSpec, supervise
from ops.up import worker_env
from streams.settings import Origins

#: So long no trainer must have been seen, s: `red10 up` needs some seconds until its own runs.
ALONE_S = 5.0
#: Time between two looks, s.
LOOK_S = 0.2


@contextmanager
def trainer_if_alone(roles: Roles, origins: Origins, say: Callable[[str], None]) -> Iterator[None]:
    """Run a trainer until the block ends, if the streams Redis is embedded and nobody else runs one.

    That is so if the server was started for this command; or once another command has ended that ran a trainer, or
    needed none.

    Args:
        roles: both.

    Raises:
        ChildFailed: the trainer cannot start, whatever the block is waiting for.
    """
    held = roles.embedded.get("streams")
    if held is None:
        yield
        return
    stop = threading.Event()
    alone = held.started_by_us
    failed: list[ChildFailed] = []

    def run() -> None:
        try:
            _help(roles, origins, alone, stop, say)
        except ChildFailed as error:
            failed.append(error)
            # The block waits for what never comes.
            if not stop.is_set():
                signal.pthread_kill(waiting, signal.SIGINT)

    waiting = threading.get_ident()
    thread = threading.Thread(target=run, name="helper-trainer", daemon=True)
    try:
        thread.start()
        yield
    except KeyboardInterrupt:
        if failed:
            raise failed[0] from None
        raise
    finally:
        stop.set()
        thread.join()


def _help(roles: Roles, origins: Origins, alone: bool, stop: threading.Event, say: Callable[[str], None]) -> None:
    unseen = 0.0
    while not alone:
        if stop.wait(LOOK_S):
            return
        unseen = 0.0 if trainer_runs(roles.settings.data_dir) else unseen + LOOK_S
        alone = unseen >= ALONE_S
    say("no `red10 up` is running: a trainer runs for this command only")
    handed = {**origins, "streams_url": "flag", "models_url": "flag"}
    env = worker_env(roles.settings, handed, free_port(None, roles.settings.web_host))
    argv = (sys.executable, "-m", "red10", "worker", "--role", "trainer", "--lifeline")
    supervise([Child(ChildSpec("trainer", argv, env))], stop, say)
