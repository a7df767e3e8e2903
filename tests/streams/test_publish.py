"""What is sent is what the codec reads; what cannot be sent is refused before anything is."""

from __future__ import annotations

import math
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.append import Exchange, Outcome, Pause, PublishError, append, run
from streams.clients import connect
from streams.codec import TickRun, decode
from streams.columns import Ticks, check_ticks
from streams.errors import BadRecord
from streams.ids import StreamID
from streams.keys import Keys
from streams.publish import Group, clock_fields, group_ticks, pack, release_fields, tick_fields
from streams.records import Tick
from tests.conftest import binary_of
from tests.servers import Server

KEYS = Keys("t")
STREAM = KEYS.partition(0).ticks

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
    return run(client, append(groups, "redis://test", patience_s=options.pop("patience_s", 5), **options))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ticks, min_size=1, max_size=20))
def test_every_tick_arrives_as_it_was_given(client: redis.Redis, rows: list[Any]) -> None:
    client.delete(STREAM)
    send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: STREAM))
    found = [Tick.from_fields(fields) for fields in entries_of(client)]
    assert [(t.symbol, t.price, t.size, t.ts, t.bid, t.ask, t.id) for t in found] == rows


def test_a_tick_on_the_wire_is_what_tick_fields_writes(client: redis.Redis) -> None:
    plain, whole = ("SPY", 1.5, 2.0, 7), ("SPY", 1e-8, 0.0, 8, 1.25, 1.75, "ä\r\n$1")
    send(client, group_ticks(Ticks.from_rows([plain, plain]), lambda symbol: STREAM))
    send(client, group_ticks(Ticks.from_rows([whole]), lambda symbol: STREAM))
    expected = [tick_fields(*plain), tick_fields(*plain), tick_fields(*whole)]
    assert entries_of(client) == [{k.encode(): v.encode() for k, v in fields.items()} for fields in expected]
    assert list(expected[2]) == ["symbol", "price", "size", "ts", "bid", "ask", "id"]


def test_the_scorers_codec_reads_what_is_published(client: redis.Redis) -> None:
    rows = [("SPY", 1.5 + i, 2.0, i) for i in range(5)]
    send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: STREAM))
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
    groups = group_ticks(Ticks.from_rows(rows), lambda symbol: f"stream-{symbol}", first_row=10)
    assert [(g.key, g.rows) for g in groups] == [("stream-A", [10, 12, 13]), ("stream-B", [11, 14])]


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


def test_refused_for_lack_of_memory_then_accepted_in_order(server: Server, client: redis.Redis) -> None:
    """Memory that becomes free meanwhile must not let later ticks overtake refused ones."""
    rows = [("SPY", float(i + 1), 0.0, i) for i in range(500)]
    group = group_ticks(Ticks.from_rows(rows), lambda symbol: STREAM)
    client.set("ballast", b"x" * 2_000_000)
    client.config_set("maxmemory", 1_500_000)
    steps = append(group, server.url, patience_s=60)
    pauses = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert client.xlen(STREAM) == 0
        if len(pauses) == 3:
            client.config_set("maxmemory", 0)

    run(client, steps, sleep)
    assert len(pauses) == 3
    assert pauses == sorted(pauses)
    assert [float(fields[b"price"]) for fields in entries_of(client)] == [row[1] for row in rows]


def test_a_refusal_that_lasts_is_an_error_that_says_what_is_in(server: Server, client: redis.Redis) -> None:
    rows = [("SPY", float(i + 1), 0.0, i) for i in range(5)]
    client.config_set("maxmemory", 1)
    clock = iter(range(1000))
    steps = append(
        group_ticks(Ticks.from_rows(rows), lambda symbol: STREAM),
        server.url,
        patience_s=3,
        before=7,
        now=lambda: float(next(clock)),
    )
    with pytest.raises(PublishError, match="refuses for now") as caught:
        run(client, steps, lambda seconds: None)
    error = caught.value
    assert (error.accepted, error.unsure, error.out, error.next_row) == (7, (), (0, 1, 2, 3, 4), 5)


def test_a_key_of_the_wrong_type_fails_at_once(client: redis.Redis) -> None:
    client.set(STREAM, "x")
    rows = [("SPY", 1.0, 0.0, 1)] * 3
    with pytest.raises(PublishError, match=r"WRONGTYPE|wrong kind") as caught:
        send(client, group_ticks(Ticks.from_rows(rows), lambda symbol: STREAM), patience_s=60)
    assert caught.value.out == (0, 1, 2)


