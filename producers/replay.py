"""Replaying recorded ticks: several tables merged by time, at full speed or at a multiple of real time.

The merge is stable: of ticks at the same time, an earlier table's come first, and within a table the earlier row. It
works in pieces of bounded size. A replay can stop at an event time and go on from there (`start`, `until`): nothing is
sent twice and nothing left out between `until=T` and the next `start=T`. Where the log loses ticks of a named replay
that it had taken (restored from an older state), the replay begins anew and passes over what is there. `plan` decides
and does no I/O; `replay` and `replay_async` carry it out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from producers.publisher import AsyncTickPublisher
from streams.append import PublishError, PublishGap
from streams.columns import Ticks
from streams.errors import BadRecord, ConfigurationError

log = logging.getLogger("red10.replay")

#: Most rows that are taken from each table into one piece.
PIECE_ROWS = 10_000
#: Ticks that fall due within this many seconds go out together.
SLACK_S = 1e-6

#: Called after each piece with the ticks published, the ticks there are, and the event time (ns) of the last one.
Progress = Callable[[int, int, int], None]


class Publisher(Protocol):
    """What `replay` needs of a publisher; `TickPublisher` is one."""

    def publish_many(self, ticks: Ticks, /) -> int:
        """Publish ticks in order; return how many."""

    def rewind(self) -> None:
        """Begin the sequence again, passing over what the log has."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        ticks: how many were published.
        first_ts, last_ts: event time of the first and last, epoch ns; `None` without ticks.
        seconds: how long it took.
    """

    ticks: int
    first_ts: int | None
    last_ts: int | None
    seconds: float


def merged(tables: Sequence[Ticks], piece_rows: int = PIECE_ROWS) -> Iterator[Ticks]:
    """The tables' ticks in order of time, in pieces of at most `piece_rows` from each table; each must be sorted."""
    at = [0] * len(tables)
    while any(at[number] < len(table) for number, table in enumerate(tables)):
        # A table whose window ends before its rows do limits the piece: what follows it there is not seen yet.
        limits = [
            (int(table.ts[at[number] + piece_rows - 1]), number)
            for number, table in enumerate(tables)
            if at[number] + piece_rows < len(table)
        ]
        last, limiting = min(limits, default=(None, 0))
        parts = []
        for number, table in enumerate(tables):
            window = table.take(slice(at[number], at[number] + piece_rows))
            if last is not None:
                # Ticks at the limit itself: those of later tables must wait for the rest of the limiting one's.
                stop = np.searchsorted(window.ts, last, "right" if number <= limiting else "left")
                window = window.take(slice(0, int(stop)))
            at[number] += len(window)
            parts.append(window)
        whole = Ticks.concat(parts)
        yield whole.take(np.argsort(whole.ts, kind="stable"))


def first_new(tables: Sequence[Ticks], taken: Mapping[int, int], partition_of: Callable[[str], int]) -> int | None:
    """The event time of the first tick that the log does not have yet; `None` if it has all.

    Args:
        tables: as for `replay`.
        taken: how many ticks of this sequence the log has taken, by partition.
        partition_of: the partition of a symbol.
    """
    left = dict(taken)
    for piece in merged(tables):
        home = np.array([partition_of(name) for name in piece.names], np.int64)[piece.codes]
        fresh = []
        for partition in np.unique(home).tolist():
            rows = np.flatnonzero(home == partition)
            known = min(len(rows), left.get(partition, 0))
            left[partition] = left.get(partition, 0) - known
            fresh += rows[known : known + 1].tolist()
        if fresh:
            return int(piece.ts[min(fresh)])
    return None


def plan(
    tables: Sequence[Ticks],
    *,
    speed: float | None = None,
    paced_from: int | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Ticks | float]:
    """What to do: publish these ticks, or wait so many seconds.

    Args:
        speed: event seconds per second; `None` for as fast as possible.
        paced_from: the event time, epoch ns, from which that counts; what is earlier is due at once.
        now: a monotonic clock, seconds.
    """
    began, first_ts = now(), paced_from
    for piece in merged(tables):
        if speed is None:
            yield piece
            continue
        first_ts = int(piece.ts[0]) if first_ts is None else first_ts
        due = (piece.ts - first_ts) / (speed * 1e9)
        sent = 0
        while sent < len(piece):
            elapsed = now() - began
            ready = int(np.searchsorted(due, elapsed + SLACK_S, "right"))
            if ready > sent:
                yield piece.take(slice(sent, ready))
                sent = ready
            else:
                yield float(due[sent]) - elapsed


