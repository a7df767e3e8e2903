"""Room in Redis: publishers hold back before its memory is full, so that scorers can always write what they computed.

A Redis at its limit refuses every write that needs memory; commits go through all the same (`commit.lua`), publishers
are refused. Long before that, at a *mark* (a share of the limit), publishers of Red10 hold back by themselves, and
scorers keep no consumed input any longer than they must. The limit is `maxmemory`, or where that is not set the
machine's memory. What is asked for here costs Redis some 50 µs, ten times a second for each publisher at most.

`Room.wait` decides and does no I/O: a generator that yields `Probe` and is sent the answer, and yields `Pause`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from streams.clients import Backoff
from streams.errors import RedisRefused

log = logging.getLogger("red10.publish")

#: Seconds between two questions while there is room.
PROBE_EVERY_S = 0.1
#: Bytes that may be sent between two questions: a publisher in full career sends several in a tenth of a second.
PROBE_EVERY_BYTES = 4_000_000
#: Seconds between two lines in the log while there is none.
SAY_EVERY_S = 60.0

#: What a publisher does at the mark: wait until there is room again, or raise.
OnFull = Literal["block", "refuse"]


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask Redis for its memory."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What a Redis uses and what it may use, bytes; `limit` is `None` where it does not say."""

    used: int
    limit: int | None

    @property
    def share(self) -> float:
        """Used part of the limit; 0 where there is none."""
        return self.used / self.limit if self.limit else 0.0

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Memory:
        """From the answer to INFO memory."""
        return cls(int(info.get("used_memory", 0)), int(info.get("maxmemory") or info.get("total_system_memory") or 0))


@dataclass(slots=True)
class Room:
    """Whether a publisher may send.

    Attributes:
        mark: share of Redis's memory at which it holds back; 0 for never.
        on_full: what it does then.
        throttled_s: seconds that it has waited in all.
    """

    mark: float
    on_full: OnFull
    throttled_s: float = 0.0
    now: Callable[[], float] = field(default=time.monotonic, repr=False)
    _next: float = field(default=0.0, repr=False)
    _sent: int = field(default=0, repr=False)

    def sent(self, bytes_: int) -> None:
        """Count what was sent."""
        self._sent += bytes_

    def wait(self) -> Generator[Probe | Pause, Any, None]:
        """Let pass, or wait, or refuse.

        Raises:
            RedisRefused: code `FULL`: there is no room, and that is to be an error.
        """
        if not self.mark or (self.now() < self._next and self._sent < PROBE_EVERY_BYTES):
            return
        backoff, began, say_at = Backoff(cap=0.5), self.now(), 0.0
        while True:
            memory: Memory | None = yield Probe()
            # No answer is no reason to hold back: what is sent next finds out what is the matter.
            if memory is None or memory.share < self.mark:
                break
            detail = (
                f"Redis uses {memory.used / 2**20:,.0f} MB, {memory.share:.0%} of its memory; publishers hold back "
                f"from {self.mark:.0%} on (memory_mark). Scorers free it as they read: see `red10 status`"
            )
            if self.on_full == "refuse":
                raise RedisRefused("FULL", detail)
            if self.now() >= say_at:
                log.warning("Publishing waits: %s", detail)
                say_at = self.now() + SAY_EVERY_S
            yield Pause(backoff.next())
        self.throttled_s += self.now() - began if say_at else 0.0
        self._next, self._sent = self.now() + PROBE_EVERY_S, 0
