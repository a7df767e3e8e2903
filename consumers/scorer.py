"""The scorer: from a batch of a partition's input to everything that the batch causes. Pure.

`Scorer.compute` is the design's one idea in code: outputs and state are a function of the state before and of the
entries, and of nothing else; no clock, no store, no other partition is read. Releases are content-addressed, so a
release named by an entry is the same for whoever loads it; the caller loads them first (`releases_in`).

`compute` changes the scorer's state in memory. If the commit of the result does not land, or `compute` raises, the
scorer is dropped and built anew from what is stored. What raises, other than a fault of Red10's own, is users' code,
feature sets and policies; `careful` has that cost one bar its forecast (`consumers.poison`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from consumers import outputs
from consumers.bars import NEVER, first_source, last_source
from consumers.closing import Closing, GroupPlan, forecast_of, plan_of, to_be_judged
from consumers.features import feature_row
from consumers.outputs import Close, Fields, Forecast
from consumers.paper import mark, ratio
from consumers.policy import Outlook
from consumers.spec import Spec
from consumers.state import SCHEMA, PartitionState, SeriesState, add_symbol, symbol_field, within_text
from consumers.targets import VOLUME_BARS
from modelstore.loaded import LoadedRelease, SeriesModels
from streams.codec import raw_fields
from streams.decoded import Clock, Decoded, ReleaseSwitch, TickRun
from streams.errors import BadName
from streams.ids import Source, StreamID
from streams.keys import PartitionKeys
from streams.series import check_symbol, partition_of

#: The year 2255. No tick or clock may lie beyond it, whatever its entry's time, so that ns stay within 64 bits.
_LAST_NS = 9_000_000_000_000_000_000

T = TypeVar("T")


@dataclass(slots=True)
class Computed:
    """What one batch causes.

    Attributes:
        outputs: (key, flat fields), in order.
        state: state fields that changed.
        last: the last entry of the batch, if only in part.
        checkpoint: the last entry that is done with.
        passed: entries that are done with since the batch before.
        trim: input before this entry may go.
        counts: `ticks`, `bars`, `predictions`, `outcomes`, and `dead:REASON`, `signals:SIDE`.
    """

    outputs: list[tuple[str, Fields]]
    state: dict[str, str | bytes]
    last: StreamID
    checkpoint: StreamID
    passed: int
    trim: StreamID
    counts: Counter[str]


@dataclass(slots=True)
class _Batch:
    """One batch being computed."""

    decoded: Decoded
    careful: bool = False
    outputs: list[tuple[str, Fields]] = field(default_factory=list)
    dead: list[tuple[int, int, Fields]] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    cause: tuple[int, int] = (-1, -1)
    ordinal: int = 0


def releases_in(decoded: Decoded) -> list[str]:
    """Ids of the releases that a batch switches to, in order."""
    return [part.release for part in decoded.parts if isinstance(part, ReleaseSwitch)]


class Scorer:
    """State and computation of one partition."""

    def __init__(self, spec: Spec, keys: PartitionKeys, state: PartitionState, release: LoadedRelease) -> None:
        self.spec = spec
        self.keys = keys
        self.state = state
        self._release = release
        self._names: dict[tuple[int, int], str] = {}
        self._bars_keys: dict[tuple[int, int], str] = {}
        self._plans: dict[tuple[str, ...], GroupPlan] = {}
        self._lost: Fields | None = None

    def note_loss(self, detail: str) -> None:
        """Put on record, with the next batch, that input was lost after what is consumed."""
        src = Source(self.state.incarnation, self.state.checkpoint, 0, 0)
        self._lost = outputs.dead_fields("gap", detail, src, [])

    def compute(self, decoded: Decoded, releases: Mapping[str, LoadedRelease], *, careful: bool = False) -> Computed:
        """Compute one batch.

        Args:
            decoded: a batch or a window of one, with something in it; windows of a batch one after the other.
            releases: the releases that the batch switches to; one that is missing here exists in no store, and the
                entry that names it becomes a dead letter.
            careful: put what users' code raises on record instead of raising it.

        Raises:
            Exception: whatever the feature set or the policy raises, unless `careful`.
        """
        state = self.state
        batch = _Batch(decoded, careful)
        if self._lost is not None:
            batch.dead.append((-1, 0, self._lost))
            batch.counts["dead:gap"] += 1
            self._lost = None
        for item in decoded.unusable:
            self._bury(batch, item.reason, item.detail, item.position, item.tick)
        for part in decoded.parts:
            if isinstance(part, TickRun):
                self._take_ticks(batch, part)
            elif isinstance(part, Clock):
                self._take_clock(batch, part)
            else:
                self._switch(batch, part, releases)
        batch.dead.sort(key=lambda letter: letter[:2])
        batch.outputs += [(self.keys.dead, fields) for _, _, fields in batch.dead]
        end = decoded.end
        if decoded.passed:
            state.checkpoint = state.anchor = decoded.id(end.position - 1)
        state.within = (decoded.id(end.position), end.tick) if end.tick else None
        state.entries += decoded.passed
        clock = state.builder.clock
        changed: dict[str, str | bytes] = {
            "schema": SCHEMA,
            "fingerprint": self.spec.fingerprint,
            "incarnation": str(state.incarnation),
            "within": within_text(state.within),
            "release": state.release,
            "clock": str(clock) if clock != NEVER else "",
        }
        changed.update(symbol_field(state, slot) for slot in sorted(batch.touched))
        trim = min(state.checkpoint, StreamID(max(0, state.tip.ms - self.spec.keep_ticks_ms), 0))
        return Computed(batch.outputs, changed, state.tip, state.checkpoint, decoded.passed, trim, batch.counts)

    # Input

    def _take_ticks(self, batch: _Batch, run: TickRun) -> None:
        slots = self.state.slots
        slot = np.array([slots.get(symbol, -1) for symbol in run.table], np.int64)[run.code]
        for index in np.flatnonzero(slot < 0):
            slot[index] = self._new_symbol(batch, run, int(index))
        ahead = (slot >= 0) & (run.ts > self._latest_ns(batch.decoded.ms)[run.position])
        for index in np.flatnonzero(ahead):
            self._bury_future(batch, int(run.ts[index]), int(run.position[index]), int(run.tick[index]))
        good = np.flatnonzero((slot >= 0) & ~ahead)
        slot, position, tick = slot[good], run.position[good], run.tick[good]
        closed, late = self.state.builder.add_ticks(
            slot,
            run.ts[good],
            run.price[good],
            run.size[good],
            self.state.incarnation,
            batch.decoded.ms[position],
            batch.decoded.seq[position],
            tick,
        )
        for index in np.flatnonzero(late):
            detail = "its bar had closed: the symbol's watermark or a clock entry had passed the bar's end"
            self._bury(batch, "late", detail, int(position[index]), int(tick[index]))
        batch.counts["ticks"] += int(len(good) - late.sum())
        batch.touched.update(np.unique(slot[~late]).tolist())
        self._close(batch, closed, position, tick.astype(np.int64))

    def _take_clock(self, batch: _Batch, clock: Clock) -> None:
        at = clock.position
        # Like a tick from the future: it would make all symbols late for ever.
        if clock.ts > self._latest_ns(batch.decoded.ms[at : at + 1])[0]:
            self._bury_future(batch, clock.ts, at, 0)
            return
        closed = self.state.builder.advance(clock.ts, at)
        self._close(batch, closed, np.array([at]), np.zeros(1, np.int64), by_position=True)

    def _latest_ns(self, entry_ms: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The latest ts that an entry of this time may have."""
        ahead = min(self.spec.max_ahead_ns, _LAST_NS)
        return np.minimum(entry_ms, (_LAST_NS - ahead) // 1_000_000).astype(np.int64) * 1_000_000 + ahead

    def _new_symbol(self, batch: _Batch, run: TickRun, index: int) -> int:
        raw = run.table[run.code[index]]
        known = self.state.slots.get(raw)
        if known is not None:
            return known
        position, tick = int(run.position[index]), int(run.tick[index])
        try:
            symbol = check_symbol(raw.decode())
        except (BadName, UnicodeDecodeError) as error:
            self._bury(batch, "bad_symbol", str(error), position, tick)
            return -1
        home = partition_of(symbol, self.spec.partitions)
        if home != self.keys.partition:
            right = type(self.keys)(self.keys.tenant, home).ticks
            self._bury(batch, "wrong_partition", f"{symbol} belongs to {right}", position, tick)
            return -1
        return add_symbol(self.state, symbol, self.spec)

    def _switch(self, batch: _Batch, part: ReleaseSwitch, releases: Mapping[str, LoadedRelease]) -> None:
        release = releases.get(part.release)
        if release is None:
            detail = f"no model store knows the release {part.release}"
            self._bury(batch, "unknown_release", detail, part.position, 0)
            return
        self._release = release
        self._plans.clear()
        self.state.release = part.release

    def _bury_future(self, batch: _Batch, ts: int, position: int, tick: int) -> None:
        seconds = (ts - int(batch.decoded.ms[position]) * 1_000_000) / 1e9
        detail = f"ts lies {seconds:.3f} s ahead of the entry's time; ts is in epoch nanoseconds"
        if ts > _LAST_NS:
            detail = "ts lies beyond the year 2255; ts is in epoch nanoseconds"
        self._bury(batch, "future", detail, position, tick)

    def _bury(self, batch: _Batch, reason: str, detail: str, position: int, tick: int) -> None:
        src = Source(self.state.incarnation, batch.decoded.id(position), tick, 0)
        fields = outputs.dead_fields(reason, detail, src, raw_fields(batch.decoded, position, tick))
        batch.dead.append((position, tick, fields))
        batch.counts[f"dead:{reason}"] += 1

    # Output

    def _close(
        self,
        batch: _Batch,
        closed: NDArray[Any],
        position: NDArray[np.int64],
        tick: NDArray[np.int64],
        *,
        by_position: bool = False,
    ) -> None:
        """Put out closed bars, their forecasts and what the policy makes of them.

        Args:
            closed: CLOSED (m,); `by` indexes `position` and `tick`, or is the position itself if `by_position`.
        """
        closings = [self._advance(batch, item, self._cause(item, position, tick, by_position)) for item in closed]
        rows: list[NDArray[np.float32]] = []
        groups: list[SeriesModels] = []
        for closing in closings:
            for group in (closing.group, closing.challengers):
                if closing.row is not None and group is not None:
                    rows.append(closing.row)
                    groups.append(group)
        margins = iter(self._release.score(np.stack(rows), groups) if rows else [])
        for item, closing in zip(closed, closings, strict=True):
            cause = self._cause(item, position, tick, by_position)
            if cause != batch.cause:
                batch.cause, batch.ordinal = cause, 0
            key = (int(item["slot"]), int(item["interval"]))
            batch.touched.add(key[0])
            if closing.row is not None:
                closing.margins = next(margins)
                closing.challenger_margins = next(margins) if closing.challengers is not None else None
            self._put(batch, key, closing)
        batch.counts["bars"] += len(closings)

    @staticmethod
    def _cause(item: Any, position: NDArray[np.int64], tick: NDArray[np.int64], by_position: bool) -> tuple[int, int]:
        """Position and tick of what closed a bar."""
        by = 0 if by_position else int(item["by"])
        return int(position[by]), int(tick[by])

    def _asked(self, batch: _Batch, close: Close, cause: tuple[int, int], what: str, ask: Callable[[], T]) -> T | None:
        """What users' code answers; `None`, and a dead letter, if it raises and the batch is computed carefully."""
        if not batch.careful:
            return ask()
        try:
            return ask()
        except MemoryError:  # of no concern to this bar
            raise
        except Exception as error:
            detail = f"{what} raised {type(error).__name__}: {error}"
            src = Source(self.state.incarnation, batch.decoded.id(cause[0]), cause[1], 0)
            raw = [b"kind", b"bar", b"series", close.series.encode(), b"bar", str(close.number).encode()]
            batch.dead.append((*cause, outputs.dead_fields("poison", detail, src, raw)))
            batch.counts["dead:poison"] += 1
            return None

    def _advance(self, batch: _Batch, item: Any, cause: tuple[int, int]) -> Closing:
        """Number a closed bar, add it to its series' tail, and take from the tail all that its outputs need.

        The tail moves on with the next bar of the same series, which may be in this very batch.
        """
        key = (int(item["slot"]), int(item["interval"]))
        series, bar, interval = self.state.series[key], item["bar"], self.spec.intervals[key[1]]
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"{self.state.builder.symbols[key[0]]}:{interval}"
            self._bars_keys[key] = self.keys.bars(name)
        ohlcv = (float(bar["open"]), float(bar["high"]), float(bar["low"]), float(bar["close"]), float(bar["volume"]))
        start = int(bar["start"])
        close = Close(
            name, series.bars, start, start + interval.ns, ohlcv, int(bar["ticks"]),
            first_source(bar), last_source(bar), self.state.release,
        )  # fmt: skip
        series.bars += 1
        series.tail.append(start, ohlcv)
        closing = Closing(close)
        group = self._release.group(name)
        window = series.tail.window(self.spec.features.window) if group is not None else None
        if group is not None and window is not None:
            closing.group, closing.challengers = group, self._release.challengers(name)
            features = self.spec.features
            closing.row = self._asked(
                batch, close, cause, f"the feature set {features.name}", lambda: feature_row(features, window)
            )
        account = series.account
        if group is not None or series.log.newest >= 0 or account.held or account.target:
            tail = series.tail.last(self.spec.tail_bars)
            closing.actuals = self.spec.judge.actuals(tail)
            closing.previous = float(tail.values[-2, 3]) if len(tail) > 1 else ohlcv[0]
            closing.recent = tail.last(VOLUME_BARS).copy()
        return closing

    def _put(self, batch: _Batch, key: tuple[int, int], closing: Closing) -> None:
        """Put out a bar, what it tells of earlier forecasts, the new forecast, and what the policy makes of it."""
        close, series, judge = closing.close, self.state.series[key], self.spec.judge
        forecast = kept = None
        if closing.group is not None and closing.row is not None:
            plan = self._plan(closing.group)
            forecast = forecast_of(closing, closing.group, plan)
            rivals = self._plan(closing.challengers) if closing.challengers is not None else None
            kept = to_be_judged(closing, forecast, plan, rivals, len(judge.targets))
        self._emit(batch, self._bars_keys[key], outputs.bar_fields(close, self._source(batch), kept))
        if closing.actuals is not None:
            judged = judge.judge(series.log, close.number, closing.actuals)
            moved = series.account.held or series.account.target
            series.account, profit = mark(series.account, closing.previous, close.ohlcv[0], close.ohlcv[3])
            if judged is not None or moved:
                market = math.log(ratio(close.ohlcv[3], closing.previous))
                fields = outputs.outcome_fields(
                    close, self._source(batch), judge.targets, judged,
                    position=series.account.held, profit=profit, market=market,
                )  # fmt: skip
                self._emit(batch, self.keys.outcomes, fields)
                batch.counts["outcomes"] += 1
        series.log.keep(close.number, kept)
        if closing.group is not None and closing.row is not None and forecast is not None:
            self._decide(batch, series, closing, closing.group, closing.row, forecast)

    def _decide(
        self,
        batch: _Batch,
        series: SeriesState,
        closing: Closing,
        group: SeriesModels,
        row: NDArray[np.float32],
        forecast: Forecast,
    ) -> None:
        """Put out a forecast, and the signal that the policy makes of it."""
        close = closing.close
        self._emit(batch, self.keys.predictions, outputs.prediction_fields(close, self._source(batch), forecast))
        batch.counts["predictions"] += 1
        targets = self._plan(group).targets
        outlook = Outlook(close.series, close.end, close.ohlcv[3], targets, forecast.values, ~forecast.in_sample)
        policy = self.spec.policy
        decided = self._asked(
            batch, close, batch.cause, f"the policy {policy.name}", lambda: policy.decide(series.policy, outlook)
        )
        if decided is None:
            return
        series.policy, decision = decided
        if decision is None:
            return
        series.account = series.account.decided(decision.position, decision.cost)
        index = decision.forecast
        with np.errstate(invalid="ignore"):
            outside = (row < group.low[index]) | (row > group.high[index])
        fields = outputs.signal_fields(
            close, self._source(batch), decision,
            version=group.versions[index], trained_through=int(group.trained_through[index]),
            in_range=not bool(outside.any()), proven=bool(group.proven[index]),
        )  # fmt: skip
        self._emit(batch, self.keys.signals, fields)
        batch.counts["signals:buy" if decision.change > 0 else "signals:sell"] += 1

    def _plan(self, group: SeriesModels) -> GroupPlan:
        found = self._plans.get(group.versions)
        if found is None:
            found = self._plans[group.versions] = plan_of(group, self.spec.targets)
        return found

    def _source(self, batch: _Batch) -> Source:
        position, tick = batch.cause
        return Source(self.state.incarnation, batch.decoded.id(position), tick, batch.ordinal)

    def _emit(self, batch: _Batch, key: str, fields: Fields) -> None:
        batch.outputs.append((key, fields))
        batch.ordinal += 1
