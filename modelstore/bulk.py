"""What scorers need of thousands of versions, read as fast as Redis gives it.

redis-py's pipeline spends more time on making requests than Redis on answering them, and leaves Redis idle while the
answers are worked on. Here requests are put together from one template, two of them are always under way, and answers
are read in a thread while those before are worked on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, cast

import redis

from modelstore.read_ahead import read_ahead
from streams.keys import Keys

#: Versions per request: about 1.6 MB of forests of 100 trees.
CHUNK = 200
#: Answers to so many requests are read before they are wanted.
AHEAD = 2
#: The fields that are read, in the order of `ServingBlobs`.
FIELDS = ("serving", "forest", "parts", "name", "created")


class ServingBlobs(NamedTuple):
    """What a scorer reads of one version, unchecked: see `modelstore.version.check_parts`."""

    serving: bytes
    forest: bytes
    parts: bytes
    name: str
    created_ms: int


def read_serving(client: redis.Redis, keys: Keys, digests: Sequence[str]) -> Iterator[ServingBlobs | None]:
    """What scorers need of many versions, in their order; `None` for one that is not there or lacks a field.

    Nothing is sent before the first one is asked for. Whoever stops early drops the connection.

    Raises:
        redis.RedisError: as the driver raises it.
    """
    return chain.from_iterable(read_ahead(_answers(client, keys, digests), AHEAD))


def _answers(client: redis.Redis, keys: Keys, digests: Sequence[str]) -> Generator[list[ServingBlobs | None]]:
    """The same, a request at a time."""
    if not digests:
        return
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    try:
        waiting = 0
        for at in range(0, len(digests), CHUNK):
            part = digests[at : at + CHUNK]
            connection.send_packed_command([b"".join(_request(keys.version(digest)) for digest in part)])
            if waiting:
                yield [_blobs(connection.read_response()) for _ in range(waiting)]
            waiting = len(part)
        yield [_blobs(connection.read_response()) for _ in range(waiting)]
    except BaseException:
        # Answers that were not read would be taken for those to the next request.
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _bulk(text: str) -> bytes:
    raw = text.encode()
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


_HEAD = b"*%d\r\n" % (2 + len(FIELDS)) + _bulk("HMGET")
_TAIL = b"".join(map(_bulk, FIELDS))


def _request(key: str) -> bytes:
    return _HEAD + _bulk(key) + _TAIL


def _blobs(reply: object) -> ServingBlobs | None:
    serving, forest, parts, name, created = cast(list[bytes | None], reply)
    if serving is None or forest is None or parts is None or name is None or created is None:
        return None
    return ServingBlobs(serving, forest, parts, name.decode(), int(created))
