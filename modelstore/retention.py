"""What may be removed from a store, and removing it, version by version.

Kept are, of each model, its last versions by number; whatever an alias of a **kept release** points at; and whatever a
running import needs. Kept releases are the one in force, the last different ones of the history, and the last
candidates. The bodies of others stay only where kept ones build on them.

`superfluous` and `kept_releases` decide and touch nothing. `remove_version.lua` and `remove_release.lua` remove one
thing each, all of it or nothing, and only if the release in force (id, number and time) and the candidates are those
that the decision was made on; so a release that comes up meanwhile finds its versions, or removing is decided anew.
Stopped anywhere, the store is whole, and doing it again completes it. A release that is not kept goes before its
versions; one that stays as a base may name versions that are gone, and a rollback to it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import cast

import redis

from modelstore.errors import BadModel, InUse, NotFound, ReleaseConflict
from modelstore.index import index_arguments, index_keys, script
from modelstore.release import Aliases, ReleaseInfo
from modelstore.releases import HISTORY, TRIES, Releases
from streams.keys import Keys

#: Versions that are kept of each model, and releases, unless the settings say otherwise.
KEEP_VERSIONS, KEEP_RELEASES = 20, 100
#: Versions per round trip.
CHUNK = 50


def superfluous(numbers: Mapping[int, str], keep: int, needed: Container[str]) -> list[str]:
    """The versions of one model that may go, the oldest first.

    Args:
        numbers: number -> digest.
        keep: how many of the last ones stay, at least 1.
        needed: digests that must stay.
    """
    last = sorted(numbers)[: -max(keep, 1)]
    return [numbers[number] for number in last if numbers[number] not in needed]


def kept_releases(
    in_force: str | None, history: Iterable[str], candidates: Sequence[str], keep: int
) -> tuple[str, ...]:
    """The ids of the releases that are kept: candidates, then the others, each the oldest first.

    Args:
        history: ids in the order of their switches, the newest first.
        candidates: ids of releases that were never in force, the newest first.
        keep: how many different ones of the history stay, the one in force included, and how many candidates; at least
            1.
    """
    newest = dict.fromkeys([*([in_force] if in_force else []), *history])
    last = list(newest)[: max(keep, 1)]
    waiting = [release for release in candidates[: max(keep, 1)] if release not in newest]
    return (*reversed(waiting), *reversed(last))


@dataclass(frozen=True, slots=True)
class Needed:
    """What releases need, as of one moment.

    Attributes:
        by: digest -> an alias that points at it (`NAME@ALIAS`), and the id of the release.
        kept: ids of kept releases that are there.
        current: the release in force.
        candidates: how many candidates there were, and when the newest was stored, ms.
    """

    by: Mapping[str, tuple[str, str]] = field(repr=False)
    kept: tuple[str, ...]
    current: ReleaseInfo | None
    candidates: tuple[int, str]

    def pointer(self) -> list[str]:
        """What the scripts compare: id, number and time of the release in force."""
        if self.current is None:
            return ["", "", ""]
        return [self.current.id, str(self.current.number), str(self.current.created_ms)]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        versions: model's name -> digests, the oldest first.
        releases: ids.
        pinned: digests that stayed because a running import needs them.
    """

    versions: Mapping[str, Sequence[str]] = field(default_factory=lambda: MappingProxyType({}))
    releases: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()


