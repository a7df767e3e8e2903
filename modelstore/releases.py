"""The releases of a tenant, and which one is in force.

Owns, in the models role (`switch_release.lua` writes them; what a release is: `modelstore.release`):

    red10:{T}:release:ID  hash    base     id of the release that the body is a delta to, "" if it is whole
                                  depth    decimal, how many bodies lead to a whole one
                                  count    decimal, how many aliases the release has
                                  body     zstd of the triples
                                  created  decimal, epoch ms, when it was first stored
    red10:{T}:release     hash    the pointer: id, number, parent, created of the release in force
    red10:{T}:releases    stream  one entry per switch: number, id, parent, who, why, snapshot, created
    red10:{T}:candidates  zset    id -> when it was stored, ms: releases that were never in force, such as imported ones
    red10:{T}:events      pubsub  "NUMBER ID" after a switch

and writes `red10:{T}:verdicts:NAME` (`modelstore.verdicts`) along with the switch that they explain.

Invariants: a release never changes; its base is there before it; the pointer names a release that is there; every
version that a release points at was there when it was put in force. A switch compares id *and* number of what it
started from, so neither a second promoter nor a change there and back goes unseen, and is one script: a reader sees the
release before or the one after, a crash leaves one or the other. When the reply to a switch is lost, `promote` and
`rollback` may be called again: what is in force already is not put in force anew.

Methods raise the driver's errors (`redis.RedisError`) as they are; `streams.clients` judges them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import TypeAlias, cast

import redis

from modelstore.errors import BadModel, NotFound, ReleaseConflict
from modelstore.names import is_prefix
from modelstore.release import (
    CHAIN,
    Aliases,
    AliasKey,
    Delta,
    Release,
    ReleaseInfo,
    Switch,
    apply,
    assemble,
    changes,
    check_delta,
    decode,
    difference,
    encode,
)
from modelstore.verdicts import KEPT, Note
from streams.keys import Keys

#: What to change, or how to work that out from the aliases in force. May be asked several times; must be pure.
Change: TypeAlias = Delta | Callable[[Aliases], Delta]
#: The verdicts that explain a change, or how to work them out from the aliases that it was made to.
Notes: TypeAlias = Sequence[Note] | Callable[[Aliases], Sequence[Note]]

#: About how many switches the history keeps.
HISTORY = 10_000
#: How often a read-modify-switch is tried. Each lost round is another promoter's success, so few are ever needed.
TRIES = 50
#: Longest `who` and `why` that the history keeps, in characters.
MAX_WHO, MAX_WHY = 64, 500
#: Longest name of a snapshot that it keeps: ENVIRONMENT/ID.
MAX_SNAPSHOT = 128


class Releases:
    """Reads and switches releases. Safe to use from several threads, as the client is."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self._script = files("modelstore").joinpath("switch_release.lua").read_text("utf-8")
        self._candidate = files("modelstore").joinpath("put_candidate.lua").read_text("utf-8")
        # The last release that was read or made: the next one is mostly a small step from it.
        self._last: Release | None = None

    def current(self) -> ReleaseInfo | None:
        """The release in force, or `None` if there has never been one."""
        found = cast(
            list[bytes | None], self.client.hmget(self.keys.release_pointer, "id", "number", "created", "parent")
        )
        release, number, created, parent = found
        if release is None or number is None:
            return None
        return ReleaseInfo(release.decode(), int(number), int(created or 0), (parent or b"").decode() or None)

    def get(self, release_id: str) -> Release:
        """A release with all its aliases, checked against its id.

        Raises:
            NotFound: the store does not hold it.
            BadModel: it is damaged.
        """
        known, bodies, depth = self._last, [], None
        at = release_id
        while known is None or at != known.id:
            found = cast(list[bytes | None], self.client.hmget(self.keys.release(at), "base", "depth", "body"))
            base, stored_depth, body = found
            if base is None or stored_depth is None or body is None:
                if at == release_id:
                    raise NotFound(
                        f"the store holds no release {at[:12]} (any more); `red10 release list` shows the last"
                    )
                raise BadModel(f"release {release_id[:12]} is damaged: it builds on release {at[:12]}, which is gone")
            depth = int(stored_depth) if depth is None else depth
            bodies.append(decode(body, at))
            at = base.decode()
            if not at:
                known = None
                break
            if len(bodies) > CHAIN:
                raise BadModel(f"release {release_id[:12]} is damaged: it builds on more than {CHAIN} others")
        if known is not None and depth is None:
            return known
        self._last = found_release = assemble(release_id, reversed(bodies), known, depth or 0)
        return found_release

    def switch(
        self, delta: Delta, *, parent: str | None, who: str, why: str, notes: Sequence[Note] = ()
    ) -> ReleaseInfo:
        """Put `parent` with a change made in force, if `parent` is still in force.

        Args:
            delta: (model's name, alias) -> digest, or `None` to take the alias away.
            parent: id of the release in force that the change was thought out for; `None` for no release yet.
            who: who asks, for the history; cut at 64 characters.
            why: for what reason, for the history; cut at 500 characters.
            notes: verdicts that are written down in the same step; none are if the change changes nothing.

        Returns:
            The release now in force; the one that was if the change changes nothing.

        Raises:
            ReleaseConflict: another release is in force.
            NotFound: a version is not in the store.
            BadModel: a version is of another model, or the parent is damaged.
            BadName: a name, alias or digest in `delta` cannot be one.
        """
        current = self.current()
        if (current.id if current else None) != parent:
            raise ReleaseConflict(parent, current.id if current else None)
        return self._switch(current, delta, who, why, notes)

    def promote(self, delta: Change, *, who: str, why: str, notes: Notes = ()) -> ReleaseInfo:
        """Make a change to whatever release is in force: read, change, switch, and again if another was faster.

        Args:
            delta: as of `switch`; or a function that is given the aliases in force at each try.
            who, why: as of `switch`.
            notes: verdicts that are written down in the same step; none are if the change changes nothing.

        Errors as of `switch`; `ReleaseConflict` only if others were faster all the time.
        """
        return self._retry(lambda: self._switch(self.current(), delta, who, why, notes))

    def rollback(self, to: str | None = None, *, who: str, why: str) -> ReleaseInfo:
        """Put an earlier release in force, as a whole: a new number, the same id.

        Args:
            to: its id; `None` for the one that was in force before the present one.

        Raises:
            NotFound: there is no such release, or one of its versions is gone.
            BadModel: the release is damaged.
            ReleaseConflict: others switched releases all the time.
        """
        return self._retry(lambda: self._put_in_force(self.current(), to, who, why))

    def put_in_force(
        self, release_id: str, *, parent: str | None, who: str, why: str, snapshot: str = ""
    ) -> ReleaseInfo:
        """Put a stored release, a candidate for one, in force as a whole, if `parent` is still in force.

        Args:
            snapshot: the one that it came with, for the history.

        Raises:
            ReleaseConflict: another release is in force.
            NotFound, BadModel: as in `rollback`.
        """
        current = self.current()
        if current is not None and current.id == release_id:
            return current
        if (current.id if current else None) != parent:
            raise ReleaseConflict(parent, current.id if current else None)
        return self._put_in_force(current, release_id, who, why, snapshot)

    def put_candidate(self, aliases: Aliases) -> str:
        """Store a release without putting it in force; `put_in_force` does. Its versions must be there. Its id.

        Raises:
            NotFound: a version is not in the store.
            BadModel: a version is of another model.
            BadName: a name, alias or digest cannot be one.
        """
        check_delta(aliases)
        new = Release.of(aliases)
        pointed = list(new.aliases.items())
        keys = [self.keys.candidates, self.keys.release(new.id), *(self.keys.version(digest) for _, digest in pointed)]
        argv = [new.id, encode(new.aliases), str(len(pointed)), *(name for (name, _), _ in pointed)]
        reply = cast(list[bytes], self.client.eval(self._candidate, len(keys), *keys, *cast(list[str], argv)))
        _check_versions(reply[0], reply[1], pointed)
        return new.id

    def candidates(self) -> list[tuple[str, int]]:
        """Releases that were never in force, and when they were stored (epoch ms), the newest first."""
        found = self.client.zrange(self.keys.candidates, 0, -1, desc=True, withscores=True)
        return [(release.decode(), int(stored)) for release, stored in cast(list[tuple[bytes, float]], found)]

    def history(self, count: int = 100) -> list[Switch]:
        """The last switches, the newest first."""
        entries = cast(
            list[tuple[bytes, Mapping[bytes, bytes]]], self.client.xrevrange(self.keys.releases, count=count)
        )
        return [_switch_of(fields) for _, fields in entries]

    def find(self, text: str) -> str:
        """The id of a release given as people write it: its number, or the beginning of its id.

        Numbers are looked up in the history; where a restored store has used one again, the newest counts.

        Raises:
            NotFound: there is no such release, or several ids begin so.
        """
        history = self.history(HISTORY * 2)
        candidates = {release for release, _ in self.candidates()}
        if text.isascii() and text.isdigit() and len(text) < 16:
            for switch in history:
                if switch.number == int(text):
                    return switch.id
        # An id may begin with nothing but decimal digits.
        if is_prefix(text):
            known = candidates | {switch.id for switch in history}
            ids = sorted(release for release in known if release.startswith(text))
            if len(ids) == 1:
                return ids[0]
            if ids:
                raise NotFound(f"{text} means several releases, such as {ids[0]} and {ids[1]}: write more digits")
        raise NotFound(f"the store knows no release {text[:80]!r}; `red10 release list` shows those it knows")

    def _retry(self, attempt: Callable[[], ReleaseInfo]) -> ReleaseInfo:
        for _ in range(TRIES - 1):
            try:
                return attempt()
            except ReleaseConflict:
                continue
        return attempt()

    def _switch(
        self, current: ReleaseInfo | None, wanted: Change, who: str, why: str, notes: Notes = ()
    ) -> ReleaseInfo:
        if not callable(wanted):
            check_delta(wanted)
        old = self.get(current.id) if current is not None else None
        aliases: Aliases = old.aliases if old is not None else {}
        delta = wanted(aliases) if callable(wanted) else wanted
        check_delta(delta)
        change = changes(aliases, delta)
        if current is not None and not change:
            return current
        whole = old is None or old.depth + 1 >= CHAIN
        new = Release.of(apply(aliases, change), 0 if whole or old is None else old.depth + 1)
        body = encode(new.aliases if whole else change)
        explained = notes(aliases) if callable(notes) else notes
        return self._call(current, new, body, None if whole else old, change, who, why, explained)

    def _put_in_force(
        self, current: ReleaseInfo | None, to: str | None, who: str, why: str, snapshot: str = ""
    ) -> ReleaseInfo:
        target_id = to or (current.parent if current is not None else None)
        if target_id is None:
            raise NotFound("there is no earlier release to go back to")
        if current is not None and current.id == target_id:
            return current
        try:
            present: Aliases = self.get(current.id).aliases if current is not None else {}
        except (BadModel, NotFound):
            # The way back must be open when the release in force is what is damaged; then all versions are looked up.
            present = {}
        target = self.get(target_id)
        change = difference(present, target.aliases)
        return self._call(current, target, b"", None, change, who, why, snapshot=snapshot)

    def _call(
        self,
        current: ReleaseInfo | None,
        new: Release,
        body: bytes,
        base: Release | None,
        change: Delta,
        who: str,
        why: str,
        notes: Sequence[Note] = (),
        snapshot: str = "",
    ) -> ReleaseInfo:
        added: list[tuple[AliasKey, str]] = [(key, digest) for key, digest in change.items() if digest is not None]
        release = self.keys.release(new.id)
        keys = [
            self.keys.release_pointer,
            self.keys.releases,
            release,
            self.keys.release(base.id) if base is not None else release,
            self.keys.candidates,
            *(self.keys.version(digest) for _, digest in added),
            *(self.keys.verdicts(note.name) for note in notes),
        ]
        expected = current.id if current is not None else None
        argv: list[str | bytes] = [
            expected or "",
            str(current.number if current is not None else 0),
            new.id,
            str(HISTORY),
            self.keys.events,
            who[:MAX_WHO],
            why[:MAX_WHY],
            body,
            base.id if base is not None else "",
            str(new.depth),
            str(base.depth) if base is not None else "",
            str(len(new.aliases)),
            str(len(added)),
            str(KEPT),
            snapshot[:MAX_SNAPSHOT],
            *(name for (name, _), _ in added),
            *(value for note in notes for value in note.values()),
        ]
        reply = cast(list[bytes], self.client.eval(self._script, len(keys), *keys, *cast(list[str], argv)))
        word = reply[0]
        if word == b"OK":
            # The store may have had the release already, with a depth of its own.
            self._last = replace(new, depth=int(reply[4]))
            return ReleaseInfo(new.id, int(reply[3]), int(reply[2]), expected)
        if word == b"CONFLICT":
            raise ReleaseConflict(expected, reply[1].decode() or None)
        _check_versions(word, reply[1], added)
        # A release was here a moment ago and is gone: the store was emptied or went back to a snapshot.
        self._last = None
        raise ReleaseConflict(expected, None)


def _check_versions(word: bytes, detail: bytes, pointed: Sequence[tuple[AliasKey, str]]) -> None:
    """What the scripts answer about versions, as an error."""
    if word in (b"MISSING", b"MISNAMED"):
        (name, alias), digest = pointed[int(detail)]
        if word == b"MISSING":
            raise NotFound(f"{name}@{alias}: the store holds no version {digest[:12]}; store it first")
        raise BadModel(f"{name}@{alias}: version {digest[:12]} is of another model")


def _switch_of(fields: Mapping[bytes, bytes]) -> Switch:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return Switch(
        number=int(text["number"]),
        id=text["id"],
        parent=text["parent"] or None,
        who=text["who"],
        why=text["why"],
        created_ms=int(text["created"]),
        snapshot=text.get("snapshot") or None,
    )


__all__ = ["Aliases", "Delta", "Release", "ReleaseInfo", "Releases", "Switch"]
