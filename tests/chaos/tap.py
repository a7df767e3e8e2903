"""The tap: archives every input entry of a tenant to a file before it may be trimmed, and outlives its own death.

    python -m tests.chaos.tap URL TENANT PARTITIONS FILE

It is a consumer group that trimming waits for (`required_groups`). Where it stands is what the file has: it reads on
from there, appends, and only then moves the group's cursor. Killed in the midst of a record, it cuts that record off.

A record of the file: partition, id (two numbers), count of words, then each word's length and bytes; little-endian.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from streams.clients import connect
from streams.keys import Keys

GROUP = "tap"
#: Partition, milliseconds, sequence number; fields: name and value in turn, as they stand in the entry.
Archived = tuple[int, tuple[int, int], list[bytes]]

_HEAD = struct.Struct("<HQQH")
_WORD = struct.Struct("<I")
_COUNT = 300


def read_archive(path: Path) -> Iterator[tuple[Archived, int]]:
    """The whole records of a file, each with the offset behind it."""
    raw = path.read_bytes() if path.exists() else b""
    at = 0
    while at + _HEAD.size <= len(raw):
        partition, ms, seq, count = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        words = []
        for _ in range(count):
            if at + _WORD.size > len(raw):
                return
            (length,) = _WORD.unpack_from(raw, at)
            at += _WORD.size
            if at + length > len(raw):
                return
            words.append(raw[at : at + length])
            at += length
        yield (partition, (ms, seq), words), at


def packed(partition: int, entry: bytes, fields: list[bytes]) -> bytes:
    """One record."""
    ms, _, seq = entry.partition(b"-")
    words = b"".join(_WORD.pack(len(word)) + word for word in fields)
    return _HEAD.pack(partition, int(ms), int(seq), len(fields)) + words


def tap(url: str, tenant: str, partitions: int, path: Path) -> None:
    """Archive until killed."""
    after = dict.fromkeys(range(partitions), "0-0")
    whole = 0
    for (partition, (ms, seq), _), end in read_archive(path):
        after[partition], whole = f"{ms}-{seq}", end
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.ftruncate(file, whole)
    keys = {Keys(tenant).partition(at).ticks: at for at in range(partitions)}
    names: dict[bytes, int] = {key.encode(): at for key, at in keys.items()}
    client = connect(url, block_ms=100)
    client.set_response_callback("XREAD", lambda reply, **options: reply)
    while True:
        try:
            streams: dict[Any, Any] = {key: after[at] for key, at in keys.items()}
            reply: Any = client.xread(streams, count=_COUNT, block=100) or []
            for key, entries in reply:
                partition = names[key]
                os.write(file, b"".join(packed(partition, entry, fields) for entry, fields in entries))
                after[partition] = entries[-1][0].decode()
            for key, at in keys.items():
                if after[at] != "0-0":
                    client.xgroup_setid(key, GROUP, after[at])
        except (redis.RedisError, OSError):
            time.sleep(0.05)


if __name__ == "__main__":
    tap(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