class Retention:
    """Removes versions and releases. Driver errors come out as they are."""

    def __init__(self, client: redis.Redis, keys: Keys, releases: Releases, keep_releases: int = KEEP_RELEASES) -> None:
        self._client = client
        self._keys = keys
        self._releases = releases
        self._keep_releases = keep_releases
        self._version_script = script("remove_version.lua")
        self._release_script = files("modelstore").joinpath("remove_release.lua").read_text("utf-8")

    def needed(self) -> Needed:
        """What the kept releases need.

        Raises:
            BadModel: a kept release is damaged, so nobody knows what it needs.
        """
        # The pointer first: what comes up after it is found by the scripts.
        current, candidates = self._releases.current(), self._releases.candidates()
        history = [switch.id for switch in self._releases.history(2 * HISTORY)]
        ids = kept_releases(
            current.id if current else None, history, [release for release, _ in candidates], self._keep_releases
        )
        by: dict[str, tuple[str, str]] = {}
        there: list[str] = []
        for release in ids:
            try:
                aliases = self._aliases(release)
            except NotFound:
                # That in force may have been removed after a switch: the scripts see it too, and all is decided anew.
                if current is not None and release == current.id and self._releases.current() == current:
                    raise
                continue
            there.append(release)
            by |= {digest: (f"{name}@{alias}", release) for (name, alias), digest in aliases.items()}
        newest = str(candidates[0][1]) if candidates else ""
        return Needed(MappingProxyType(by), tuple(there), current, (len(candidates), newest))

    def _aliases(self, release: str) -> Aliases:
        try:
            return self._releases.get(release).aliases
        except BadModel:
            # It lacks a base, perhaps because somebody is removing it: it went before the base, and is gone by now.
            return self._releases.get(release).aliases

    def remove(self, names: Mapping[str, str]) -> None:
        """Remove versions (digest -> model's name), one after the other; one that is gone is passed over.

        Raises:
            InUse: an alias of a kept release or a running import needs one; nothing is removed if a release does.
            BadModel: a kept release is damaged.
            ReleaseConflict: others switched releases all the time.
        """
        for _ in range(TRIES):
            needed = self.needed()
            for digest, name in names.items():
                if digest in needed.by:
                    raise InUse(f"{name} version {digest[:12]} {self._reason(needed, digest)}")
            words = self._remove(names, needed)
            for digest, word in words.items():
                if word == b"PINNED":
                    raise InUse(
                        f"{names[digest]} version {digest[:12]} is needed by a running import: wait for its end"
                    )
            if b"CONFLICT" not in words.values():
                return
        raise ReleaseConflict(None, needed.current.id if needed.current else None)

    def _reason(self, needed: Needed, digest: str) -> str:
        alias, release = needed.by[digest]
        if needed.current is not None and release == needed.current.id:
            return f"is {alias} of the release in force: point the alias elsewhere first (`red10 model alias`)"
        return (
            f"is {alias} of release {release[:12]}, one of the last {self._keep_releases} that are kept to go back to: "
            "say how many to keep (`--keep-releases`)"
        )

    def prune(self, keep: int, *, dry_run: bool = False, progress: Callable[[int, int], None] | None = None) -> Pruned:
        """Remove what need not be kept.

        Args:
            keep: how many versions of each model stay at least.
            dry_run: only tell what would be removed.
            progress: told of versions removed, and of how many there are to remove.

        Raises:
            BadModel: a kept release is damaged.
            ReleaseConflict: others switched releases all the time.
        """
        gone: dict[str, list[str]] = {}
        dropped: list[str] = []
        for _ in range(TRIES):
            needed = self.needed()
            releases, names = self._unneeded_releases(needed), self._unneeded_versions(keep, needed)
            if dry_run:
                return Pruned(_by_name(names), tuple(releases))
            words = [self._remove_release(release, needed) for release in releases]
            dropped += [release for release, word in zip(releases, words, strict=True) if word == b"OK"]
            if b"CONFLICT" in words:
                continue
            found = self._remove(names, needed, progress)
            for digest in (digest for digest, word in found.items() if word == b"OK"):
                gone.setdefault(names[digest], []).append(digest)
            if b"CONFLICT" not in found.values():
                pinned = tuple(digest for digest, word in found.items() if word == b"PINNED")
                return Pruned(MappingProxyType(gone), tuple(dropped), pinned)
        raise ReleaseConflict(None, needed.current.id if needed.current else None)

    def _unneeded_versions(self, keep: int, needed: Needed) -> dict[str, str]:
        """Digest -> model's name, of what may go."""
        models = [name.decode() for name in cast(list[bytes], self._client.zrange(self._keys.models, 0, -1))]
        found: dict[str, str] = {}
        for start in range(0, len(models), 1000):
            chunk = models[start : start + 1000]
            with self._client.pipeline(transaction=False) as pipe:
                for name in chunk:
                    pipe.hgetall(self._keys.model(name))
                replies = pipe.execute()
            for name, fields in zip(chunk, replies, strict=True):
                numbers = {int(number): digest.decode() for number, digest in fields.items() if number != b"last"}
                found |= dict.fromkeys(superfluous(numbers, keep, needed.by), name)
        return found

    def _unneeded_releases(self, needed: Needed) -> list[str]:
        """Releases that are there, are not kept, and that no kept one builds on."""
        bases: set[str] = set()
        for release in needed.kept:
            at: str | None = release
            while at and at not in bases:
                bases.add(at)
                found = cast(bytes | None, self._client.hget(self._keys.release(at), "base"))
                at = found.decode() if found else None
        known = dict.fromkeys(switch.id for switch in self._releases.history(2 * HISTORY))
        known |= dict.fromkeys(release for release, _ in self._releases.candidates())
        return [release for release in known if release not in bases and self._there(release)]

    def _there(self, release: str) -> bool:
        return bool(self._client.exists(self._keys.release(release)))

    def _remove_release(self, release: str, needed: Needed) -> bytes:
        keys = [self._keys.release_pointer, self._keys.release(release), self._keys.candidates]
        return cast(bytes, self._client.eval(self._release_script, len(keys), *keys, release, *needed.pointer()))

    def _remove(
        self, names: Mapping[str, str], needed: Needed, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, bytes]:
        """Ask the script for each version; what it answered. After a conflict the rest is not asked for."""
        found: dict[str, bytes] = {}
        digests = list(names)
        for start in range(0, len(digests), CHUNK):
            chunk = digests[start : start + CHUNK]
            with self._client.pipeline(transaction=False) as pipe:
                for digest in chunk:
                    keys = [
                        *index_keys(self._keys, digest),
                        self._keys.model(names[digest]),
                        self._keys.models,
                        self._keys.versions,
                        self._keys.release_pointer,
                        self._keys.candidates,
                        self._keys.pins,
                        self._keys.imports,
                    ]
                    argv = [*index_arguments(self._keys, digest), digest, *needed.pointer()]
                    argv += [str(needed.candidates[0]), needed.candidates[1]]
                    pipe.eval(self._version_script, len(keys), *keys, *cast(list[str], argv))
                found |= dict(zip(chunk, pipe.execute(), strict=True))
            if progress is not None:
                progress(len(found), len(digests))
            if b"CONFLICT" in found.values():
                break
        return found


def _by_name(names: Mapping[str, str]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for digest, name in names.items():
        found.setdefault(name, []).append(digest)
    return MappingProxyType(found)
