"""`red10 up`: both Redis servers, a scorer, a trainer and a monitor, kept running until Ctrl-C.

Owns `<data_dir>/up.lock`: held exclusively for as long as it runs, with its process id as content for messages. The
kernel frees the lock however the process ends. Stopping is ordered: the scorer first (it finishes its commit and gives
its leases back), then the trainer, then the monitor, then the servers, unless other commands still use them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ops.embedded import kept_running, open_roles, refuse_snapshot
from ops.embedded_files import FileLock, disk_errors
from ops.embedded_launch import free_port
from ops.errors import AlreadyUp
from ops.supervise import Child, ChildSpec, Say, supervise
from streams.clients import safe_url
from streams.settings import PREFIX, Origins, Settings, as_variable

WORKERS = ("scorer", "trainer", "monitor")


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold `up.lock` of the data directory for the length of a block.

    Raises:
        AlreadyUp: another process holds it.
        EmbeddedError: the directory cannot be used.
    """
    lock = FileLock(data_dir / "up.lock")
    try:
        with disk_errors(data_dir):
            data_dir.mkdir(parents=True, exist_ok=True)
            mine = lock.try_exclusive()
            text = lock.path.read_text("ascii", "replace").strip()
            if mine:
                lock.path.write_text(f"{os.getpid()}\n")
        if not mine:
            raise AlreadyUp(data_dir, int(text) if text.isdigit() else None)
        yield
    finally:
        lock.close()


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, for the length of a block."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def worker_env(settings: Settings, origins: Origins, web_port: int) -> dict[str, str]:
    """Variables that hand the flags on to a worker. In the environment, not in `argv`: a URL may hold a password."""
    env = {}
    for name, origin in origins.items():
        value = getattr(settings, name)
        if origin == "flag":
            env[f"{PREFIX}{name.upper()}"] = as_variable(value)
    env[f"{PREFIX}WEB_PORT"] = str(web_port)
    env[f"{PREFIX}DATA_DIR"] = str(settings.data_dir.absolute())
    return env


def worker_specs(settings: Settings, origins: Origins) -> list[ChildSpec]:
    """What to run for each worker; each gets a web port of its own, the first the one in the settings if it is free."""
    specs: list[ChildSpec] = []
    taken: set[int] = set()
    for number, role in enumerate(WORKERS):
        port = free_port(settings.web_port + number if settings.web_port else None, settings.web_host)
        while port in taken:
            port = free_port(None, settings.web_host)
        taken.add(port)
        env = worker_env(settings, origins, port)
        argv = (sys.executable, "-m", "red10", "worker", "--role", role, "--lifeline")
        specs.append(ChildSpec(role, argv, env))
    return specs


def run_up(settings: Settings, origins: Origins, say: Say, on_ready: Callable[[list[tuple[str, str]]], None]) -> None:
    """Run servers and workers until Ctrl-C or SIGTERM.

    Args:
        say: told of restarts and waiting.
        on_ready: called once with (what, where) for everything that runs.

    Raises:
        AlreadyUp: it runs already on this data directory.
        EmbeddedError: a server cannot be started, or not be stopped without loss.
        ChildFailed: a worker cannot start.
        ConfigurationError: the models come from a snapshot.
    """
    refuse_snapshot(settings, "`red10 up`")
    # Until the servers are there a Ctrl-C breaks off at once; from then on it asks for the ordered stop.
    with only_one(settings.data_dir), open_roles(settings, progress=say) as roles, stop_signals() as stop:
        specs = worker_specs(settings, origins)
        on_ready(
            [
                *(
                    (f"Redis ({role})", f"{server.tcp_url} (process {server.pid})")
                    for role, server in roles.embedded.items()
                ),
                *(
                    (f"Redis ({role})", safe_url(url))
                    for role, url in (("streams", settings.streams_url), ("models", settings.models_url))
                    if url is not None
                ),
                *((spec.name, f"http://{settings.web_host}:{spec.env[f'{PREFIX}WEB_PORT']}/metrics") for spec in specs),
            ]
        )
        with kept_running(roles.embedded.values(), say):
            supervise([Child(spec) for spec in specs], stop, say)
