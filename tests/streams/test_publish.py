"""What is sent is what the codec reads; what cannot be sent is refused before anything is."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.append import append
from streams.block import read_block
from streams.codec import decode, fields_of_tick
from streams.columns import Ticks, check_ticks
from streams.decoded import TickRun
from streams.errors import BadRecord
from streams.exchange import run
from streams.ids import StreamID
from streams.keys import Keys
from streams.numbering import Numbering
from streams.publish import BLOCK_FROM, BLOCK_TICKS, Group, clock_fields, group_ticks, release_fields, tick_fields
from streams.records import Tick

KEYS = Keys("t")
HOME = KEYS.partition(0)
STREAM = HOME.ticks

finite = st.floats(min_value=5e-324, max_value=1.7e308)
symbols = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._\-/=^@+#$&]{0,20}", fullmatch=True)
ticks = st.tuples(
    symbols,
    finite,
    st.floats(min_value=0, max_value=1.7e308),
    st.integers(0, 2**63 - 1),
    st.none() | finite,
    st.none() | finite,
    st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
)


def entries_of(client: redis.Redis, key: str = STREAM) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in cast(Any, client.xrange(key))]


def send(client: redis.Redis, groups: list[Group], **options: Any) -> dict[str, StreamID]:
    numbering = options.pop("numbering", None) or Numbering.of(None)
    wanted = {"patience_s": 5, "blocks": "never", **options}
    return run(client, append(groups, numbering, "redis://test", **wanted))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ticks, min_size=1, max_size=20))
def test_every_tick_arrives_as_it_was_given(client: redis.Redis, rows: list[Any]) -> None:
    client.delete(STREAM)
    send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME))
    found = [Tick.from_fields(fields) for fields in entries_of(client)]
    assert [(t.symbol, t.price, t.size, t.ts, t.bid, t.ask, t.id) for t in found] == rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ticks, min_size=1, max_size=20))
def test_a_block_holds_what_single_entries_would(client: redis.Redis, rows: list[Any]) -> None:
    client.delete(STREAM)
    send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME), blocks="always")
    [fields] = entries_of(client)
    block = read_block(fields[b"data"])
    found = [Tick.from_fields(_named(fields_of_tick(block, tick))) for tick in range(len(block))]
    assert [(t.symbol, t.price, t.size, t.ts, t.bid, t.ask, t.id) for t in found] == rows


def _named(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def test_many_ticks_for_one_partition_share_entries_few_do_not(client: redis.Redis) -> None:
    for count, entries in ((BLOCK_FROM - 1, BLOCK_FROM - 1), (BLOCK_FROM, 1), (BLOCK_TICKS, 1), (BLOCK_TICKS + 1, 2)):
        client.delete(STREAM)
        rows = [("SPY", 1.0 + at, 0.0, at) for at in range(count)]
        send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME), blocks="auto")
        raw = [(i, [w for p in f.items() for w in p]) for i, f in cast(Any, client.xrange(STREAM))]
        assert len(raw) == entries
        [run] = decode(raw).parts
        assert isinstance(run, TickRun)
        assert run.price.tolist() == [row[1] for row in rows]


def test_a_tick_on_the_wire_is_what_tick_fields_writes(client: redis.Redis) -> None:
    plain, whole = ("SPY", 1.5, 2.0, 7), ("SPY", 1e-8, 0.0, 8, 1.25, 1.75, "ä\r\n$1")
    send(client, group_ticks(Ticks.from_rows([plain, plain]), lambda symbol: HOME))
    send(client, group_ticks(Ticks.from_rows([whole]), lambda symbol: HOME))
    expected = [tick_fields(*plain), tick_fields(*plain), tick_fields(*whole)]
    assert entries_of(client) == [{k.encode(): v.encode() for k, v in fields.items()} for fields in expected]
    assert list(expected[2]) == ["symbol", "price", "size", "ts", "bid", "ask", "id"]


def test_the_scorers_codec_reads_what_is_published(client: redis.Redis) -> None:
    rows = [("SPY", 1.5 + i, 2.0, i) for i in range(5)]
    send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: HOME))
    client.xadd(STREAM, cast(Any, clock_fields(9)))
    client.xadd(STREAM, cast(Any, release_fields("ab" * 32)))
    raw = [(i, [w for p in f.items() for w in p]) for i, f in cast(Any, client.xrange(STREAM))]
    decoded = decode(raw)
    assert not decoded.unusable
    first = decoded.parts[0]
    assert isinstance(first, TickRun)
    assert first.price.tolist() == [row[1] for row in rows]
    assert [type(part).__name__ for part in decoded.parts[1:]] == ["Clock", "ReleaseSwitch"]


def test_groups_keep_the_order_within_a_stream_and_know_their_rows() -> None:
    rows = [(name, float(i + 1), 0.0, i) for i, name in enumerate("ABAAB")]
    groups = group_ticks(Ticks.from_rows(rows), lambda symbol: KEYS.partition(ord(symbol) - 65), first_row=10)
    assert [(g.keys.partition, g.rows.tolist()) for g in groups] == [(0, [10, 12, 13]), (1, [11, 14])]
    assert [g.ticks.ts.tolist() for g in groups if g.ticks is not None] == [[0, 2, 3], [1, 4]]


@pytest.mark.parametrize(
    ("row", "reason", "names"),
    [
        (("SPY", math.nan, 1.0, 0), "bad_price", "price is nan"),
        (("SPY", math.inf, 1.0, 0), "bad_price", "price is inf"),
        (("SPY", 0.0, 1.0, 0), "bad_price", "price is 0.0"),
        (("SPY", -1.0, 1.0, 0), "bad_price", "price is -1.0"),
        (("SPY", 1.0, -1.0, 0), "malformed", "size is -1.0"),
        (("SPY", 1.0, math.nan, 0), "malformed", "size is nan"),
        (("SPY", 1.0, 1.0, -1), "malformed", "ts"),
        (("SPY", 1.0, 1.0, 2**63), "malformed", "ts"),
        (("SPY", 1.0, 1.0, 1.5), "malformed", "ts as integer ns"),
        (("SPY", "x", 1.0, 1), "malformed", "row 3 is no tick"),
        (("a:b", 1.0, 1.0, 1), "malformed", "cannot be a symbol"),
        (("SPY", 1.0, 1.0, 1, 0.0), "bad_price", "bid is 0.0"),
        (("SPY", 1.0, 1.0, 1, None, math.inf), "bad_price", "ask is inf"),
        (("SPY", 1.0, 1.0, 1, None, None, "x" * 129), "malformed", "id is longer"),
        (("SPY", 1.0, 1.0, 1, None, None, "\ud800"), "malformed", "UTF-8"),
        (("SPY", 1.0), "malformed", "row 3"),
        ({"symbol": "SPY", "price": 1.0}, "malformed", "field ts is missing"),
        ({"symbol": "SPY", "price": 1.0, "ts": 1, "prize": 2}, "malformed", "no field 'prize'"),
    ],
)
def test_a_tick_that_cannot_be_sent_is_refused_by_its_row(row: Any, reason: str, names: str) -> None:
    good = ("SPY", 1.0, 1.0, 1)
    with pytest.raises(BadRecord, match="row 3") as caught:
        Ticks.from_rows([good, good, good, row, good])
    assert caught.value.reason == reason
    assert names in str(caught.value)


def test_columns_are_checked_like_rows() -> None:
    good = Ticks.from_rows([("SPY", 1.0, 1.0, 1)] * 3)
    check_ticks(good)
    good.price[1] = np.nan
    with pytest.raises(BadRecord, match="row 1: price is nan"):
        check_ticks(good)


def test_slices_are_half_open_and_concat_keeps_optional_columns() -> None:
    plain = Ticks.from_rows([("A", 1.0, 1.0, t) for t in (1, 2, 2, 3)])
    assert len(plain.slice(2, 3)) == 2
    assert len(plain.slice(None, 2)) == 1
    assert len(plain.slice(9, 3)) == 0
    quoted = Ticks.from_rows([("B", 1.0, 1.0, 9, 0.5, None, "x")])
    whole = Ticks.concat([plain, quoted])
    assert whole.names == ("A", "B")
    assert whole.codes.tolist() == [0, 0, 0, 0, 1]
    assert whole.bid is not None
    assert whole.ids is not None
    assert math.isnan(whole.bid[0])
    assert whole.bid[4] == 0.5
    assert whole.ids.tolist() == [None] * 4 + ["x"]
    assert whole.ask is None


def test_control_entries_are_checked() -> None:
    with pytest.raises(BadRecord, match="no time"):
        clock_fields(-1)
    with pytest.raises(BadRecord, match="64 hex"):
        release_fields("AB" * 32)
