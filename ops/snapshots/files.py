"""Writing files so that they are there whole or not at all, and hashing them."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.embedded_files import FileLock
from ops.errors import SnapshotError

#: Told of bytes done, and of how many there are; `None` where nobody knows.
Progress = Callable[[int, int | None], None]
_CHUNK = 1 << 20
#: Held by whoever works in a directory, as long as that takes.
OWNER = "owner.lock"


def hash_file(path: Path, progress: Progress | None = None) -> str:
    """The SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        size, done = os.fstat(file.fileno()).st_size, 0
        while data := file.read(_CHUNK):
            found.update(data)
            done += len(data)
            if progress is not None:
                progress(done, size)
    return found.hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write a small file, or replace one, at once: readers see the old or the new, also after a crash.

    Raises:
        OSError: the file system refuses.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have the names in a directory survive a crash."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def work_directory(parent: Path, name: str, *, keep: bool = False) -> Iterator[Path]:
    """A directory to put something together in, to be renamed when it is whole; held while the block runs.

    What a killed process left under such a name is removed when the next one begins, unless it goes on with it.

    Args:
        name: what it is called; the same name is for nobody else meanwhile.
        keep: leave it for the next time if the block does not end well.

    Raises:
        SnapshotError: somebody else holds it.
    """
    directory = parent / name
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(directory / OWNER)
    try:
        with gate(parent):
            directory.mkdir(exist_ok=True, mode=0o700)
            if not lock.try_exclusive():
                raise SnapshotError(f"{directory} is in use by another command: wait for its end")
        try:
            yield directory
        except BaseException:
            if not keep:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        lock.close()


def remove_abandoned(parent: Path, prefix: str, idle_s: float = 0) -> None:
    """Remove the work directories of killed processes, in which nothing was written for some time."""
    for directory in parent.glob(f"{prefix}*"):
        lock = FileLock(directory / OWNER)
        try:
            with gate(parent):
                last_s = max(path.stat().st_mtime for path in (directory, *directory.iterdir()))
                if time.time() - last_s >= idle_s and lock.try_exclusive():
                    shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            # Of another user, or gone meanwhile.
            continue
        finally:
            lock.close()


@contextmanager
def gate(parent: Path) -> Iterator[None]:
    """Hold off all others who make, name or remove directories here, for a moment.

    Nobody takes one that has no owner yet, or none any more, for one that was left.
    """
    lock = FileLock(parent.with_name(f".{parent.name}.lock"))
    try:
        lock.wait_exclusive(lambda: None)
        yield
    finally:
        lock.close()


def finish(directory: Path, place: Path) -> bool:
    """Give a work directory that is whole its name; whether it was not there before.

    Everything in it must have been synced.

    Raises:
        OSError: the file system refuses.
    """
    sync_directory(directory)
    with gate(place.parent):
        (directory / OWNER).unlink(missing_ok=True)
        try:
            directory.rename(place)
        except OSError:
            # The same snapshot stands there: an id holds the hash of what it names.
            if not place.is_dir():
                raise
            return False
    sync_directory(place.parent)
    return True
