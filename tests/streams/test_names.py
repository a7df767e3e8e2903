"""Symbols, intervals, series, tenants, partitions, ids and sources: what can be one, and how it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import BadName
from streams.ids import MAX_U64, Source, StreamID
from streams.keys import Keys
from streams.series import Interval, Series, check_symbol, check_tenant, partition_of

u64 = st.integers(0, MAX_U64)


@pytest.mark.parametrize("symbol", ["SPY", "BTC-USD", "BRK.B", "AUD/USD", "ES=F", "6E", "A" * 64])
def test_what_exchanges_use_can_be_a_symbol(symbol: str) -> None:
    assert check_symbol(symbol) == symbol


@pytest.mark.parametrize("symbol", ["", " ", "A B", "A:1m", "{A}", "-A", "A" * 65, "Ä", "A\n"])
def test_what_would_break_a_key_cannot_be_a_symbol(symbol: str) -> None:
    with pytest.raises(BadName, match="cannot be a symbol"):
        check_symbol(symbol)


@pytest.mark.parametrize("tenant", ["", "a b", "a:b", "{a}", "a" * 65])
def test_what_would_break_a_key_cannot_be_a_tenant(tenant: str) -> None:
    with pytest.raises(BadName, match="cannot be a tenant"):
        check_tenant(tenant)
    with pytest.raises(BadName):
        Keys(tenant)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("60s", 60), ("1m", 60), ("15m", 900), ("1h", 3600), ("1d", 86400)]
)
def test_an_interval_is_a_part_of_a_day_and_has_one_spelling(text: str, seconds: int) -> None:
    assert Interval.parse(text).seconds == seconds
    assert Interval.parse(str(Interval.parse(text))) == Interval.parse(text)


@pytest.mark.parametrize("text", ["", "m", "0m", "7m", "2d", "90000s", "1.5m", "1 m", "-1m", "1w"])
def test_what_does_not_divide_a_day_is_no_interval(text: str) -> None:
    with pytest.raises(BadName, match="cannot be an interval"):
        Interval.parse(text)


def test_a_series_is_symbol_and_interval() -> None:
    assert str(Series.parse("SPY:60s")) == "SPY:1m"
    with pytest.raises(BadName, match="no series"):
        Series.parse("SPY")


def test_partitions_follow_the_crc_of_the_symbol() -> None:
    # CRC-32 of b"123456789" is 0xCBF43926, the check value of the algorithm.
    assert partition_of("123456789", 2**32) == 0xCBF43926
    assert partition_of("123456789", 8) == 0xCBF43926 % 8


@given(u64, u64, u64, u64)
def test_ids_are_ordered_as_numbers_and_read_back(ms: int, seq: int, other_ms: int, other_seq: int) -> None:
    one, other = StreamID(ms, seq), StreamID(other_ms, other_seq)
    assert StreamID.parse(str(one)) == one
    assert StreamID.parse(str(one).encode()) == one
    assert (one < other) == ((ms, seq) < (other_ms, other_seq))


def test_ids_are_not_ordered_as_text() -> None:
    assert StreamID.parse("9-0") < StreamID.parse("10-0")
    assert StreamID(5, MAX_U64).next() == StreamID(6, 0)
    assert StreamID(5, 0).next() == StreamID(5, 1)


@pytest.mark.parametrize("text", ["", "x", "1-x", "-1", "1-2-3", "1_0-0", "٣-0", f"{2**64}-0"])
def test_what_redis_would_not_give_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="no stream entry id"):
        StreamID.parse(text)


@given(st.integers(0, 2**31), u64, u64, st.integers(0, 2**31), st.integers(0, 2**31))
def test_sources_read_back(incarnation: int, ms: int, seq: int, tick: int, ordinal: int) -> None:
    source = Source(incarnation, StreamID(ms, seq), tick, ordinal)
    assert Source.parse(str(source)) == source
