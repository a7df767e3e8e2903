"""The tags of versions: words and key=value pairs that people put on them, mutable, no part of a version's identity.

Owns, in the models role (`tag_version.lua`, `put_version.lua` and `remove_version.lua` write it):

    red10:{T}:tags:DIGEST  hash  key -> value, "" for a word

and keeps the index true to it in the same call. `deprecated` is a word like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import redis

from modelstore.errors import ModelStoreError, NotFound
from modelstore.index import index_arguments, index_keys, script
from modelstore.names import MAX_TAGS, check_tag_key, parse_tag
from streams.keys import Keys


class Tags:
    """Reads and changes tags. Driver errors come out as they are."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._script = script("tag_version.lua")

    def of(self, digests: Sequence[str]) -> list[dict[str, str]]:
        """The tags of versions, sorted by key."""
        with self._client.pipeline(transaction=False) as pipe:
            for digest in digests:
                pipe.hgetall(self._keys.tags(digest))
            found = cast(list[dict[bytes, bytes]], pipe.execute())
        return [dict(sorted((key.decode(), value.decode()) for key, value in tags.items())) for tags in found]

    def known(self) -> dict[str, int]:
        """Every tag that a version has, `KEY=VALUE` beside its `KEY`, and how many have it."""
        found = cast(dict[bytes, bytes], self._client.hgetall(self._keys.index_tags))
        return dict(sorted((tag.decode(), int(count)) for tag, count in found.items()))

    def change(self, digest: str, put: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Set and remove tags of one version in one step.

        Args:
            put: each `WORD` or `KEY=VALUE`; a key that is there gets the new value.
            remove: words and keys; those that are not there are passed over.

        Raises:
            BadName: one of them cannot be a tag.
            NotFound: the store does not hold the version.
            ModelStoreError: the version would have too many.
        """
        pairs = dict(parse_tag(text) for text in put)
        gone = [check_tag_key(text) for text in remove]
        keys = index_keys(self._keys, digest)
        argv = [*index_arguments(self._keys, digest), str(MAX_TAGS), str(len(gone)), *gone]
        argv += [word for pair in pairs.items() for word in pair]
        word, count = cast(tuple[bytes, int], self._client.eval(self._script, len(keys), *keys, *cast(list[str], argv)))
        if word == b"MISSING":
            raise NotFound(f"the store holds no version {digest[:12]}; `red10 model list` shows what it holds")
        if word == b"FULL":
            raise ModelStoreError(
                f"version {digest[:12]} would have {count} tags, {MAX_TAGS} are possible: remove some"
            )


def tag_texts(tags: Mapping[str, str]) -> list[str]:
    """Tags as people write them."""
    return [f"{key}={value}" if value else key for key, value in tags.items()]
