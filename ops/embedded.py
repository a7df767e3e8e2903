"""The embedded Redis: a server per role that any command attaches to or starts, and the last one to leave stops.

Each user of a server holds `users.lock` shared for as long as it uses it; all looking, starting and stopping happens
under `start.lock` (files and locks: `ops.embedded_files`). Who leaves tries to get `users.lock` for itself alone; if
that succeeds nobody else is left, and the server is shut down properly: the append-only file flushed to the disk, the
models saved. So

- two commands at once start one server;
- a user that is killed leaves at worst a running server, to which the next command attaches and which that one stops;
- a starter killed before it could say where the server is leaves one that is found all the same, by its socket;
- a server that is killed is started again by the next command, or by `revive`, with what it had on the disk;
- a server that cannot save (full disk) is not stopped but left running, and the error says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from pydantic import SecretStr
from redis.exceptions import RedisError

from ops.embedded_files import ROLES, FileLock, RoleDirectory, disk_errors, read_json, write_json
from ops.embedded_launch import ANSWER_S, Ended, Progress, ServerInfo, socket_url, start, wait_ready
from ops.errors import EmbeddedError
from ops.snapshot_server import SnapshotServer
from ops.snapshot_source import is_snapshot
from streams.clients import connect
from streams.errors import ConfigurationError, Red10Error
from streams.locate import Role
from streams.settings import Settings

#: Seconds that a server may take to write its data and end.
SHUTDOWN_S = 120.0


def _silent(message: str) -> None:
    del message


class EmbeddedServer:
    """One user's hold on a running embedded server; `close` (or leaving the `with` block) lets go.

    Attributes:
        role: `"streams"` or `"models"`.
        directory: where its files lie.
        info: process, port, version and start of the server as it was last found.
        started_by_us: whether this user started it (now or at the last `revive`).
    """

    __slots__ = ("_progress", "_users", "_wanted", "directory", "info", "started_by_us")

    def __init__(self, directory: RoleDirectory, wanted: Path | None, progress: Progress) -> None:
        self.directory = directory
        self._wanted = wanted
        self._progress = progress
        self._users: FileLock | None = None
        self.started_by_us = False
        self.info: ServerInfo = self._open()

    def __repr__(self) -> str:
        state = "closed" if self._users is None else f"pid={self.info.pid}, port={self.info.port}"
        return f"EmbeddedServer({self.role}, {str(self.directory.path)!r}, {state})"

    @property
    def role(self) -> Role:
        """What the server is for."""
        return self.directory.role

    @property
    def url(self) -> str:
        """The URL for this machine: the unix socket."""
        return socket_url(self.directory)

    @property
    def tcp_url(self) -> str:
        """The URL for tools and languages without unix sockets."""
        return f"redis://127.0.0.1:{self.info.port}"

    @property
    def pid(self) -> int:
        """The server's process as it was last found."""
        return self.info.pid

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1 as it was last found."""
        return self.info.port

    def _open(self) -> ServerInfo:
        self.directory.prepare()
        users = self.directory.lock("users")
        with self._starting():
            with disk_errors(self.directory.path):
                # Under start.lock nobody else holds it exclusively.
                users.try_shared()
            self._users = users
            try:
                return self._attach_or_start()
            except BaseException:
                self._leave(quietly=True)
                raise

    @contextmanager
    def _starting(self) -> Iterator[None]:
        lock = self.directory.lock("start")
        try:
            with disk_errors(self.directory.path):
                lock.wait_exclusive(
                    lambda: self._progress(f"another command starts or stops Redis ({self.role}); waiting for it")
                )
            yield
        finally:
            lock.close()

    def _attach_or_start(self) -> ServerInfo:
        """Under start.lock: whoever holds server.lock is the server; nobody holds it: start one."""
        lock = self.directory.lock("server")
        try:
            while True:
                with disk_errors(self.directory.path):
                    vacant = lock.try_exclusive()
                if vacant:
                    info = start(self.directory, lock, self._wanted, self._progress)
                    self.started_by_us = True
                    break
                try:
                    info = wait_ready(self.directory, lambda: not lock.free(), self._progress)
                    self.started_by_us = False
                    break
                except Ended:
                    continue
        finally:
            lock.close()
        self._announce(info)
        return info

    def _announce(self, info: ServerInfo) -> None:
        notice = {
            "pid": info.pid,
            "socket": str(self.directory.socket),
            "port": info.port,
            "version": info.version.text,
            "started": info.started,
        }
        old = read_json(self.directory.server_json)
        # `started` is reckoned from whole seconds: it may differ by one between two looks at the same server.
        if {**old, "started": 0} != {**notice, "started": 0}:
            with disk_errors(self.directory.path):
                write_json(self.directory.server_json, notice)

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return not self.directory.lock("server").free()

    def revive(self) -> bool:
        """Start the server again if it has ended; `True` if that was so.

        Raises:
            EmbeddedError: it cannot be started.
        """
        if self.alive():
            return False
        with self._starting():
            self.info = self._attach_or_start()
        return True

    def close(self) -> None:
        """Let go; the last user shuts the server down. May be called again.

        Raises:
            EmbeddedError: the server could not save its data; it runs on.
        """
        if self._users is not None:
            with self._starting():
                self._leave()

    def _leave(self, *, quietly: bool = False) -> None:
        """Under start.lock."""
        users, self._users = self._users, None
        if users is None:
            return
        try:
            if users.try_exclusive():
                shut_down(self.directory, self._progress)
        except EmbeddedError:
            if not quietly:
                raise
        finally:
            users.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except EmbeddedError as unsaved:
            # What went wrong first says how far the work came: it must not be replaced by this.
            if not isinstance(error, Red10Error):
                raise
            error.add_note(str(unsaved))


def shut_down(directory: RoleDirectory, progress: Progress = _silent) -> None:
    """Stop the server of a directory properly, if one runs. The caller holds start.lock and is the last user.

    Raises:
        EmbeddedError: the server cannot write its data; it runs on.
    """
    if directory.lock("server").free():
        directory.server_json.unlink(missing_ok=True)
        return
    found = _persistence(directory) or {}
    if found.get("aof_enabled") and found.get("aof_last_write_status") != "ok":
        # Ending, it would lose without an error what it holds in memory and could not write.
        raise _unsaved(directory, "its append-only file cannot be written")
    # A snapshot of many models takes longer to write than any other reply takes.
    with connect(socket_url(directory), block_ms=round(SHUTDOWN_S * 1000)) as client:
        try:
            client.execute_command("SHUTDOWN", *(["SAVE"] if directory.role == "models" else []))
        except (redis.ConnectionError, OSError):
            # The proper answer to SHUTDOWN is a closed connection.
            pass
        except RedisError as error:
            raise _unsaved(directory, str(error)) from error
    began = time.monotonic()
    said = False
    while not directory.lock("server").free():
        waited = time.monotonic() - began
        if waited > SHUTDOWN_S:
            raise _unsaved(directory, f"it has not ended for {SHUTDOWN_S:.0f} s")
        if waited > 1 and not said:
            progress(f"Redis ({directory.role}) writes its data")
            said = True
        time.sleep(0.005)
    directory.server_json.unlink(missing_ok=True)


def _persistence(directory: RoleDirectory) -> dict[str, Any] | None:
    """What the server says of its files, waiting until it answers; `None` while it loads or when it has ended."""
    began = time.monotonic()
    while True:
        try:
            with connect(socket_url(directory)) as client:
                found: dict[str, Any] = client.info("persistence")
                return found
        except redis.BusyLoadingError:
            return None
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            # 1. It has ended by itself. 2. It has only just been started. 3. It hangs.
            if directory.lock("server").free():
                return None
            if time.monotonic() - began > ANSWER_S:
                raise _unsaved(directory, f"it does not answer ({error})") from error
        time.sleep(0.005)


def _unsaved(directory: RoleDirectory, detail: str) -> EmbeddedError:
    return EmbeddedError(
        directory.path,
        f"the embedded Redis ({directory.role}) was left running, because it could not save its data to "
        f"{directory.path}: {detail.rstrip('.')}. Nothing is lost as long as it runs: see {directory.log}, free some "
        "space if the disk is full, then run any red10 command (`red10 status`), which saves and stops it",
    )


def attach_or_start(settings: Settings, role: Role, progress: Progress = _silent) -> EmbeddedServer:
    """Attach to the running server of a role in `settings.data_dir`, or start it; waits until its data is loaded.

    Args:
        progress: called with a sentence when there is something to wait for.

    Raises:
        EmbeddedError: there is no usable server, the directory cannot be used, or the server does not start.
    """
    return EmbeddedServer(RoleDirectory.of(settings.data_dir, role), settings.redis_server, progress)


@dataclass(frozen=True, slots=True)
class Roles:
    """Where the two roles are, and the embedded servers among them.

    Attributes:
        settings: the settings given, with the URL of every opened role filled in.
        embedded: the embedded servers by role; roles with a URL of their own are missing.
        snapshot: the server of the models, if they come from a snapshot.
    """

    settings: Settings
    embedded: dict[Role, EmbeddedServer]
    snapshot: SnapshotServer | None = None

    def wait(self) -> None:
        """Wait until a snapshot is loaded; whoever opened the roles with one of their own has to.

        Raises:
            Red10Error: it cannot be loaded.
        """
        if self.snapshot is not None:
            self.snapshot.wait()

    @property
    def streams_url(self) -> SecretStr:
        """Redis for streams."""
        assert self.settings.streams_url is not None, "opened with this role"
        return self.settings.streams_url

    @property
    def models_url(self) -> SecretStr:
        """Redis for models."""
        assert self.settings.models_url is not None, "opened with this role"
        return self.settings.models_url


@contextmanager
def kept_running(servers: Iterable[EmbeddedServer], say: Progress, *, poll_s: float = 0.5) -> Iterator[None]:
    """Start embedded servers again that die while the block runs; `say` tells of it, once per event."""
    stop = threading.Event()
    held = list(servers)

    def watch() -> None:
        trouble = ""
        while not stop.wait(poll_s):
            for server in held:
                try:
                    if server.revive():
                        say(f"Redis ({server.role}) had ended and was started again with what it had on the disk")
                        trouble = ""
                except Red10Error as error:
                    if str(error) != trouble:
                        say(str(error))
                    trouble = str(error)

    thread = threading.Thread(target=watch, name="keep-redis", daemon=True)
    if held:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if held:
            thread.join()


@contextmanager
def open_roles(
    settings: Settings,
    roles: Sequence[Role] = ROLES,
    progress: Progress = _silent,
    *,
    snapshot: SnapshotServer | None = None,
) -> Iterator[Roles]:
    """The roles' URLs for the length of a block: those of the settings, else embedded servers.

    Models that come from a snapshot (`rdb:`, `s3:`) are loaded into a server of this process's own.

    Args:
        snapshot: one that was started already, and is ended by whoever did that. It is not waited for: `Roles.wait`
            does, and something else can be done meanwhile.

    Raises:
        EmbeddedError: an embedded server cannot be started, or, at the end, not be stopped without loss.
        SnapshotError, ConfigurationError: the snapshot cannot be loaded, or the URL names none.
    """
    with ExitStack() as stack:
        embedded: dict[Role, EmbeddedServer] = {}
        urls: dict[str, SecretStr] = {}
        own: SnapshotServer | None = None
        if snapshot is None and "models" in roles and is_snapshot(settings.models_url):
            own = stack.enter_context(SnapshotServer.of(settings, progress)).start()
        served = snapshot or own
        if served is not None:
            urls["models_url"] = SecretStr(served.url)
        for role in roles:
            if getattr(settings, f"{role}_url") is None:
                embedded[role] = stack.enter_context(attach_or_start(settings, role, progress))
                urls[f"{role}_url"] = SecretStr(embedded[role].url)
        if own is not None:
            own.wait()
        yield Roles(settings.model_copy(update=urls), embedded, served)


def refuse_snapshot(settings: Settings, who: str) -> None:
    """Refuse a snapshot as the models Redis of something that stores models.

    Raises:
        ConfigurationError: `models_url` names a snapshot.
    """
    if is_snapshot(settings.models_url):
        raise ConfigurationError(
            f"models_url names a snapshot, which is read only, and {who} stores models: name a Redis, "
            "or run a scorer (`red10 worker --role scorer`)"
        )
