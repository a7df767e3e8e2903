"""A Redis of a benchmark's own: on a unix socket in a temporary directory, ended by its process id."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from ops.embedded_binary import candidates
from streams.clients import connect


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A running server.

    Attributes:
        directory: its files; gone when it ends.
        process: the process.
    """

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self.directory}/redis.sock"

    def client(self) -> redis.Redis:
        """A client."""
        return connect(self.url, block_ms=120_000)


@contextmanager
def own_server(*options: str, snapshot: Path | None = None) -> Iterator[OwnServer]:
    """A server for the length of a block, started without waiting: `wait_loaded` does.

    Args:
        options: more options of redis-server.
        snapshot: an RDB file to load.
    """
    directory = Path(tempfile.mkdtemp(prefix="red10-bench-"))
    if snapshot is not None:
        (directory / "dump.rdb").symlink_to(snapshot.absolute())
    binary = next(candidates()).path
    base = ["--port", "0", "--unixsocket", str(directory / "redis.sock"), "--dir", str(directory), "--save", ""]
    process = subprocess.Popen(
        [binary, *base, "--appendonly", "no", *options], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        server = OwnServer(directory, process)
        wait_loaded(server)
        yield server
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def wait_loaded(server: OwnServer) -> None:
    """Return once the server has loaded its data."""
    with server.client() as client:
        while True:
            try:
                client.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError):
                if server.process.poll() is not None:
                    raise SystemExit("the benchmark's redis-server ended as it started") from None
                time.sleep(0.001)
