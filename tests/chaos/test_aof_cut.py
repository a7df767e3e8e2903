"""A commit survives a cut append-only file whole or not at all: state, outputs, cursor and trim, at every byte.

A real commit is made on a real server with `appendfsync always`. Its file is cut within the last transaction, and a
server is started on what is left: cut at the ends of commands and at some bytes between, with RED10_CHAOS=long at all.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from consumers.recovery import recover
from consumers.scorer_process import make_spec
from modelstore.loaded import LoadedRelease
from streams.clients import connect_async, read_raw
from streams.codec import decode
from streams.commit import Answer, Commit, Committer, Retention
from streams.keys import PartitionKeys
from streams.settings import Settings
from streams.tenant import open_tenant
from tests.chaos.feed import feeds
from tests.chaos.pipeline import SETTINGS
from tests.conftest import binary_of
from tests.servers import Server

LONG = os.environ.get("RED10_CHAOS") == "long"

pytestmark = pytest.mark.timeout(3600 if LONG else 120)

OPTIONS = ("--appendonly", "yes", "--appendfsync", "always", "--aof-load-truncated", "yes")
#: Bytes between two cuts in the short form.
STEP = 37


@dataclass
class Written:
    """A data directory whose last transaction is a commit.

    Attributes:
        file: the append-only file, within the directory.
        begin, end: the bytes of the transaction.
        before, after: what the server held.
    """

    binary: str
    directory: Path
    file: Path
    begin: int
    end: int
    before: dict[bytes, Any]
    after: dict[bytes, Any]


def contents(client: redis.Redis) -> dict[bytes, Any]:
    """Every key by value, and the cursors of groups."""
    found: dict[bytes, Any] = {}
    for key in cast(list[bytes], client.keys("*")):
        match client.type(key):
            case b"stream":
                groups: Any = client.xinfo_groups(key)
                found[key] = (client.xrange(key), [(group["name"], group["last-delivered-id"]) for group in groups])
            case b"hash":
                found[key] = client.hgetall(key)
            case b"zset":
                found[key] = client.zrange(key, 0, -1, withscores=True)
            case _:
                found[key] = client.get(key)
    return found


def last_file(directory: Path) -> Path:
    """The append-only file that is written to: one file before 7.0, the last increment since."""
    [file] = [*directory.glob("appendonly.aof"), *directory.glob("appendonlydir/*.incr.aof")]
    return file


async def commit(url: str, keys: PartitionKeys, count: int, version: str) -> None:
    """Read, compute and commit one batch, as a partition's owner does."""
    settings = Settings(**cast(dict[str, Any], {**SETTINGS, "partitions": 1, "tenant": keys.tenant}))
    client = read_raw(connect_async(url))
    with redis.Redis.from_url(url, protocol=2) as plain:
        tenant = open_tenant(plain, settings)

    async def no_release(release: str) -> LoadedRelease | None:
        return None

    scorer = (await recover(client, keys, "token", make_spec(tenant, settings), no_release)).scorer
    streams: dict[Any, Any] = {keys.ticks: str(scorer.state.checkpoint)}
    reply: Any = await client.xread(streams, count=count)
    after, counter = scorer.state.anchor, scorer.state.counter
    computed = scorer.compute(decode(reply[0][1]), {})
    work = Commit(
        counter, after, computed.last, computed.checkpoint, scorer.state.entries, computed.last, computed.state,
        computed.outputs,
    )  # fmt: skip
    committer = Committer(client, keys, server=version, retention=Retention(1000))
    answer, detail = await committer.commit("token", work)
    assert answer is Answer.OK, detail
    assert {key.partition("}:")[2] for key, _ in computed.outputs} >= {"bars:P0.0:1s", "dead"}
    await client.aclose()


@pytest.fixture(params=["embedded", "system"])
def written(request: pytest.FixtureRequest) -> Iterator[Written]:
    server = Server(binary_of(request.param), OPTIONS).start()
    keys = PartitionKeys("cut", 0)
    with server.client() as client:
        version = str(client.info("server")["redis_version"])
        client.set(keys.lease, "token")
        with client.pipeline(transaction=False) as pipe:
            for number, tick in enumerate(feeds(3, 100, publishers=1, symbols=1)[0].ticks()):
                price = "none" if number % 10 == 0 else repr(tick.price)
                pipe.xadd(keys.ticks, {"symbol": tick.symbol, "price": price, "size": tick.size, "ts": tick.ts})
            pipe.execute()
        asyncio.run(commit(server.url, keys, 70, version))
        before, begin = contents(client), last_file(server.directory).stat().st_size
        asyncio.run(commit(server.url, keys, 11, version))
        after, end = contents(client), last_file(server.directory).stat().st_size
    server.kill()
    yield Written(server.binary, server.directory, last_file(server.directory), begin, end, before, after)
    server.close()


@contextmanager
def started(written: Written, until: int) -> Iterator[redis.Redis]:
    """A client of a server on a copy of the directory whose file ends at a byte."""
    server = Server(written.binary, OPTIONS)
    shutil.copytree(
        written.directory, server.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("redis.sock", "*.log")
    )
    os.truncate(server.directory / written.file.relative_to(written.directory), until)
    try:
        server.start()
        with server.client() as client:
            yield client
    finally:
        server.close()


def test_a_file_cut_in_a_commit_holds_all_of_it_or_nothing(written: Written) -> None:
    changed = {key.rpartition(b":")[2] for key in written.after if written.after[key] != written.before.get(key)}
    assert {b"state", b"ticks", b"1s", b"dead"} <= changed, "the commit changes state, input and outputs"
    for offset in offsets(written):
        with started(written, offset) as client:
            expected = written.after if offset == written.end else written.before
            assert contents(client) == expected, (
                f"cut at byte {offset - written.begin} of {written.end - written.begin}"
            )


def offsets(written: Written) -> list[int]:
    """Where to cut: around both ends, around the ends of commands, and at some bytes between."""
    every = range(written.begin, written.end + 1)
    if LONG:
        return list(every)
    whole = written.file.read_bytes()
    assert len(whole) == written.end
    ends = {at for at in every if whole[at - 2 : at] == b"\r\n" and whole[at : at + 1] == b"*"}
    return sorted({*every[::STEP], *every[:2], *every[-2:], *ends, *(at - 1 for at in ends if at > written.begin)})
