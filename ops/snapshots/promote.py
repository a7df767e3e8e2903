"""Promoting a snapshot into another environment's store, while that serves.

1. The snapshot is verified, or a recent report speaks for the very bytes of its file.
2. Its models must fit what runs there: feature sets, targets, intervals (`ops.snapshots.compatibility`).
3. The versions of its release that the store lacks are copied by value, some at a time, at a bounded rate, through the
   store's own scripts; they are pinned meanwhile (`modelstore.imports`). So it does not matter which server wrote the
   snapshot and which one takes it.
4. The release is stored as a candidate, and put in force by one switch, if the release in force is the one from the
   beginning. Its entry in the history names the snapshot.
5. A save of the target is waited for, and a record is written (`ops.snapshots.promotions`).

Readers see the release before or the one after. Killed before the switch, the store has some versions more and serves
what it served; after it, the promotion is done. Doing it again completes it, and changes nothing that is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from typing import Any

import orjson
import redis

from modelstore.compression import decompress
from modelstore.errors import NotFound, ReleaseConflict
from modelstore.exports import raw_of, read_fields
from modelstore.imports import pinned_versions
from modelstore.manifest import MAX_MANIFEST
from modelstore.promotion import promote_release, told
from modelstore.release import Release, ReleaseInfo
from modelstore.saves import SaveBarrier, SaveFailed
from modelstore.store import ModelStore
from modelstore.version import PARTS, Incoming, check_agreement, read_manifest
from ops.errors import Refused, SnapshotError
from ops.snapshots.compatibility import Needs, differences, needs_of_models
from ops.snapshots.files import hash_file
from ops.snapshots.loaded import loaded
from ops.snapshots.promotions import Promoted, record
from ops.snapshots.report import relied_on
from ops.snapshots.shelf import Snapshot, in_use
from ops.snapshots.verify import last_report, verify
from streams.clients import translate, where_of
from streams.keys import Keys
from streams.settings import Settings

#: How long a report may be relied on, s.
RELIED_S = 86_400
#: How long a save of the target may take, s.
SAVE_S = 600
#: Memory that a version takes beyond its own hash: indexes, its number, tags.
_VERSION_BYTES = 1500

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did, or would do.

    Attributes:
        snapshot: `ENVIRONMENT/ID`.
        release: its id.
        number: of the switch; `None` if nothing was done yet.
        copied: versions that the store lacked.
        there: versions that it had.
        compared: what the models were held against; `None` if there was nothing.
        verified: whether a verification was made now; else a report was relied on.
        saved: whether a save of the target covers it; `None` if that was not asked for.
        already: whether the release was in force already.
    """

    snapshot: str
    release: str
    number: int | None
    copied: int
    there: int
    compared: str | None
    verified: bool
    saved: bool | None = None
    already: bool = False


