"""Whether a snapshot is what its manifest says: one verdict per check, all of them made as far as they can be.

    size, sha256  of the file, against the manifest
    form          redis-check-rdb; nothing follows the end, and the checksum is not left out
    head          versions of format and server, against the manifest
    load          by a private server: every payload sanitised, on a unix socket, its memory bounded
    store         the store's identity, against the manifest
    versions      each one of the manifest is there, and no other
    digests       every part of every version against its digest, the parts against each other, and the numbers
    claims        names, aliases, metrics and releases, against the manifest
    golden        every version gives its golden rows, forest and XGBoost model, in child processes that may crash

Only `golden` opens XGBoost models. Nothing is written but `report.json`, at the end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version as installed
from typing import cast

import redis

from consumers.checker import Checker
from modelstore.exports import raw_of, read_fields
from modelstore.manifest import Serving
from modelstore.store import ModelStore
from modelstore.version import PARTS, NewVersion, check_agreement, read_manifest
from ops.errors import SnapshotError
from ops.snapshot_source import FileSource
from ops.snapshots.files import hash_file, write_file
from ops.snapshots.inventory import CHUNK, WRONG_CONTENTS, digests_of, tenant_of, tenants_of
from ops.snapshots.loaded import loaded, server_for
from ops.snapshots.manifest import SnapshotManifest
from ops.snapshots.rdb import check_form, read_head
from ops.snapshots.report import CHECKS, Check, Report, decode_report
from ops.snapshots.shelf import Snapshot
from streams.keys import Keys
from streams.settings import Settings

#: Versions that one child checks.
GOLDEN_AT_ONCE = 128
#: Findings that a verdict names.
TOLD = 3

Progress = Callable[[int, int], None]


def verify(snapshot: Snapshot, settings: Settings, *, record: bool = True, progress: Progress | None = None) -> Report:
    """Make every check.

    Args:
        record: write the report beside the snapshot.
        progress: told of versions checked, and of how many there are.

    Raises:
        SnapshotError: a check cannot be made here, whatever the snapshot is like; or the report cannot be written.
    """
    verdicts, file = _Verdicts(), FileSource(snapshot.data)
    before = file.mark()
    try:
        _check_file(snapshot, settings, verdicts)
        _check_contents(snapshot, settings, verdicts, progress)
    except OSError as error:
        raise SnapshotError(f"{snapshot.path} cannot be verified: {error.strerror or error}") from error
    if file.mark() != before:
        # What one check says of the one file, another may say of the other.
        raise SnapshotError(f"{snapshot.data} was changed while it was verified: find out by whom, and verify again")
    checks = verdicts.all()
    report = Report(
        id=snapshot.manifest.id,
        sha256=snapshot.manifest.sha256,
        verified_ms=time.time_ns() // 1_000_000,
        red10=installed("red10"),
        ok=all(check.ok for check in checks),
        checks=checks,
    )
    if record:
        try:
            write_file(snapshot.report, report.encode())
        except OSError as error:
            raise SnapshotError(f"{snapshot.report} cannot be written: {error.strerror or error}") from error
    return report


def last_report(snapshot: Snapshot) -> Report | None:
    """The report of the last verification, if there is one, of this snapshot."""
    try:
        found = decode_report(snapshot.report.read_bytes())
    except OSError:
        return None
    manifest = snapshot.manifest
    return found if found is not None and (found.id, found.sha256) == (manifest.id, manifest.sha256) else None


@dataclass(slots=True)
class _Verdicts:
    found: dict[str, Check] = field(default_factory=dict)

    def add(self, name: str, problems: Sequence[str], good: str) -> None:
        """One verdict: good unless there are problems, of which the first are named."""
        more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
        detail = "; ".join(problems[:TOLD]) + more if problems else good
        self.found[name] = Check(name=name, ok=not problems, detail=detail)

    def all(self) -> tuple[Check, ...]:
        missing = "not checked, because the snapshot could not be read so far"
        return tuple(self.found.get(name) or Check(name=name, ok=None, detail=missing) for name in CHECKS)


def _check_file(snapshot: Snapshot, settings: Settings, verdicts: _Verdicts) -> None:
    manifest, data = snapshot.manifest, snapshot.data
    size, sha256 = data.stat().st_size, hash_file(data)
    verdicts.add("size", [] if size == manifest.size else [f"{size} bytes, not {manifest.size}"], f"{size} bytes")
    same = sha256 == manifest.sha256
    verdicts.add("sha256", [] if same else [f"{sha256}, not {manifest.sha256}"], sha256)
    try:
        wrong = check_form(data, server_for(data, settings).path)
        verdicts.add("form", [wrong] if wrong else [], "redis-check-rdb finds nothing wrong")
        head = read_head(data)
    except SnapshotError as error:
        verdicts.add("form", [str(error)], "")
        return
    told = (head.rdb_version, head.product, head.server)
    claimed = (manifest.rdb_version, manifest.server.product, manifest.server.version)
    verdicts.add(
        "head",
        [] if told == claimed else [f"written as {told}, the manifest says {claimed}"],
        f"format {head.rdb_version}, {head.product} {head.server}",
    )


def _check_contents(snapshot: Snapshot, settings: Settings, verdicts: _Verdicts, progress: Progress | None) -> None:
    try:
        with loaded(snapshot.data, settings) as client:
            verdicts.add("load", [], "loaded")
            _check_loaded(client, snapshot.manifest, settings, verdicts, progress)
    except SnapshotError as error:
        if "load" in verdicts.found:
            raise
        verdicts.add("load", [str(error)], "")


def _check_loaded(
    client: redis.Redis,
    manifest: SnapshotManifest,
    settings: Settings,
    verdicts: _Verdicts,
    progress: Progress | None,
) -> None:
    try:
        store = ModelStore(client, Keys(settings.tenant)).find_uuid()
        verdicts.add(
            "store", [] if store == manifest.store else [f"of store {store}, not {manifest.store}"], f"store {store}"
        )
    except WRONG_CONTENTS as error:
        verdicts.add("store", [str(error)], "")
    try:
        there = {tenant: digests_of(client, Keys(tenant)) for tenant in tenants_of(client)}
    except WRONG_CONTENTS as error:
        verdicts.add("versions", [str(error)], "")
        return
    count = sum(map(len, there.values()))
    verdicts.add("versions", list(_compare_sets(manifest, there)), f"{count} versions, as the manifest lists them")
    digests, golden = _check_versions(client, there, settings, progress)
    verdicts.add("digests", digests, f"every part of {count} versions")
    verdicts.add("claims", list(_compare_claims(client, manifest, there)), "as the manifest says")
    if digests:
        golden = [*golden, "versions whose digests are wrong were left out"]
    verdicts.add("golden", golden, f"{count} versions give their golden rows")


def _compare_sets(manifest: SnapshotManifest, there: dict[str, list[str]]) -> Iterator[str]:
    claimed = {tenant.tenant: {version.digest for version in tenant.versions} for tenant in manifest.tenants}
    for tenant in sorted(claimed.keys() | there.keys()):
        wanted, found = claimed.get(tenant, set()), set(there.get(tenant, ()))
        for digest in sorted(wanted - found):
            yield f"version {digest[:12]} of tenant {tenant} is in the manifest and not in the snapshot"
        for digest in sorted(found - wanted):
            yield f"version {digest[:12]} of tenant {tenant} is in the snapshot and not in the manifest"


def _compare_claims(client: redis.Redis, manifest: SnapshotManifest, there: dict[str, list[str]]) -> Iterator[str]:
    for tenant in manifest.tenants:
        if tenant.tenant not in there:
            yield f"there is no tenant {tenant.tenant}"
            continue
        try:
            found = tenant_of(client, tenant.tenant)
        except WRONG_CONTENTS as error:
            yield f"tenant {tenant.tenant}: {error}"
            continue
        if found.release != tenant.release:
            yield f"tenant {tenant.tenant}: the release in force is {found.release}, not {tenant.release}"
        claimed = {version.digest: version for version in tenant.versions}
        for version in found.versions:
            if claimed.get(version.digest, version) != version:
                yield f"version {version.digest[:12]} is {version}, the manifest says {claimed[version.digest]}"


def _check_versions(
    client: redis.Redis, there: dict[str, list[str]], settings: Settings, progress: Progress | None
) -> tuple[list[str], list[str]]:
    """What is wrong with parts and numbers, and what with golden rows."""
    bad: list[str] = []
    golden = _Golden(settings)
    total, done = sum(map(len, there.values())), 0
    with closing(golden):
        for tenant, digests in there.items():
            keys = Keys(tenant)
            for start in range(0, len(digests), GOLDEN_AT_ONCE):
                chunk = digests[start : start + GOLDEN_AT_ONCE]
                found, wrong = _read_versions(client, keys, chunk)
                bad += wrong
                golden.add(found)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
            bad += _check_numbers(client, keys, digests)
        return bad, golden.findings()


def _read_versions(client: redis.Redis, keys: Keys, digests: Sequence[str]) -> tuple[list[NewVersion], list[str]]:
    """The versions whose parts are what they should be, and what is wrong with the others."""
    found: list[NewVersion] = []
    bad: list[str] = []
    wanted = ("parts", "name", *PARTS)
    try:
        whole = dict(read_fields(client, keys, digests, wanted))
    except WRONG_CONTENTS:
        # One of them lacks a field, or is something else: each by itself tells which.
        whole = {}
    for digest in digests:
        try:
            fields = whole.get(digest) or dict(read_fields(client, keys, [digest], wanted))[digest]
            raw = raw_of(digest, fields)
            manifest = read_manifest(raw.manifest, digest)
            check_agreement(digest, manifest, raw.serving, raw.forest)
            if manifest.name.encode() != fields["name"]:
                bad.append(f"version {digest[:12]} is stored as {fields['name']!r} and is {manifest.name}")
            version = NewVersion(manifest, Serving.decode(raw.serving), raw.forest, raw.ubj)
            if version.digest != digest:
                bad.append(f"version {digest[:12]} does not read back as it was written")
            found.append(version)
        except WRONG_CONTENTS as error:
            told = str(error)
            bad.append(told if digest[:12] in told else f"version {digest[:12]}: {told}")
    return found, bad


def _check_numbers(client: redis.Redis, keys: Keys, digests: Sequence[str]) -> list[str]:
    """Versions that are not what their model's hash says of their number."""
    bad: list[str] = []
    for start in range(0, len(digests), CHUNK):
        chunk = digests[start : start + CHUNK]
        with client.pipeline(transaction=False) as pipe:
            for digest in chunk:
                pipe.hmget(keys.version(digest), "name", "number")
            # What is no hash answers with an error, which is no version either.
            replies = cast(list[list[bytes | None] | Exception], pipe.execute(raise_on_error=False))
            fields = [(None, None) if isinstance(reply, Exception) else (reply[0], reply[1]) for reply in replies]
            for name, number in fields:
                pipe.hget(
                    keys.model((name or b"").decode("utf-8", "replace")), (number or b"").decode("ascii", "replace")
                )
            named = pipe.execute(raise_on_error=False)
        for digest, (name, number), to in zip(chunk, fields, named, strict=True):
            if to != digest.encode():
                bad.append(f"version {digest[:12]} is not number {number!r} of {name!r}")
    return bad


