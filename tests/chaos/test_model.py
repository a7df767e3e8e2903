"""Lease, commit, trim and publish against a model: whatever the order, Redis holds what a few lines of Python hold.

hypothesis chooses the steps of two publishers, three workers and two other consumer groups on one partition. Calls go
to the real scripts on a real server; their replies may be lost, and a call may stay on its way and arrive much later.
Time is virtual: when the model's clock says that a lease has run out, its key is deleted. After every step all that
Redis holds is compared with the model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any, ClassVar

import redis
import redis.asyncio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from streams import leases
from streams.commit import Answer, Committer, Retention
from streams.ids import ZERO, StreamID
from streams.keys import SCORERS
from tests.chaos.partition_model import (
    FOREIGN,
    GUEST,
    KEYS,
    LEASE_MS,
    TAP,
    Batch,
    Call,
    Entry,
    Group,
    Model,
    Publisher,
    Worker,
    text_of,
    window,
)
from tests.servers import Server

PUBLISH = files("streams").joinpath("publish.lua").read_text("utf-8")
#: A lease time that no test outlasts, real ms.
FOREVER_MS = 10_000_000
#: Steps between two looks at what follows from all of them.
STEPS = 8
#: What the steps must have come to, or the test would prove little.
REACHED = {
    *("OK", "DUP", "FENCED", "RESET", "GAP", "published twice", "ended in a block", "trimmed", "guest lost entries"),
    *("commits arrived late", "ticks arrived late: OK", "ticks arrived late: DUP"),
}
#: What becomes of a call: its reply is kept, or lost, or it stays on its way.
MODES = st.sampled_from(["kept", "kept", "kept", "lost", "under way"])


class Partition(RuleBasedStateMachine):
    """Does to Redis and to the model what hypothesis chooses."""

    server: ClassVar[Server]
    reached: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.client = redis.Redis.from_url(self.server.url, protocol=2)
        self.remote = redis.asyncio.Redis.from_url(self.server.url, protocol=2)
        self.client.flushall()
        self.committer = Committer(
            self.remote,
            KEYS,
            server=str(self.client.info("server")["redis_version"]),
            retention=Retention(1_000_000, (TAP,), FOREIGN),
            on_lost=lambda group, entries: self.lost.append((group, entries)),
        )
        self.client.xgroup_create(KEYS.ticks, TAP, "0", mkstream=True)
        self.model = Model(self.reached)
        self.lost: list[tuple[str, int]] = []
        self.under_way: list[Call | Batch] = []
        self.draw: Callable[[st.SearchStrategy[Any]], Any]
        self.publishers = [Publisher("a"), Publisher("b")]
        self.workers = [Worker("one"), Worker("two"), Worker("three")]

    def teardown(self) -> None:
        self.loop.run_until_complete(self.remote.aclose())
        self.loop.close()
        self.client.close()

    @rule(data=st.data())
    def steps(self, data: st.DataObject) -> None:
        """Do some of the things that are possible.

        Rules of their own would be switched off by hypothesis for whole runs, and few runs would come to a commit.
        """
        self.draw = data.draw
        for _ in range(STEPS):
            data.draw(st.sampled_from(self.possible()))()
            self.redis_holds_what_the_model_holds()

    def possible(self) -> list[Callable[[], None]]:
        """What may happen now; what is there several times happens more often."""
        possible: list[Callable[[], None]] = [partial(self.publish, at) for at in (0, 1)]
        possible += [partial(self.acquire, worker) for worker in self.workers if worker.token is None]
        for worker in self.workers:
            if worker.token is not None:
                consume = self.read if worker.batch is None else self.commit
                possible += [partial(consume, worker)] * 6
                possible += [partial(what, worker) for what in (self.renew, self.release, self.kill)]
        if self.model.taken:
            possible += [partial(self.replace_publisher, at) for at in (0, 1)]
        if self.model.holder is not None:
            possible.append(self.time_passes)
        if self.under_way:
            possible.append(self.arrive)
        if self.model.log:
            possible += [self.tap_reads, self.tap_reads, self.guest_reads, self.lose]
        return possible

    # Publishing

    def publish(self, which: int) -> None:
        """Send the next ticks, or those that are in doubt once more."""
        publisher = self.publishers[which]
        count, block, mode = self.draw(st.integers(1, 6)), self.draw(st.booleans()), self.draw(MODES)
        call = publisher.doubt or Call(publisher.name, publisher.known, publisher.sent, count, block)
        if mode == "under way":
            self.under_way.append(call)
            publisher.doubt = call
            return
        word, ticks, entry = self.deliver(call)
        if mode == "lost":
            publisher.doubt = call
            return
        assert word in ("OK", "DUP"), "nothing that was acknowledged was lost"
        publisher.sent, publisher.known, publisher.doubt = ticks, str(entry), None

    def replace_publisher(self, which: int) -> None:
        """Kill a publisher; the next one of its name begins where the log says."""
        name = self.publishers[which].name
        ticks, last = self.model.taken.get(name, (0, None))
        self.publishers[which] = Publisher(name, ticks, str(last) if last is not None else "")

    def deliver(self, call: Call) -> tuple[str, int, StreamID | None]:
        """Carry a call out, in Redis and in the model; what both answer."""
        words: list[str] = [call.publisher, call.known, str(call.base), str(call.count), "1000000"]
        for ticks in call.entries:
            words += ["2", "ticks", ",".join(ticks)]
        reply: Any = self.client.eval(PUBLISH, 2, KEYS.ticks, KEYS.publishers, *words)
        word, ticks_taken = reply[0].decode(), int(reply[1])
        taken, last = self.model.taken.get(call.publisher, (0, None))
        if taken > call.base:
            assert (word, ticks_taken, StreamID.parse(reply[2])) == ("DUP", taken, last)
            self.reached["published twice"] += 1
            return word, taken, last
        assert word == "OK", "a publisher never knows more than the log"
        log = self.model.log
        new: Any = self.client.xrange(KEYS.ticks, f"({log[-1].id if log else ZERO}", "+")
        entries = [Entry(StreamID.parse(entry), tuple(row[b"ticks"].decode().split(","))) for entry, row in new]
        self.model.publish(call, entries)
        assert (ticks_taken, StreamID.parse(reply[2])) == self.model.taken[call.publisher]
        return word, ticks_taken, log[-1].id

    # Leases

    def time_passes(self) -> None:
        if self.model.pass_time(self.draw(st.sampled_from([5, 10, 20, 60, LEASE_MS]))):
            self.client.delete(KEYS.lease)

    def acquire(self, worker: Worker) -> None:
        token = leases.new_token(worker.name)
        taken = self.run(leases.acquire(self.remote, KEYS, token, FOREVER_MS))
        assert taken == (self.model.holder is None)
        if taken:
            self.model.lease(token)
            worker.token = token
            worker.forget()

    def renew(self, worker: Worker) -> None:
        assert worker.token is not None
        held = self.run(leases.renew(self.remote, KEYS, worker.token, FOREVER_MS))
        assert held == (self.model.holder == worker.token)
        if held:
            self.model.lease(worker.token)
        else:
            worker.token = None

    def release(self, worker: Worker) -> None:
        assert worker.token is not None
        mine = self.model.holder == worker.token
        assert self.run(leases.release(self.remote, KEYS, worker.token)) == mine
        if mine:
            self.model.holder = None
        worker.token = None

    # Consuming

    def read(self, worker: Worker) -> None:
        """Load the state if need be, read on, and prepare a commit."""
        if not worker.loaded:
            # Some have read before another's commit, as none should, and must be found out.
            states = self.model.states
            self.model.load(worker, self.draw(st.sampled_from(states[-1:] * 5 + states[-3:-2] * 2)))
        reply: Any = self.client.xread({KEYS.ticks: str(worker.checkpoint)}, count=5)
        rows = reply[0][1] if reply else []
        found = [(StreamID.parse(entry), fields[b"ticks"].decode().split(",")) for entry, fields in rows]
        assert [entry for entry, _ in found] == self.model.after(worker.checkpoint)[:5]
        if worker.within is not None and (not found or found[0][0] != worker.within[0]):
            worker.forget()
            return
        worker.batch = window(worker, found, self.draw(st.integers(1, 6)), self.draw(st.booleans()))

    def commit(self, worker: Worker) -> None:
        """Commit what was read, or try it once more."""
        mode, batch = self.draw(MODES), worker.batch
        assert batch is not None
        if mode == "under way":
            self.under_way.append(batch)
            return
        answer = self.land(batch)
        if mode == "lost":
            return
        if answer in (Answer.OK, Answer.DUP):
            commit = batch.commit
            done = commit.checkpoint != worker.checkpoint
            worker.counter, worker.entries, worker.checkpoint = commit.counter + 1, commit.entries, commit.checkpoint
            worker.anchor = commit.checkpoint if done else worker.anchor
            worker.within, worker.batch = batch.within, None
        elif answer is Answer.FENCED:
            worker.token = None
            worker.forget()
        else:
            worker.forget()

    def land(self, batch: Batch) -> Answer:
        """Carry a commit out, in Redis and in the model."""
        self.lost.clear()
        answer, _ = self.run(self.committer.commit(batch.token, batch.commit))
        assert answer is self.model.answer(batch)
        self.reached[answer.value] += 1
        lost = self.model.commit(batch) if answer is Answer.OK else 0
        assert self.lost == ([(GUEST, lost)] if lost else [])
        return answer

    def arrive(self) -> None:
        """A call that was under way arrives, whoever sent it, and whatever became of that one."""
        call = self.under_way.pop(self.draw(st.integers(0, len(self.under_way) - 1)))
        if isinstance(call, Call):
            word, _, _ = self.deliver(call)
            self.reached[f"ticks arrived late: {word}"] += 1
        else:
            self.land(call)
            self.reached["commits arrived late"] += 1

    def kill(self, worker: Worker) -> None:
        """A worker dies; its lease stays until it runs out, and what it sent may still arrive."""
        self.workers[self.workers.index(worker)] = Worker(worker.name)

    # Others who read, and what gets lost

    def tap_reads(self) -> None:
        tap = self.model.tap
        following = self.model.after(tap.delivered)[: self.draw(st.integers(1, 5))]
        if following:
            tap.delivered = following[-1]
            self.client.xgroup_setid(KEYS.ticks, TAP, str(tap.delivered))

    def guest_reads(self) -> None:
        count, acknowledge = self.draw(st.integers(1, 3)), self.draw(st.booleans())
        if self.model.guest is None:
            self.model.guest = Group()
            self.client.xgroup_create(KEYS.ticks, GUEST, "0")
        guest = self.model.guest
        reply: Any = self.client.xreadgroup(GUEST, "me", {KEYS.ticks: ">"}, count=count)
        read = [StreamID.parse(entry) for entry, _ in (reply[0][1] if reply else [])]
        assert read == self.model.after(guest.delivered)[:count]
        guest.pending += read
        guest.delivered = read[-1] if read else guest.delivered
        if acknowledge and guest.pending:
            self.client.xack(KEYS.ticks, GUEST, str(guest.pending.pop(0)))

    def lose(self) -> None:
        """Now and then the log loses its end, as by a fail-over, or an entry that somebody goes on from or has read."""
        read = [worker.batch.commit.last for worker in self.workers if worker.batch is not None]
        end = [entry.id for entry in self.model.there][-1:]
        lost = self.draw(st.sampled_from([[], end, read, [self.model.state.checkpoint]]))
        for entry in self.model.there:
            if entry.id in lost:
                self.client.xdel(KEYS.ticks, str(entry.id))
                entry.there, entry.lost = False, True

    # What must hold

    def redis_holds_what_the_model_holds(self) -> None:
        with self.client.pipeline(transaction=True) as pipe:
            pipe.xrange(KEYS.ticks)
            pipe.xrange(KEYS.predictions)
            pipe.hgetall(KEYS.state)
            pipe.get(KEYS.lease)
            pipe.hgetall(KEYS.publishers)
            pipe.xinfo_groups(KEYS.ticks)
            ticks, outputs, state, lease, publishers, groups = pipe.execute()
        model = self.model
        assert [StreamID.parse(entry) for entry, _ in ticks] == [entry.id for entry in model.there]
        assert [fields[b"tick"].decode() for _, fields in outputs] == model.outputs
        assert int(state.get(b"counter", 0)) == model.state.counter
        assert StreamID.parse(state.get(b"checkpoint", b"0-0")) == model.state.checkpoint
        assert state.get(b"within", b"").decode() == text_of(model.state.within)
        assert lease == (None if model.holder is None else model.holder.encode())
        table = {name.decode(): int(record.split()[0]) for name, record in publishers.items()}
        assert table == {name: ticks for name, (ticks, _) in model.taken.items()}
        cursors = {group["name"].decode(): StreamID.parse(group["last-delivered-id"]) for group in groups}
        assert cursors.get(SCORERS, ZERO) == model.state.checkpoint
        assert cursors[TAP] == model.tap.delivered

    @invariant()
    def what_must_hold_holds(self) -> None:
        self.model.check()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)


def test_whatever_the_order_redis_holds_what_the_model_holds(server: Server) -> None:
    class Machine(Partition):
        reached: ClassVar[Counter[str]] = Counter()

    Machine.server = server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert {what for what, often in Machine.reached.items() if often} >= REACHED
