"""A Redis that refuses for a while costs time and no more: one line in the log, a count, no loss, nothing twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
import redis.asyncio

from consumers.partition import PartitionTask
from streams.append import append
from streams.clients import error_code
from streams.columns import Ticks
from streams.exchange import run
from streams.numbering import Numbering
from streams.publish import group_ticks
from tests.conftest import binary_of
from tests.consumers.test_partition import (
    SIZED,
    TOKEN,
    calm,
    done,
    fill,
    made,
    make_task,
    running,
    until,
    version,
    written,
)
from tests.consumers.test_scorer import HOME, KEYS
from tests.servers import Server, entries

__all__ = ["made", "version"]


def _ignore(reply: object) -> None:
    """For what is done for its effect."""


def refuse(client: redis.Redis, server: Server, code: str) -> Callable[[], None]:
    """Have Redis refuse writes; how to lift that."""
    if code == "NOREPLICAS":
        client.config_set("min-replicas-to-write", 1)
        return lambda: _ignore(client.config_set("min-replicas-to-write", 0))
    if code == "READONLY":
        client.replicaof("127.0.0.1", "1")
        return lambda: _ignore(client.replicaof("NO", "ONE"))
    # A snapshot cannot be written where a directory lies. (Another test may have had this server write one.)
    (server.directory / "dump.rdb").unlink(missing_ok=True)
    (server.directory / "dump.rdb").mkdir()
    client.config_set("save", "3600 1000000")
    client.bgsave()
    while client.info("persistence")["rdb_last_bgsave_status"] != "err":
        time.sleep(0.01)

    def lift() -> None:
        (server.directory / "dump.rdb").rmdir()
        client.config_set("save", "")

    return lift


def waits(task: PartitionTask) -> float:
    """How many tries to commit were refused."""
    labelled: Any = task._metrics._commits.labels(KEYS.ticks, "WAIT")
    return float(labelled._value.get())


@pytest.mark.parametrize("code", ["NOREPLICAS", "READONLY", "MISCONF"])
async def test_a_commit_that_is_refused_is_made_later_and_once(
    server: Server,
    client: redis.Redis,
    made: Callable[[], redis.asyncio.Redis],
    version: str,
    caplog: pytest.LogCaptureFixture,
    code: str,
) -> None:
    fill(client, 60)
    expected = await calm(client, made(), version)
    client.set(KEYS.lease, TOKEN)
    lift = refuse(client, server, code)
    task = make_task(made(), version, spec=SIZED)
    try:
        with caplog.at_level(logging.WARNING):
            async with running(task):
                await until(lambda: waits(task) >= 3, "some tries are refused")
                before = written(client)
                lift()
                await until(lambda: done(client), "everything is committed")
    finally:
        client.replicaof("NO", "ONE")
    assert not any(before.values()), "nothing was written meanwhile"
    assert written(client) == expected
    [line] = [record.message for record in caplog.records if "waiting to commit" in record.message]
    assert code in line or {"READONLY": "read only", "NOREPLICAS": "replicas", "MISCONF": "RDB"}[code] in line


@pytest.mark.parametrize("code", ["NOREPLICAS", "READONLY", "MISCONF"])
def test_a_publisher_that_is_refused_appends_later_and_once(
    server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    group = group_ticks(Ticks.from_rows([(HOME[0], 1.0 + at, 0.0, at) for at in range(5)]), lambda symbol: KEYS)
    lift = refuse(client, server, code)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert not client.exists(KEYS.ticks)
        if len(pauses) == 9:
            lift()

    try:
        with caplog.at_level(logging.WARNING):
            run(client, append(group, Numbering.of(None), server.url, patience_s=60, blocks="never"), sleep)
    finally:
        client.replicaof("NO", "ONE")
    assert [float(fields[b"price"]) for _, fields in entries(client, KEYS.ticks)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(pauses) == 9
    assert max(pauses) <= 2.0, "the back-off is capped"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", ["embedded", "system"])
def test_a_redis_that_loads_its_file_is_waited_for(kind: str) -> None:
    server = Server(binary_of(kind), ("--appendonly", "yes", "--appendfsync", "no")).start()
    with ThreadPoolExecutor(1) as pool, server.client() as client:
        try:
            with client.pipeline(transaction=False) as pipe:
                for at in range(30_000):
                    pipe.set(f"ballast:{at}", "x")
                pipe.execute()
            server.kill()
            # While it loads it answers after every thousand commands or so.
            server.options = (*server.options, "--key-load-delay", "60")
            starting = pool.submit(server.start)
            group = group_ticks(Ticks.from_rows([(HOME[0], 1.0, 0.0, 1)]), lambda symbol: KEYS)
            seen: list[str] = []

            def look(seconds: float) -> None:
                try:
                    client.ping()
                except redis.RedisError as error:
                    seen.append(error_code(error))
                time.sleep(0.02)

            run(client, append(group, Numbering.of(None), server.url, patience_s=60), look)
            starting.result()
            assert client.xlen(KEYS.ticks) == 1
            assert "LOADING" in seen
        finally:
            server.close()
