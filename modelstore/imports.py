"""From an export to a store: checked as a whole, then stored version by version.

1. Read all of it: the manifest, every member against size and hash, every version's parts against each other. The
   XGBoost model is hashed and never opened. Whatever is wrong ends the import here, with nothing stored.
2. Pin the versions, those included that the store has: retention passes over them while the import runs.
3. Read it again, and store what the store lacks, each version in one call with its tags, checked once more. What is
   there stays as it is, tags included.
4. Of a release: store it as a candidate, once all its versions are there. On request put it in force, by
   compare-and-set on the release that was in force at the beginning.
5. Take the pins away.

Owns, in the models role:

    red10:{T}:imports  zset  id of each running import -> when it counts as dead, epoch ms of the store's clock
    red10:{T}:pins     zset  DIGEST:ID, score 0

Killed after any step the store is whole: it has some of the versions, or all; doing it again completes it. The pins of
a killed import count for nothing once it counts as dead, and the next import clears them away. A store that goes back
to an older snapshot meanwhile is noticed at step 4 at the latest, and the error says to import again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import redis

from modelstore.errors import BadExport, BadModel, ModelStoreError, NotFound
from modelstore.export_format import Contents, ExportReader
from modelstore.promotion import promote_release
from modelstore.release import ReleaseInfo
from modelstore.releases import Releases
from modelstore.version import PARTS, Incoming, RawVersion, VersionInfo, check_agreement, read_manifest
from modelstore.versions import PUT_CHUNK, VersionStore
from streams.errors import BadName
from streams.keys import Keys

#: After this time without a sign of life an import counts as dead, ms.
DEAD_AFTER_MS = 600_000
#: Versions are stored when so many or so many bytes of them were read.
CHUNK_BYTES = 2**24
#: Pins per round trip.
PINS = 1000

Progress = Callable[[int, int], None]
#: Looks at some versions before anything is stored, and raises `BadModel` if they are not to be: for golden rows, say.
Check = Callable[[Sequence[Incoming]], object]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        contents: the manifest of what was imported.
        stored: versions that are new in the store.
        skipped: versions that it had already.
        release: id of the release, now stored; `None` if it was no export of a release.
        in_force: the release in force if it was asked to be put in force.
    """

    contents: Contents = field(repr=False)
    stored: tuple[VersionInfo, ...]
    skipped: tuple[VersionInfo, ...]
    release: str | None = None
    in_force: ReleaseInfo | None = None


def check_export(
    file: BinaryIO, check: Check | None = None, progress: Progress | None = None, *, keep_ubj: bool = False
) -> Contents:
    """Read an export from its first byte to its last and check all of it.

    Args:
        file: binary, at its beginning; it is left at its end.
        check: called with the versions, some at a time.
        progress: told of versions checked, and of how many there are.
        keep_ubj: give `check` the XGBoost models too; else empty bytes stand for them.

    Raises:
        BadExport: it is no whole, sound export.
    """
    reader = ExportReader(file)
    done, total = 0, len(reader.contents.versions)
    for versions in _some(_versions(reader, keep_ubj=keep_ubj)):
        if check is not None:
            try:
                check(versions)
            except BadModel as error:
                raise BadExport(f"its versions are not to be trusted: {error}") from error
        done += len(versions)
        if progress is not None:
            progress(done, total)
    return reader.contents


