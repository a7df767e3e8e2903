"""Removing old snapshots, of this machine or of the archive; never one that a kept release came from.

Kept are, of each environment, the newest by number and the young by age, and whatever is in use: snapshots that a kept
release of this environment's store was promoted out of, as its history says; and those with a record of a promotion
into another environment, or into any if the store cannot be asked. `superfluous` decides and touches nothing. What is
being promoted, or was since it was listed, stays as well. Each snapshot ceases to be one in one step; stopped anywhere,
doing it again completes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import redis
from redis.exceptions import RedisError

from modelstore.releases import HISTORY, Releases
from modelstore.retention import Retention
from ops.errors import ArchiveError, SnapshotError
from ops.snapshots.archive import UNFINISHED_MS, Archive
from ops.snapshots.files import remove_abandoned
from ops.snapshots.inventory import tenants_of
from ops.snapshots.shelf import Listed, Shelf
from streams.clients import connect
from streams.errors import ConfigurationError
from streams.keys import Keys
from streams.locate import locate
from streams.settings import Settings

DAY_MS = 86_400_000

Progress = Callable[[int, int], None]


def superfluous(
    listed: Sequence[Listed],
    *,
    keep: int,
    keep_days: int,
    used: Collection[str] | None,
    environment: str,
    now_ms: int,
) -> list[Listed]:
    """The snapshots that may go, the oldest first.

    Args:
        listed: all that there are, the newest first.
        keep: how many of each environment stay, at least 1.
        keep_days: those that are younger stay; 0: age does not count.
        used: `ENVIRONMENT/ID` of those that this environment's store needs; `None`: it cannot be asked.
        environment: this one.
    """
    counts: dict[str, int] = {}
    found: list[Listed] = []
    for one in listed:
        counts[one.environment] = counts.get(one.environment, 0) + 1
        young = now_ms - one.taken_ms < keep_days * DAY_MS
        elsewhere = {name for name in one.promoted if used is None or name != environment}
        needed = used is not None and f"{one.environment}/{one.id}" in used
        if counts[one.environment] > max(keep, 1) and not (young or needed or elsewhere):
            found.append(one)
    return found[::-1]


def used_snapshots(settings: Settings, say: Callable[[str], None]) -> set[str] | None:
    """`ENVIRONMENT/ID` of the snapshots that kept releases of the settings' store came from.

    Returns:
        Them; `None` if the store cannot be asked, or is empty.

    Raises:
        BadModel: a kept release is damaged, so nobody knows.
    """
    try:
        with connect(locate(settings, "models")) as client:
            tenants = tenants_of(client)
            if tenants:
                return {name for tenant in tenants for name in _used_by(client, Keys(tenant), settings.keep_releases)}
            # Lost, perhaps, and to be restored from what is here.
            say("the model store is empty, so whatever was promoted anywhere stays")
            return None
    except (ConfigurationError, RedisError, OSError) as error:
        say(f"the model store cannot be asked, so whatever was promoted anywhere stays ({error})")
        return None


def _used_by(client: redis.Redis, keys: Keys, keep_releases: int) -> set[str]:
    releases = Releases(client, keys)
    kept = set(Retention(client, keys, releases, keep_releases).needed().kept)
    return {switch.snapshot for switch in releases.history(2 * HISTORY) if switch.snapshot and switch.id in kept}


def with_records(listed: Sequence[Listed], archived: Sequence[Listed]) -> list[Listed]:
    """Snapshots of this machine, with the records that the archive has of them: others promote what they fetched."""
    known = {(one.environment, one.id): one.promoted for one in archived}
    return [
        replace(one, promoted=tuple(sorted({*one.promoted, *known.get((one.environment, one.id), ())})))
        for one in listed
    ]


def prune_shelf(shelf: Shelf, gone: Sequence[Listed], progress: Progress | None = None) -> list[Listed]:
    """Remove snapshots of this machine, and what killed commands left; those that were removed.

    Raises:
        SnapshotError: the file system refuses.
    """
    for parent in shelf.directory.glob("[!.]*"):
        for prefix, idle_s in ((".taking-", 0.0), (".removed-", 0.0), (".fetching-", UNFINISHED_MS / 1000)):
            remove_abandoned(parent, prefix, idle_s)
    removed = []
    try:
        for done, one in enumerate(gone, 1):
            if shelf.remove(one):
                removed.append(one)
            if progress is not None:
                progress(done, len(gone))
        return removed
    except OSError as error:
        raise SnapshotError(f"{shelf.directory}: {error.strerror or error}") from error


def prune_archive(
    archive: Archive,
    gone: Sequence[Listed],
    now_ms: int,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> list[Listed]:
    """Remove archived snapshots, and what was begun long ago and never completed; the snapshots that were removed.

    Args:
        say: told of uploads that the store does not list, or does not give up: not every store lets everybody do that.

    Raises:
        ArchiveError: the archive refuses.
    """
    begun = archive.unfinished(None, now_ms)
    removed = []
    for done, one in enumerate(gone, 1):
        if archive.remove(one.environment, one.id, one.promoted):
            removed.append(one)
        if progress is not None:
            progress(done, len(gone) + len(begun))
    for done, (environment, snapshot) in enumerate(begun, len(gone) + 1):
        archive.remove(environment, snapshot)
        if progress is not None:
            progress(done, len(gone) + len(begun))
    try:
        archive.drop_uploads(now_ms)
    except ArchiveError as error:
        say(f"uploads that were never completed may be left in the archive: {error}")
    return removed
