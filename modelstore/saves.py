"""Waiting until a completed save of the models Redis covers what was written: after that, a kill loses nothing of it.

What counts is a save that *began* after the writes and ended well. LASTSAVE cannot tell (it has a resolution of a
second), a save that was running already may or may not hold the writes, and `rdb_saves` (7.0) counts saves as they
begin and does not exist in 6.2. But BGSAVE is refused while another save runs, so one that is accepted begins now:

1. a save is running: it does not count, wait for its end;
2. none is running: BGSAVE. Accepted, it is ours; refused because somebody was faster, back to 1;
3. ours has ended and none is running: the last that ended is ours or began after it, so its status decides.

A save that somebody else began meanwhile counts as well where it can be told (`rdb_saves`, or none was running at one
look and one is at the next), so waiters at the same time share saves. A server that restarted meanwhile has
forgotten what was not saved: that is a failure, told by its run id.

Servers with save points, with `save ""`, and with AOF are treated alike; with AOF, which is what such a server loads,
its buffer must have been written too. Nothing is stored in Redis, a crash of the waiter leaves at most a save running.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import redis
from redis.exceptions import ResponseError

from modelstore.errors import ModelStoreError

#: Waits between two looks, s: doubled from the first to the last. Redis tells nobody when a save ends.
FIRST_WAIT_S, LAST_WAIT_S = 0.002, 0.1


class SaveFailed(ModelStoreError):
    """The models Redis did not complete a save that covers the last writes; they may be lost when it is killed."""


@dataclass(frozen=True, slots=True)
class Persistence:
    """What a look at the server found.

    Attributes:
        run_id: random, another one after each start.
        saving: whether a save is running.
        ok: whether the last save that ended, ended well.
        saves: saves since the start, if the server counts them (7.0).
        aof_ok: whether the append-only file, if there is one, takes writes.
        aof_written: whether nothing waits to be written to it.
    """

    run_id: str
    saving: bool
    ok: bool
    saves: int | None
    aof_ok: bool = True
    aof_written: bool = True

    @classmethod
    def of(cls, info: dict[str, Any]) -> Persistence:
        """Read the server and persistence sections of INFO."""
        aof = bool(info.get("aof_enabled"))
        return cls(
            run_id=str(info["run_id"]),
            saving=bool(info["rdb_bgsave_in_progress"]),
            ok=info["rdb_last_bgsave_status"] == "ok",
            saves=info.get("rdb_saves"),
            aof_ok=not aof or info.get("aof_last_write_status") == "ok",
            aof_written=not aof or not info.get("aof_buffer_length"),
        )


class Step(enum.Enum):
    """What to do after a look."""

    WAIT = "wait"
    START = "start"  #: BGSAVE
    DONE = "done"
    FAILED = "failed"  #: our save ended badly
    AOF_FAILED = "aof failed"
    RESTARTED = "restarted"


@dataclass(slots=True)
class Watch:
    """Decides from look to look. Pure: it is told what was found and says what to do.

    Attributes:
        first: the look taken after the writes.
        ours: whether our BGSAVE was accepted.
    """

    first: Persistence
    ours: bool = False
    _others: bool = False
    _idle: bool = field(init=False)

    def __post_init__(self) -> None:
        self._idle = not self.first.saving

    def judge(self, now: Persistence) -> Step:
        """What to do, given what was found now."""
        if now.run_id != self.first.run_id:
            return Step.RESTARTED
        self._others |= self._began_meanwhile(now)
        self._idle |= not now.saving
        if now.saving:
            return Step.WAIT
        if not now.ok:
            return Step.FAILED if self.ours else Step.START
        if not (self.ours or self._others):
            return Step.START
        if not now.aof_ok:
            return Step.AOF_FAILED
        return Step.DONE if now.aof_written else Step.WAIT

    def _began_meanwhile(self, now: Persistence) -> bool:
        if now.saving and self._idle:
            return True
        if now.saves is None or self.first.saves is None:
            return False
        # Of two more, at least the second began after the first look, whether saves count when they begin or end.
        return now.saves >= self.first.saves + (2 if self.first.saving else 1)


class SaveBarrier:
    """Waits for saves of the server behind a client."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._clock = clock
        self._sleep = sleep

    def wait_saved(self, timeout_s: float) -> None:
        """Return once a completed save covers everything that was written before this call. Blocks: use a thread.

        Raises:
            SaveFailed: the save failed (full disk, no memory to fork), was not complete after `timeout_s`, or the
                server restarted meanwhile, so that the writes may be gone.
            redis.RedisError: as the driver raises it; nothing is known then, wait again.
        """
        deadline = self._clock() + timeout_s
        watch = Watch(self._look())
        now, wait_s = watch.first, FIRST_WAIT_S
        while (step := watch.judge(now)) is not Step.DONE:
            if step in _FAILURES:
                raise SaveFailed(_FAILURES[step])
            if step is Step.START:
                watch.ours = self._start()
            if self._clock() >= deadline:
                state = "a save is still running" if now.saving else "no save could be started"
                raise SaveFailed(
                    f"the models Redis completed no save within {timeout_s:g} s ({state}); its log says more"
                )
            self._sleep(wait_s)
            wait_s = min(LAST_WAIT_S, wait_s * 2)
            now = self._look()

    def _look(self) -> Persistence:
        with self._client.pipeline(transaction=True) as pipe:
            pipe.info("server")
            pipe.info("persistence")
            server, persistence = cast(list[dict[str, Any]], pipe.execute())
        return Persistence.of(server | persistence)

    def _start(self) -> bool:
        """Ask for a save; whether it began. Without SCHEDULE: a scheduled save would begin unseen."""
        try:
            self._client.bgsave(schedule=False)
        except ResponseError as error:
            text = str(error)
            if "already in progress" in text or "child process is active" in text:
                return False
            raise SaveFailed(f"the models Redis cannot begin a save: {text or 'it could not fork'}") from error
        return True


_FAILURES = {
    Step.FAILED: (
        "the models Redis failed to save: is its disk full, and may it write to its directory? Its log says more"
    ),
    Step.AOF_FAILED: "the models Redis cannot write its append-only file: is its disk full? Its log says more",
    Step.RESTARTED: "the models Redis restarted before a save covered the last writes: they may be gone, write again",
}
