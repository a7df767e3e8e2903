"""Bars said slowly, in plain Python: what `consumers.bars` must equal, whatever the batches."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Tick:
    symbol: str
    ts: int
    price: float
    size: float
    number: int


@dataclass
class Bar:
    symbol: str
    interval: int
    start: int
    ticks: list[Tick] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + self.interval

    @property
    def ohlcv(self) -> tuple[float, float, float, float, float]:
        by_time = sorted(self.ticks, key=lambda tick: tick.ts)  # stable: among equals, in order of arrival
        prices = [tick.price for tick in self.ticks]
        volume = 0.0
        for tick in self.ticks:
            volume += tick.size
        return by_time[0].price, max(prices), min(prices), by_time[-1].price, volume


class ReferenceBars:
    """Takes ticks and clocks one by one; `closed` grows in order, `late` has the numbers of late ticks."""

    def __init__(self, intervals: list[int], lateness: int) -> None:
        self.intervals = intervals
        self.lateness = lateness
        self.watermark: dict[str, int] = {}
        self.clock: int | None = None
        self.open: list[Bar] = []
        self.closed: list[Bar] = []
        self.late: list[int] = []

    def _reached(self, symbol: str) -> int | None:
        known = [w for w in (self.watermark.get(symbol), self.clock) if w is not None]
        return max(known) if known else None

    def tick(self, tick: Tick) -> None:
        reached = self._reached(tick.symbol)
        starts = [(i, tick.ts // i * i) for i in self.intervals]
        if reached is not None and any(start + i <= reached for i, start in starts):
            self.late.append(tick.number)
            return
        before = self.watermark.get(tick.symbol)
        if before is None or tick.ts - self.lateness > before:
            self.watermark[tick.symbol] = tick.ts - self.lateness
        self._close({tick.symbol})
        for interval, start in starts:
            bar = next(
                (b for b in self.open if (b.symbol, b.interval, b.start) == (tick.symbol, interval, start)), None
            )
            if bar is None:
                bar = Bar(tick.symbol, interval, start)
                self.open.append(bar)
            bar.ticks.append(tick)

    def advance(self, ts: int) -> None:
        if self.clock is None or ts > self.clock:
            self.clock = ts
            self._close({bar.symbol for bar in self.open})

    def _close(self, symbols: set[str]) -> None:
        due = [b for b in self.open if b.symbol in symbols and b.end <= (self._reached(b.symbol) or -1)]
        for bar in sorted(due, key=lambda b: (b.end, b.symbol, b.interval)):
            self.open.remove(bar)
            self.closed.append(bar)
