"""The snapshots of this machine: directories `ENVIRONMENT/ID/` below one directory.

A snapshot comes to stand there by one rename, so it is whole or absent; names that begin with a dot are being put
together. Listing looks at names and sizes and opens nothing.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ops.embedded_files import FileLock
from ops.errors import SnapshotError
from ops.snapshots.files import gate
from ops.snapshots.manifest import MAX_MANIFEST, SnapshotManifest, decode_manifest, is_environment, is_id, taken_of
from streams.settings import Settings

DATA, MANIFEST, REPORT = "models.rdb", "manifest.json", "report.json"
#: How the records of promotions begin (`ops.snapshots.promotions`).
PROMOTED = "promoted-"


@dataclass(frozen=True, slots=True)
class Listed:
    """A snapshot in a listing.

    Attributes:
        size: bytes of the data.
        reported: whether there is a report of a verification, whatever it says.
        promoted: names of environments that it was promoted into.
    """

    environment: str
    id: str
    size: int
    reported: bool
    promoted: tuple[str, ...] = ()

    @property
    def taken_ms(self) -> int:
        """When it was taken, epoch ms to the second."""
        return taken_of(self.id)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of this machine, as its manifest says; whether that is true is for `ops.snapshots.verify`."""

    path: Path
    manifest: SnapshotManifest

    @property
    def data(self) -> Path:
        """The RDB file."""
        return self.path / DATA

    @property
    def report(self) -> Path:
        """The last verification."""
        return self.path / REPORT


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a directory.

    Raises:
        SnapshotError: there is none, or its manifest is none.
    """
    place = path / MANIFEST
    try:
        if place.stat().st_size > MAX_MANIFEST:
            raise SnapshotError(f"{place} is too large for a manifest")
        raw = place.read_bytes()
    except OSError as error:
        raise SnapshotError(f"{path} is no snapshot: {place.name}: {error.strerror or error}") from error
    return Snapshot(path, decode_manifest(raw, str(place)))


class Shelf:
    """The snapshots below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of(cls, settings: Settings) -> Shelf:
        """Where the settings say."""
        return cls((settings.snapshot_dir or settings.data_dir / "snapshots").absolute())

    def place(self, environment: str, snapshot: str) -> Path:
        """The directory of a snapshot, whether it is there or not."""
        return self.directory / environment / snapshot

    def list(self, environment: str | None = None) -> Sequence[Listed]:
        """The snapshots, of one environment or of all, the newest first."""
        found = [
            Listed(path.parent.name, path.name, size, (path / REPORT).exists(), _promoted(path))
            for path in self._directories(environment)
            if (size := _size(path)) is not None
        ]
        return sorted(found, key=lambda listed: (listed.id, listed.environment), reverse=True)

    def _directories(self, environment: str | None) -> Iterator[Path]:
        names = [path.name for path in self.directory.glob("*")] if environment is None else [environment]
        for name in filter(is_environment, names):
            yield from (path for path in (self.directory / name).glob("*") if is_id(path.name))

    def find(self, text: str, environment: str | None = None) -> Snapshot:
        """The snapshot that a text means: `latest`, an id or its beginning, `ENVIRONMENT/ID`, or a directory.

        Args:
            environment: where to look; left out: everywhere.

        Raises:
            SnapshotError: there is none, or there are several.
        """
        if (Path(text) / MANIFEST).exists():
            return read_snapshot(Path(text).absolute())
        before, slash, name = text.rpartition("/")
        listed = choose(self.list(before if slash else environment), name, f"in {self.directory}")
        found = read_snapshot(self.place(listed.environment, listed.id))
        if (found.manifest.environment, found.manifest.id) != (listed.environment, listed.id):
            told = f"{found.manifest.environment}/{found.manifest.id}"
            raise SnapshotError(f"{found.path} holds snapshot {told}: give the directory that name")
        return found

    def remove(self, listed: Listed) -> bool:
        """Remove a snapshot: from one moment to the next it is none any more, whatever happens then.

        Returns:
            Whether it was removed: it is not if it is being promoted, or was since it was listed, or is gone.

        Raises:
            OSError: the file system refuses.
        """
        place = self.place(listed.environment, listed.id)
        aside = place.with_name(f".removed-{uuid.uuid4().hex[:8]}")
        with gate(place.parent), closing(FileLock(place / MANIFEST)) as lock:
            if not (place / MANIFEST).exists() or not lock.try_exclusive():
                return False
            if not set(_promoted(place)) <= set(listed.promoted):
                return False
            place.rename(aside)
            # What a link leads to is somebody else's.
            aside.unlink() if aside.is_symlink() else shutil.rmtree(aside)
        return True


@contextmanager
def in_use(snapshot: Snapshot) -> Iterator[None]:
    """Keep a snapshot of this machine from being removed, if whoever asks could remove it."""
    with closing(FileLock(snapshot.path / MANIFEST)) as lock:
        with suppress(OSError):
            lock.try_shared()
        yield


def choose(listed: Sequence[Listed], text: str, where: str) -> Listed:
    """The one of a listing, the newest first, that a text means: `latest`, an id, or the beginning of one.

    Raises:
        SnapshotError: there is none, or there are several.
    """
    if text == "latest" and listed:
        return listed[0]
    found = [one for one in listed if one.id.startswith(text) and len(text) >= 4]
    if len(found) == 1:
        return found[0]
    if found:
        raise SnapshotError(
            f"{text} means several snapshots, such as {found[0].environment}/{found[0].id} and "
            f"{found[1].environment}/{found[1].id}: write more of it"
        )
    raise SnapshotError(f"there is no snapshot {text[:80]!r} {where}; `red10 snapshot list` shows what there is")


def _size(path: Path) -> int | None:
    """Bytes of a snapshot's data; `None` if it is no snapshot."""
    try:
        (path / MANIFEST).stat()
        return (path / DATA).stat().st_size
    except OSError:
        return None


def _promoted(path: Path) -> tuple[str, ...]:
    return tuple(sorted(one.name[len(PROMOTED) : -len(".json")] for one in path.glob(f"{PROMOTED}*.json")))
