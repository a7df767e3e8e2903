"""Scenes: one fault each, at the one moment where a missing safety shows. The checker judges them like any run.

Chance would find these moments in a long run; here they are made, by holding a request at the proxy. Without a mutant a
scene must be found sound, with its mutant not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import redis

from consumers.requests import post_request
from streams.keys import PartitionKeys
from streams.records import TrainingRequest
from streams.tenant import Tenant
from tests.chaos.checker import Verdict, check
from tests.chaos.crew import Child
from tests.chaos.feed import Feed, FeedTick, feeds
from tests.chaos.stage import Stage
from tests.workers import all_partitions, caught_up

_COMMIT = b"EVALSHA\r\n"
#: A worker in a scene waits for input in one read, which a pause leaves standing.
_PATIENT = {"partitions": 1, "block_ms": 5000}


def _append(client: redis.Redis, keys: PartitionKeys, ticks: Iterable[FeedTick]) -> list[bytes]:
    """Write ticks as single entries, in one step, so that they are read together; their ids."""
    with client.pipeline(transaction=True) as pipe:
        for tick in ticks:
            pipe.xadd(keys.ticks, _fields(tick))
        return cast(list[bytes], pipe.execute())


def _at_work(stage: Stage, tenant: Tenant, *workers: Child) -> None:
    """Start workers one after the other, until each is a member."""
    for worker in workers:
        already = stage.members(tenant)
        stage.crew.children.append(worker)
        stage.until(partial(_more, stage, tenant, already), f"{worker.name} is at work", 40)


def _more(stage: Stage, tenant: Tenant, than: int) -> bool:
    return stage.members(tenant) > than


def _done(stage: Stage, tenant: Tenant, client: redis.Redis) -> Verdict:
    """Let everything be scored, stop the workers, and judge; the streams are believed."""
    stage.until(lambda: caught_up(client, tenant), "everything is scored")
    for worker in stage.crew.of("worker", "trainer"):
        worker.stop()
    return check(stage.gather(tenant, None))


def zombie(binary: str, mutant: str | None) -> Verdict:
    """A worker is stopped while it waits for input, another takes its partition, and the first wakes and commits."""
    ticks = list(feeds(1, 1200)[0].ticks())
    with Stage(binary, mutant=mutant, **_PATIENT) as stage, stage.streams.client() as client:
        tenant = stage.open()
        [keys] = all_partitions(tenant)
        first, heir = stage.worker("first"), stage.worker("heir")
        _at_work(stage, tenant, first)
        _append(client, keys, ticks[:100])
        stage.until(lambda: caught_up(client, tenant), "the first piece is scored")
        token = client.get(keys.lease)
        _at_work(stage, tenant, heir)
        stage.until(lambda: client.get(keys.lease) is not None, "somebody owns the partition")
        owner, other = (first, heir) if client.get(keys.lease) == token else (heir, first)
        pid = owner.pause()
        held = other.gate.hold(_COMMIT)
        _append(client, keys, ticks[100:200])
        assert held.wait(30), "the heir takes over and commits"
        owner.wake(pid)
        journal = stage.directory / f"{owner.name}.journal"
        before = journal.read_bytes().count(b"commit")
        stage.until(lambda: journal.read_bytes().count(b"commit") > before, "the zombie has tried to commit")
        held.let_go()
        _append(client, keys, ticks[200:])
        return _done(stage, tenant, client)


def tail_lost(binary: str, mutant: str | None) -> Verdict:
    """The input loses its end, as by a fail-over, while the commit of what was read of it is under way."""
    ticks = list(feeds(2, 1200)[0].ticks())
    with Stage(binary, mutant=mutant, **_PATIENT) as stage, stage.streams.client() as client:
        tenant = stage.open()
        [keys] = all_partitions(tenant)
        worker = stage.worker("worker")
        _at_work(stage, tenant, worker)
        _append(client, keys, ticks[:100])
        stage.until(lambda: caught_up(client, tenant), "the first piece is scored")
        held = worker.gate.hold(_COMMIT)
        written = _append(client, keys, ticks[100:200])
        assert held.wait(30), "the worker commits"
        client.xdel(keys.ticks, *written[-50:])
        held.let_go()
        _append(client, keys, ticks[200:])
        return _done(stage, tenant, client)


def reply_lost(binary: str, mutant: str | None) -> Verdict:
    """A trainer's answer is carried out, and its reply is lost."""
    feed = Feed("feed", ("P0.0",), 3, 1200, "never", 100)
    with Stage(binary, mutant=mutant, **_PATIENT) as stage, stage.streams.client() as client:
        tenant = stage.open()
        [keys] = all_partitions(tenant)
        _append(client, keys, feed.ticks())
        trainer = stage.worker("trainer", "trainer", "trainer")
        stage.crew.children.append(trainer)
        _at_work(stage, tenant, stage.worker("worker"))
        stage.until(lambda: caught_up(client, tenant), "there are bars to train on")
        post_request(client, tenant.keys, TrainingRequest(series="P0.0:1s"))
        assert trainer.gate.drop_reply(40, (b"EXEC\r\n",)), "the trainer answers"
        stage.until(lambda: not _pending(client, tenant), "the request is acknowledged")
        stage.until(lambda: client.exists(tenant.keys.results), "the request is answered")
        time.sleep(0.5)  # for a second answer, which comes at once if it comes
        return _done(stage, tenant, client)


def backlog(binary: str, mutant: str | None) -> Verdict:
    """Nothing happens, but that workers are always behind: what is trimmed must have been read by all who need it."""
    each = feeds(4, 12_000, publishers=3)
    with Stage(binary, mutant=mutant, required_groups=("tap",), keep_ticks_s=0) as stage:
        tenant = stage.open()
        stage.crew.children.append(stage.tap(tenant))
        start = time.monotonic()
        stage.crew.children += [stage.publisher(feed, start, 2000) for feed in each]
        _at_work(stage, tenant, stage.worker("worker"))
        stage.until(lambda: not stage.crew.of("publisher"), "all is published", 40)
        with stage.streams.client() as client:
            stage.until(lambda: caught_up(client, tenant), "everything is scored")
            time.sleep(0.5)  # for the tap, which reads every 0.1 s
        for child in stage.crew.of("worker", "tap"):
            child.stop()
        return check(stage.gather(tenant, each))


def _fields(tick: FeedTick) -> dict[Any, Any]:
    return {"symbol": tick.symbol, "price": repr(tick.price), "size": repr(tick.size), "ts": str(tick.ts)}


def _pending(client: redis.Redis, tenant: Tenant) -> int:
    found: Any = client.xpending(tenant.keys.requests, "trainers")
    return int(found["pending"])


#: By the mutant that a scene shows up.
SCENES: dict[str, Callable[[str, str | None], Verdict]] = {
    "no_fence": zombie,
    "no_anchor": tail_lost,
    "retries": reply_lost,
    "greedy_trim": backlog,
}
