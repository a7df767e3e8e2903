"""What a release is: a complete set of aliases, its identity, and its stored form. Pure; no I/O.

A release maps (model's name, alias) to a version's digest. Its id is

    SHA-256("red10 release 1\\n" | JSON of [[name, alias, digest], …] sorted by name and alias)      64 hex digits

so the same set always has the same id, whatever came before it and whenever it was made. It is stored as a **body**:
zstd of the JSON of such triples, either all of them, or those that differ from another release (the base; a digest of
`null` takes the alias away). Every `CHAIN`-th body is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import orjson

from modelstore.compression import compress, decompress
from modelstore.errors import BadModel
from modelstore.names import check_alias, check_digest, check_name

#: (model's name, alias)
AliasKey: TypeAlias = tuple[str, str]
Aliases: TypeAlias = Mapping[AliasKey, str]
#: What to change: a digest, or `None` to take the alias away.
Delta: TypeAlias = Mapping[AliasKey, str | None]

#: At most this many bodies are read to know a release.
CHAIN = 32
#: Most bytes of a body before compression: a million aliases.
MAX_BODY = 256 * 2**20
_PREFIX = b"red10 release 1\n"


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """A complete set of aliases; immutable.

    Attributes:
        id: 64 hex digits.
        aliases: (model's name, alias) -> digest.
        depth: how many bodies lead from its stored form to a whole one; 0 if it is stored whole.
    """

    id: str
    aliases: Aliases
    depth: int = 0

    @classmethod
    def of(cls, aliases: Aliases, depth: int = 0) -> Release:
        """The release with these aliases."""
        own = dict(aliases)
        return cls(release_id(own), MappingProxyType(own), depth)


@dataclass(frozen=True, slots=True)
class ReleaseInfo:
    """The release in force.

    Attributes:
        id: 64 hex digits.
        number: counts the switches of this store, from 1; a store restored from a snapshot counts on from there.
        created_ms: when it was put in force, epoch ms of the store's clock.
        parent: id of the release that was in force before.
    """

    id: str
    number: int
    created_ms: int
    parent: str | None


@dataclass(frozen=True, slots=True)
class Switch:
    """One entry of the history: a release was put in force.

    Attributes:
        snapshot: the one that it came with (`ENVIRONMENT/ID`), if it was promoted out of one.
    """

    number: int
    id: str
    parent: str | None
    who: str
    why: str
    created_ms: int
    snapshot: str | None = None


def release_id(aliases: Aliases) -> str:
    """The id of the release with these aliases."""
    return hashlib.sha256(_PREFIX + _triples(aliases)).hexdigest()


def check_delta(delta: Delta) -> None:
    """Check names, aliases and digests of a change.

    Raises:
        BadName: one of them cannot be what it should be.
    """
    for (name, alias), digest in delta.items():
        check_name(name)
        check_alias(alias)
        if digest is not None:
            check_digest(digest)


def changes(old: Aliases, wanted: Delta) -> dict[AliasKey, str | None]:
    """The part of `wanted` that changes something in `old`."""
    return {key: digest for key, digest in wanted.items() if old.get(key) != digest}


def difference(old: Aliases, new: Aliases) -> dict[AliasKey, str | None]:
    """The change that leads from `old` to `new`."""
    gone: dict[AliasKey, str | None] = {key: None for key in old if key not in new}
    return gone | changes(old, new)


def apply(old: Aliases, delta: Delta) -> dict[AliasKey, str]:
    """`old` with a change made."""
    new = {key: digest for key, digest in old.items() if key not in delta}
    new.update((key, digest) for key, digest in delta.items() if digest is not None)
    return new


def encode(delta: Delta) -> bytes:
    """A body."""
    return compress(_triples(delta))


def decode(frame: bytes, release: str) -> dict[AliasKey, str | None]:
    """The triples of a body.

    Raises:
        BadModel: it is damaged.
    """
    raw = decompress(frame, MAX_BODY, f"release {release[:12]}")
    try:
        return {(name, alias): digest for name, alias, digest in orjson.loads(raw)}
    except (ValueError, TypeError) as error:
        raise BadModel(f"release {release[:12]} is damaged: {error}") from error


def assemble(release: str, bodies: Iterable[Delta], base: Release | None, depth: int) -> Release:
    """Build a release from its stored form and check its id.

    Args:
        release: the id.
        bodies: from the oldest to the release's own.
        base: what the oldest body is a delta to; `None` if that is whole.

    Raises:
        BadModel: the bodies do not give the release.
    """
    aliases: dict[AliasKey, str] = dict(base.aliases) if base is not None else {}
    for body in bodies:
        for key, digest in body.items():
            if digest is None:
                aliases.pop(key, None)
            else:
                aliases[key] = digest
    try:
        found = Release.of(aliases, depth)
    except TypeError as error:
        raise BadModel(f"release {release[:12]} is damaged: {error}") from error
    if found.id != release:
        raise BadModel(
            f"release {release[:12]} is damaged: what is stored gives {found.id[:12]}; roll back to another release, "
            "or restore a snapshot"
        )
    return found


def _triples(delta: Delta) -> bytes:
    return orjson.dumps([[name, alias, digest] for (name, alias), digest in sorted(delta.items(), key=_by_key)])


def _by_key(item: tuple[AliasKey, str | None]) -> AliasKey:
    return item[0]
