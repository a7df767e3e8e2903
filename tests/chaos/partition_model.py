"""A partition as a few lines of Python have it: log, lease, state, outputs, and who has read how far. No I/O.

`tests/chaos/test_model.py` does the same things to a real Redis and holds it against this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from streams.commit import MOST_TAKEN, Answer, Commit
from streams.ids import ZERO, StreamID
from streams.keys import PartitionKeys

KEYS = PartitionKeys("model", 0)
#: Virtual ms.
LEASE_MS = 100
#: A required group and another one, and the length up to which the latter is waited for.
TAP, GUEST, FOREIGN = "tap", "guest", 6


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


def window(worker: Worker, found: Sequence[tuple[StreamID, Sequence[str]]], ticks: int, trim: bool) -> Batch | None:
    """A batch of so many ticks of what was read; it may begin and end in the midst of a block."""
    labels: list[str] = []
    last = checkpoint = worker.checkpoint
    within, passed = worker.within, 0
    for entry, mine in found:
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
        state={"within": text_of(within)},
        outputs=[(KEYS.predictions, ["tick", label]) for label in labels],
        passed=passed,
    )
    return Batch(worker.token, commit, tuple(labels), within)


def text_of(within: tuple[StreamID, int] | None) -> str:
    """As it stands in the state."""
    return "" if within is None else f"{within[0]} {within[1]}"


class Model:
    """One partition.

    Attributes:
        taken: publisher -> ticks of its sequence that the log has taken, and the last entry.
        holder: token of the lease, until `expires`.
        states: all that the state ever was.
        reached: what the steps have come to.
    """

    def __init__(self, reached: Counter[str]) -> None:
        self.reached = reached
        self.now = 0
        self.log: list[Entry] = []
        self.taken: dict[str, tuple[int, StreamID]] = {}
        self.holder: str | None = None
        self.expires = 0
        self.states = [State()]
        self.outputs: list[str] = []
        self.tap = Group()
        self.guest: Group | None = None

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def there(self) -> list[Entry]:
        return [entry for entry in self.log if entry.there]

    def after(self, entry: StreamID) -> list[StreamID]:
        """What a reader finds behind an entry."""
        return [found.id for found in self.there if found.id > entry]

    def publish(self, call: Call, entries: Sequence[Entry]) -> None:
        """Append what a call brought."""
        assert [entry.ticks for entry in entries] == call.entries
        self.log += entries
        self.taken[call.publisher] = (call.base + call.count, self.log[-1].id)

    def pass_time(self, ms: int) -> bool:
        """Let time pass; whether the lease ran out."""
        self.now += ms
        if self.holder is None or self.now < self.expires:
            return False
        self.holder = None
        return True

    def lease(self, token: str) -> None:
        """Take or extend the lease."""
        self.holder, self.expires = token, self.now + LEASE_MS

    def load(self, worker: Worker, state: State) -> None:
        """Go on from a state; an anchor or a block that is gone cannot be gone on from."""
        there = {entry.id for entry in self.there}
        worker.loaded = True
        worker.counter, worker.entries, worker.checkpoint = state.counter, state.entries, state.checkpoint
        worker.anchor = state.checkpoint if state.checkpoint in there else ZERO
        worker.within = state.within if state.within is not None and state.within[0] in there else None

    def answer(self, batch: Batch) -> Answer:
        """What a commit is to be answered."""
        commit = batch.commit
        if self.holder != batch.token:
            return Answer.FENCED
        if (self.state.counter, self.state.nonce) == (commit.counter + 1, commit.nonce):
            return Answer.DUP
        if self.state.counter != commit.counter:
            return Answer.RESET
        if not {commit.after, commit.last} <= {entry.id for entry in self.there} | {ZERO}:
            return Answer.GAP
        return Answer.OK

    def commit(self, batch: Batch) -> int:
        """Make a batch true; how many entries the guest lost by the trim."""
        commit = batch.commit
        self.states.append(State(commit.counter + 1, commit.nonce, commit.entries, commit.checkpoint, batch.within))
        self.outputs += batch.labels
        self.reached["ended in a block"] += batch.within is not None
        return self._trim(commit)

    def _trim(self, commit: Commit) -> int:
        """Drop what all have read, and, beyond a length, what the guest has not."""
        if commit.trim is None or commit.trim == ZERO:
            return 0
        cut = min(commit.trim, self.tap.delivered)
        done = cut if self.guest is None else min(cut, self._done(self.guest))
        self._drop(entry for entry in self.there if entry.id < done)
        excess = len(self.there) - FOREIGN
        if self.guest is None or done == cut or excess <= 0:
            return 0
        guest = self.guest
        dropped = [entry for entry in self.there if entry.id < cut][: min(excess, commit.passed + MOST_TAKEN)]
        lost = sum(entry.id > guest.delivered or entry.id in guest.pending for entry in dropped)
        self._drop(dropped)
        self.reached["guest lost entries"] += bool(lost)
        return lost

    def _done(self, group: Group) -> StreamID:
        there = {entry.id for entry in self.there}
        return min([*(entry for entry in group.pending if entry in there), group.delivered])

    def _drop(self, entries: Iterable[Entry]) -> None:
        for entry in list(entries):
            entry.there = False
            self.reached["trimmed"] += 1

    def check(self) -> None:
        """What must hold, whatever happened."""
        ticks = [tick for entry in self.log for tick in entry.ticks]
        for publisher in self.taken:
            mine = [tick for tick in ticks if tick[0] == publisher]
            assert mine == [f"{publisher}{number}" for number in range(len(mine))], "once and in order in the log"
        place = {tick: at for at, tick in enumerate(ticks)}
        order = [place[tick] for tick in self.outputs]
        assert all(one < other for one, other in pairwise(order)), "counted once, in the order of the log"
        read = min(self.state.checkpoint, self.tap.delivered)
        assert all(entry.there or entry.lost for entry in self.log if entry.id >= read), "what somebody needs is there"