class _Count:
    """Keeps what a replay reports."""

    def __init__(self, tables: Sequence[Ticks], on_progress: Progress | None, now: Callable[[], float]) -> None:
        self._total = sum(map(len, tables))
        self._on_progress = on_progress
        self._now = now
        self._began = now()
        self._first: int | None = None
        self.last: int | None = None
        self.done = 0

    def published(self, ticks: Ticks) -> None:
        self._first = int(ticks.ts[0]) if self._first is None else self._first
        self.last = int(ticks.ts[-1])
        self.done += len(ticks)
        if self._on_progress is not None:
            self._on_progress(self.done, self._total, self.last)

    def result(self) -> Replayed:
        return Replayed(self.done, self._first, self.last, self._now() - self._began)


def _prepare(tables: Sequence[Ticks], speed: float | None, start: int | None, until: int | None) -> list[Ticks]:
    if speed is not None and not 0 < speed < float("inf"):
        raise ConfigurationError(f"a replay's speed is a number above zero, not {speed!r}; leave it out for full speed")
    for number, table in enumerate(tables):
        back = np.flatnonzero(np.diff(table.ts) < 0)
        if len(back):
            raise BadRecord("malformed", f"table {number}: row {int(back[0]) + 1} is earlier than the row before it")
    return [table.slice(start, until) for table in tables]


def replay(
    publisher: Publisher,
    tables: Sequence[Ticks],
    *,
    speed: float | None = None,
    start: int | None = None,
    until: int | None = None,
    paced_from: int | None = None,
    on_progress: Progress | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Replayed:
    """Publish recorded ticks in order of time.

    Args:
        publisher: where to.
        tables: ticks, each table sorted by time.
        speed: event seconds per second (1 is real time); `None` for as fast as possible.
        start, until: the event times, epoch ns, from which (inclusive) and up to which (exclusive) to replay.
        paced_from: the event time, epoch ns, from which `speed` counts; what is earlier is due at once.
        on_progress: see `Progress`.
        now, sleep: a monotonic clock in seconds, and how to wait by it.

    Raises:
        PublishError: publishing stopped on the way; its counts are those of the whole replay.
        BadRecord: a table is not sorted, or a tick in it cannot be sent.
        ConfigurationError: the speed is none.
    """
    chosen = _prepare(tables, speed, start, until)
    while True:
        count = _Count(chosen, on_progress, now)
        try:
            for step in plan(chosen, speed=speed, paced_from=paced_from, now=now):
                if isinstance(step, float):
                    sleep(step)
                    continue
                publisher.publish_many(step)
                count.published(step)
            return count.result()
        except PublishGap as gap:
            log.warning("%s", gap.cause)
            paced_from = count.last
            publisher.rewind()
        except PublishError as error:
            raise error.shifted(count.done) from error.__cause__


async def replay_async(
    publisher: AsyncTickPublisher,
    tables: Sequence[Ticks],
    *,
    speed: float | None = None,
    start: int | None = None,
    until: int | None = None,
    on_progress: Progress | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Replayed:
    """`replay` under asyncio."""
    chosen = _prepare(tables, speed, start, until)
    paced_from: int | None = None
    while True:
        count = _Count(chosen, on_progress, now)
        try:
            for step in plan(chosen, speed=speed, paced_from=paced_from, now=now):
                if isinstance(step, float):
                    await asyncio.sleep(step)
                    continue
                await publisher.publish_many(step)
                count.published(step)
            return count.result()
        except PublishGap as gap:
            log.warning("%s", gap.cause)
            paced_from = count.last
            await publisher.rewind()
        except PublishError as error:
            raise error.shifted(count.done) from error.__cause__
