"""Whether a model store is whole: everything in it, read key by key without the code that keeps it, agrees."""

from __future__ import annotations

import hashlib
import struct
from typing import Any, cast

import redis
import zstandard

from modelstore.release import Aliases
from modelstore.releases import Releases
from streams.keys import Keys

FIELDS = {b"name", b"number", b"created", b"row", b"parts", b"manifest", b"serving", b"forest", b"ubj"}


def check_whole(client: redis.Redis, keys: Keys, *, indexed: bool = True) -> None:
    """Fail unless the store is whole.

    Args:
        indexed: every version must be in the index.
    """
    r = cast(Any, client)
    prefix = keys._key("")
    found = {key.decode().removeprefix(prefix) for key in r.scan_iter(f"{prefix}*")}
    digests = {key.removeprefix("version:") for key in found if key.startswith("version:")}
    assert {digest.decode() for digest in r.zrange(keys.versions, 0, -1)} == digests
    numbers: dict[str, dict[str, str]] = {}
    for digest in digests:
        version = r.hgetall(keys.version(digest))
        assert FIELDS - set(version) <= (set() if indexed else {b"row"}), digest
        parts = [
            zstandard.decompress(version[b"manifest"]),
            version[b"serving"],
            version[b"forest"],
            zstandard.decompress(version[b"ubj"]),
        ]
        assert version[b"parts"] == b"".join(hashlib.sha256(part).digest() for part in parts)
        numbers.setdefault(version[b"name"].decode(), {})[version[b"number"].decode()] = digest
    assert {name.decode() for name in r.zrange(keys.models, 0, -1)} == set(numbers)
    for key in (key for key in found if key.startswith("model:")):
        model = {number.decode(): digest.decode() for number, digest in r.hgetall(prefix + key).items()}
        last = int(model.pop("last"))
        assert model == numbers.get(key.removeprefix("model:"), {})
        assert last >= max(map(int, model), default=0)
    _check_index(r, keys, found, digests, indexed=indexed)
    _check_releases(client, keys, found, digests)


def _check_index(r: Any, keys: Keys, found: set[str], digests: set[str], *, indexed: bool) -> None:
    rows = int(r.hget(keys.index, "rows") or 0)
    free = [int(row) for row in r.lrange(keys.index_free, 0, -1)]
    assert len(set(free)) == len(free)
    column = r.get(keys.column("digest")) or b""
    assert len(column) == 32 * rows
    held = {row: column[32 * row : 32 * row + 32].hex() for row in range(rows)}
    assert {row for row, digest in held.items() if digest == "0" * 64} == set(free)
    used = {row: digest for row, digest in held.items() if row not in free}
    assert len(set(used.values())) == len(used)
    assert set(used.values()) == digests if indexed else set(used.values()) <= digests
    tagged: dict[str, set[int]] = {}
    metrics: dict[str, int] = {}
    for row, digest in used.items():
        assert int(r.hget(keys.version(digest), "row")) == row
        (created,) = struct.unpack_from("<d", r.get(keys.column("created")), 8 * row)
        assert created == int(r.hget(keys.version(digest), "created"))
        for key, value in r.hgetall(keys.tags(digest)).items():
            tagged.setdefault(key.decode(), set()).add(row)
            if value:
                tagged.setdefault(f"{key.decode()}={value.decode()}", set()).add(row)
    for key in (key for key in found if key.startswith("metric:")):
        cells = r.get(keys._key(key)).ljust(8 * rows, b"\0")
        filled = {row for row in range(rows) if cells[8 * row : 8 * row + 8] != bytes(8)}
        assert filled <= set(used)
        metrics[key.removeprefix("metric:")] = len(filled)
    assert {name.decode(): int(count) for name, count in r.hgetall(keys.index_metrics).items()} == metrics
    for key in (key for key in found if key.startswith("tags:")):
        assert key.removeprefix("tags:") in digests, f"{key} is of no version"
    there = {key.removeprefix("tagged:") for key in found if key.startswith("tagged:")}
    assert {tag: {int(row) for row in r.smembers(keys.tagged(tag))} for tag in there} == tagged
    assert {tag.decode(): int(n) for tag, n in r.hgetall(keys.index_tags).items()} == {
        tag: len(members) for tag, members in tagged.items()
    }


def _check_releases(client: redis.Redis, keys: Keys, found: set[str], digests: set[str]) -> None:
    releases = Releases(client, keys)
    current = releases.current()
    if current is not None:
        assert set(releases.get(current.id).aliases.values()) <= digests
        newest = releases.history(1)[0]
        assert (newest.id, newest.number, newest.parent) == (current.id, current.number, current.parent)
    for release, _ in releases.candidates():
        assert set(Releases(client, keys).get(release).aliases.values()) <= digests
    for key in (key for key in found if key.startswith("release:")):
        # Whatever is there can be read: its bases are.
        Releases(client, keys).get(key.removeprefix("release:"))


def essence(client: redis.Redis, keys: Keys) -> dict[str, Any]:
    """What a store holds, without its times and row numbers: for comparing what two ways lead to."""
    r = cast(Any, client)
    releases = Releases(client, keys)
    current = releases.current()
    aliases: Aliases = releases.get(current.id).aliases if current is not None else {}
    prefix = keys._key("")
    return {
        "models": {key.decode().removeprefix(prefix): r.hgetall(key) for key in r.scan_iter(f"{prefix}model:*")},
        "tags": {key.decode().removeprefix(prefix): r.hgetall(key) for key in r.scan_iter(f"{prefix}tags:*")},
        "releases": {key.decode().removeprefix(prefix) for key in r.scan_iter(f"{prefix}release:*")},
        "candidates": {release for release, _ in releases.candidates()},
        "in force": (current.id, current.number, current.parent) if current is not None else None,
        "aliases": dict(aliases),
        "history": [(switch.number, switch.id, switch.parent, switch.who, switch.why) for switch in releases.history()],
        "imports": r.zcard(keys.imports) + r.zcard(keys.pins),
    }
