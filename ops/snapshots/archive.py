"""The archive: snapshots in any store that speaks S3, under `s3://BUCKET/PREFIX/ENVIRONMENT/ID/`.

An object has the name that its file has on a machine. The data is uploaded first and removed first, the manifest is
uploaded last: where one of both is missing, there is no snapshot, whatever else lies there; and what has data and no
manifest may be on its way, what has no data is a rest. What was fetched counts for nothing before its SHA-256 is that
of the manifest. Stopped anywhere, each command goes on when it is called again (`ops.snapshots.bucket`).

Listing opens no object: a store lists keys and sizes a thousand at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from modelstore.s3 import S3Options
from ops.embedded_files import FileLock
from ops.errors import ArchiveError, Refused, SnapshotError
from ops.snapshots.bucket import Bucket
from ops.snapshots.files import Progress, finish, hash_file, work_directory, write_file
from ops.snapshots.manifest import MAX_MANIFEST, decode_manifest, is_environment, is_id
from ops.snapshots.shelf import DATA, MANIFEST, PROMOTED, REPORT, Listed, Shelf, Snapshot, choose, read_snapshot
from streams.errors import ConfigurationError
from streams.settings import Settings

#: How long something without a manifest may lie in the archive before it counts as given up, ms.
UNFINISHED_MS = 7 * 86_400_000
_UPLOAD = ".upload.json"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a listing shows of one snapshot: names of objects -> sizes, and when they were written, epoch ms."""

    environment: str
    id: str
    sizes: dict[str, int] = field(default_factory=dict)
    written_ms: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Archive:
    """The snapshots in a bucket, below a prefix that is empty or ends with a slash."""

    bucket: Bucket
    prefix: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Archive:
        """The archive of the settings.

        Raises:
            ConfigurationError: there is none.
        """
        if settings.archive is None:
            raise ConfigurationError("no archive is set: set archive (RED10_ARCHIVE) to s3://BUCKET/PREFIX")
        name, _, prefix = settings.archive.removeprefix("s3://").partition("/")
        options = S3Options.of(settings)
        bucket = Bucket(name, options, settings.s3_encryption, settings.s3_kms_key, settings.s3_part_mb << 20)
        return cls(bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else "")

    def __str__(self) -> str:
        return self.bucket.url(self.prefix).rstrip("/")

    def url(self, environment: str, snapshot: str, name: str = "") -> str:
        """The URL of a snapshot, or of one of its objects."""
        return self.bucket.url(self._key(environment, snapshot, name))

    def list(self, environment: str | None = None) -> Sequence[Listed]:
        """The snapshots, of one environment or of all, the newest first.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        found = [
            Listed(seen.environment, seen.id, seen.sizes[DATA], REPORT in seen.sizes, _promoted(seen.sizes))
            for seen in self._seen(environment)
            if MANIFEST in seen.sizes and DATA in seen.sizes
        ]
        return sorted(found, key=lambda listed: (listed.id, listed.environment), reverse=True)

    def find(self, text: str, environment: str | None = None) -> Listed:
        """The snapshot that a text means: `latest`, an id or its beginning, or `ENVIRONMENT/ID`.

        Raises:
            SnapshotError: there is none, or there are several.
            ArchiveError: the archive cannot be read.
        """
        before, slash, name = text.rpartition("/")
        return choose(self.list(before if slash else environment), name, f"in {self}")

    def unfinished(self, environment: str | None, now_ms: int) -> Sequence[tuple[str, str]]:
        """Environment and id of what was written long ago and never became a snapshot, or is half removed."""
        return [
            (seen.environment, seen.id)
            for seen in self._seen(environment)
            if DATA not in seen.sizes
            or (MANIFEST not in seen.sizes and now_ms - max(seen.written_ms.values()) > UNFINISHED_MS)
        ]

    def drop_uploads(self, now_ms: int) -> int:
        """Have the store forget the parts of uploads of snapshots that were begun long ago; how many uploads.

        Raises:
            ArchiveError: the store refuses.
        """
        old = [
            (key, upload)
            for key, upload, begun_ms in self.bucket.uploads(self.prefix)
            if self._parts(key) is not None and now_ms - begun_ms > UNFINISHED_MS
        ]
        for key, upload in old:
            self.bucket.abort(key, upload)
        return len(old)

    def put(self, snapshot: Snapshot, progress: Progress | None = None) -> bool:
        """Archive a snapshot, with its report and records; whether it, or its data, was not there yet.

        Raises:
            Refused: its file is not what its manifest says.
            ArchiveError: the archive refuses, or another snapshot stands there. Doing it again goes on.
        """
        manifest, raw = snapshot.manifest, snapshot.manifest.encode()
        environment, name = manifest.environment, manifest.id
        lock = FileLock(snapshot.path / ".archive.lock")
        try:
            if not lock.try_exclusive():
                raise SnapshotError(f"{snapshot.path} is being archived by another command: wait for its end")
            there = self.read(environment, name, MANIFEST)
            if there is not None and there != raw:
                raise ArchiveError(f"{self.url(environment, name)} is another snapshot of this id: nothing was written")
            key = self._key(environment, name, DATA)
            lacking = not self.bucket.holds(key, manifest.size, manifest.sha256)
            if (lacking or there is None) and hash_file(snapshot.data) != manifest.sha256:
                raise Refused(f"{snapshot.data} is not what its manifest says: `red10 snapshot verify {name}`")
            if lacking:
                self.bucket.upload(snapshot.data, key, manifest.sha256, snapshot.path / _UPLOAD, progress)
            for path in (snapshot.report, *sorted(snapshot.path.glob(f"{PROMOTED}*.json"))):
                if path.exists():
                    self.write(environment, name, path.name, path.read_bytes())
            if lacking or there is None:
                self.write(environment, name, MANIFEST, raw)
            (snapshot.path / _UPLOAD).unlink(missing_ok=True)
            return lacking or there is None
        except OSError as error:
            raise SnapshotError(f"{snapshot.path}: {error.strerror or error}") from error
        finally:
            lock.close()

    def get(self, listed: Listed, shelf: Shelf, progress: Progress | None = None) -> tuple[Snapshot, bool]:
        """Fetch a snapshot; it, and whether it was not on this machine yet.

        Raises:
            ArchiveError: the archive cannot be read, or holds something else than was archived. Doing it again goes on.
            SnapshotError: it cannot be written here, or its manifest is none.
        """
        environment, snapshot = listed.environment, listed.id
        place = shelf.place(environment, snapshot)
        if (place / MANIFEST).exists():
            return _whole(read_snapshot(place)), False
        raw = self.read(environment, snapshot, MANIFEST)
        if raw is None:
            raise ArchiveError(f"{self.url(environment, snapshot, MANIFEST)} is gone")
        manifest = decode_manifest(raw, self.url(environment, snapshot, MANIFEST))
        if (manifest.environment, manifest.id) != (environment, snapshot):
            told = f"{manifest.environment}/{manifest.id}"
            raise ArchiveError(f"{self.url(environment, snapshot)} holds the manifest of {told}")
        try:
            with work_directory(place.parent, f".fetching-{snapshot}", keep=True) as work:
                self.bucket.download(self._key(environment, snapshot, DATA), work / DATA, manifest.size, progress)
                if hash_file(work / DATA) != manifest.sha256:
                    (work / DATA).unlink()
                    where = self.url(environment, snapshot, DATA)
                    raise ArchiveError(f"{where} is not what was archived: its SHA-256 is another one")
                report = self.read(environment, snapshot, REPORT)
                if report is not None:
                    write_file(work / REPORT, report)
                write_file(work / MANIFEST, raw)
                fresh = finish(work, place)
        except OSError as error:
            raise SnapshotError(f"{place}: {error.strerror or error}; name another directory (snapshot_dir)") from error
        return read_snapshot(place), fresh

    def holds(self, environment: str, snapshot: str) -> bool:
        """Whether a snapshot is archived.

        Raises:
            ArchiveError: the archive cannot be read.
        """
        return {MANIFEST, DATA} <= set(self._names(environment, snapshot))

    def remove(self, environment: str, snapshot: str, promoted: Collection[str] | None = None) -> bool:
        """Remove a snapshot, the data first: from then on it is none; whether it was removed.

        Args:
            promoted: environments that it was known to be promoted into; if there is another one by now, it stays.

        Raises:
            ArchiveError: the archive refuses; doing it again goes on.
        """
        names = self._names(environment, snapshot)
        if promoted is not None and not set(_promoted(names)) <= set(promoted):
            return False
        for name in sorted(names, key=lambda name: name != DATA):
            self.bucket.delete(self._key(environment, snapshot, name))
        return True

    def read(self, environment: str, snapshot: str, name: str) -> bytes | None:
        """A manifest, report or record; `None` if there is none.

        Raises:
            ArchiveError: it cannot be read.
        """
        return self.bucket.read(self._key(environment, snapshot, name), MAX_MANIFEST)

    def write(self, environment: str, snapshot: str, name: str, data: bytes) -> None:
        """Write a manifest, report or record.

        Raises:
            ArchiveError: the archive refuses.
        """
        self.bucket.put(self._key(environment, snapshot, name), data)

    def _key(self, environment: str, snapshot: str, name: str) -> str:
        return f"{self.prefix}{environment}/{snapshot}/{name}"

    def _seen(self, environment: str | None) -> Iterable[_Seen]:
        found: dict[tuple[str, str], _Seen] = {}
        for key, size, written_ms in self.bucket.objects(self.prefix + (f"{environment}/" if environment else "")):
            parts = self._parts(key)
            if parts is not None:
                of, snapshot, name = parts
                seen = found.setdefault((of, snapshot), _Seen(of, snapshot))
                seen.sizes[name], seen.written_ms[name] = size, written_ms
        return found.values()

    def _names(self, environment: str, snapshot: str) -> Sequence[str]:
        before = self._key(environment, snapshot, "")
        return [key[len(before) :] for key, _, _ in self.bucket.objects(before)]

    def _parts(self, key: str) -> tuple[str, str, str] | None:
        """Environment, id and name that a key stands for; `None` for one that is not of a snapshot."""
        parts = key[len(self.prefix) :].split("/")
        if len(parts) != 3 or not is_environment(parts[0]) or not is_id(parts[1]):
            return None
        return parts[0], parts[1], parts[2]


def _whole(snapshot: Snapshot) -> Snapshot:
    """A snapshot of this machine, unless its data was lost or cut, which a look at its size tells.

    Raises:
        SnapshotError: it was.
    """
    size = snapshot.data.stat().st_size if snapshot.data.exists() else 0
    if size != snapshot.manifest.size:
        raise SnapshotError(
            f"{snapshot.path} is there, but {snapshot.data.name} has {size} bytes and not {snapshot.manifest.size}: "
            "remove that directory, and fetch again"
        )
    return snapshot


def _promoted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name[len(PROMOTED) : -len(".json")] for name in names if name.startswith(PROMOTED)))