class _Golden:
    """Checks golden rows in child processes, as many at once as there are cores."""

    def __init__(self, settings: Settings) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._checker = Checker(settings.check_memory_mb, settings.check_timeout_s)
        self._pool = ThreadPoolExecutor(cores, "golden")
        self._cores = cores
        self._waiting: list[Future[list[str]]] = []
        self._found: list[str] = []

    def add(self, versions: list[NewVersion]) -> None:
        """Check some; waits while more than a few others are under way, so that memory stays bounded."""
        self._waiting.append(self._pool.submit(self._check, versions))
        while len(self._waiting) > self._cores + 1:
            self._found += self._waiting.pop(0).result()

    def findings(self) -> list[str]:
        """What was found wrong, once all are checked."""
        while self._waiting:
            self._found += self._waiting.pop(0).result()
        return self._found

    def close(self) -> None:
        self._checker.close()
        self._pool.shutdown(cancel_futures=True)

    def _check(self, versions: list[NewVersion]) -> list[str]:
        """What is wrong, by version: a child that ends says nothing of which one it was, so halves are tried."""
        if not versions:
            return []
        reason = self._checker.check_now(versions)
        if reason is None:
            return []
        if len(versions) == 1:
            return [f"version {versions[0].digest[:12]} ({versions[0].manifest.name}): {reason}"]
        half = len(versions) // 2
        return self._check(versions[:half]) + self._check(versions[half:])
