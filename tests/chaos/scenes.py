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

from streams.assignment import assign
from streams.ids import StreamID
from streams.keys import PartitionKeys
from streams.tenant import Tenant
from tests.chaos.checker import Verdict, check
from tests.chaos.crew import Child
from tests.chaos.feed import FeedTick, feeds
from tests.chaos.stage import TENANT, Stage
from tests.workers import all_partitions, caught_up

#: Stands in a commit, and in nothing else that a worker at work sends.
_COMMIT = b"\r\nscorers\r\n"
_HEARTBEAT = b"ZREMRANGEBYSCORE"
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
        token = _owner(client, tenant)
        _at_work(stage, tenant, heir)
        stage.until(lambda: _owner(client, tenant) in assign(1, _names(client, tenant)).values(), "it is shared out")
        owner, other = (first, heir) if _owner(client, tenant) == token else (heir, first)
        pid = owner.pause()
        held = other.gate.hold(_COMMIT)
        _append(client, keys, ticks[100:200])
        assert held.wait(30), "the heir takes over and commits"
        journal = stage.directory / f"{owner.name}.journal"
        before = journal.read_bytes().count(b"commit")
        # What tells it that its lease is lost comes late.
        heartbeat = owner.gate.hold(_HEARTBEAT)
        owner.wake(pid)
        stage.until(lambda: journal.read_bytes().count(b"commit") > before, "the zombie has tried to commit")
        held.let_go()
        heartbeat.let_go()
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
        client.xdel(keys.ticks, *written)
        held.let_go()
        _append(client, keys, ticks[200:])
        return _done(stage, tenant, client)


def reply_lost(binary: str, mutant: str | None) -> Verdict:
    """A request for training is posted, and its reply is lost."""
    with Stage(binary, partitions=1) as stage, stage.streams.client() as client:
        tenant = stage.open()
        stage.crew.children.append(stage.worker("trainer", "trainer", "trainer"))
        poster = stage.child("poster", "poster", [])
        poster.argv = ["tests.chaos.poster", poster.gate.url, TENANT, "P0.0:1s", "one", *([mutant] if mutant else [])]
        poster.start()
        assert poster.gate.drop_reply(20, (b"XADD\r\n",)), "the poster posts"
        assert poster.process is not None
        poster.process.wait(20)
        stage.until(lambda: client.xlen(tenant.keys.results) == client.xlen(tenant.keys.requests), "all is answered")
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
            stage.until(lambda: all(_passed(client, keys) for keys in all_partitions(tenant)), "everything is scored")
        for child in stage.crew.of("worker", "tap"):
            child.stop()
        return check(stage.gather(tenant, each))


def _fields(tick: FeedTick) -> dict[Any, Any]:
    return {"symbol": tick.symbol, "price": repr(tick.price), "size": repr(tick.size), "ts": str(tick.ts)}


def _owner(client: redis.Redis, tenant: Tenant) -> str:
    """The worker that holds the lease of the one partition."""
    token: Any = client.get(all_partitions(tenant)[0].lease) or b""
    return str(token.decode().partition("/")[0])


def _names(client: redis.Redis, tenant: Tenant) -> list[str]:
    members: Any = client.zrange(tenant.keys.members, 0, -1)
    return sorted(member.decode() for member in members)


def _passed(client: redis.Redis, keys: PartitionKeys) -> bool:
    """Whether scorers and tap are past all that is left of the input."""
    last: Any = client.xrevrange(keys.ticks, count=1)
    groups: Any = client.xinfo_groups(keys.ticks)
    done = {StreamID.parse(group["last-delivered-id"]) for group in groups}
    return not last or (len(groups) == 2 and min(done) >= StreamID.parse(last[0][0]))


#: By the mutant that a scene shows up.
SCENES: dict[str, Callable[[str, str | None], Verdict]] = {
    "no_fence": zombie,
    "no_anchor": tail_lost,
    "retries": reply_lost,
    "greedy_trim": backlog,
}
