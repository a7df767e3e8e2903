"""The directory of an embedded Redis: where its files lie, who may use them, and the locks that order its users.

Files of `<data_dir>/<role>/` (mode 0700, owned by the user who runs Red10):

    redis.conf      written anew at each start; `redis-server redis.conf` starts the same server by hand
    redis.log       the server's log; moved to redis.log.1 at a start that finds it long
    redis.sock      its unix socket (elsewhere if the path is too long for one, see `socket_path`)
    appendonly…     streams: the append-only file;  dump.rdb  models: the snapshot
    data.json       {"product", "version", "port"}: who wrote the data last, and the port to ask for again
    server.json     {"pid", "socket", "port", "version", "started"}: the running server, for other programs
    start.lock      held exclusively by whoever looks, starts or stops; serialises all three
    users.lock      held shared by every user of the server; who gets it exclusively is the last one
    server.lock     held exclusively by the server process itself, through an inherited descriptor

The kernel frees a lock when its holder dies, however it dies: no process id is ever trusted to tell whether a server
runs. `server.json` is a notice for others; a stale or missing one is corrected by the next user. Small files are
replaced by rename, so that a crash leaves the old or the new one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from ops.errors import EmbeddedError

if TYPE_CHECKING:
    from streams.locate import Role

ROLES: tuple[Role, ...] = ("streams", "models")

#: Longest path of a unix socket in bytes that every system takes: macOS has 104 including the closing zero.
SOCKET_PATH_BYTES = 100
#: A log longer than this many bytes is set aside at the next start.
LOG_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RoleDirectory:
    """Paths of one embedded server.

    Attributes:
        path: the directory, absolute.
        role: what the server in it is for.
    """

    path: Path
    role: Role

    @classmethod
    def of(cls, data_dir: Path, role: Role) -> RoleDirectory:
        """The directory of a role under the data directory, which may be relative."""
        return cls(Path(os.path.abspath(data_dir)) / role, role)

    @property
    def socket(self) -> Path:
        """The unix socket."""
        return socket_path(self.path)

    @property
    def conf(self) -> Path:
        """The server's configuration."""
        return self.path / "redis.conf"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / "redis.log"

    @property
    def server_json(self) -> Path:
        """The notice of the running server."""
        return self.path / "server.json"

    @property
    def data_json(self) -> Path:
        """Who wrote the data last."""
        return self.path / "data.json"

    def lock(self, name: Literal["start", "users", "server"]) -> FileLock:
        """One of the three locks, not yet taken."""
        return FileLock(self.path / f"{name}.lock")

    def prepare(self) -> None:
        """Make the directory, closed to other users.

        Raises:
            EmbeddedError: it cannot be made, or belongs to somebody else.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_owner(self.path, self.path)
            self.path.chmod(0o700)
            if self.socket.parent != self.path:
                self.socket.parent.mkdir(exist_ok=True, mode=0o700)
                check_owner(self.socket.parent, self.path)

    def rotate_log(self) -> None:
        """Set a long log aside."""
        with disk_errors(self.path):
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_name("redis.log.1"))


def socket_path(directory: Path) -> Path:
    """The unix socket of a role's directory: in it, or, where that path is too long, in a short private directory.

    The short path depends on nothing but the user and the directory, so that every user finds the same socket.
    """
    inside = directory / "redis.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES:
        return inside
    name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"red10-{os.getuid()}" / f"{name}.sock"


def check_owner(path: Path, directory: Path) -> None:
    """Refuse a directory that is a link or belongs to another user.

    Raises:
        EmbeddedError: it is or does.
    """
    found = path.lstat()
    if path != directory and (not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077):
        # The socket's directory lies in a place where everybody may write.
        raise EmbeddedError(directory, f"{path} is no private directory: remove it, or choose a shorter --data-dir")
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedError(
            directory,
            f"{path} belongs to another user (id {owner}, you are {os.geteuid()}): run as that user, "
            "or give a directory of your own with --data-dir",
        )


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the file system into messages that say what to do."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or directory}: {os.strerror(error.errno) if error.errno else error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"no space left for the embedded Redis in {directory}: free some"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"the embedded Redis cannot write to {directory} ({what}): make it writable"
        else:
            what = f"the embedded Redis cannot use {directory} ({what})"
        raise EmbeddedError(directory, f"{what}, or give another directory with --data-dir") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a small JSON file at once: readers see the old or the new one.

    Raises:
        OSError: the file system refuses.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON file; what is missing or unreadable counts as empty, since all in it can be found anew."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


class FileLock:
    """An advisory lock on a file (flock), free again when its holder closes it or dies."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def __repr__(self) -> str:
        return f"FileLock({str(self.path)!r}, {'open' if self._fd is not None else 'closed'})"

    @property
    def fd(self) -> int:
        """The open descriptor, to be inherited by a process that is to hold the lock."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        return self._fd

    def try_exclusive(self) -> bool:
        """Take the lock for nobody else, or turn the shared one into it; `False` if others hold it.

        A failed try may lose a shared lock that was held: the kernel gives it up first.
        """
        return self._flock(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take the lock beside other sharers; `False` if somebody holds it exclusively."""
        return self._flock(fcntl.LOCK_SH)

    def _flock(self, how: int) -> bool:
        try:
            fcntl.flock(self.fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait_exclusive(self, on_wait: Callable[[], None], *, poll_s: float = 0.02) -> None:
        """Take the lock for nobody else, however long that takes; `on_wait` is called once after a second."""
        began = time.monotonic()
        said = False
        while not self.try_exclusive():
            if not said and time.monotonic() - began > 1:
                on_wait()
                said = True
            time.sleep(poll_s)

    def free(self) -> bool:
        """Whether nobody holds it exclusively; looks through a descriptor of its own."""
        probe = FileLock(self.path)
        try:
            return probe.try_shared()
        finally:
            probe.close()

    def close(self) -> None:
        """Give the lock up (unless another process inherited the descriptor)."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def quote_path(path: Path) -> bytes:
    """A path as a redis.conf takes it, whatever bytes it has."""
    plain = b"".join(
        bytes([byte]) if 0x20 <= byte < 0x7F and byte not in b'"\\' else b"\\x%02x" % byte for byte in os.fsencode(path)
    )
    return b'"' + plain + b'"'


def last_words(log: Path, begin: int, lines: int = 6) -> str:
    """The last lines that a server wrote to its log since `begin` (bytes)."""
    try:
        with open(log, "rb") as file:
            file.seek(begin)
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"    {line.strip()}" for line in text.strip().splitlines()[-lines:])
