"""From raw stream entries to columns of ticks, and back to what is wrong with the rest.

`decode` is the hot path of every scorer: it turns a batch of raw entries into runs of ticks (numpy columns), broken by
the control entries (`clock`, `release`) that stand between them, and a list of entries that cannot be used. It is pure
and never raises for bad input. What only the partition's owner can judge (partition, lateness, the future) is not
judged here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.errors import BadRecord
from streams.ids import StreamID

#: A raw entry as RESP2 gives it: id, and field names and values in turn.
RawEntry = tuple[bytes, Sequence[bytes]]

CLOCK = b"clock"
RELEASE = b"release"
_END_OF_TIME = 2**63
_TS_DIGITS = 19
#: Where the names of a plain tick's fields stand.
_PLAIN = ((0, b"symbol"), (2, b"price"), (4, b"size"), (6, b"ts"))


@dataclass(slots=True)
class TickRun:
    """Ticks between two control entries, in order of arrival; all columns have length n.

    Attributes:
        symbols: UTF-8 bytes, as they came.
        price, size: float64; finite, price > 0, size >= 0.
        ts: int64, epoch ns, >= 0.
        position: int64, the entry's position in the batch.
        tick: int32, the tick's index within its entry.
    """

    symbols: list[bytes]
    price: NDArray[np.float64]
    size: NDArray[np.float64]
    ts: NDArray[np.int64]
    position: NDArray[np.int64]
    tick: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Clock:
    """Nothing earlier than `ts` (epoch ns) will follow in this partition."""

    ts: int
    position: int


@dataclass(frozen=True, slots=True)
class ReleaseSwitch:
    """From here on, this release is in force."""

    release: str
    position: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """An entry that cannot be used: `reason` is a short stable word, `detail` is for people."""

    reason: str
    detail: str
    position: int


@dataclass(slots=True)
class Decoded:
    """A batch in order of arrival.

    Attributes:
        ms, seq: uint64 (n,), the two halves of the entry ids.
        entries: the raw entries, at least one.
        parts: runs of ticks and control entries, in order.
        unusable: entries set aside, in order.
    """

    ms: NDArray[np.uint64]
    seq: NDArray[np.uint64]
    entries: Sequence[RawEntry]
    parts: list[TickRun | Clock | ReleaseSwitch]
    unusable: list[Unusable]

    def id(self, position: int) -> StreamID:
        """The id of an entry; -1 is the last."""
        return StreamID(int(self.ms[position]), int(self.seq[position]))


class _Run:
    """Columns being filled."""

    def __init__(self) -> None:
        self.symbols: list[bytes] = []
        self.price: list[float] = []
        self.size: list[float] = []
        self.ts: list[int] = []
        self.position: list[int] = []

    def add(self, tick: tuple[bytes, float, float, int], position: int) -> None:
        symbol, price, size, ts = tick
        self.symbols.append(symbol)
        self.price.append(price)
        self.size.append(size)
        self.ts.append(ts)
        self.position.append(position)

    def close(self) -> TickRun:
        count = len(self.symbols)
        return TickRun(
            self.symbols,
            np.array(self.price, np.float64),
            np.array(self.size, np.float64),
            np.array(self.ts, np.int64),
            np.array(self.position, np.int64),
            np.zeros(count, np.int32),
        )


def decode(entries: Sequence[RawEntry]) -> Decoded:
    """Decode a batch of raw entries."""
    numbers = list(map(int, b"-".join([entry for entry, _ in entries]).split(b"-"))) if entries else []
    ms, seq = np.array(numbers[::2], np.uint64), np.array(numbers[1::2], np.uint64)
    whole = _plain_run([fields for _, fields in entries])
    if whole is not None:
        return Decoded(ms, seq, entries, [whole], [])
    parts: list[TickRun | Clock | ReleaseSwitch] = []
    unusable: list[Unusable] = []
    run = _Run()
    for position, (_, fields) in enumerate(entries):
        try:
            named = _pairs(fields)
            kind = named.get(b"kind", b"tick")
            if kind == b"tick":
                run.add(_tick(named), position)
                continue
            control = _control(kind, named, position)
        except BadRecord as error:
            unusable.append(Unusable(error.reason, str(error), position))
            continue
        if run.symbols:
            parts.append(run.close())
            run = _Run()
        parts.append(control)
    if run.symbols:
        parts.append(run.close())
    return Decoded(ms, seq, entries, parts, unusable)


def _plain_run(rows: Sequence[Sequence[bytes]]) -> TickRun | None:
    """The batch as one run, if every entry is a tick of just the four usual fields in their usual order, and good.

    That is what most batches are, and working on whole columns takes a third of the time.
    """
    try:
        columns = list(zip(*rows, strict=True))
        if len(columns) != 8 or any(columns[at].count(name) != len(rows) for at, name in _PLAIN):
            return None
        symbols, price_text, size_text, ts_text = columns[1::2]
        if not (all(symbols) and b"".join(ts_text).isdigit() and max(map(len, ts_text)) <= _TS_DIGITS):
            return None
        if b"_" in b"".join(price_text + size_text):
            return None
        price = np.array(list(map(float, price_text)), np.float64)
        size = np.array(list(map(float, size_text)), np.float64)
        ts = np.array(list(map(int, ts_text)), np.int64)
    except (ValueError, OverflowError):
        return None
    if not (np.isfinite(price).all() and np.isfinite(size).all() and (price > 0).all() and (size >= 0).all()):
        return None
    count = len(rows)
    return TickRun(list(symbols), price, size, ts, np.arange(count, dtype=np.int64), np.zeros(count, np.int32))


def _pairs(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _number(named: Mapping[bytes, bytes], name: bytes, default: float | None = None) -> float:
    raw = named.get(name)
    if raw is None:
        if default is None:
            raise BadRecord("malformed", f"the field {name.decode()} is missing")
        return default
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if b"_" in raw or not math.isfinite(value):
        raise BadRecord("malformed", f"the field {name.decode()} is no finite number: {_show(raw)}")
    return value


def _time(named: Mapping[bytes, bytes]) -> int:
    raw = named.get(b"ts")
    if raw is None:
        raise BadRecord("malformed", "the field ts is missing")
    if not (raw.isdigit() and len(raw) <= _TS_DIGITS and (ts := int(raw)) < _END_OF_TIME):
        raise BadRecord("malformed", f"the field ts is no time in epoch nanoseconds: {_show(raw)}")
    return ts


def _tick(named: Mapping[bytes, bytes]) -> tuple[bytes, float, float, int]:
    symbol = named.get(b"symbol")
    if not symbol:
        raise BadRecord("malformed", "the field symbol is missing")
    price, size, ts = _number(named, b"price"), _number(named, b"size", 0.0), _time(named)
    if price <= 0:
        raise BadRecord("bad_price", f"the price is not above zero: {price!r}")
    if size < 0:
        raise BadRecord("malformed", f"the size is below zero: {size!r}")
    for name in (b"bid", b"ask"):
        if _number(named, name, 1.0) <= 0:
            raise BadRecord("bad_price", f"the {name.decode()} is not above zero")
    return symbol, price, size, ts


def _control(kind: bytes, named: Mapping[bytes, bytes], position: int) -> Clock | ReleaseSwitch:
    if kind == CLOCK:
        return Clock(_time(named), position)
    if kind == RELEASE:
        release = named.get(b"release", b"")
        if len(release) == 64 and all(c in b"0123456789abcdef" for c in release):
            return ReleaseSwitch(release.decode(), position)
        raise BadRecord("malformed", f"the field release is no release id of 64 hex digits: {_show(release)}")
    raise BadRecord("malformed", f"the field kind is none of tick, clock, release: {_show(kind)}")


def _show(raw: bytes) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace"))


def raw_text(fields: Sequence[bytes]) -> dict[str, str]:
    """The raw fields of an entry as text for a dead letter; bytes that are no UTF-8 are escaped."""
    return {
        name.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
        for name, value in zip(fields[::2], fields[1::2], strict=True)
    }
