"""Bars and dead letters of one partition recomputed tick by tick, in plain Python, from docs/protocol.md alone.

Nothing of `consumers` is used: what the scorers make of the same input must equal this, whatever happened to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.decoding import Bad, Clock, Tick, items

#: Entry id and tick index: where something came from, without the ordinal that counts outputs.
Place = tuple[tuple[int, int], int]
#: Ticks may not lie beyond the year 2255.
_LAST_NS = 9_000_000_000_000_000_000


def source(place: Place, incarnation: int = 0) -> str:
    """As an output's `src` begins."""
    (ms, seq), tick = place
    return f"{incarnation}:{ms}-{seq}:{tick}"


@dataclass
class SlowBar:
    """One bar, open or closed."""

    start: int
    ticks: list[tuple[Tick, Place]] = field(default_factory=list)

    def facts(self) -> dict[str, str]:
        """As the fields of a bar's entry; `first` and `last` without the ordinal, which is 0."""
        by_time = sorted((tick for tick, _ in self.ticks), key=lambda tick: tick.ts)  # stable
        prices = [tick.price for tick, _ in self.ticks]
        volume = 0.0
        for tick, _ in self.ticks:
            volume += tick.size
        return {
            "start": str(self.start),
            "open": repr(by_time[0].price),
            "high": repr(max(prices)),
            "low": repr(min(prices)),
            "close": repr(by_time[-1].price),
            "volume": repr(volume),
            "ticks": str(len(self.ticks)),
            "first": source(self.ticks[0][1]),
            "last": source(self.ticks[-1][1]),
        }


class SlowPartition:
    """One partition.

    Attributes:
        closed: per series, bars in order: the fields of their entries, `src` without the ordinal.
        dead: reason and place of every tick or entry set aside, in order.
        ticks: ticks that came, those set aside included.
    """

    def __init__(self, intervals: Mapping[str, int], lateness_ns: int, max_ahead_ns: int) -> None:
        self.closed: dict[str, list[dict[str, str]]] = {}
        self.dead: list[tuple[str, Place]] = []
        self.ticks = 0
        self._intervals = intervals
        self._lateness = lateness_ns
        self._ahead = max_ahead_ns
        self._watermark: dict[str, int] = {}
        self._clock: int | None = None
        self._open: dict[str, dict[tuple[str, int], SlowBar]] = {}
        self._numbers: Counter[str] = Counter()

    def take(self, entry: tuple[int, int], words: Sequence[bytes]) -> None:
        """Take one entry."""
        latest = min(entry[0] * 1_000_000 + self._ahead, _LAST_NS)
        for item in items(words):
            if isinstance(item, Tick):
                self.ticks += 1
                place = (entry, item.index)
                if item.ts > latest:
                    self.dead.append(("future", place))
                elif self._late(item):
                    self.dead.append(("late", place))
                else:
                    self._add(item, place)
            elif isinstance(item, Bad):
                self.ticks += 1
                self.dead.append((item.reason, (entry, item.index)))
            elif isinstance(item, Clock):
                if item.ts > latest:
                    self.dead.append(("future", (entry, 0)))
                elif self._clock is None or item.ts > self._clock:
                    self._clock = item.ts
                    self._close(self._open, (entry, 0))

    def open_bars(self) -> dict[str, list[dict[str, str]]]:
        """Per series, the bars that are still open, oldest first."""
        found: dict[str, list[dict[str, str]]] = {}
        for symbol, bars in self._open.items():
            for (interval, _), bar in sorted(bars.items(), key=lambda item: item[0][1]):
                found.setdefault(f"{symbol}:{interval}", []).append(bar.facts())
        return found

    def _reached(self, symbol: str) -> int:
        known = [at for at in (self._watermark.get(symbol), self._clock) if at is not None]
        return max(known, default=-1)

    def _late(self, tick: Tick) -> bool:
        reached = self._reached(tick.symbol)
        return any((tick.ts // length + 1) * length <= reached for length in self._intervals.values())

    def _add(self, tick: Tick, place: Place) -> None:
        before = self._watermark.get(tick.symbol)
        if before is None or tick.ts - self._lateness > before:
            self._watermark[tick.symbol] = tick.ts - self._lateness
        mine = self._open.setdefault(tick.symbol, {})
        self._close({tick.symbol: mine}, place)
        for interval, length in self._intervals.items():
            start = tick.ts // length * length
            mine.setdefault((interval, start), SlowBar(start)).ticks.append((tick, place))

    def _close(self, candidates: Mapping[str, dict[tuple[str, int], SlowBar]], by: Place) -> None:
        due = []
        for symbol, bars in candidates.items():
            reached = self._reached(symbol)
            for interval, start in bars:
                end = start + self._intervals[interval]
                if end <= reached:
                    due.append((end, symbol, self._intervals[interval], interval, start))
        for end, symbol, _, interval, start in sorted(due):
            series = f"{symbol}:{interval}"
            bar = self._open[symbol].pop((interval, start))
            facts = {"series": series, "bar": str(self._numbers[series]), **bar.facts(), "end": str(end)}
            self._numbers[series] += 1
            self.closed.setdefault(series, []).append({**facts, "src": source(by)})
