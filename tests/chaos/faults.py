"""Doing what the schedule says: each kind of fault is one method, and is counted only if it hit somebody."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import redis

from streams.keys import SCORERS, Keys
from tests.chaos.crew import Child, Crew
from tests.chaos.pipeline import LEASE_MS, SCRATCH_PARTITIONS
from tests.chaos.schedule import Fault
from tests.servers import Server

#: Longest that a fault tries to find somebody to hit, s.
_PATIENCE_S = 20.0
#: Longest that the scratch tenant may take to go on after something of it was deleted, s; all else goes on as well.
_GOES_ON_S = 40.0


class Faults:
    """Does faults, each in a thread of the caller's.

    Attributes:
        done: kind -> how often.
        complaints: what did not go on by itself.
    """

    def __init__(self, crew: Crew, streams: Server, scratch: str) -> None:
        self.done: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._crew = crew
        self._streams = streams
        self._scratch = Keys(scratch)
        #: Who holds it may count on a Redis that runs.
        self._redis = threading.Lock()
        self._settled = threading.Event()

    def do(self, fault: Fault) -> None:
        """Do one fault and count it."""
        kinds: dict[str, Callable[[random.Random], bool]] = {
            "kill_worker": lambda choose: self._kill(choose, "worker"),
            "kill_trainer": lambda choose: self._kill(choose, "trainer"),
            "kill_publisher": lambda choose: self._kill(choose, "publisher"),
            "kill_tap": lambda choose: self._kill(choose, "tap"),
            "pause_worker": self._pause,
            "client_kill": self._client_kill,
            "drop_reply": self._drop_reply,
            "cut": self._cut,
            "freeze": self._freeze,
            "kill_redis": self._kill_redis,
            "maxmemory": self._maxmemory,
            "delete_stream": self._delete_stream,
            "destroy_group": self._destroy_group,
            "delete_state": self._delete_state,
        }
        choose = random.Random(fault.draw)
        until = time.monotonic() + _PATIENCE_S
        while not self._settled.is_set():
            if kinds[fault.kind](choose):
                self.done[fault.kind] += 1
                return
            if time.monotonic() > until:
                return
            time.sleep(0.1)

    def settle(self) -> None:
        """No further fault begins."""
        self._settled.set()

    def _victim(self, choose: random.Random, *roles: str) -> Child | None:
        there = [child for child in self._crew.of(*roles) if child.process is not None]
        return choose.choice(there) if there else None

    # Processes

    def _kill(self, choose: random.Random, role: str) -> bool:
        victim = self._victim(choose, role)
        return victim is not None and victim.kill()

    def _pause(self, choose: random.Random) -> bool:
        victim = self._victim(choose, "worker")
        if victim is None or victim.paused:
            return False
        pid = victim.pause()
        if pid is None:
            return False
        time.sleep(LEASE_MS / 1000 * (1.3 + choose.random()))
        victim.wake(pid)
        return True

    # The network

    def _drop_reply(self, choose: random.Random) -> bool:
        victim = self._victim(choose, "worker", "worker", "publisher", "trainer", "tap")
        words = (b"EVALSHA\r\n",) if victim is not None and victim.role == "worker" else None
        if victim is None:
            return False
        return victim.gate.drop_reply(3.0, words) if words is not None else victim.gate.drop_reply(3.0)

    def _cut(self, choose: random.Random) -> bool:
        victim = self._victim(choose, "worker", "publisher", "trainer", "tap", "scratch")
        return victim is not None and victim.gate.cut(choose) > 0

    def _freeze(self, choose: random.Random) -> bool:
        victim = self._victim(choose, "worker", "publisher", "trainer", "tap")
        if victim is None:
            return False
        victim.gate.freeze()
        time.sleep(0.3 + 2.2 * choose.random())
        if choose.random() < 0.5:
            victim.gate.cut()
        victim.gate.thaw()
        return True

    # Redis

    def _client_kill(self, choose: random.Random) -> bool:
        def kill(client: redis.Redis) -> bool:
            mine = client.client_id()
            ids = [int(each["id"]) for each in client.client_list() if int(each["id"]) != mine]
            killed = [client.client_kill_filter(_id=str(one)) for one in choose.sample(ids, -(-len(ids) // 2))]
            return any(killed)

        return self._ask(kill)

    def _kill_redis(self, choose: random.Random) -> bool:
        with self._redis:
            self._streams.kill()
            time.sleep(0.8 * choose.random())
            self._streams.start()
        return True

    def _maxmemory(self, choose: random.Random) -> bool:
        def refusals(client: redis.Redis) -> int:
            stats: Any = client.info("errorstats").get("errorstat_OOM", {"count": 0})
            return int(stats["count"])

        def fill(client: redis.Redis) -> bool:
            before, used = refusals(client), client.info("memory")["used_memory"]
            client.config_set("maxmemory", int(used) - 1)
            try:
                time.sleep(0.5 + 1.5 * choose.random())
                return refusals(client) > before
            finally:
                client.config_set("maxmemory", 0)

        with self._redis:
            return self._ask(fill)

    def _ask(self, work: Callable[[redis.Redis], bool]) -> bool:
        with self._streams.client() as client:
            try:
                return work(client)
            except redis.RedisError:
                return False

    # The scratch tenant

    def _delete_stream(self, choose: random.Random) -> bool:
        at = choose.randrange(SCRATCH_PARTITIONS)
        return self._break(at, lambda client: bool(client.delete(self._scratch.partition(at).ticks)))

    def _destroy_group(self, choose: random.Random) -> bool:
        at = choose.randrange(SCRATCH_PARTITIONS)
        return self._break(at, lambda client: bool(client.xgroup_destroy(self._scratch.partition(at).ticks, SCORERS)))

    def _delete_state(self, choose: random.Random) -> bool:
        at = choose.randrange(SCRATCH_PARTITIONS)
        return self._break(at, lambda client: bool(client.delete(self._scratch.partition(at).state)))

    def _break(self, partition: int, work: Callable[[redis.Redis], bool]) -> bool:
        """Take something away from the scratch tenant, and wait until it has consumed what came after that."""
        with self._redis:
            if not self._ask(work):
                return False
        since = time.time() * 1000
        until = time.monotonic() + _GOES_ON_S

        def went_on(client: redis.Redis) -> bool:
            keys = self._scratch.partition(partition)
            checkpoint: Any = client.hget(keys.state, "checkpoint") or b"0-0"
            groups: Any = client.xinfo_groups(keys.ticks)
            return int(checkpoint.split(b"-")[0]) > since and any(each["name"] == SCORERS.encode() for each in groups)

        while not self._ask(went_on):
            if time.monotonic() > until:
                self.complaints.append(f"the scratch tenant did not go on in partition {partition}")
                return True
            time.sleep(0.1)
        return True
