"""A chaos run: real workers, trainers and publishers, faults by schedule, then the checker.

The order is: start the crew and wait until it is at work; let the feeds go, and when the first models are in force the
faults; when the time is over, put all that is broken right, let the publishers come to their end, let the trainers
answer, wait until everything is consumed and archived, stop the workers, gather what is left behind, and judge it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from streams.keys import SCORERS, PartitionKeys
from streams.tenant import Tenant
from tests.chaos.checker import Verdict, check
from tests.chaos.evidence import entries, from_archive
from tests.chaos.faults import Faults
from tests.chaos.feed import BASE_NS, TICKS_PER_SECOND, Feed, feeds
from tests.chaos.pipeline import SCRATCH_PARTITIONS
from tests.chaos.poster import post
from tests.chaos.schedule import plan
from tests.chaos.stage import TENANT, HarnessError, Stage, binary
from tests.chaos.tap import GROUP
from tests.workers import all_partitions, caught_up

#: The tenant whose streams are deleted.
SCRATCH = "scratch"
#: Seconds of feed for what comes before the faults: bars for the first models, and training those.
TEACH_S = 8.0
#: Ticks per second of the publisher of the scratch tenant.
_SCRATCH_RATE = 100
#: What a worker says only if its input was changed under it, or it has a fault.
_ALARMS = ("lost entries around the checkpoint", "a new incarnation", "Traceback", "is gone:")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is like.

    Attributes:
        server: `6.2` or `7.0`.
        rate: ticks per second of all publishers together.
        mutant: what is broken in the workers on purpose.
        only: kinds of fault; `None` for all.
        settle_s: how long things may take to come to rest when the faults are over.
    """

    duration_s: float = 120.0
    seed: int = 7
    server: str = "6.2"
    workers: int = 3
    trainers: int = 2
    publishers: int = 4
    rate: float = 2500.0
    mutant: str | None = None
    only: tuple[str, ...] | None = None
    settle_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run; `as_json` is what `make chaos JSON=1` prints."""

    verdict: Verdict
    faults: dict[str, int]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "inputs": verdict.inputs,
            "outputs": verdict.outputs,
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "reordered": verdict.reordered,
            "wrong": verdict.wrong,
            "faults": dict(sorted(self.faults.items())),
            "seconds": round(self.seconds, 1),
        }


class Run(Stage):
    """One run on a stage of its own."""

    def __init__(self, options: Options) -> None:
        super().__init__(binary(options.server), mutant=options.mutant)
        self.options = options
        self.posted: list[str] = []
        ticks = int(options.rate * (options.duration_s + TEACH_S))
        self.feeds = feeds(options.seed, ticks, publishers=options.publishers)
        self._over = threading.Event()

    def settings(self, tenant: str = TENANT) -> dict[str, object]:
        """The scratch tenant has few partitions, so that each deletion hits; the other's input is trimmed soon."""
        if tenant == SCRATCH:
            return {**super().settings(tenant), "partitions": SCRATCH_PARTITIONS}
        return {**super().settings(tenant), "required_groups": (GROUP,), "keep_ticks_s": 1}

    # The whole of it

    def run(self, say: Callable[[str], None] = lambda text: None) -> Result:
        """Carry the run out.

        Raises:
            HarnessError: it could not be carried out.
        """
        began = time.monotonic()
        tenant, scratch = self.open(), self.open(SCRATCH)
        self._hire(tenant)
        self.until(lambda: self.members(tenant) >= self.options.workers, "the workers are there", 180)
        self.until(lambda: self.members(scratch) >= 1, "the scratch tenant's worker is there", 180)
        say(f"at work after {time.monotonic() - began:.1f} s")
        self._publish()
        self._teach(tenant)
        say(f"first models after {time.monotonic() - began:.1f} s")
        faults = self._disturb(tenant, say)
        say(f"faults are over after {time.monotonic() - began:.1f} s; letting things settle")
        complaints = self._settle(tenant, faults)
        say(f"settled after {time.monotonic() - began:.1f} s; checking")
        evidence = self.gather(tenant, self.feeds, self.posted)
        evidence.complaints = complaints + faults.complaints + self._alarms()
        verdict = check(evidence)
        if not verdict.good:
            verdict.found.append(self.crew.logs()[-6000:])
        return Result(verdict, dict(faults.done), time.monotonic() - began)

    def _hire(self, tenant: Tenant) -> None:
        self.crew.children += [
            self.tap(tenant),
            *(self.worker(f"worker{number}") for number in range(self.options.workers)),
            *(self.worker(f"trainer{number}", "trainer", "trainer") for number in range(self.options.trainers)),
            self.worker("scratch", "scratch", tenant=SCRATCH),
        ]

    def _publish(self) -> None:
        start, rate = time.monotonic() + 0.5, self.options.rate / len(self.feeds)
        endless = Feed("scratchfeed", ("S1", "S2", "S3", "S4"), self.options.seed, 999_999, "auto", 20)
        self.crew.children += [
            *(self.publisher(feed, start, rate) for feed in self.feeds),
            self.publisher(endless, start, _SCRATCH_RATE, SCRATCH, "scratch"),
        ]

    def _teach(self, tenant: Tenant) -> None:
        """Have the first models trained: on a busy machine they would come when all is over."""
        symbols = [symbol for feed in self.feeds for symbol in feed.symbols]
        asked, gate = 0.0, self.proxy.gate(self.socket)
        with self.streams.client() as client:

            def taught() -> bool:
                nonlocal asked
                if time.monotonic() - asked >= 1.0:
                    asked = time.monotonic()
                    self._post(gate.url, f"{symbols[len(self.posted) % len(symbols)]}:1s")
                return any(client.hget(keys.state, "release") for keys in all_partitions(tenant))

            self.until(taught, "the first models are in force", 60)

    # Disturbing and settling

    def _disturb(self, tenant: Tenant, say: Callable[[str], None]) -> Faults:
        faults = Faults(self.crew, self.streams, SCRATCH)
        schedule = plan(self.options.seed, self.options.duration_s)
        if self.options.only is not None:
            schedule = [fault for fault in schedule if fault.kind in self.options.only]
        began = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            asked = pool.submit(self._ask_for_more, tenant)
            futures = []
            for fault in schedule:
                time.sleep(max(0.0, began + fault.at - time.monotonic()))
                say(f"{time.monotonic() - began:6.1f} s {fault.kind}")
                futures.append(pool.submit(faults.do, fault))
            time.sleep(max(0.0, began + self.options.duration_s - time.monotonic()))
            for future in futures:
                future.result()
            self._over.set()
            asked.result()
        faults.settle()
        return faults

    def _ask_for_more(self, tenant: Tenant) -> None:
        """Ask for training, say the time, and write what is no tick, as plain clients would."""
        choose = random.Random(self.options.seed)
        began = time.monotonic()
        gate = self.proxy.gate(self.socket)
        while not self._over.wait(0.5):
            with suppress(redis.RedisError, OSError), self.streams.client() as client:
                if choose.random() < 0.4:
                    symbol = choose.choice([symbol for feed in self.feeds for symbol in feed.symbols])
                    self._post(gate.url, f"{symbol}:{choose.choice(['1s', '1s', '1s', '5s'])}")
                keys = choose.choice(all_partitions(tenant))
                step_ns = self.options.rate / self.options.publishers / TICKS_PER_SECOND / 5 * 1e9
                at = BASE_NS + int((time.monotonic() - began - 4) * step_ns)
                if choose.random() < 0.3 and at > BASE_NS:
                    client.xadd(keys.ticks, {"kind": "clock", "ts": str(at)})
                elif choose.random() < 0.3:
                    client.xadd(keys.ticks, {"symbol": "P0.0", "price": choose.choice(["x", "-1"]), "ts": str(at)})

    def _post(self, url: str, series: str) -> None:
        name = f"r{len(self.posted)}-{time.monotonic_ns()}"
        post(url, TENANT, series, name)
        self.posted.append(name)

    def _settle(self, tenant: Tenant, faults: Faults) -> list[str]:
        """Put all that is broken right, and wait until everything is at rest; what did not come to rest."""
        complaints = []
        for child in self.crew.children:
            child.gate.thaw()
            child.wake()
        with self.streams.client() as client, self.models.client() as models:
            client.config_set("maxmemory", 0)

            def rest(condition: Callable[[], bool], what: str) -> None:
                try:
                    self.until(condition, what, self.options.settle_s)
                except HarnessError as error:
                    complaints.append(str(error).partition("\n")[0])

            rest(lambda: not self.crew.of("publisher"), "all publishers have come to their end")
            rest(lambda: self._answered(client, tenant), "all training requests are answered")
            for trainer in self.crew.of("trainer"):
                trainer.stop()
            release = models.hget(tenant.keys.release_pointer, "id") or b""
            rest(lambda: self._in_force(client, tenant, release), "the last release is in force")
            rest(lambda: caught_up(client, tenant), "everything is scored")
            rest(lambda: self._archived(client, tenant), "everything is archived")
            stopped = {child.name: child.stop() for child in self.crew.of("worker", "scratch")}
            complaints += [f"{name} did not stop when asked to" for name, code in stopped.items() if code is None]
            left = [keys.lease for keys in all_partitions(tenant) if client.exists(keys.lease)]
            if left:
                complaints.append(f"leases were not given back: {left}")
            complaints += [f"{keys.ticks}: what is shown as read is not" for keys in self._misled(client, tenant)]
        return complaints

    def _misled(self, client: redis.Redis, tenant: Tenant) -> list[PartitionKeys]:
        """Partitions whose group does not stand at the checkpoint, or has a lag though all was read."""
        found = []
        for keys in all_partitions(tenant):
            groups: Any = client.xinfo_groups(keys.ticks)
            [group] = [group for group in groups if group["name"] == SCORERS.encode()]
            checkpoint = client.hget(keys.state, "checkpoint")
            if group["last-delivered-id"] != checkpoint or group.get("lag") or group["pending"]:
                found.append(keys)
        return found

    def _answered(self, client: redis.Redis, tenant: Tenant) -> bool:
        answered = {row["request"] for _, row in entries(client, tenant.keys.results)}
        return all(entry in answered for entry, _ in entries(client, tenant.keys.requests))

    def _in_force(self, client: redis.Redis, tenant: Tenant, release: bytes) -> bool:
        return all((client.hget(keys.state, "release") or b"") == release for keys in all_partitions(tenant))

    def _archived(self, client: redis.Redis, tenant: Tenant) -> bool:
        archive = from_archive(self.archive, tenant.partitions)
        for at, keys in enumerate(all_partitions(tenant)):
            last = client.xinfo_stream(keys.ticks)["last-generated-id"].decode()
            if not archive[at] or "{}-{}".format(*archive[at][-1][0]) != last:
                return False
        return True

    def _alarms(self) -> list[str]:
        found = []
        for child in self.crew.children:
            # Not trainers: when one is killed, its training processes may complain of it in the same log.
            if child.role == "worker" and child.log.exists():
                text = child.log.read_text()
                found += [f"{child.name} said {word!r}: {_line(text, word)}" for word in _ALARMS if word in text]
            if child.deaths and child.role in ("worker", "trainer", "tap"):
                found.append(f"{child.name} ended by itself, exit codes {child.deaths}")
        return found


def _line(text: str, word: str) -> str:
    at = text.index(word)
    return text[text.rfind("\n", 0, at) + 1 : at + 600].partition("\n\n")[0]
