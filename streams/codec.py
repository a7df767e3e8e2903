"""From raw stream entries to columns of ticks, and back to what is wrong with the rest.

`decode` is the hot path of every scorer: it turns a batch of raw entries into runs of ticks (numpy columns), broken by
the control entries (`clock`, `release`) that stand between them, and a list of what cannot be used: whole entries, and
single ticks of blocks. It is pure and never raises for bad input. What only the partition's owner can judge (partition,
lateness, the future) is not judged here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streams.block import Block, read_block
from streams.decoded import Clock, Cut, Decoded, RawEntry, ReleaseSwitch, TickRun, Unusable
from streams.errors import BadRecord

CLOCK = b"clock"
RELEASE = b"release"
BLOCK = b"block"
_END_OF_TIME = 2**63
_TS_DIGITS = 19
#: Where the names of a plain tick's fields stand.
_PLAIN = ((0, b"symbol"), (2, b"price"), (4, b"size"), (6, b"ts"))


class _Run:
    """Ticks being gathered, one by one and block by block, until a control entry ends the run."""

    def __init__(self) -> None:
        self._done: list[TickRun] = []
        self._clear()

    def _clear(self) -> None:
        self._codes: dict[bytes, int] = {}
        self._code: list[int] = []
        self._price: list[float] = []
        self._size: list[float] = []
        self._ts: list[int] = []
        self._position: list[int] = []

    def add(self, tick: tuple[bytes, float, float, int], position: int) -> None:
        symbol, price, size, ts = tick
        self._code.append(self._codes.setdefault(symbol, len(self._codes)))
        self._price.append(price)
        self._size.append(size)
        self._ts.append(ts)
        self._position.append(position)

    def add_block(self, block: Block, good: NDArray[np.int64], position: int) -> None:
        """Ticks `good` of a block."""
        self._flush()
        at = np.full(len(good), position, np.int64)
        columns = (block.code[good], block.price[good], block.size[good], block.ts[good])
        self._done.append(TickRun(block.table, *columns, at, good.astype(np.int32)))

    def _flush(self) -> None:
        if not self._code:
            return
        run = TickRun(
            list(self._codes),
            np.array(self._code, np.int32),
            np.array(self._price, np.float64),
            np.array(self._size, np.float64),
            np.array(self._ts, np.int64),
            np.array(self._position, np.int64),
            np.zeros(len(self._code), np.int32),
        )
        self._done.append(run)
        self._clear()

    def close(self) -> list[TickRun]:
        """The run, if there is any tick in it; then begin another."""
        self._flush()
        done, self._done = self._done, []
        return [joined(done)] if done else []


def joined(runs: Sequence[TickRun]) -> TickRun:
    """Runs, one after the other, as one; at least one."""
    if len(runs) == 1:
        return runs[0]
    codes: dict[bytes, int] = {}
    code = []
    for run in runs:
        places = np.array([codes.setdefault(symbol, len(codes)) for symbol in run.table], np.int32)
        code.append(places[run.code])
    return TickRun(
        list(codes),
        np.concatenate(code),
        np.concatenate([run.price for run in runs]),
        np.concatenate([run.size for run in runs]),
        np.concatenate([run.ts for run in runs]),
        np.concatenate([run.position for run in runs]),
        np.concatenate([run.tick for run in runs]),
    )


def decode(entries: Sequence[RawEntry]) -> Decoded:
    """Decode a batch of raw entries."""
    numbers = list(map(int, b"-".join([entry for entry, _ in entries]).split(b"-"))) if entries else []
    ms, seq = np.array(numbers[::2], np.uint64), np.array(numbers[1::2], np.uint64)
    begin, end = Cut(0, 0), Cut(len(entries), 0)
    whole = _plain_run([fields for _, fields in entries])
    if whole is not None:
        return Decoded(ms, seq, entries, [whole], [], {}, begin, end)
    parts: list[TickRun | Clock | ReleaseSwitch] = []
    unusable: list[Unusable] = []
    blocks: dict[int, Block] = {}
    run = _Run()
    for position, (_, fields) in enumerate(entries):
        try:
            named = _pairs(fields)
            kind = named.get(b"kind", b"tick")
            if kind == b"tick":
                run.add(_tick(named), position)
                continue
            if kind == BLOCK:
                block = blocks[position] = _block(named)
                bad = bad_ticks(block, position)
                good = np.arange(len(block), dtype=np.int64)
                run.add_block(block, np.delete(good, [item.tick for item in bad]) if bad else good, position)
                unusable += bad
                continue
            control = _control(kind, named, position)
        except BadRecord as error:
            unusable.append(Unusable(error.reason, str(error), position))
            continue
        parts += run.close()
        parts.append(control)
    parts += run.close()
    return Decoded(ms, seq, entries, parts, unusable, blocks, begin, end)


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
    table = list(dict.fromkeys(symbols))
    codes = {symbol: code for code, symbol in enumerate(table)}
    code = np.array(list(map(codes.__getitem__, symbols)), np.int32)
    return TickRun(table, code, price, size, ts, np.arange(count, dtype=np.int64), np.zeros(count, np.int32))


def bad_ticks(block: Block, position: int) -> list[Unusable]:
    """Ticks of a block with impossible values, in order; by the rules for single ticks."""
    price, size = block.price, block.size
    good = np.isfinite(price) & (price > 0) & np.isfinite(size) & (size >= 0) & (block.ts >= 0)
    for quote in (block.bid, block.ask):
        if quote is not None:
            good &= np.isnan(quote) | (np.isfinite(quote) & (quote > 0))
    if not all(block.table):
        good &= np.array([bool(symbol) for symbol in block.table])[block.code]
    found = []
    for tick in np.flatnonzero(~good).tolist():
        try:
            _tick(_pairs(fields_of_tick(block, tick)))
        except BadRecord as error:
            found.append(Unusable(error.reason, str(error), position, tick))
    return found


def fields_of_tick(block: Block, tick: int) -> list[bytes]:
    """A tick of a block as the fields of an entry of its own; what no such entry can say is said all the same."""
    fields = [
        b"symbol", block.table[block.code[tick]], b"price", repr(float(block.price[tick])).encode(),
        b"size", repr(float(block.size[tick])).encode(), b"ts", str(int(block.ts[tick])).encode(),
    ]  # fmt: skip
    for name, column in ((b"bid", block.bid), (b"ask", block.ask)):
        if column is not None and not math.isnan(column[tick]):
            fields += (name, repr(float(column[tick])).encode())
    if block.ids is not None and block.ids[tick]:
        fields += (b"id", block.ids[tick])
    return fields


def raw_fields(decoded: Decoded, position: int, tick: int) -> Sequence[bytes]:
    """The fields of an entry as they came, or of a tick of a block."""
    block = decoded.blocks.get(position)
    return decoded.entries[position][1] if block is None else fields_of_tick(block, tick)


def _block(named: Mapping[bytes, bytes]) -> Block:
    data = named.get(b"data")
    if data is None:
        raise BadRecord("malformed", "the field data is missing")
    return read_block(data)


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
    raise BadRecord("malformed", f"the field kind is none of tick, block, clock, release: {_show(kind)}")


def _show(raw: bytes) -> str:
    return repr(raw[:40].decode("utf-8", "backslashreplace"))
