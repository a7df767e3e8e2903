"""A private Redis that holds what one snapshot holds, for reading only.

The server loads the snapshot itself, so that every form of RDB file that it knows can be read. What is in a
snapshot is not trusted: the server checks it while it loads (checksum, and the inside of every value), may take no more
memory than it is allowed, and its only user may read, subscribe, and nothing else. It listens on a unix socket in a
directory that others cannot enter, saves nothing, and ends with the thread that started it where the system can do that
(`setpriv`); what a killed worker leaves behind otherwise is removed by the next one (`ops.snapshot_server`).
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from ops.embedded_binary import choose
from ops.embedded_files import last_words, quote_path, socket_path
from ops.errors import EmbeddedError, SnapshotError

#: The file that the server loads, in its directory.
SNAPSHOT = "dump.rdb"
PID = "pid"
#: Memory that a server may take if no other limit is set: so many times the size of the file, and this many bytes.
TIMES, MORE = 4, 1 << 30
#: Seconds that a server that does not load may take to answer.
ANSWER_S = 30.0
#: Seconds between two questions whether it has loaded: each takes the time of a worker that starts meanwhile.
POLL_S = 0.01

_RULES = """
port 0
unixsocketperm 700
daemonize no
appendonly no
save ""
dbfilename dump.rdb
sanitize-dump-payload yes
maxmemory-policy noeviction
user default on nopass ~* &* -@all +@read +@connection +@pubsub +info +multi +exec +discard
"""


class Sidecar:
    """One server on one directory that holds a snapshot as `dump.rdb`; started by `start`.

    Attributes:
        directory: its directory, closed to others; removed by `close`.
        socket: its unix socket.
    """

    def __init__(self, directory: Path, wanted: Path | None, memory_bytes: int = 0, *, checksum: bool = True) -> None:
        """Put one together.

        Args:
            directory: where the snapshot lies, or a link to it.
            wanted: the setting `redis_server`.
            memory_bytes: most memory of the server; 0: by the size of the snapshot.
            checksum: whether the server computes the checksum of the whole file, a third of the time that it needs.
        """
        self.directory = directory
        self.socket = socket_path(directory)
        self._wanted = wanted
        self._memory = memory_bytes
        self._checksum = checksum
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, without waiting for it. Call it in a thread that lives as long as the server is to.

        Raises:
            SnapshotError: there is no server that can load the snapshot, or it cannot be started.
        """
        try:
            binary = choose(self.directory, self._wanted, None)
            self.socket.parent.mkdir(exist_ok=True, mode=0o700)
            lines = [
                b"unixsocket " + quote_path(self.socket),
                b"dir " + quote_path(self.directory),
                b"logfile " + quote_path(self._log),
                b"rdbchecksum " + (b"yes" if self._checksum else b"no"),
            ]
            setpriv = shutil.which("setpriv")
            tied = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
            self._process = subprocess.Popen(
                [*tied, str(binary.path), "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.directory,
                start_new_session=True,
            )
            self._bound(self._process.pid)
            assert self._process.stdin is not None, "it is a pipe"
            with self._process.stdin as config:
                config.write(_RULES.encode() + b"\n".join(lines) + b"\n")
            (self.directory / PID).write_text(str(self._process.pid))
        except EmbeddedError as error:
            raise SnapshotError(f"no server here can load the snapshot: {error}") from error
        except OSError as error:
            raise SnapshotError(
                f"no server can be started on the snapshot in {self.directory}: {error.strerror or error}"
            ) from error

    def _bound(self, pid: int) -> None:
        """Bound the memory before the server reads its configuration, without which it does not begin."""
        memory = self._memory or TIMES * (self.directory / SNAPSHOT).stat().st_size + MORE
        if hasattr(resource, "prlimit"):
            resource.prlimit(pid, resource.RLIMIT_AS, (memory, memory))

    @property
    def _log(self) -> Path:
        return self.directory / "redis.log"

    def wait(self) -> None:
        """Wait until the snapshot is loaded, however long that takes as long as the server says that it loads.

        Raises:
            SnapshotError: the server ended, or does not answer.
        """
        # Not at the head: the server is to be started before all that takes long to import.
        import redis
        from redis.exceptions import BusyLoadingError, RedisError

        from streams.clients import connect, explain

        assert self._process is not None, "it was started"
        url = f"unix://{quote(str(self.socket))}"
        heard = time.monotonic()
        with connect(url) as client:
            while True:
                try:
                    client.ping()
                    return
                except BusyLoadingError:
                    heard = time.monotonic()
                except (redis.ConnectionError, redis.TimeoutError, OSError):
                    if self._process.poll() is not None:
                        raise self._failed() from None
                    if time.monotonic() - heard > ANSWER_S:
                        raise SnapshotError(
                            f"the server of the snapshot has not answered for {ANSWER_S:.0f} s"
                        ) from None
                except RedisError as error:
                    raise explain(error, url) from error
                time.sleep(POLL_S)

    def _failed(self) -> SnapshotError:
        words = last_words(self._log, 0)
        cause = "it is damaged, was written by a newer server, or takes more memory than snapshot_memory_mb allows"
        return SnapshotError(
            f"the snapshot cannot be loaded: {cause}. The server's last words:\n{words or '    (none)'}"
        )

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the server, which has nothing to save, and remove its directory."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
