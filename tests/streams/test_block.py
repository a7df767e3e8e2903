"""A block that is damaged or made to harm is refused as a whole, or reads as what it says; never anything else."""

from __future__ import annotations

import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.block import MOST_TICKS, Block, pack_block, read_block
from streams.codec import decode
from streams.columns import Ticks
from streams.errors import BadRecord

ROWS = [("SPY", 1.5, 2.0, 7, 1.0, None, "id-ä"), ("QQQ", 2.5, 0.0, 8, None, 2.0, None), ("SPY", 3.5, 1.0, 9)]
WHOLE = pack_block(Ticks.from_rows(ROWS))
PLAIN = pack_block(Ticks.from_rows([("SPY", 1.5 + at, 2.0, at) for at in range(5)]))


def seal(data: bytes) -> bytes:
    """The same with the checksum made right."""
    if len(data) < 16:
        return data
    return data[:12] + struct.pack("<I", zlib.crc32(data[16:], zlib.crc32(data[:12]))) + data[16:]


def consistent(block: Block) -> bool:
    lengths = {len(block.code), len(block.ts), len(block.price), len(block.size)}
    lengths |= {len(column) for column in (block.bid, block.ask, block.ids) if column is not None}
    return lengths == {len(block)} and 0 <= block.code.min() <= block.code.max() < len(block.table)


def test_the_layout_is_the_documented_one() -> None:
    """Byte by byte, so that a reader in another language can be written from the page."""
    expected = b"R10B" + bytes((1, 0)) + struct.pack("<HI", 1, 5)
    body = b"\x03SPY" + bytes(4)
    body += np.arange(5, dtype="<i8").tobytes() + (1.5 + np.arange(5)).astype("<f8").tobytes()
    body += np.full(5, 2.0, "<f8").tobytes()
    assert expected + struct.pack("<I", zlib.crc32(expected + body)) + body == PLAIN
    block = read_block(WHOLE)
    assert block.table == [b"SPY", b"QQQ"]
    assert block.code.tolist() == [0, 1, 0]
    assert block.ids == ["id-ä".encode(), b"", b""]
    assert block.bid is not None
    assert np.isnan(block.bid).tolist() == [False, True, True]


@pytest.mark.parametrize("data", [WHOLE, PLAIN], ids=["whole", "plain"])
def test_every_flipped_bit_and_every_truncation_is_noticed(data: bytes) -> None:
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord):
            read_block(bytes(spoilt))
    for length in range(len(data)):
        with pytest.raises(BadRecord):
            read_block(data[:length])
    with pytest.raises(BadRecord):
        read_block(data + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([WHOLE, PLAIN]), st.data())
def test_a_hostile_block_with_a_right_checksum_reads_within_its_bounds_or_not_at_all(
    base: bytes, data: st.DataObject
) -> None:
    spoilt = bytearray(base)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(4, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(spoilt)) | st.just(len(spoilt)))
    with contextlib.suppress(BadRecord):
        assert consistent(read_block(seal(bytes(spoilt[:length]))))
    decoded = decode([(b"1-0", [b"kind", b"block", b"data", seal(bytes(spoilt[:length]))])])
    assert decoded.units >= 1, "every entry is accounted for"


def test_a_block_that_boasts_is_refused_before_anything_is_made_room_for() -> None:
    for ticks, symbols in ((2**32 - 1, 1), (MOST_TICKS + 1, 1), (0, 1), (5, 0), (5, 65_535)):
        boast = PLAIN[:6] + struct.pack("<HI", symbols, ticks) + PLAIN[12:]
        with pytest.raises(BadRecord):
            read_block(seal(boast))


def test_a_later_version_is_refused_by_name() -> None:
    with pytest.raises(BadRecord, match="version 2"):
        read_block(seal(PLAIN[:4] + b"\x02" + PLAIN[5:]))


def test_a_block_without_data_and_a_bad_block_are_set_aside_as_one_entry() -> None:
    found = decode([(b"1-0", [b"kind", b"block"]), (b"2-0", [b"kind", b"block", b"data", b"R10Bxx"])])
    assert [(item.reason, item.position, item.tick) for item in found.unusable] == [
        ("malformed", 0, 0),
        ("malformed", 1, 0),
    ]
    assert not found.parts
