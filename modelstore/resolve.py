"""From a reference to a version's digest: reads what `modelstore.store` and `modelstore.releases` keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis

from modelstore.errors import NotFound
from modelstore.names import LATEST, VersionRef
from modelstore.releases import Releases
from streams.keys import Keys


def resolve(client: redis.Redis, keys: Keys, ref: VersionRef) -> str:
    """The digest that a reference means; see `modelstore.names` for the forms.

    Raises:
        NotFound: there is no such version, or several digests begin so.
    """
    if ref.name is None:
        low, high = beginning(ref.prefix or "")
        found = cast(list[bytes], client.zrangebylex(keys.versions, low, high, 0, 2))
        return _only(ref, [digest.decode() for digest in found])
    name = str(ref.name)
    if ref.alias is not None and ref.alias != LATEST:
        return _aliased(client, keys, name, ref.alias)
    fields = cast(dict[bytes, bytes], client.hgetall(keys.model(name)))
    numbers = {int(number): digest.decode() for number, digest in fields.items() if number != b"last"}
    if not numbers:
        raise NotFound(f"the store holds no version of {name}; `red10 model list` shows what it holds")
    if ref.prefix is not None:
        return _only(ref, [digest for digest in numbers.values() if digest.startswith(ref.prefix)])
    number = max(numbers) if ref.number is None else ref.number
    if number not in numbers:
        raise NotFound(f"{name} has no version {number}; it has {ranges(sorted(numbers))}")
    return numbers[number]


def beginning(prefix: str) -> tuple[bytes, bytes]:
    """Bounds for ZRANGEBYLEX of all members that begin with `prefix`: no byte of UTF-8 is 255."""
    return b"[" + prefix.encode(), b"(" + prefix.encode() + b"\xff"


def ranges(numbers: Sequence[int]) -> str:
    """`1-3, 5` for the sorted numbers 1, 2, 3, 5."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def _aliased(client: redis.Redis, keys: Keys, name: str, alias: str) -> str:
    releases = Releases(client, keys)
    current = releases.current()
    digest = releases.get(current.id).aliases.get((name, alias)) if current is not None else None
    if digest is not None:
        return digest
    if client.zscore(keys.models, name) is None:
        raise NotFound(f"the store holds no version of {name}; `red10 model list` shows what it holds")
    lacks = f"{name}@{alias}: there is no release yet"
    if current is not None:
        lacks = f"release {current.number} has no {name}@{alias}"
    raise NotFound(f"{lacks}; write {name}@{LATEST} for the newest version")


def _only(ref: VersionRef, found: Sequence[str]) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"the store holds no version {ref}; `red10 model list` shows what it holds")
    raise NotFound(f"{ref} means several versions, such as {found[0]} and {found[1]}: write more digits")