def import_versions(
    store: VersionStore,
    releases: Releases,
    file: BinaryIO,
    *,
    promote: bool = False,
    who: str = "",
    why: str = "",
    check: Check | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Store what an export holds and the store lacks.

    Args:
        file: binary, can be rewound.
        promote: put the release in force.
        who, why: for the history.
        check: as of `check_export`.
        progress: told of versions checked and then stored, and of how many that will be.

    Raises:
        BadExport: it is no whole, sound export, or no release that could be put in force; nothing is stored.
        ReleaseConflict: another release was put in force meanwhile; everything is stored, the release as a candidate.
        ModelStoreError: the store lost versions meanwhile; import again.
    """
    parent = releases.current()
    file.seek(0)
    first = progress and (lambda done, total: progress(done, 2 * total))
    contents = check_export(file, check, first, keep_ubj=check is not None)
    if promote and contents.kind != "release":
        raise BadExport(f"it holds a {contents.kind}, and only a release can be put in force")
    digests = [version.digest for version in contents.versions]
    with pinned_versions(store.client, store.keys, digests) as stay:
        file.seek(0)
        stored: list[VersionInfo] = []
        wanted, done = _missing(store, digests), 0
        for versions in _some(_again(file, contents)):
            infos = store.put_incoming([version for version in versions if version.digest in wanted])
            stored += [info for info, new in infos if new]
            stay()
            done += len(versions)
            if progress is not None:
                progress(len(digests) + done, 2 * len(digests))
        there = store.infos(digests)
        if None in there:
            raise ModelStoreError("the store lost versions while they were imported (was it restored?): import again")
        new = {info.digest for info in stored}
        skipped = tuple(info for info in there if info is not None and info.digest not in new)
        if contents.kind != "release":
            return Imported(contents, tuple(stored), skipped)
        try:
            release = releases.put_candidate(contents.alias_map())
        except NotFound as error:
            raise ModelStoreError(f"{error}: the store lost versions meanwhile: import again") from error
        in_force = promote_release(releases, release, parent=parent, who=who, why=why) if promote else None
        return Imported(contents, tuple(stored), skipped, release, in_force)


def _versions(reader: ExportReader, *, keep_ubj: bool, agreed: bool = False) -> Iterator[Incoming]:
    """The versions of an export, each checked: hashes by the reader, agreement of the parts here.

    Args:
        keep_ubj: else the XGBoost model, the largest part by far, is hashed and dropped.
        agreed: parts with these hashes were found to agree before.
    """
    parts: dict[str, bytes] = {}
    versions = iter(reader.contents.versions)
    for _, pieces in reader.members():
        part = PARTS[len(parts)]
        if part == "ubj" and not keep_ubj:
            for _ in pieces:
                pass
            parts[part] = b""
        else:
            parts[part] = b"".join(pieces)
        if len(parts) < len(PARTS):
            continue
        version, raw = next(versions), RawVersion(**parts)
        try:
            manifest = read_manifest(raw.manifest, version.digest)
            if not agreed:
                check_agreement(version.digest, manifest, raw.serving, raw.forest)
        except (BadModel, BadName) as error:
            raise BadExport(f"version {version.digest[:12]}: {error}") from error
        if manifest.name != version.name:
            raise BadExport(f"version {version.digest[:12]} is called {version.name} and is {manifest.name}")
        yield Incoming(version.digest, raw, manifest, version.tags)
        parts = {}


def _again(file: BinaryIO, contents: Contents) -> Iterator[Incoming]:
    """The versions of a file that was checked.

    Raises:
        BadExport: it is not what it was a moment ago.
    """
    reader = ExportReader(file)
    if reader.contents != contents:
        raise BadExport("it changed while it was read")
    yield from _versions(reader, keep_ubj=True, agreed=True)


def _some(versions: Iterator[Incoming]) -> Iterator[list[Incoming]]:
    """Versions as they come, so many at a time as are stored in one round trip, or as take so much memory."""
    chunk: list[Incoming] = []
    size = 0
    for version in versions:
        chunk.append(version)
        size += len(version.raw.forest) + len(version.raw.ubj)
        if len(chunk) >= PUT_CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _missing(store: VersionStore, digests: Sequence[str]) -> set[str]:
    return {digest for digest, info in zip(digests, store.infos(digests), strict=True) if info is None}


@contextmanager
def pinned_versions(client: redis.Redis, keys: Keys, digests: Sequence[str]) -> Iterator[Callable[[], None]]:
    """Keep versions from being removed; call what this gives at least once in `DEAD_AFTER_MS`."""
    mine = uuid.uuid4().hex

    def stay() -> None:
        client.zadd(keys.imports, {mine: _now_ms(client) + DEAD_AFTER_MS})

    _clear(client, keys)
    stay()
    pins = [f"{digest}:{mine}" for digest in digests]
    for start in range(0, len(pins), PINS):
        client.zadd(keys.pins, dict.fromkeys(pins[start : start + PINS], 0))

    def leave() -> None:
        for start in range(0, len(pins), PINS):
            client.zrem(keys.pins, *pins[start : start + PINS])
        client.zrem(keys.imports, mine)

    try:
        yield stay
    except BaseException:
        with suppress(redis.RedisError):
            leave()
        raise
    leave()


def _clear(client: redis.Redis, keys: Keys) -> None:
    """Take away the pins of dead imports."""
    dead = cast(list[bytes], client.zrangebyscore(keys.imports, "-inf", _now_ms(client)))
    if not dead:
        return
    for pin, _ in client.zscan_iter(keys.pins):
        if cast(bytes, pin).rpartition(b":")[2] in dead:
            client.zrem(keys.pins, pin)
    client.zrem(keys.imports, *dead)


def _now_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000
