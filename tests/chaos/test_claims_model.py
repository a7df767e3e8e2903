"""Requests and their trainers against a model: each is answered once, however trainers die, and given up in the end.

hypothesis chooses what three trainers do with the real scripts on a real Redis: take, keep, leave and answer requests,
fall silent, die, and have their answers arrive late or twice. Time is virtual: the model's clock sets how long Redis
believes that a request was not touched.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, ClassVar

import orjson
import redis
import redis.asyncio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from consumers.request_queue import Limits, RequestQueue
from streams.ids import StreamID
from streams.keys import TRAINERS, Keys
from streams.records import TrainingResult
from tests.servers import Server

KEYS = Keys("claims")
#: Virtual ms until a request is taken over; on Redis, where real time passes too, a thousand times as many.
IDLE_MS, SCALE = 100, 100_000
LIMIT, BATCH, STEPS = 3, 16, 8
REACHED = {"new", "own", "claimed", "spent", "answered", "answered twice", "arrived late", "given back", "unheard"}


@dataclass
class Request:
    """A request of the model; without an owner it was not handed out yet."""

    id: StreamID
    owner: str | None = None
    idle: int = 0
    deliveries: int = 0
    answered: bool = False
    call: tuple[str, int] = ("", 0)


@dataclass
class Trainer:
    """A trainer: its name, what it speaks through, what it believes to work on, and how many replies it has had."""

    name: str
    queue: RequestQueue
    work: list[StreamID] = field(default_factory=list)
    heard: int = 0


class Claims(RuleBasedStateMachine):
    """The request stream, as the model has it and as Redis has it."""

    server: ClassVar[Server]
    reached: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.client = redis.Redis.from_url(self.server.url, protocol=2)
        self.remote = redis.asyncio.Redis.from_url(self.server.url, protocol=2)
        self.client.flushall()
        self.draw: Callable[[st.SearchStrategy[Any]], Any]
        self.names = count()
        self.requests: dict[StreamID, Request] = {}
        self.results: list[tuple[StreamID, str]] = []
        self.under_way: list[tuple[Trainer, StreamID]] = []
        self.trainers = [self.hire() for _ in range(3)]

    def teardown(self) -> None:
        self.loop.run_until_complete(self.remote.aclose())
        self.loop.close()
        self.client.close()

    def hire(self) -> Trainer:
        name = f"trainer{next(self.names)}"
        return Trainer(name, RequestQueue(self.remote, KEYS, name, Limits(IDLE_MS * SCALE, LIMIT), batch=BATCH))

    @rule(data=st.data())
    def steps(self, data: st.DataObject) -> None:
        """Do some of the things that are possible."""
        self.draw = data.draw
        for _ in range(STEPS):
            data.draw(st.sampled_from(self.possible()))()
            self.redis_holds_what_the_model_holds()

    def possible(self) -> list[Callable[[], None]]:
        """What may happen now."""
        found: list[Callable[[], None]] = [self.post, self.post, self.time_passes]
        for trainer in self.trainers:
            found.append(partial(self.kill, trainer))
            if any(not request.answered for request in self.requests.values()):
                found += [partial(self.take, trainer), partial(self.take, trainer), partial(self.take_unheard, trainer)]
            if trainer.work:
                found += [partial(what, trainer) for what in (self.keep, self.leave, self.answer, self.answer)]
        if self.under_way:
            found.append(self.arrive)
        return found

    def post(self) -> None:
        entry = StreamID.parse(self.client.xadd(KEYS.requests, {"kind": "train", "series": "A:1s"}))
        self.requests[entry] = Request(entry)

    def time_passes(self) -> None:
        ms = self.draw(st.sampled_from([10, 40, IDLE_MS]))
        for request in self.requests.values():
            if request.owner is not None and not request.answered:
                request.idle += ms
                self.client.xclaim(
                    KEYS.requests, TRAINERS, request.owner, 0, [str(request.id)], idle=request.idle * SCALE, justid=True
                )

    def kill(self, trainer: Trainer) -> None:
        """It dies; the next one has another name."""
        self.trainers[self.trainers.index(trainer)] = self.hire()

    def take(self, trainer: Trainer) -> None:
        found = [entry for entry, _ in self.run(trainer.queue.read(1))]
        assert found == self.taken(trainer)
        trainer.work += [entry for entry in found if entry not in trainer.work]
        trainer.heard += 1

    def take_unheard(self, trainer: Trainer) -> None:
        """The reply is lost, so nobody gives up what was delivered too often either."""
        self.run(trainer.queue._take())
        self.taken(trainer, heard=False)
        self.reached["unheard"] += 1

    def taken(self, trainer: Trainer, *, heard: bool = True) -> list[StreamID]:
        """What a trainer gets: its own first, then what others left, fewer where it was delivered more often; else new
        ones. A call whose reply was lost delivered nothing.
        """
        name = trainer.name
        pending = [request for request in self.requests.values() if request.owner is not None and not request.answered]
        own = [request for request in pending if request.owner == name][:BATCH]
        others = [request for request in pending if request.idle >= IDLE_MS][:BATCH]
        found: list[StreamID] = []
        spent, room = False, BATCH
        for request in [*own, *(request for request in others if request.owner != name)]:
            again = request.owner == name and request.call == (name, trainer.heard)
            deliveries = request.deliveries - again
            together = [BATCH, BATCH // 8, 1, 1][deliveries]
            if deliveries >= LIMIT:
                spent = True
                if heard:
                    self.reached["spent"] += 1
                    self.settle(request, "failed")
                else:
                    request.owner, request.idle = name, 0
            elif len(found) < min(room, together):
                room = min(room, together)
                self.reached["own" if request.owner == name else "claimed"] += 1
                self.deliver(request, trainer, deliveries)
                found.append(request.id)
        if not found and not spent:
            for request in [request for request in self.requests.values() if request.owner is None][:BATCH]:
                self.reached["new"] += 1
                self.deliver(request, trainer, 0)
                found.append(request.id)
        return sorted(found)

    def deliver(self, request: Request, trainer: Trainer, before: int) -> None:
        request.owner, request.idle, request.deliveries = trainer.name, 0, before + 1
        request.call = (trainer.name, trainer.heard)

    def keep(self, trainer: Trainer) -> None:
        """Touch what it works on; what is not its any more it drops."""
        mine = self.run(trainer.queue.keep(trainer.work))
        assert mine == [entry for entry in trainer.work if self.belongs(entry, trainer)]
        for entry in mine:
            self.requests[entry].idle = 0
        trainer.work = mine

    def leave(self, trainer: Trainer) -> None:
        """Give back what it works on, as one that stops, or leave it for the next try."""
        give_back = self.draw(st.booleans())
        self.run(trainer.queue.leave(trainer.work, "left", give_back=give_back))
        for entry in trainer.work if give_back else []:
            if self.belongs(entry, trainer):
                request = self.requests[entry]
                request.deliveries, request.idle = max(0, request.deliveries - 1), 86_400_000 // SCALE
                self.reached["given back"] += 1
        trainer.work = []

    def belongs(self, entry: StreamID, trainer: Trainer) -> bool:
        return self.requests[entry].owner == trainer.name and not self.requests[entry].answered

    def answer(self, trainer: Trainer) -> None:
        """Answer one; the reply may be lost, or the call may stay on its way."""
        entry = self.draw(st.sampled_from(trainer.work))
        match self.draw(st.sampled_from(["kept", "kept", "lost", "under way"])):
            case "kept":
                self.send(trainer, entry)
                trainer.work.remove(entry)
            case "lost":
                self.send(trainer, entry)
            case _:
                self.under_way.append((trainer, entry))

    def arrive(self) -> None:
        """An answer that was under way arrives, even if its trainer is dead or another has the request."""
        self.send(*self.under_way.pop(self.draw(st.integers(0, len(self.under_way) - 1))))
        self.reached["arrived late"] += 1

    def send(self, trainer: Trainer, entry: StreamID) -> None:
        result = TrainingResult(request=str(entry), series="A:1s", status="done", reason=trainer.name)
        answered = self.run(trainer.queue.answer([(entry, result)]))
        request = self.requests[entry]
        assert answered == (not request.answered)
        self.reached["answered twice" if request.answered else "answered"] += 1
        if not request.answered:
            self.settle(request, trainer.name)

    def settle(self, request: Request, by: str) -> None:
        request.answered = True
        self.results.append((request.id, by))

    def redis_holds_what_the_model_holds(self) -> None:
        told: Any = self.client.hgetall(KEYS.attempts)
        assert {StreamID.parse(id): orjson.loads(history)["deliveries"] for id, history in told.items()} == {
            request.id: request.deliveries
            for request in self.requests.values()
            if request.owner is not None and not request.answered
        }
        with self.client.pipeline(transaction=True) as pipe:
            pipe.xrange(KEYS.results)
            pipe.xrange(KEYS.dead)
            pipe.zrange(KEYS.answered, 0, -1)
            results, dead, answered = pipe.execute()
        found = [
            (StreamID.parse(row[b"request"]), "failed" if row[b"status"] == b"failed" else row[b"reason"].decode())
            for _, row in results
        ]
        assert found == self.results
        assert [row[b"request"].decode() for _, row in dead] == [str(id) for id, by in self.results if by == "failed"]
        assert {StreamID.parse(id) for id in answered} == {id for id, _ in self.results}
        pending: list[Any] = []
        if self.client.exists(KEYS.requests) and self.client.xinfo_groups(KEYS.requests):
            pending = self.client.xpending_range(KEYS.requests, TRAINERS, "-", "+", 1000)
        assert {StreamID.parse(row["message_id"]): row["consumer"].decode() for row in pending} == {
            request.id: request.owner
            for request in self.requests.values()
            if request.owner is not None and not request.answered
        }

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)


def test_each_request_is_answered_once_however_trainers_die(server: Server) -> None:
    class Machine(Claims):
        reached: ClassVar[Counter[str]] = Counter()

    Machine.server = server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert {what for what, often in Machine.reached.items() if often} >= REACHED
