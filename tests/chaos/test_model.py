"""Lease, commit, trim and publish against a model: whatever the order, Redis holds what a few lines of Python hold.

hypothesis chooses the steps of two publishers, three workers and two other consumer groups on one partition. Calls go
to the real scripts on a real server; their replies may be lost, and a call may stay on its way and arrive much later.
Time is virtual: when the model's clock says that a lease has run out, its key is deleted. After every step all that
Redis holds is compared with the model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from itertools import pairwise
from typing import Any, ClassVar

import redis
import redis.asyncio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from streams import leases
from streams.commit import MOST_TAKEN, Answer, Commit, Committer, Retention
from streams.ids import ZERO, StreamID
from streams.keys import SCORERS, PartitionKeys
from tests.servers import Server

KEYS = PartitionKeys("model", 0)
PUBLISH = files("streams").joinpath("publish.lua").read_text("utf-8")
#: Virtual ms.
LEASE_MS = 100
#: Required and other group, and how long the latter is waited for.
TAP, GUEST, FOREIGN = "tap", "guest", 6

#: Steps between two looks at the invariants that follow from all others.
STEPS = 8

MODES = st.sampled_from(["kept", "kept", "kept", "lost", "under way"])


#: What the steps must have come to, or the test would prove little.
REACHED = {
    *("OK", "DUP", "FENCED", "RESET", "GAP", "published twice", "ended in a block", "trimmed", "guest lost entries"),
    *("commits arrived late", "ticks arrived late: OK", "ticks arrived late: DUP"),
}


@dataclass
class Entry:
    """An entry of the log; `there` until it is trimmed, or `lost` on purpose."""

    id: StreamID
    ticks: tuple[str, ...]
    there: bool = True
    lost: bool = False


@dataclass(frozen=True)
class Call:
    """One call of `publish.lua`: ticks `base` and on of a publisher's sequence, in one entry or one each."""

    publisher: str
    known: str
    base: int
    count: int
    block: bool

    @property
    def entries(self) -> list[tuple[str, ...]]:
        labels = tuple(f"{self.publisher}{number}" for number in range(self.base, self.base + self.count))
        return [labels] if self.block else [(label,) for label in labels]


@dataclass
class Publisher:
    """What a publisher believes."""

    name: str
    sent: int = 0
    known: str = ""
    doubt: Call | None = None


@dataclass(eq=False)
class Worker:
    """What a worker believes.

    Attributes:
        within: a block that was taken in part, and how many ticks of it.
        batch: read and computed; `None` if there is none.
    """

    name: str
    token: str | None = None
    loaded: bool = False
    counter: int = 0
    entries: int = 0
    checkpoint: StreamID = ZERO
    anchor: StreamID = ZERO
    within: tuple[StreamID, int] | None = None
    batch: Batch | None = None

    def forget(self) -> None:
        self.loaded, self.batch = False, None


@dataclass(frozen=True)
class Batch:
    """A commit, and what it makes true."""

    token: str
    commit: Commit
    labels: tuple[str, ...]
    within: tuple[StreamID, int] | None


@dataclass
class State:
    """What the state hash holds."""

    counter: int = 0
    nonce: str = ""
    entries: int = 0
    checkpoint: StreamID = ZERO
    within: tuple[StreamID, int] | None = None


@dataclass
class Group:
    """A consumer group of the model: delivered up to and with an entry, and what it has not acknowledged."""

    delivered: StreamID = ZERO
    pending: list[StreamID] = field(default_factory=list)