class Promoter:
    """Promotes into one store."""

    def __init__(self, store: ModelStore, settings: Settings, say: Callable[[str], None]) -> None:
        """Put one together.

        Args:
            store: the target's, of the tenant.
            settings: the target's: environment, tenant, `promote_mb_s`.
            say: told of what goes wrong after the promotion is done.
        """
        self._store = store
        self._settings = settings
        self._say = say

    def promote(
        self,
        snapshot: Snapshot,
        *,
        runs: Needs | None,
        who: str,
        why: str = "",
        parent: str | None = None,
        anew: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Promotion:
        """Put a snapshot's release in force.

        Args:
            runs: what the target's workers run; `None`: its models are held against those in force there.
            who, why: for the history.
            parent: id of the release that must be in force; left out: the one that is now.
            anew: verify in any case.
            dry_run: only tell what would be done.
            progress: told of versions checked or copied, and of how many there are.

        Raises:
            Refused: the snapshot is not sound, does not fit, or another release was put in force meanwhile.
            SnapshotError, ModelStoreError: it cannot be done.
        """
        name = f"{snapshot.manifest.environment}/{snapshot.manifest.id}"
        models = snapshot.manifest.tenant(self._settings.tenant)
        if models is None or models.release is None:
            raise Refused(
                f"snapshot {name} has no release of tenant {self._settings.tenant}: there is nothing to promote"
            )
        verified = must_be_sound(snapshot, self._settings, anew=anew, keep_report=not dry_run, progress=progress)
        before = self._store.releases.current()
        if parent is not None and (before is None or before.id != parent):
            raise Refused(str(told(self._store.releases, ReleaseConflict(parent, before.id if before else None))))
        # Two servers are talked to, and an error must name the right one.
        at = translate(where_of(self._store.client))
        with in_use(snapshot), loaded(snapshot.data, self._settings) as client, at:
            source = ModelStore(client, Keys(self._settings.tenant))
            with translate(where_of(client)):
                release = source.releases.get(models.release.id)
            compared = self._check_fit(source, release, before, runs)
            digests = sorted(set(release.aliases.values()))
            missing = self._missing(digests)
            found = Promotion(name, release.id, None, len(missing), len(digests) - len(missing), compared, verified)
            if dry_run:
                return found
            self._check_room(source, missing)
            info, already = self._carry_over(source, release, missing, before, name, who, why, progress)
            record(
                Promoted(
                    snapshot=name,
                    environment=self._settings.environment,
                    tenant=self._settings.tenant,
                    release=info.id,
                    number=info.number,
                    who=who,
                    why=why,
                    created_ms=info.created_ms,
                ),
                snapshot,
                self._settings,
                self._say,
            )
        return Promotion(
            name, info.id, info.number, found.copied, found.there, compared, verified, self._save(), already
        )

    def _check_fit(
        self, source: ModelStore, release: Release, before: ReleaseInfo | None, runs: Needs | None
    ) -> str | None:
        models = needs_of_models(_models(source, release), "the snapshot")
        if runs is None and before is not None:
            there = self._store.releases.get(before.id)
            runs = needs_of_models(_models(self._store, there), f"the models in force there (release {before.number})")
            if not runs.targets:
                runs = None
        if runs is None:
            return None
        reasons = list(differences(models, runs))
        if reasons:
            raise Refused(f"the snapshot does not fit, and was not promoted: {'; '.join(reasons)}")
        return runs.of

    def _missing(self, digests: Sequence[str]) -> list[str]:
        return [digest for digest, info in zip(digests, self._store.infos(digests), strict=True) if info is None]

    def _check_room(self, source: ModelStore, missing: Sequence[str]) -> None:
        """Refuse what a store with a limit of memory cannot take, before it is full."""
        memory: dict[str, Any] = self._store.client.info("memory")
        limit, used = int(memory["maxmemory"]), int(memory["used_memory"])
        if not limit or not missing:
            return
        with translate(where_of(source.client)), source.client.pipeline(transaction=False) as pipe:
            for digest in missing:
                pipe.memory_usage(source.keys.version(digest), samples=0)
            wanted = sum(size or 0 for size in pipe.execute()) + len(missing) * _VERSION_BYTES
        if used + wanted > limit:
            raise Refused(
                f"the store may use {limit} bytes of memory and uses {used}; {len(missing)} versions take about "
                f"{wanted} more: raise its maxmemory, or remove old versions (`red10 model prune`)"
            )

    def _carry_over(
        self,
        source: ModelStore,
        release: Release,
        missing: Sequence[str],
        before: ReleaseInfo | None,
        name: str,
        who: str,
        why: str,
        progress: Progress | None,
    ) -> tuple[ReleaseInfo, bool]:
        """Copy, then switch; the release in force, and whether it was before."""
        store, done = self._store, 0
        with pinned_versions(store.client, store.keys, sorted(set(release.aliases.values()))) as stay:
            for chunk in self._paced(_read(source, missing)):
                store.put_incoming(chunk)
                stay()
                done += len(chunk)
                if progress is not None:
                    progress(done, len(missing))
            if before is not None and before.id == release.id:
                return before, True
            try:
                store.releases.put_candidate(release.aliases)
                info = promote_release(
                    store.releases, release.id, parent=before, who=who, why=why or f"promoted {name}", snapshot=name
                )
            except NotFound as error:
                raise SnapshotError(
                    f"the store lost versions meanwhile (was it restored?): promote again ({error})"
                ) from error
            except ReleaseConflict as conflict:
                raise Refused(f"{conflict}. The versions are copied, nothing was put in force") from conflict
        return info, False

    def _paced(self, chunks: Iterator[tuple[list[Incoming], int]]) -> Iterator[list[Incoming]]:
        """Chunks, not faster than so many bytes a second."""
        began, sent = time.monotonic(), 0
        for chunk, size in chunks:
            yield chunk
            sent += size
            ahead = sent / (self._settings.promote_mb_s * 1e6) - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(ahead)

    def _save(self) -> bool:
        try:
            SaveBarrier(self._store.client).wait_saved(SAVE_S)
        except (SaveFailed, redis.RedisError) as error:
            self._say(f"the release is in force, but would be lost if the store were killed now: {error}")
            return False
        return True


def must_be_sound(
    snapshot: Snapshot,
    settings: Settings,
    *,
    anew: bool = False,
    keep_report: bool = True,
    progress: Progress | None = None,
) -> bool:
    """Verify a snapshot, unless a recent report speaks for the bytes that its file has now; whether it was verified.

    Args:
        anew: verify in any case.
        keep_report: write the report beside the snapshot.

    Raises:
        Refused: it is not sound.
        SnapshotError: it cannot be verified.
    """
    try:
        sha256 = hash_file(snapshot.data)
    except OSError as error:
        raise SnapshotError(f"{snapshot.data} cannot be read: {error.strerror or error}") from error
    now_ms = time.time_ns() // 1_000_000
    same = sha256 == snapshot.manifest.sha256
    if same and not anew and relied_on(last_report(snapshot), sha256, now_ms, RELIED_S, installed("red10")):
        return False
    report = verify(snapshot, settings, record=keep_report, progress=progress)
    if not report.ok:
        bad = "; ".join(f"{check.name}: {check.detail}" for check in report.failed())
        raise Refused(f"snapshot {snapshot.manifest.id} is not sound: {bad}. Nothing was changed")
    return True


#: A chunk is handed on when it has so many versions, or so many bytes as they are stored.
CHUNK, CHUNK_BYTES = 30, 2**22


def _read(source: ModelStore, digests: Sequence[str]) -> Iterator[tuple[list[Incoming], int]]:
    """Versions as they are stored elsewhere, each checked against its digest; and their bytes."""
    chunk: list[Incoming] = []
    size = 0
    with translate(where_of(source.client)):
        for digest, fields in read_fields(source.client, source.keys, digests, ("parts", *PARTS)):
            raw = raw_of(digest, fields)
            manifest = read_manifest(raw.manifest, digest)
            check_agreement(digest, manifest, raw.serving, raw.forest)
            chunk.append(Incoming(digest, raw, manifest))
            size += sum(map(len, fields.values()))
            if len(chunk) >= CHUNK or size >= CHUNK_BYTES:
                yield _tagged(source, chunk), size
                chunk, size = [], 0
        if chunk:
            yield _tagged(source, chunk), size


def _tagged(source: ModelStore, versions: Sequence[Incoming]) -> list[Incoming]:
    tags = source.tags.of([version.digest for version in versions])
    return [replace(version, tags=own) for version, own in zip(versions, tags, strict=True)]


def _models(store: ModelStore, release: Release) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and feature set of each version that a release points at."""
    digests = sorted(set(release.aliases.values()))
    with translate(where_of(store.client)):
        for digest, fields in read_fields(store.client, store.keys, digests, ("name", "manifest")):
            raw = decompress(fields["manifest"], MAX_MANIFEST, f"the manifest of version {digest[:12]}")
            yield fields["name"].decode(), orjson.loads(raw)["feature_set"]
