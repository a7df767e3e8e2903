"""Models from a snapshot: a private Redis behind one unix socket, made anew whenever the snapshot is another one.

Whoever connects finds a models Redis as any other, and follows it by the usual means (`modelstore.follow`): when the
snapshot is replaced, the next server is loaded beside the present one, the name of the socket is moved over to it, and
the present one ends. A snapshot that is away or cannot be loaded changes nothing: that is said once, and tried again.
A server that was killed is loaded again.

Owns `<data_dir>/snapshot-*/`, one per process:

    owner.lock      held as long as the process lives
    models.sock     link to the socket of the present server (elsewhere if the path is too long for a socket)
    N/              directory of the N-th server (`ops.sidecar`); gone when it has ended

A process that is killed leaves its directory; the next one that uses a snapshot removes it, and ends a server in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from ops.embedded_files import FileLock, socket_path
from ops.errors import SnapshotError
from ops.sidecar import PID, SNAPSHOT, Sidecar
from ops.snapshot_source import Source, source_of
from streams.errors import Red10Error
from streams.settings import Settings

_PREFIX = "snapshot-"


class SnapshotServer:
    """A models Redis made of a snapshot, from `start` until `close`.

    One thread does all the work and lives as long as the servers that it starts.
    """

    def __init__(
        self, source: Source, settings: Settings, say: Callable[[str], None], *, in_haste: bool = False
    ) -> None:
        """Put one together.

        Args:
            source: the snapshot.
            settings: where to work, with which server and how much memory, and how often to look.
            say: told of what goes wrong and of changes, once per event.
            in_haste: load the first snapshot without the checksum of its file, for whoever holds each version against
                its digest. Those that replace it are loaded with it, since there is something to go on with.
        """
        self._source = source
        self._settings = settings
        self._say = say
        self._in_haste = in_haste
        self._directory = Path()
        self._lock: FileLock | None = None
        self._socket = Path()
        self._present: Sidecar | None = None
        self._mark: Hashable = None
        self._number = 0
        self._trouble: str | None = None
        self._first: Red10Error | None = None
        self._loaded = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)

    @classmethod
    def of(cls, settings: Settings, say: Callable[[str], None], *, in_haste: bool = False) -> Self:
        """The server of the snapshot that `models_url` names.

        Raises:
            ConfigurationError: it names none.
        """
        assert settings.models_url is not None, "it names a snapshot"
        return cls(source_of(settings.models_url, settings), settings, say, in_haste=in_haste)

    @property
    def url(self) -> str:
        """Where it listens, whichever server it is."""
        return f"unix://{quote(str(self._socket))}"

    def start(self) -> Self:
        """Begin to fetch and load the snapshot.

        Raises:
            SnapshotError: there is no room for it.
        """
        try:
            base = self._settings.data_dir.absolute()
            base.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(base)
            self._directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            self._lock = FileLock(self._directory / "owner.lock")
            self._lock.try_exclusive()
            self._socket = socket_path(self._directory)
            self._socket.parent.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise SnapshotError(f"no directory for the snapshot: {error}; name another one with --data-dir") from error
        self._thread.start()
        return self

    def wait(self) -> None:
        """Wait until the first snapshot is loaded.

        Raises:
            Red10Error: it could not be.
        """
        self._loaded.wait()
        if self._first is not None:
            raise self._first

    def close(self) -> None:
        """End the server and remove its files."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._lock is not None:
            self._socket.unlink(missing_ok=True)
            shutil.rmtree(self._directory, ignore_errors=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._replace(self._source.mark())
        except Red10Error as error:
            self._first = error
        finally:
            self._loaded.set()
        while not self._stop.wait(self._settings.follow_ms / 1000) and self._first is None:
            self._look()
        if self._present is not None:
            self._present.close()

    def _look(self) -> None:
        """Load the snapshot again if it has changed, or its server has ended."""
        try:
            mark = self._source.mark()
            ended = self._present is not None and not self._present.alive
            if mark != self._mark or ended:
                self._replace(mark)
                self._say("the server of the snapshot had ended: loaded again" if ended else "the snapshot has changed")
            self._trouble = None
        except Red10Error as error:
            if str(error) != self._trouble:
                self._say(f"going on with the models of the snapshot before: {error}")
            self._trouble = str(error)

    def _replace(self, mark: Hashable) -> None:
        """Load what the source holds and put it in the place of what is served.

        Raises:
            SnapshotError: it cannot be; what is served stays.
        """
        self._number += 1
        directory = self._directory / str(self._number)
        try:
            directory.mkdir(mode=0o700)
        except OSError as error:
            raise SnapshotError(f"no directory for the snapshot: {error}") from error
        settings = self._settings
        checksum = not self._in_haste or self._present is not None
        memory = settings.snapshot_memory_mb << 20
        following = Sidecar(directory, settings.redis_server, memory, checksum=checksum)
        try:
            self._source.provide(directory / SNAPSHOT)
            following.start()
            following.wait()
            _point(self._socket, following.socket)
        except BaseException:
            following.close()
            raise
        # The mark from before: what changes while it is loaded is looked at again.
        before, self._present, self._mark = self._present, following, mark
        (directory / SNAPSHOT).unlink()
        if before is not None:
            before.close()


def _point(name: Path, socket: Path) -> None:
    """Let a name stand for another socket, from one moment to the next."""
    beside = name.with_name(f"{name.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(socket)
    beside.replace(name)


def _remove_abandoned(base: Path) -> None:
    """Remove the directories of processes that were killed, and end servers in them."""
    for directory in base.glob(f"{_PREFIX}*"):
        lock = FileLock(directory / "owner.lock")
        try:
            if not lock.path.exists() or not lock.try_exclusive():
                continue
            for note in directory.glob(f"*/{PID}"):
                _end(int(note.read_text()), note.parent)
            socket_path(directory).unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)
        except (OSError, ValueError):
            # Of another user, or gone meanwhile.
            continue
        finally:
            lock.close()


def _end(pid: int, directory: Path) -> None:
    """End a process if it is the server of a directory: its number may be another process's by now."""
    try:
        if Path(f"/proc/{pid}/cwd").resolve(strict=True) == directory.resolve():
            os.kill(pid, signal.SIGKILL)
    except OSError:
        # It has ended, or this system has no /proc.
        return