class Partition(RuleBasedStateMachine):
    """One partition, as the model has it and as Redis has it."""

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
        self.now = 0
        self.log: list[Entry] = []
        self.taken: dict[str, tuple[int, StreamID]] = {}
        self.holder: str | None = None
        self.expires = 0
        self.state = State()
        self.states = [self.state]
        self.outputs: list[str] = []
        self.tap = Group()
        self.guest: Group | None = None
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
        if self.taken:
            possible += [partial(self.replace_publisher, at) for at in (0, 1)]
        if self.holder is not None:
            possible.append(self.time_passes)
        if self.under_way:
            possible.append(self.arrive)
        if self.log:
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
        ticks, last = self.taken.get(name, (0, None))
        self.publishers[which] = Publisher(name, ticks, str(last) if last is not None else "")

    def deliver(self, call: Call) -> tuple[str, int, StreamID | None]:
        """Carry a call out, in Redis and in the model; what both answer."""
        words: list[str] = [call.publisher, call.known, str(call.base), str(call.count), "1000000"]
        for ticks in call.entries:
            words += ["2", "ticks", ",".join(ticks)]
        reply: Any = self.client.eval(PUBLISH, 2, KEYS.ticks, KEYS.publishers, *words)
        word, ticks_taken = reply[0].decode(), int(reply[1])
        taken, last = self.taken.get(call.publisher, (0, None))
        if taken > call.base:
            assert (word, ticks_taken, StreamID.parse(reply[2])) == ("DUP", taken, last)
            self.reached["published twice"] += 1
            return word, taken, last
        assert word == "OK", "a publisher never knows more than the log"
        new: Any = self.client.xrange(KEYS.ticks, f"({self.log[-1].id if self.log else ZERO}", "+")
        self.log += [Entry(StreamID.parse(entry), tuple(fields[b"ticks"].decode().split(","))) for entry, fields in new]
        assert [entry.ticks for entry in self.log[-len(call.entries) :]] == call.entries
        assert StreamID.parse(reply[2]) == self.log[-1].id
        self.taken[call.publisher] = (call.base + call.count, self.log[-1].id)
        assert ticks_taken == call.base + call.count
        return word, ticks_taken, self.log[-1].id

    # Leases

    def time_passes(self) -> None:
        self.now += self.draw(st.sampled_from([5, 10, 20, 60, LEASE_MS]))
        if self.holder is not None and self.now >= self.expires:
            self.holder = None
            self.client.delete(KEYS.lease)

    def acquire(self, worker: Worker) -> None:
        token = leases.new_token(worker.name)
        taken = self.run(leases.acquire(self.remote, KEYS, token, 10_000_000))
        assert taken == (self.holder is None)
        if taken:
            self.holder, self.expires, worker.token = token, self.now + LEASE_MS, token
            worker.forget()

    def renew(self, worker: Worker) -> None:
        assert worker.token is not None
        held = self.run(leases.renew(self.remote, KEYS, worker.token, 10_000_000))
        assert held == (self.holder == worker.token)
        if held:
            self.expires = self.now + LEASE_MS
        else:
            worker.token = None

    def release(self, worker: Worker) -> None:
        assert worker.token is not None
        assert self.run(leases.release(self.remote, KEYS, worker.token)) == (self.holder == worker.token)
        if self.holder == worker.token:
            self.holder = None
        worker.token = None

    # Consuming

    def read(self, worker: Worker) -> None:
        """Load the state if need be, read on, and prepare a commit."""
        if not worker.loaded:
            self.load(worker)
        reply: Any = self.client.xread({KEYS.ticks: str(worker.checkpoint)}, count=5)
        found = [(StreamID.parse(entry), fields) for entry, fields in (reply[0][1] if reply else [])]
        assert [entry for entry, _ in found] == [e.id for e in self.log if e.there and e.id > worker.checkpoint][:5]
        if worker.within is not None and (not found or found[0][0] != worker.within[0]):
            worker.forget()
            return
        worker.batch = self.window(worker, found, self.draw(st.integers(1, 6)), self.draw(st.booleans()))

    def load(self, worker: Worker) -> None:
        """Go on from what is stored; an anchor or a block that is gone cannot be gone on from."""
        there = {entry.id for entry in self.log if entry.there}
        # Some have read before another's commit, as none should, and must be found out.
        state = self.draw(st.sampled_from([self.state] * 5 + self.states[-3:-2] * 2))
        worker.loaded, worker.counter, worker.entries, worker.checkpoint = (
            True,
            state.counter,
            state.entries,
            state.checkpoint,
        )
        worker.anchor = state.checkpoint if state.checkpoint in there else ZERO
        worker.within = state.within if state.within is not None and state.within[0] in there else None

    def window(self, worker: Worker, found: Sequence[tuple[StreamID, Any]], ticks: int, trim: bool) -> Batch | None:
        """A batch of so many ticks; it may begin and end in the midst of a block."""
        labels: list[str] = []
        last = checkpoint = worker.checkpoint
        within, passed = worker.within, 0
        for entry, fields in found:
            mine = fields[b"ticks"].decode().split(",")
            begin = within[1] if within is not None and within[0] == entry else 0
            room = ticks - len(labels)
            if room == 0:
                break
            labels += mine[begin : begin + room]
            last = entry
            if begin + room < len(mine):
                within = (entry, begin + room)
                break
            within, checkpoint, passed = None, entry, passed + 1
        if not labels:
            return None
        assert worker.token is not None
        commit = Commit(
            counter=worker.counter,
            after=worker.anchor,
            last=last,
            checkpoint=checkpoint,
            entries=worker.entries + passed,
            trim=checkpoint if trim else None,
            state={"within": "" if within is None else f"{within[0]} {within[1]}"},
            outputs=[(KEYS.predictions, ["tick", label]) for label in labels],
            passed=passed,
        )
        return Batch(worker.token, commit, tuple(labels), within)

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
        commit = batch.commit
        there = {entry.id for entry in self.log if entry.there} | {ZERO}
        if self.holder != batch.token:
            expected = Answer.FENCED
        elif (self.state.counter, self.state.nonce) == (commit.counter + 1, commit.nonce):
            expected = Answer.DUP
        elif self.state.counter != commit.counter:
            expected = Answer.RESET
        elif not {commit.after, commit.last} <= there:
            expected = Answer.GAP
        else:
            expected = Answer.OK
        assert answer is expected
        self.reached[answer.value] += 1
        if answer is Answer.OK:
            self.state = State(commit.counter + 1, commit.nonce, commit.entries, commit.checkpoint, batch.within)
            self.states.append(self.state)
            self.outputs += batch.labels
            self.reached["ended in a block"] += batch.within is not None
            self.reached["trimmed"] += any(not entry.there and not entry.lost for entry in self.log)
            self.trim(commit)
        return answer

    def trim(self, commit: Commit) -> None:
        """What a commit drops: what all have read, and, beyond a length, what the guest has not."""
        if commit.trim is None or commit.trim == ZERO:
            return
        cut = min(commit.trim, self.tap.delivered)
        done = cut if self.guest is None else min(cut, self.done(self.guest))
        self.drop(entry for entry in self.log if entry.id < done)
        there = [entry for entry in self.log if entry.there]
        excess = len(there) - FOREIGN
        lost = 0
        if done != cut and excess > 0:
            assert self.guest is not None
            dropped = [entry for entry in there if entry.id < cut][: min(excess, commit.passed + MOST_TAKEN)]
            unread = [e for e in dropped if e.id > self.guest.delivered or e.id in self.guest.pending]
            self.drop(dropped)
            lost = len(unread)
            self.reached["guest lost entries"] += bool(lost)
        assert self.lost == ([(GUEST, lost)] if lost else [])

    def done(self, group: Group) -> StreamID:
        there = {entry.id for entry in self.log if entry.there}
        pending = [entry for entry in group.pending if entry in there]
        return min([*pending, group.delivered])

    def drop(self, entries: Any) -> None:
        for entry in list(entries):
            entry.there = False

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
        count = self.draw(st.integers(1, 5))
        following = [entry for entry in self.log if entry.there and entry.id > self.tap.delivered][:count]
        if following:
            self.tap.delivered = following[-1].id
            self.client.xgroup_setid(KEYS.ticks, TAP, str(self.tap.delivered))

    def guest_reads(self) -> None:
        count, acknowledge = self.draw(st.integers(1, 3)), self.draw(st.booleans())
        if self.guest is None:
            self.guest = Group()
            self.client.xgroup_create(KEYS.ticks, GUEST, "0")
        reply: Any = self.client.xreadgroup(GUEST, "me", {KEYS.ticks: ">"}, count=count)
        read = [StreamID.parse(entry) for entry, _ in (reply[0][1] if reply else [])]
        assert read == [entry.id for entry in self.log if entry.there and entry.id > self.guest.delivered][:count]
        self.guest.pending += read
        self.guest.delivered = read[-1] if read else self.guest.delivered
        if acknowledge and self.guest.pending:
            first = self.guest.pending.pop(0)
            self.client.xack(KEYS.ticks, GUEST, str(first))

    def lose(self) -> None:
        """Now and then the log loses its end, as by a fail-over, or an entry that somebody goes on from or has read."""
        read = [worker.batch.commit.last for worker in self.workers if worker.batch is not None]
        end = [entry.id for entry in self.log if entry.there][-1:]
        for lost in self.draw(st.sampled_from([[], end, read, [self.state.checkpoint]])):
            for entry in self.log:
                if entry.id == lost and entry.there:
                    self.client.xdel(KEYS.ticks, str(lost))
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
        assert [StreamID.parse(entry) for entry, _ in ticks] == [entry.id for entry in self.log if entry.there]
        assert [fields[b"tick"].decode() for _, fields in outputs] == self.outputs
        assert int(state.get(b"counter", 0)) == self.state.counter
        assert StreamID.parse(state.get(b"checkpoint", b"0-0")) == self.state.checkpoint
        within = self.state.within
        assert state.get(b"within", b"").decode() == ("" if within is None else f"{within[0]} {within[1]}")
        assert lease == (None if self.holder is None else self.holder.encode())
        table = {name.decode(): int(record.split()[0]) for name, record in publishers.items()}
        assert table == {name: ticks for name, (ticks, _) in self.taken.items()}
        cursors = {group["name"].decode(): StreamID.parse(group["last-delivered-id"]) for group in groups}
        assert cursors.get(SCORERS, ZERO) == self.state.checkpoint
        assert cursors[TAP] == self.tap.delivered

    @invariant()
    def every_tick_is_in_the_log_once_and_in_order(self) -> None:
        for publisher in self.publishers:
            mine = [tick for entry in self.log for tick in entry.ticks if tick[0] == publisher.name]
            assert mine == [f"{publisher.name}{number}" for number in range(len(mine))]

    @invariant()
    def every_tick_is_counted_at_most_once_in_the_order_of_the_log(self) -> None:
        place = {tick: at for at, tick in enumerate(tick for entry in self.log for tick in entry.ticks)}
        order = [place[tick] for tick in self.outputs]
        assert all(one < other for one, other in pairwise(order))

    @invariant()
    def nothing_is_dropped_that_somebody_needs(self) -> None:
        """What scorers or the required group have not read is there, and the entry that reading goes on from."""
        read = min(self.state.checkpoint, self.tap.delivered)
        assert all(entry.there or entry.lost for entry in self.log if entry.id >= read)

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
