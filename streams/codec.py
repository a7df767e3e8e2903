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
        ids: entry ids, one per entry.
        entries: the raw entries.
        parts: runs of ticks and control entries, in order.
        unusable: entries set aside, in order.
    """

    ids: list[StreamID]
    entries: Sequence[RawEntry]
    parts: list[TickRun | Clock | ReleaseSwitch]
    unusable: list[Unusable]


class _Run:
    """Columns being filled."""

    def __init__(self) -> None:
        self.symbols: list[bytes] = []
        self.price: list[float] = []
        self.size: list[float] = []
        self.ts: list[int] = []
        self.position: list[int] = []

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
    parts: list[TickRun | Clock | ReleaseSwitch] = []
    unusable: list[Unusable] = []
    run = _Run()
    isfinite = math.isfinite
    for position, (_, fields) in enumerate(entries):
        try:
            if (
                len(fields) == 8
                and fields[0] == b"symbol"
                and fields[2] == b"price"
                and fields[4] == b"size"
                and fields[6] == b"ts"
            ):
                symbol, price, size, ts = fields[1], float(fields[3]), float(fields[5]), int(fields[7])
                plain = b"_" not in fields[3] and b"_" not in fields[5] and b"_" not in fields[7]
                if not (
                    symbol and plain and price > 0 and size >= 0 and isfinite(price + size) and 0 <= ts < _END_OF_TIME
                ):
                    symbol, price, size, ts = _tick(_pairs(fields))
            else:
                named = _pairs(fields)
                kind = named.get(b"kind", b"tick")
                if kind != b"tick":
                    if run.symbols:
                        parts.append(run.close())
                        run = _Run()
                    parts.append(_control(kind, named, position))
                    continue
                symbol, price, size, ts = _tick(named)
        except BadRecord as error:
            unusable.append(Unusable(error.reason, str(error), position))
            continue
        except ValueError:
            detail = _number_error(fields)
            unusable.append(Unusable("malformed", detail, position))
            continue
        run.symbols.append(symbol)
        run.price.append(price)
        run.size.append(size)
        run.ts.append(ts)
        run.position.append(position)
    if run.symbols:
        parts.append(run.close())
    return Decoded([StreamID.parse(entry) for entry, _ in entries], entries, parts, unusable)


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
    if not (raw.isdigit() and len(raw) <= 19 and (ts := int(raw)) < _END_OF_TIME):
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


def _number_error(fields: Sequence[bytes]) -> str:
    try:
        _tick(_pairs(fields))
    except BadRecord as error:
        return str(error)
    return "a field cannot be read"


def _show(raw: bytes) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace"))


def raw_text(fields: Sequence[bytes]) -> dict[str, str]:
    """The raw fields of an entry as text for a dead letter; bytes that are no UTF-8 are escaped."""
    return {
        name.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
        for name, value in zip(fields[::2], fields[1::2], strict=True)
    }
