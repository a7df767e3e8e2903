"""What a models Redis holds, read off its keys: the tenants, their versions, and the releases in force.

Reads only, some versions at a time. Nothing is checked here; `ops.snapshots.verify` does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import orjson
import redis

from modelstore.compression import decompress
from modelstore.errors import BadModel, ModelStoreError
from modelstore.manifest import MAX_MANIFEST
from modelstore.release import Aliases
from modelstore.store import ModelStore
from ops.errors import SnapshotError
from ops.snapshots.manifest import HEADLINES, SnapshotRelease, SnapshotTenant, SnapshotVersion
from streams.errors import BadName
from streams.keys import Keys
from streams.series import check_tenant

#: What reading raises where keys hold something else than a store's: damage, other types, text that is no number.
WRONG_CONTENTS = (ModelStoreError, BadName, SnapshotError, redis.ResponseError, ValueError)
#: Versions per round trip.
CHUNK = 500
_PREFIX, _SUFFIX = b"red10:{", b"}:versions"


def tenants_of(client: redis.Redis) -> list[str]:
    """The tenants that have models, sorted. Keys of names that no tenant can have are none of Red10's."""
    found = client.scan_iter(match=_PREFIX + b"*" + _SUFFIX, count=10_000)
    names = {key[len(_PREFIX) : -len(_SUFFIX)].decode("ascii", "replace") for key in cast(Iterator[bytes], found)}
    return sorted(name for name in names if _is_tenant(name))


def _is_tenant(name: str) -> bool:
    try:
        check_tenant(name)
    except BadName:
        return False
    return True


def digests_of(client: redis.Redis, keys: Keys) -> list[str]:
    """The digests of a tenant's versions, sorted: of its list, and of the keys that are there."""
    listed = {digest.decode("ascii", "replace") for digest in cast(list[bytes], client.zrange(keys.versions, 0, -1))}
    prefix = keys.version("").encode()
    found = cast(Iterator[bytes], client.scan_iter(match=_literal(prefix) + b"*", count=10_000))
    return sorted(listed | {key[len(prefix) :].decode("ascii", "replace") for key in found})


def _literal(text: bytes) -> bytes:
    """A text for a pattern of SCAN, in which it stands for itself."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^" else bytes([byte]) for byte in text)


def tenant_of(client: redis.Redis, tenant: str) -> SnapshotTenant:
    """The models of a tenant as a manifest lists them.

    Raises:
        SnapshotError: they contradict each other.
        BadModel, NotFound: a version or the release in force is damaged.
    """
    keys = Keys(tenant)
    store = ModelStore(client, keys)
    current = store.releases.current()
    aliases: Aliases = store.releases.get(current.id).aliases if current is not None else {}
    pointing: dict[str, list[str]] = {}
    for (_, alias), digest in sorted(aliases.items()):
        pointing.setdefault(digest, []).append(alias)
    digests = digests_of(client, keys)
    gone = sorted(set(pointing) - set(digests))
    if gone:
        raise SnapshotError(f"tenant {tenant}: the release in force points at version {gone[0][:12]}, which is gone")
    versions: list[SnapshotVersion] = []
    for start in range(0, len(digests), CHUNK):
        chunk = digests[start : start + CHUNK]
        for digest, (name, frame) in zip(chunk, _fields(client, keys, chunk), strict=True):
            if name is None or frame is None:
                raise BadModel(f"version {digest[:12]} is damaged: it has no name or no manifest")
            versions.append(
                SnapshotVersion(
                    digest=digest,
                    name=name.decode(),
                    aliases=tuple(pointing.get(digest, ())),
                    metrics=_headlines(frame, digest),
                )
            )
    release = SnapshotRelease(id=current.id, number=current.number) if current is not None else None
    return SnapshotTenant(tenant=tenant, release=release, versions=tuple(versions))


def _fields(client: redis.Redis, keys: Keys, digests: Sequence[str]) -> list[Any]:
    with client.pipeline(transaction=False) as pipe:
        for digest in digests:
            pipe.hmget(keys.version(digest), "name", "manifest")
        return pipe.execute()


def _headlines(frame: bytes, digest: str) -> dict[str, float | int | None]:
    raw = decompress(frame, MAX_MANIFEST, f"the manifest of version {digest[:12]}")
    try:
        metrics = orjson.loads(raw)["metrics"]
        return {name: metrics[name] for name in HEADLINES if name in metrics}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadModel(f"the manifest of version {digest[:12]} is damaged: {error!r}") from error
