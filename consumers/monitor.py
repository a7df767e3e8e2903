"""The monitor: reads what became of forecasts, applies the gate, notices drift, asks for training.

It follows the outcomes of all partitions and keeps one `Memory` per series. For each outcome it works out what
to do, from the outcomes and the releases they name and from nothing else; so two monitors, or one that began again,
come to the same. Then it does it, one release per outcome: promote, prove, drop, take `proven` back; and posts training
requests. All of this can be done twice without harm: a decision is void once other versions are in force, and a
request is posted once (`consumers.requests.post_once`). Last, once a save of the models role covers the switches, the
checkpoint is written (`consumers.checkpoint`).

A crash at any step leaves the checkpoint where it was. What the checkpoint does not hold, the losses, is read again
from the log: each series' state names the entry that this begins with (`from`), and entries up to the checkpoint are
learnt without deciding anything anew. Another monitor that wrote the checkpoint meanwhile is seen by the counter; this
one then begins again from there.

A round is `take` (streams role), `judge` (models role), `settle` (streams role); each can be called again after an
error of its Redis. `step` makes rounds until nothing is left.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, cast

import redis
from redis.exceptions import RedisError

from consumers.acts import note_of, release_change, summary
from consumers.checkpoint import Checkpoint, Checkpoints
from consumers.memory import Decision, Memory, Resolve, check
from consumers.requests import post_once
from consumers.retraining import Ask, Rules
from consumers.review import Act
from consumers.targets import Target
from modelstore.errors import BadModel, NotFound
from modelstore.release import Aliases
from modelstore.releases import Releases
from modelstore.saves import SaveBarrier
from modelstore.verdicts import Verdicts
from streams.errors import BadRecord
from streams.ids import ZERO, StreamID
from streams.records import Outcome, TrainingRequest
from streams.tenant import Tenant

log = logging.getLogger(__name__)

#: Most entries of one partition in a round.
BATCH = 100
#: Releases whose aliases are kept at hand: a bar's forecasts come from few, and each may have 10,000 models.
RELEASES = 32
#: How long one save may take before it is waited for again, s.
SAVE_TIMEOUT_S = 900.0
#: Longest id of a request.
MAX_ID = 128

Entry = tuple[int, StreamID, dict[bytes, bytes]]


@dataclass(slots=True)
class Report:
    """What a round did; counts.

    Attributes:
        outcomes: entries that were decided on.
        promotions: challengers that became champion.
        drifts: alarms.
        requests: training requests that were posted.
        behind: whether there was more to read than a round takes.
    """

    outcomes: int = 0
    promotions: int = 0
    drifts: int = 0
    requests: int = 0
    behind: bool = False


@dataclass(slots=True)
class _Round:
    """Entries on their way through the three steps."""

    entries: list[Entry]
    report: Report
    judged: bool = False
    run_id: str | None = None  #: of the models role, before the first switch
    saved: bool = False
    decisions: list[Decision] = field(default_factory=list)
    requests: list[TrainingRequest] = field(default_factory=list)
    positions: dict[int, StreamID] = field(default_factory=dict)
    series: set[str] = field(default_factory=set)


class Monitor:
    """Watches the models of one tenant. Not to be used from several threads at once."""

    def __init__(self, *, streams: redis.Redis, models: redis.Redis, tenant: Tenant, rules: Rules) -> None:
        """Put a monitor together; nothing is sent yet.

        Args:
            streams, models: blocking clients of the two roles.
            rules: when to train.
        """
        self._streams = streams
        self._tenant = tenant
        self._rules = rules
        self._horizons = {name: Target.parse(name).horizon for name in tenant.pipeline.targets}
        self._keys = {tenant.keys.partition(number).outcomes: number for number in range(tenant.partitions)}
        self._checkpoints = Checkpoints(streams, tenant.keys)
        self._models = models
        self._saves = SaveBarrier(models)
        self._releases = Releases(models, tenant.keys)
        self._verdicts = Verdicts(models, tenant.keys)
        self._aliases: OrderedDict[str, Aliases] = OrderedDict()
        self._counter: int | None = None
        self._decided: dict[int, StreamID] = {}
        self._cursors: dict[int, StreamID] = {}
        self._memories: dict[str, Memory] = {}
        self._round: _Round | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Keys of the streams that it reads."""
        return tuple(self._keys)

    def step(self) -> int:
        """Handle all that is there now.

        Returns:
            How many outcomes were decided on.

        Raises:
            redis.RedisError: a Redis is away or refuses; call it again later.
        """
        done = 0
        while self.take():
            self.judge()
            done += self.settle().outcomes
        return done

    def take(self) -> bool:
        """Read the next entries; whether there are any.

        Raises:
            redis.RedisError: the streams role is away; the next call begins from the checkpoint.
        """
        if self._round is not None:
            return True
        try:
            if self._counter is None:
                self._load(self._checkpoints.read())
            cursors: dict[Any, Any] = {key: str(self._cursors[number]) for key, number in self._keys.items()}
            reply = cast(
                list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]], self._streams.xread(cursors, count=BATCH)
            )
        except (RedisError, OSError):
            # It may come back with less than it had.
            self._counter = None
            raise
        entries: list[Entry] = []
        behind = False
        for key, found in reply:
            number = self._keys[key.decode()]
            entries += [(number, StreamID.parse(entry), fields or {}) for entry, fields in found]
            self._cursors[number] = entries[-1][1]
            behind = behind or len(found) == BATCH
        if not entries:
            return False
        self._round = _Round(entries, Report(behind=behind))
        return True

    def judge(self) -> None:
        """Work out what the entries tell, carry out what is about releases, and see it saved.

        The checkpoint is written only after a save that covers the switches: a models Redis that is killed before has
        forgotten them, and the round is decided on again.

        Raises:
            redis.RedisError: the models role is away; call it again.
            SaveFailed: the models role cannot save; call it again.
            ReleaseConflict: others switched releases all the time; call it again.
        """
        now = self._round
        if now is None:
            return
        if not now.judged:
            outcomes = [(number, entry, _parse(entry, fields)) for number, entry, fields in now.entries]
            named = {release for _, _, outcome in outcomes if outcome is not None for release in outcome.releases}
            known = {release: self._resolve(release) for release in sorted(named)}
            # From here on nothing is asked of any Redis until all entries are taken: what is half taken stays so.
            for number, entry, outcome in outcomes:
                self._digest(now, number, entry, outcome, known.get)
            now.judged = True
        if now.run_id is None and any(decision.acts for decision in now.decisions):
            now.run_id = self._run_id()
        while now.decisions:
            decision = now.decisions[0]
            self._switch(now.report, decision, [act for act in decision.acts if act.kind != "drift"], "gate")
            self._switch(now.report, decision, [act for act in decision.acts if act.kind == "drift"], "drift")
            for count, ask in enumerate(decision.asks):
                now.requests.append(_request(decision, ask, count))
            now.decisions.pop(0)
        if now.run_id is not None and not now.saved:
            self._saves.wait_saved(SAVE_TIMEOUT_S)
            now.saved = True
            if self._run_id() != now.run_id:
                log.warning("the models Redis restarted before decisions were saved: they are made again")
                self._counter = self._round = None

    def _run_id(self) -> str:
        return str(self._models.info("server")["run_id"])

    def settle(self) -> Report:
        """Post requests and write the checkpoint; what the round did.

        Raises:
            redis.RedisError: the streams role is away; call it again.
        """
        now = self._round
        if now is None:
            return Report()
        while now.requests:
            posted = post_once(self._streams, self._tenant.keys, now.requests[0])
            now.report.requests += posted is not None
            now.requests.pop(0)
        if now.positions:
            # Should the reply be lost, it is read again what was written.
            counter, self._counter, self._round = self._counter or 0, None, None
            series = {name: self._memories[name].to_json() for name in sorted(now.series)}
            if not self._checkpoints.write(counter, now.positions, series):
                log.warning("another monitor is at work: this one goes on from what that one has written")
                return Report(behind=True)
            self._counter = counter + 1
            self._decided |= now.positions
        self._round = None
        return now.report

    def _load(self, found: Checkpoint) -> None:
        """Begin from a checkpoint: each partition is read from the first entry that one of its series still needs."""
        self._memories = {name: Memory.from_json(name, self._horizons, state) for name, state in found.series.items()}
        self._decided = {number: found.positions.get(number, ZERO) for number in self._keys.values()}
        with self._streams.pipeline(transaction=False) as pipe:
            for key in self._keys:
                pipe.xrange(key, count=1)
                pipe.xrevrange(key, count=1)
            ends = [StreamID.parse(entries[0][0]) if entries else ZERO for entries in pipe.execute()]
        oldest = dict(zip(self._keys.values(), ends[::2], strict=True))
        for number, last in zip(self._keys.values(), ends[1::2], strict=True):
            if last < self._decided[number]:
                log.warning("the outcomes of partition %d end before what was read: they were lost", number)
                self._decided[number] = last
        self._cursors = dict(self._decided)
        for name, memory in self._memories.items():
            number = self._tenant.partition_of(name.rpartition(":")[0])
            self._cursors[number] = min(self._cursors[number], _before(memory.begins))
            if memory.begins < oldest[number]:
                log.warning("outcomes of %s were trimmed that are still needed: raise keep_outputs", name)
        self._counter = found.counter

    def _resolve(self, release: str) -> Aliases | None:
        """The aliases of a release; `None` if the store does not have it (any more): its forecasts do not count."""
        if release in self._aliases:
            self._aliases.move_to_end(release)
            return self._aliases[release]
        try:
            aliases = self._releases.get(release).aliases
        except (NotFound, BadModel) as error:
            # Not remembered: a trainer may put back what a killed store forgot.
            log.error("forecasts of release %s are not judged: %s", release[:12], error)
            return None
        self._aliases[release] = aliases
        while len(self._aliases) > RELEASES:
            self._aliases.popitem(last=False)
        return aliases

    def _digest(self, now: _Round, number: int, entry: StreamID, outcome: Outcome | None, resolve: Resolve) -> None:
        old = entry <= self._decided[number]
        if not old:
            now.positions[number] = entry
            now.report.outcomes += 1
        if outcome is None:
            return
        memory = self._memories.get(outcome.series)
        if old:
            if memory is not None:
                memory.learn(entry, outcome, resolve)
            return
        if memory is None:
            memory = self._memories[outcome.series] = Memory(outcome.series, self._horizons)
        decision = memory.take(entry, outcome, resolve, self._rules)
        now.series.add(outcome.series)
        if decision is not None:
            now.decisions.append(decision)
            now.report.drifts += sum(act.kind == "drift" for act in decision.acts)

    def _switch(self, report: Report, decision: Decision, acts: Sequence[Act], who: str) -> None:
        """Carry out decisions in one release; what the store makes impossible is said and passed over."""
        if not acts:
            return
        series = decision.series
        promoted = 0

        def delta(aliases: Aliases) -> dict[tuple[str, str], str | None]:
            nonlocal promoted
            change, notes = release_change(series, acts, aliases)
            promoted = sum(note.verdict == "promoted" for note in notes)
            return change

        try:
            self._releases.promote(
                delta,
                who=who,
                why=f"{series}: {summary(acts)}",
                notes=lambda aliases: release_change(series, acts, aliases)[1],
            )
            # An alarm is on record even where there is no alias to take away.
            self._verdicts.note([note_of(series, act) for act in acts if act.kind in ("drift", "doubt")])
        except (NotFound, BadModel) as error:
            log.error("%s: not carried out: %s (%s)", series, summary(acts)[:200], error)
            return
        report.promotions += promoted


def _parse(entry: StreamID, fields: dict[bytes, bytes]) -> Outcome | None:
    try:
        return check(Outcome.from_fields(fields))
    except BadRecord as error:
        log.error("outcome %s is passed over: %s", entry, error)
        return None


def _request(decision: Decision, ask: Ask, count: int) -> TrainingRequest:
    """The request behind a decision to train; its id says which decision, so that it is posted once."""
    own = f"{ask.kind}/{decision.series}/{decision.src}/{count}"
    return TrainingRequest(
        kind="train",
        series=decision.series,
        targets=ask.targets,
        as_of=decision.ts,
        since=ask.since,
        why=ask.why,
        id=own if len(own) <= MAX_ID else sha256(own.encode()).hexdigest(),
    )


def _before(entry: StreamID) -> StreamID:
    """The greatest id below this one, to read from it on."""
    if entry == ZERO:
        return ZERO
    return StreamID(entry.ms, entry.seq - 1) if entry.seq else StreamID(entry.ms - 1, 2**64 - 1)
