"""Real worker processes for tests: started as a user would, killed without warning, waited for by what they commit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from streams.block import read_block
from streams.keys import PartitionKeys
from streams.tenant import Tenant
from tests.servers import entries


@dataclass
class Worker:
    """One `red10 worker` process; its output goes to `log`."""

    role: str
    env: dict[str, str]
    directory: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.directory / f"{self.role}.log"

    def start(self) -> Worker:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "red10", "worker", "--role", self.role, *self.options],
                env={**os.environ, "RED10_WEB_PORT": "0", **self.env},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.kill()


@dataclass
class Workers:
    """The workers of one test."""

    env: dict[str, str]
    directory: Path
    started: list[Worker] = field(default_factory=list)

    def start(self, role: str, *options: str) -> Worker:
        worker = Worker(role, self.env, self.directory, options).start()
        self.started.append(worker)
        return worker

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))


@contextmanager
def workers(env: dict[str, str], directory: Path) -> Iterator[Workers]:
    """Start workers with these variables; all are killed at the end."""
    found = Workers(env, directory)
    try:
        yield found
    finally:
        for worker in found.started:
            worker.close()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 60.0, logs: Callable[[], str] = str) -> Any:
    """Poll until a condition holds; what it returned."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout_s:g} s until {what}, in vain\n{logs()}")


def all_partitions(tenant: Tenant) -> list[PartitionKeys]:
    return [tenant.keys.partition(partition) for partition in range(tenant.partitions)]


def caught_up(client: redis.Redis, tenant: Tenant) -> bool:
    """Whether every partition's checkpoint is at the end of its input."""
    for keys in all_partitions(tenant):
        last = client.xrevrange(keys.ticks, count=1)
        if last and client.hget(keys.state, "checkpoint") != last[0][0]:
            return False
    return True


def in_force(client: redis.Redis, tenant: Tenant, release: str) -> bool:
    """Whether a release is in force in every partition."""
    return all(client.hget(keys.state, "release") == release.encode() for keys in all_partitions(tenant))


def outputs(client: redis.Redis, tenant: Tenant) -> dict[str, list[dict[str, str]]]:
    """All outputs by stream, without ids; sources name the n-th tick or clock of the partition instead of its id."""
    found: dict[str, list[dict[str, str]]] = {}
    for keys in all_partitions(tenant):
        number: dict[str, str] = {}
        releases: set[str] = set()
        for entry, fields in entries(client, keys.ticks):
            # A release entry may stand there twice, after a crash between posting and committing it.
            if fields.get(b"kind") == b"release":
                releases.add(entry.decode())
                continue
            # How ticks share entries depends on how they were cut into calls.
            for tick in range(len(read_block(fields[b"data"])) if fields.get(b"kind") == b"block" else 1):
                number[f"{entry.decode()}:{tick}"] = str(len(number))
        names = [name.decode() for name in client.scan_iter(match=keys.bars("*"))]
        for key in [*names, keys.predictions, keys.signals, keys.dead, keys.outcomes]:
            rows = []
            for _, fields in entries(client, key):
                row = {name.decode(): value.decode() for name, value in fields.items()}
                for name in {"src", "first", "last"} & set(row):
                    incarnation, entry_id, place, ordinal = row[name].split(":")
                    row[name] = ":".join((incarnation, number[f"{entry_id}:{place}"], ordinal))
                rows.append(row)
            found[key.partition("}:")[2]] = found.get(key.partition("}:")[2], []) + rows
    return found
