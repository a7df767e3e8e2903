"""Blocks: many ticks of one partition in one entry, as packed columns. The format; pure.

A block is an entry with two fields, `kind` = `block` and `data`. All numbers in `data` are little-endian:

    offset  bytes  what
    0       4      `R10B`
    4       1      format version, 1
    5       1      flags: 1 the column bid is there, 2 ask, 4 ids
    6       2      m, number of symbols, 1 to 65,535
    8       4      n, number of ticks, 1 to `MOST_TICKS`
    12      4      CRC-32 (zlib's) of bytes 0 to 11 and 16 to the end
    16             m symbols: a byte that tells the length, then that many bytes of UTF-8; zero bytes up to a
                   multiple of 8
            8 n    ts, int64, epoch ns
            8 n    price, float64
            8 n    size, float64
            8 n    bid, float64, NaN where unknown, if flagged; then ask likewise
            2 n    index of each tick's symbol, uint16, if m > 1
            2 n    lengths of the ids in bytes, uint16, 0 where unknown, if flagged; then the ids, UTF-8

Nothing may follow. What cannot be true of a whole block (a length, the checksum, an index past the table) makes it
unusable as a whole; a tick with an impossible value is set aside alone (`streams.codec`).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.columns import Ticks
from streams.errors import BadRecord

MAGIC = b"R10B"
VERSION = 1
#: Most ticks in one block: 2 MB of columns, and a bound for whoever reads a hostile one.
MOST_TICKS = 65_536
_HEADER = struct.Struct("<4sBBHII")
_BID, _ASK, _IDS = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Block:
    """The columns of a block; views on its bytes, of length n where not said otherwise.

    Attributes:
        table: the symbols, UTF-8 bytes as they came, length m.
        code: int32, index into `table`, within bounds.
        ts: int64, epoch ns; price, size: float64; not checked.
        bid, ask: float64, NaN where unknown; `None` if the whole column is.
        ids: bytes per tick, empty where unknown; `None` if the whole column is.
    """

    table: list[bytes]
    code: NDArray[np.int32]
    ts: NDArray[np.int64]
    price: NDArray[np.float64]
    size: NDArray[np.float64]
    bid: NDArray[np.float64] | None
    ask: NDArray[np.float64] | None
    ids: list[bytes] | None

    def __len__(self) -> int:
        return len(self.ts)


def pack_block(ticks: Ticks) -> bytes:
    """Pack ticks of one partition, at most `MOST_TICKS` and of at most 65,535 symbols; they must have been checked."""
    count = len(ticks)
    used = np.unique(ticks.codes)
    symbols = [ticks.names[code].encode() for code in used.tolist()]
    table = b"".join(bytes((len(symbol),)) + symbol for symbol in symbols)
    parts = [
        table + bytes(-len(table) % 8),
        ticks.ts.astype("<i8").tobytes(),
        ticks.price.astype("<f8").tobytes(),
        ticks.size.astype("<f8").tobytes(),
    ]
    flags = 0
    for flag, column in ((_BID, ticks.bid), (_ASK, ticks.ask)):
        if column is not None:
            flags |= flag
            parts.append(column.astype("<f8").tobytes())
    if len(symbols) > 1:
        parts.append(np.searchsorted(used, ticks.codes).astype("<u2").tobytes())
    if ticks.ids is not None:
        flags |= _IDS
        texts = [(text or "").encode() for text in ticks.ids.tolist()]
        parts += [np.array(list(map(len, texts)), "<u2").tobytes(), *texts]
    body = b"".join(parts)
    header = _HEADER.pack(MAGIC, VERSION, flags, len(symbols), count, 0)[:12]
    return header + struct.pack("<I", zlib.crc32(body, zlib.crc32(header))) + body


def read_block(data: bytes) -> Block:
    """Read a block. Nothing is read past its end, whatever it says of itself.

    Raises:
        BadRecord: it is damaged, or of a version that this one does not know (reason `malformed`).
    """
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        raise _bad("it does not begin as one")
    _, version, flags, symbols, count, checksum = _HEADER.unpack_from(data)
    if version != VERSION or flags & ~(_BID | _ASK | _IDS):
        raise _bad(f"its version {version} with flags {flags} is not known here: update Red10")
    if zlib.crc32(memoryview(data)[16:], zlib.crc32(data[:12])) != checksum:
        raise _bad("its checksum does not match")
    if not symbols or not 0 < count <= MOST_TICKS:
        raise _bad(f"it says that it has {count} ticks of {symbols} symbols")
    table, at = _table(data, symbols)

    def column(dtype: str, width: int) -> NDArray[Any]:
        nonlocal at
        if at + count * width > len(data):
            raise _bad("it is cut short")
        found = np.frombuffer(data, dtype, count, at)
        at += count * width
        return found

    ts, price, size = column("<i8", 8), column("<f8", 8), column("<f8", 8)
    bid = column("<f8", 8) if flags & _BID else None
    ask = column("<f8", 8) if flags & _ASK else None
    code = column("<u2", 2).astype(np.int32) if symbols > 1 else np.zeros(count, np.int32)
    if int(code.max()) >= symbols:
        raise _bad("a tick's symbol is not in its table")
    ids = None
    if flags & _IDS:
        lengths = column("<u2", 2).tolist()
        ends = list(accumulate(lengths, initial=at))
        if ends[-1] > len(data):
            raise _bad("it is cut short")
        ids = [data[begin:end] for begin, end in pairwise(ends)]
        at = ends[-1]
    if at != len(data):
        raise _bad("more follows than it says")
    return Block(table, code, ts, price, size, bid, ask, ids)


def _table(data: bytes, symbols: int) -> tuple[list[bytes], int]:
    """The symbols, and where the columns begin."""
    table: list[bytes] = []
    at = _HEADER.size
    for _ in range(symbols):
        end = at + 1 + (data[at] if at < len(data) else len(data))
        if end > len(data):
            raise _bad("it is cut short")
        table.append(data[at + 1 : end])
        at = end
    return table, at + (_HEADER.size - at) % 8


def _bad(what: str) -> BadRecord:
    return BadRecord("malformed", f"the block cannot be read: {what}")