def drive(steps: Any, outcomes: list[Outcome]) -> list[Any]:
    """Answer exchanges with these outcomes; give what the steps asked for."""
    asked = []
    try:
        step = next(steps)
        while True:
            asked.append(step)
            step = steps.send(outcomes.pop(0) if isinstance(step, Exchange) else None)
    except StopIteration:
        return asked


GROUPS = [Group("a", [pack({"x": "1"})] * 2, [0, 2]), Group("b", [pack({"x": "1"})], [1])]
LOST = redis.ConnectionError("Connection reset by peer")


def test_a_lost_reply_leaves_its_rows_in_doubt_and_sends_nothing_twice() -> None:
    steps = append(GROUPS, "redis://test", patience_s=60)
    with pytest.raises(PublishError) as caught:
        drive(steps, [Outcome([b"5-1"], LOST, sent=True)])
    error = caught.value
    assert (error.accepted, error.unsure, error.out) == (2, (1,), ())
    assert "2 entries are certainly in the log" in str(error)
    assert "1 more may be in it or not" in str(error)
    later = error.shifted(10)
    assert (later.accepted, later.unsure, later.next_row) == (12, (11,), 13)


def test_what_was_never_sent_is_sent_again() -> None:
    steps = append(GROUPS, "redis://test", patience_s=60)
    asked = drive(steps, [Outcome([], LOST, sent=False), Outcome([b"5-1", b"6-1"], None, sent=True)])
    assert isinstance(asked[1], Pause)
    assert asked[0] == asked[2]


def test_only_the_refused_group_is_sent_again() -> None:
    loading = redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory")
    steps = append(GROUPS, "redis://test", patience_s=60)
    asked = drive(steps, [Outcome([b"5-1", loading], None, sent=True), Outcome([b"6-1"], None, sent=True)])
    assert asked[2].replies == 1
    assert asked[2].payload.startswith(b"*5\r\n$4\r\nXADD\r\n$1\r\nb\r\n")


def test_a_reply_lost_on_the_way_is_reported_and_what_was_sent_is_whole(server: Server, client: redis.Redis) -> None:
    """A proxy passes the request on and cuts the connection instead of the answer."""
    group = group_ticks(Ticks.from_rows([("SPY", 1.0, 0.0, t) for t in range(300)]), lambda symbol: STREAM)
    with cutting_proxy(server, b"EVAL") as url, connect(url) as through:
        with pytest.raises(PublishError) as caught:
            run(through, append(group, url, patience_s=30))
        assert caught.value.unsure == tuple(range(300))
        assert caught.value.accepted == 0
        assert client.xlen(STREAM) == 300
        through.ping()


@contextmanager
def cutting_proxy(server: Server, word: bytes) -> Iterator[str]:
    """A proxy to `server` that swallows the answer to the first command that holds `word`, and hangs up."""
    path = server.directory / "proxy.sock"
    cut = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=pump, args=(near,), daemon=True).start()

        def pump(near: socket.socket) -> None:
            with near, socket.socket(socket.AF_UNIX) as far:
                far.connect(str(server.directory / "redis.sock"))
                armed = False
                while True:
                    ready, _, _ = select.select([near, far], [], [])
                    source = ready[0]
                    data = source.recv(65536)
                    armed = armed or (source is near and word in data and not cut.is_set())
                    if not data or (source is far and armed):
                        cut.set()
                        return
                    (far if source is near else near).sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    path.unlink()


def test_a_server_that_comes_back_is_connected_to_again() -> None:
    for kind in ("embedded", "system"):
        server = Server(binary_of(kind), ("--appendonly", "yes", "--appendfsync", "always")).start()
        try:
            client = server.client()
            one = group_ticks(Ticks.from_rows([("SPY", 1.0, 0.0, 1)]), lambda symbol: STREAM)
            send(client, one)
            server.kill()
            naps = iter(range(1000))

            def start_again(_: float, server: Server = server, naps: Any = naps) -> None:
                if next(naps) == 1:
                    server.start()

            run(client, append(one, server.url, patience_s=30), start_again)
            assert client.xlen(STREAM) == 2
            client.close()
        finally:
            server.close()
