"""Many ticks at once, as columns: what tables are read into, replay merges and slices, and the publisher sends.

Pure. A `Ticks` that came from outside is checked as a whole by `check_ticks` before any of it is sent, so that one bad
row names itself and nothing is published halfway.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.errors import BadName, BadRecord
from streams.records import Tick
from streams.series import check_symbol

#: First value of `ts` that does not fit a signed 64 bit integer.
END_OF_TIME = 2**63
MAX_ID = 128
#: Order of a tick given as a plain sequence; the last three may be left out.
TICK_COLUMNS = ("symbol", "price", "size", "ts", "bid", "ask", "id")

#: A tick as callers may give it: a record, a mapping by field name, or a sequence in the order of `TICK_COLUMNS`.
TickLike = Tick | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks in order, as columns of equal length n.

    Attributes:
        names: the different symbols.
        codes: int32 (n,), each tick's index in `names`.
        price: float64 (n,), finite and above zero.
        size: float64 (n,), finite and not negative.
        ts: int64 (n,), event time in epoch ns.
        bid, ask: float64 (n,), NaN where unknown; `None` if the whole column is.
        ids: object (n,), the venue's ids as `str`, `None` where unknown; `None` if the whole column is.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    price: NDArray[np.float64]
    size: NDArray[np.float64]
    ts: NDArray[np.int64]
    bid: NDArray[np.float64] | None = None
    ask: NDArray[np.float64] | None = None
    ids: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.ts)

    def __repr__(self) -> str:
        span = f", ts {self.ts[0]}..{self.ts[-1]}" if len(self) else ""
        return f"Ticks({len(self)} of {len(self.names)} symbols{span})"

    def take(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Ticks:
        """Some rows: a view for a slice, a copy for an index or a mask."""
        columns = {
            field.name: column[rows]
            for field in fields(self)
            if field.name != "names" and (column := getattr(self, field.name)) is not None
        }
        return replace(self, **columns)

    def slice(self, start_ns: int | None, end_ns: int | None) -> Ticks:
        """The ticks with `start_ns <= ts < end_ns`, as a view; `ts` must be sorted. `None` leaves an end open."""
        first = 0 if start_ns is None else int(np.searchsorted(self.ts, start_ns, "left"))
        last = len(self) if end_ns is None else int(np.searchsorted(self.ts, end_ns, "left"))
        return self.take(slice(first, max(first, last)))

    def chunks(self, rows: int) -> Iterator[Ticks]:
        """Views of at most `rows` ticks, in order."""
        for first in range(0, len(self), rows):
            yield self.take(slice(first, first + rows))

    @classmethod
    def concat(cls, parts: Sequence[Ticks]) -> Ticks:
        """One after the other."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        number = {name: index for index, name in enumerate(names)}
        codes = [np.array([number[n] for n in part.names], np.int32)[part.codes] for part in parts if len(part)]

        def optional(name: str, fill: object, dtype: type) -> NDArray[Any] | None:
            columns = [getattr(part, name) for part in parts]
            if all(column is None for column in columns):
                return None
            whole = zip(columns, parts, strict=True)
            return np.concatenate([np.full(len(p), fill, dtype) if c is None else c for c, p in whole])

        return cls(
            names,
            np.concatenate([np.empty(0, np.int32), *codes]),
            np.concatenate([np.empty(0), *(part.price for part in parts)]),
            np.concatenate([np.empty(0), *(part.size for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.ts for part in parts)]),
            optional("bid", math.nan, np.float64),
            optional("ask", math.nan, np.float64),
            optional("ids", None, np.object_),
        )

    @classmethod
    def from_rows(cls, rows: Iterable[TickLike], first_row: int = 0) -> Ticks:
        """Columns of ticks that are given one by one.

        Args:
            first_row: number of the first row in messages.

        Raises:
            BadRecord: a row is no tick, or cannot be sent; the message names it.
        """
        number: dict[str, int] = {}
        codes, price, size, ts = [], [], [], []
        bids: list[float] = []
        asks: list[float] = []
        ids: list[str | None] = []
        for row, given in enumerate(rows, first_row):
            values = _values(given, row)
            codes.append(number.setdefault(values[0], len(number)))
            price.append(values[1])
            size.append(values[2])
            ts.append(values[3])
            bids.append(values[4])
            asks.append(values[5])
            ids.append(values[6])
        found = cls(
            tuple(number),
            np.array(codes, np.int32),
            np.array(price, np.float64),
            np.array(size, np.float64),
            np.array(ts, np.int64),
            None if all(math.isnan(v) for v in bids) else np.array(bids, np.float64),
            None if all(math.isnan(v) for v in asks) else np.array(asks, np.float64),
            None if not any(ids) else np.array(ids, np.object_),
        )
        check_ticks(found, first_row)
        return found


