"""Restoring a whole models Redis from a snapshot: its directory gets the file, and keeps what was there.

What must not happen, and what is done about it:

- *A server that ignores the file.* With an append-only file in its directory, that is what a server loads. It is set
  aside as well, and the server must be started with `appendonly no`; AOF can be turned on when it runs.
- *A server that comes up empty* because it is older than the file: one that reads it must be here (`redis_server`).
- *A server that runs*, and would write its own data over the file as it ends: refused.
- *Data that is lost*: a directory that holds some is refused unless told, and then the old files stay, under their
  names with `.before-ID`.

1. The snapshot is verified, or a recent report speaks for its bytes.
2. The file is copied beside the old one, synced, and compared with its hash.
3. The old file gets its second name, the new one takes its place by one rename, and then the append-only file is set
   aside. Killed before that, a server with an append-only file still loads the old data, and one without loads the old
   or the new; doing it again completes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.embedded_binary import Binary
from ops.embedded_files import RoleDirectory, read_json, write_json
from ops.errors import Refused, SnapshotError
from ops.snapshots.files import Progress, hash_file, sync_directory
from ops.snapshots.loaded import server_for
from ops.snapshots.shelf import Snapshot
from streams.settings import Settings

DUMP = "dump.rdb"
#: What a server loads instead, from 7.0 on and before.
AOF = ("appendonlydir", "appendonly.aof")


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done, or would be.

    Attributes:
        path: the file that the server loads.
        kept: old files, under their new names.
        server: a server here that reads the file.
    """

    path: Path
    kept: tuple[Path, ...]
    server: Binary


def restore(
    snapshot: Snapshot,
    directory: Path,
    settings: Settings,
    *,
    replace: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Put a snapshot into a server's directory; the caller has verified it.

    Args:
        replace: although the directory holds data.
        dry_run: only tell what would be done.

    Raises:
        Refused: a server runs on the directory, or it holds data.
        SnapshotError: there is no server that reads the file, or it cannot be written.
    """
    binary = server_for(snapshot.data, settings)
    try:
        with _stopped(directory):
            dump = directory / DUMP
            same = dump.exists() and hash_file(dump) == snapshot.manifest.sha256
            old = [path for path in (dump, *(directory / name for name in AOF)) if _holds(path)]
            aside = [path for path in old if not (same and path == dump)]
            if aside and not replace:
                told = ", ".join(path.name for path in aside)
                raise Refused(
                    f"{directory} holds data ({told}): nothing was changed. --replace puts the snapshot in its place, "
                    "and keeps the old files beside it"
                )
            kept = {path: _free_name(path, snapshot.manifest.id) for path in aside}
            if not dry_run:
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not same:
                    _put(snapshot, dump, kept.get(dump), progress)
                _set_aside({path: name for path, name in kept.items() if path != dump}, directory)
            return Restored(dump, tuple(kept.values()), binary)
    except OSError as error:
        raise SnapshotError(f"{directory}: {error.strerror or error}") from error


def _put(snapshot: Snapshot, dump: Path, aside: Path | None, progress: Progress | None) -> None:
    beside = dump.with_name(f".{DUMP}.restoring")
    try:
        with open(snapshot.data, "rb") as source, open(beside, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o600)
        if hash_file(beside, progress) != snapshot.manifest.sha256:
            raise SnapshotError(f"{snapshot.data} is not what its manifest says, or changed while it was copied")
        if aside is not None:
            os.link(dump, aside)
        beside.replace(dump)
    finally:
        # A full disk needs what was written so far.
        beside.unlink(missing_ok=True)
    sync_directory(dump.parent)


def _set_aside(names: dict[Path, Path], directory: Path) -> None:
    for path, name in names.items():
        path.rename(name)
    # Who wrote last is told by the file itself from now on.
    note = directory / "data.json"
    if note.exists():
        write_json(note, {key: value for key, value in read_json(note).items() if key == "port"})
    sync_directory(directory)


def _holds(path: Path) -> bool:
    """Whether there is something in a file or directory."""
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def _free_name(path: Path, snapshot: str) -> Path:
    name, number = path.with_name(f"{path.name}.before-{snapshot}"), 1
    while name.exists():
        number += 1
        name = path.with_name(f"{path.name}.before-{snapshot}-{number}")
    return name


@contextmanager
def _stopped(directory: Path) -> Iterator[None]:
    """Hold off whoever would start an embedded server on the directory, and refuse one that a server runs on."""
    role = RoleDirectory(directory, "models")
    starting = role.lock("start")
    try:
        running = _server_in(directory)
        if role.lock("server").path.exists():
            starting.wait_exclusive(lambda: None)
            if running is None and not role.lock("server").free():
                running = read_json(role.server_json).get("pid", "unknown")
        if running is not None:
            raise Refused(
                f"a server runs on {directory} (process {running}) and would write its own data over the snapshot: "
                "stop it first (an embedded one ends with the commands that use it)"
            )
        yield
    finally:
        starting.close()


def _server_in(directory: Path) -> int | None:
    """A redis-server that works in a directory, where the system tells."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve(strict=True) == directory.resolve() and b"server" in (
                process / "cmdline"
            ).read_bytes():
                return int(process.name)
        except OSError:
            continue
    return None
