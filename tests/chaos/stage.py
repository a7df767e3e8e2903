"""What chaos runs and scenes are played on: two real servers, a proxy, a crew of processes, and what they leave behind.

The streams Redis has `appendfsync always`: with `everysec` a killed process may lose what it had answered (a write that
waits for a slow fsync), and then losses would be found that Red10 is not to blame for.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import redis

from consumers.scorer_process import make_spec
from streams.settings import Settings
from streams.tenant import Tenant, open_tenant
from tests.chaos.crew import Child, Crew
from tests.chaos.evidence import (
    Evidence,
    entries,
    from_archive,
    from_stream,
    load_all_releases,
    read_lines,
    read_partition,
    read_record,
    read_versions,
)
from tests.chaos.feed import Feed
from tests.chaos.pipeline import SETTINGS, variables
from tests.chaos.proxy import ProxyThread
from tests.chaos.tap import GROUP
from tests.servers import Server, embedded_binary, system_binary
from tests.workers import all_partitions

TENANT = "chaos"


class HarnessError(Exception):
    """A run that could not be carried out: nothing is said about Red10."""


def binary(server: str) -> str:
    """The redis-server of a version, `6.2` or `7.0`.

    Raises:
        HarnessError: there is none.
    """
    if server == "6.2":
        return embedded_binary()
    found = system_binary()
    if found is None:
        raise HarnessError("there is no redis-server >= 7 on PATH (Debian: apt-get install redis-server)")
    return found


class Stage:
    """Servers and processes; a context manager that ends everything it started and removes its directory.

    Args:
        mutant: what is broken in the workers on purpose.
        settings: other settings than `pipeline.SETTINGS`.
    """

    def __init__(self, server: str, *, mutant: str | None = None, **settings: object) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="red10-chaos-"))
        self.streams = Server(
            server, ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
        )
        self.models = Server(server)
        self.crew = Crew()
        self.proxy = ProxyThread()
        self._mutant = mutant
        self._settings = settings
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for server in (self.streams, self.models):
            self._stack.callback(server.close)
            server.start()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._stack.enter_context(self.proxy)
        self._stack.enter_context(self.crew)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def settings(self, tenant: str = TENANT) -> dict[str, object]:
        """The settings of a tenant's processes."""
        return {**SETTINGS, **self._settings, "tenant": tenant, "models_url": self.models.url}

    def open(self, tenant: str = TENANT) -> Tenant:
        """Create a tenant."""
        with self.streams.client() as client:
            return open_tenant(client, Settings(**cast(dict[str, Any], self.settings(tenant))))

    def child(self, name: str, role: str, argv: list[str], tenant: str = TENANT) -> Child:
        """A process behind a gate of its own; started once it is among the crew's children."""
        gate = self.proxy.gate(self.socket)
        return Child(name, role, argv, variables(**self.settings(tenant)), gate, self.directory)

    def worker(self, name: str, role: str = "worker", kind: str = "scorer", tenant: str = TENANT) -> Child:
        """A scorer or trainer."""
        argv = ["tests.chaos.worker", "--journal", str(self.directory / f"{name}.journal"), "--role", kind]
        if self._mutant is not None:
            argv += ["--mutant", self._mutant]
        return self.child(name, role, argv, tenant)

    def tap(self, tenant: Tenant) -> Child:
        """The group that archives the input; made before anything can be trimmed."""
        with self.streams.client() as client:
            for keys in all_partitions(tenant):
                client.xgroup_create(keys.ticks, GROUP, "0", mkstream=True)
        tap = self.child("tap", "tap", [])
        tap.argv = ["tests.chaos.tap", tap.gate.url, TENANT, str(tenant.partitions), str(self.archive)]
        return tap

    @property
    def socket(self) -> str:
        """Where the streams Redis listens."""
        return f"{self.streams.directory}/redis.sock"

    @property
    def archive(self) -> Path:
        """The tap's file."""
        return self.directory / "archive"

    def publisher(self, feed: Feed, start: float, rate: float, tenant: str = TENANT, role: str = "publisher") -> Child:
        """A publisher of a feed; see `tests.chaos.publisher`."""
        argv = ["tests.chaos.publisher", feed.to_json(), str(self.record(feed)), repr(start), repr(rate)]
        child = self.child(feed.name, role, argv, tenant)
        if feed.blocks == "never":
            child.env["RED10_MEMORY_MARK"] = "0"  # so that somebody runs into a Redis that is full
        return child

    def record(self, feed: Feed) -> Path:
        """What a publisher says of itself."""
        return self.directory / f"{feed.name}.record"

    def members(self, tenant: Tenant) -> int:
        """How many scorers of a tenant are at work."""
        with self.streams.client() as client:
            return int(client.zcard(tenant.keys.members))

    def gather(self, tenant: Tenant, feeds: list[Feed] | None, posted: list[str] | None = None) -> Evidence:
        """What is left behind.

        Args:
            feeds: whose ticks came through the tap; `None` if the input as it stands in the streams is to be believed.
            posted: training requests that were certainly posted.
        """
        spec = make_spec(tenant, Settings(**cast(dict[str, Any], self.settings())))
        with self.streams.client() as client, self.models.client() as models:
            if feeds is None:
                archive = {at: from_stream(client, keys) for at, keys in enumerate(all_partitions(tenant))}
            else:
                archive = from_archive(self.archive, tenant.partitions)
            return Evidence(
                spec=spec,
                tenant=TENANT,
                feeds=None if feeds is None else [(feed, read_record(self.record(feed))) for feed in feeds],
                archive=archive,
                partitions={at: read_partition(client, keys) for at, keys in enumerate(all_partitions(tenant))},
                journal=read_lines(sorted(self.directory.glob("*.journal"))),
                posted=posted or [],
                requests=[(entry, row["id"]) for entry, row in entries(client, tenant.keys.requests)],
                results=[row for _, row in entries(client, tenant.keys.results)],
                versions=read_versions(models, tenant),
                releases=load_all_releases(models, tenant, spec),
            )

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
        """Poll until something holds; a Redis that is away is waited for.

        Raises:
            HarnessError: it does not, in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            with suppress(redis.RedisError):
                if condition():
                    return
            if time.monotonic() > until:
                raise HarnessError(f"waited {timeout_s:g} s until {what}, in vain\n{self.crew.logs()}")
            time.sleep(0.02)
