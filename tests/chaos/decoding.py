"""Input entries read as docs/protocol.md has them, apart from the code that scorers read them with. Pure and slow.

An entry is one tick, a block of ticks, a clock or a release. What cannot be used comes out as `Bad`, with its reason.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_MAGIC, _HEADER, _ALIGN = b"R10B", struct.Struct("<4sBBHII"), 8


@dataclass(frozen=True, slots=True)
class Tick:
    """A tick; `index` is its place within its entry."""

    index: int
    symbol: str
    price: float
    size: float
    ts: int


@dataclass(frozen=True, slots=True)
class Bad:
    """A tick, or with index 0 a whole entry, that cannot be used."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class Clock:
    """Nothing earlier will follow."""

    ts: int


@dataclass(frozen=True, slots=True)
class Release:
    """From here on, this release."""

    id: str


Item = Tick | Bad | Clock | Release


def items(words: Sequence[bytes]) -> list[Item]:
    """What an entry says, in order."""
    named = dict(zip(words[::2], words[1::2], strict=True))
    try:
        match named.get(b"kind", b"tick"):
            case b"tick":
                return [_single(named)]
            case b"block":
                return list(_block(named[b"data"]))
            case b"clock":
                return [Clock(_time(named[b"ts"]))]
            case b"release":
                return [Release(named[b"release"].decode())]
    except (KeyError, ValueError, IndexError, struct.error):
        pass
    return [Bad(0, "malformed")]


def _single(named: dict[bytes, bytes]) -> Tick | Bad:
    price, size = float(named[b"price"]), float(named.get(b"size", b"0"))
    return _judged(0, named[b"symbol"], price, size, _time(named[b"ts"]))


def _judged(index: int, symbol: bytes, price: float, size: float, ts: int) -> Tick | Bad:
    if not (math.isfinite(price) and math.isfinite(size) and size >= 0 and ts >= 0 and symbol):
        return Bad(index, "malformed")
    if price <= 0:
        return Bad(index, "bad_price")
    return Tick(index, symbol.decode(), price, size, ts)


def _time(raw: bytes) -> int:
    if not raw.isdigit():
        raise ValueError(raw)
    return int(raw)


def _block(data: bytes) -> Iterator[Item]:
    magic, version, flags, count_symbols, count, checksum = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, 1) or zlib.crc32(data[16:], zlib.crc32(data[:12])) != checksum:
        raise ValueError("no block")
    at, table = _HEADER.size, []
    for _ in range(count_symbols):
        table.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    at = -(-at // _ALIGN) * _ALIGN
    columns = []
    for kind in ["q", "d", "d"] + ["d"] * ((flags & 1) + (flags >> 1 & 1)):
        columns.append(struct.unpack_from(f"<{count}{kind}", data, at))
        at += 8 * count
    codes = struct.unpack_from(f"<{count}H", data, at) if count_symbols > 1 else (0,) * count
    for index in range(count):
        yield _judged(index, table[codes[index]], columns[1][index], columns[2][index], columns[0][index])