def _values(given: TickLike, row: int) -> tuple[str, float, float, int, float, float, str | None]:
    try:
        if isinstance(given, Tick):
            symbol, price, size, ts = given.symbol, given.price, given.size, given.ts
            bid, ask, venue_id = given.bid, given.ask, given.id
        elif isinstance(given, Mapping):
            unknown = sorted(set(given) - set(TICK_COLUMNS))
            if unknown:
                raise BadRecord("malformed", f"row {row}: a tick has no field {', '.join(map(repr, unknown))}")
            symbol, price, size, ts = given["symbol"], given["price"], given.get("size", 0.0), given["ts"]
            bid, ask, venue_id = given.get("bid"), given.get("ask"), given.get("id")
        else:
            whole: list[Any] = [*given, *[None] * (len(TICK_COLUMNS) - len(given))]
            symbol, price, size, ts, bid, ask, venue_id = whole
        time = operator.index(ts)
        if not 0 <= time < END_OF_TIME:
            raise BadRecord("malformed", f"row {row}: ts is no time in epoch nanoseconds: {time}")
        if not isinstance(symbol, str) or not isinstance(venue_id, str | None):
            raise TypeError("symbol and id must be text")
        return (
            symbol,
            float(price),
            float(size),
            time,
            math.nan if bid is None else float(bid),
            math.nan if ask is None else float(ask),
            venue_id or None,
        )
    except KeyError as error:
        raise BadRecord("malformed", f"row {row}: the field {error.args[0]} is missing") from None
    except (TypeError, ValueError) as error:
        raise BadRecord(
            "malformed",
            f"row {row} is no tick ({error}): give {', '.join(TICK_COLUMNS[:4])} (ts as integer ns) "
            f"and, if known, {', '.join(TICK_COLUMNS[4:])}",
        ) from None


def check_ticks(ticks: Ticks, first_row: int = 0) -> None:
    """Check every tick.

    Args:
        first_row: number of the first row in messages.

    Raises:
        BadRecord: reason `bad_price` or `malformed`, as a scorer would dead-letter it; the message names the first row.
    """
    used = set(np.unique(ticks.codes).tolist())
    for code, name in enumerate(ticks.names):
        if code in used:
            try:
                check_symbol(name)
            except BadName as error:
                row = first_row + int(np.argmax(ticks.codes == code))
                raise BadRecord("malformed", f"row {row}: {error}") from None
    _refuse(~(np.isfinite(ticks.price) & (ticks.price > 0)), "price", "above zero", ticks.price, first_row)
    _refuse(~(np.isfinite(ticks.size) & (ticks.size >= 0)), "size", "zero or more", ticks.size, first_row)
    _refuse(ticks.ts < 0, "ts", "zero or more (epoch nanoseconds)", ticks.ts, first_row)
    for name, column in (("bid", ticks.bid), ("ask", ticks.ask)):
        if column is not None:
            _refuse(np.isinf(column) | (column <= 0), name, "above zero, or left out", column, first_row)
    if ticks.ids is not None:
        for row, venue_id in enumerate(ticks.ids):
            if venue_id is None:
                continue
            if len(venue_id) > MAX_ID:
                raise BadRecord("malformed", f"row {first_row + row}: the id is longer than {MAX_ID} characters")
            if not venue_id.isascii() and any("\ud800" <= letter <= "\udfff" for letter in venue_id):
                raise BadRecord("malformed", f"row {first_row + row}: the id is no text that UTF-8 can hold")


def _refuse(bad: NDArray[np.bool_], name: str, want: str, column: NDArray[Any], first_row: int) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        reason = "bad_price" if name in ("price", "bid", "ask") else "malformed"
        found = column[row].item()
        raise BadRecord(reason, f"row {first_row + row}: {name} is {found!r}; it must be a finite number {want}")
