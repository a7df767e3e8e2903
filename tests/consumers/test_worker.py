"""Scorer processes against a Redis that is away, comes back, changes, or holds another configuration's state."""

from __future__ import annotations

import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producers.publisher import TickPublisher
from streams.records import DeadLetter
from streams.settings import load_settings
from tests.conftest import binary_of
from tests.servers import Server, entries
from tests.workers import Workers, all_partitions, caught_up, outputs, until, workers

pytestmark = pytest.mark.timeout(120)

MINUTE = 60_000_000_000


@pytest.fixture(params=["embedded", "system"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(binary_of(request.param), ("--appendonly", "yes", "--appendfsync", "always")).start()
    yield server
    server.close()


@pytest.fixture
def crew(redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    env = {
        "RED10_STREAMS_URL": redis_server.url,
        "RED10_MODELS_URL": redis_server.url,
        "RED10_PARTITIONS": "2",
        "RED10_LEASE_MS": "800",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with workers(env, tmp_path) as found:
        yield found


def publish(begin: int, end: int) -> TickPublisher:
    """One tick a minute for two symbols; the publisher stays open."""
    settings, origins = load_settings()
    publisher = TickPublisher(settings, origins=origins)
    rows = [(symbol, 100.0 + n, 1.0, n * MINUTE) for n in range(begin, end) for symbol in ("AAPL", "IBM")]
    publisher.publish_many(rows)
    return publisher


def bars_of(client: redis.Redis, crew: Workers, publisher: TickPublisher, count: int) -> None:
    """Wait until that many bars have closed."""
    tenant = publisher.tenant

    def closed() -> bool:
        bars = [rows for key, rows in outputs(client, tenant).items() if key.startswith("bars:")]
        return caught_up(client, tenant) and sum(map(len, bars)) >= count

    until(closed, f"{count} bars", logs=crew.logs)


def test_a_scorer_waits_for_a_redis_that_is_away_at_start_and_says_so_once(redis_server: Server, crew: Workers) -> None:
    redis_server.kill()
    scorer = crew.start("scorer")
    until(lambda: "waiting for the streams Redis" in crew.logs(), "it says that Redis is away", logs=crew.logs)
    redis_server.start()
    with redis_server.client() as client, publish(0, 11) as publisher:
        bars_of(client, crew, publisher, 20)
    assert scorer.stop() == 0
    assert len(re.findall("waiting for the streams Redis", crew.logs())) == 1
    assert "Traceback" not in crew.logs()


def test_a_scorer_goes_on_after_redis_was_killed_midway_and_nothing_is_lost_or_doubled(
    redis_server: Server, crew: Workers
) -> None:
    crew.start("scorer")
    with redis_server.client() as client:
        with publish(0, 11) as publisher:
            bars_of(client, crew, publisher, 20)
        redis_server.kill()
        until(lambda: "Redis is away" in crew.logs(), "it says that Redis is away", logs=crew.logs)
        redis_server.start()
        with publish(11, 21) as publisher:
            bars_of(client, crew, publisher, 40)
            found = outputs(client, publisher.tenant)
    for symbol in ("AAPL", "IBM"):
        assert [int(row["bar"]) for row in found[f"bars:{symbol}:1m"]] == list(range(20))
        assert [float(row["open"]) for row in found[f"bars:{symbol}:1m"]] == [100.0 + n for n in range(20)]
    assert "Traceback" not in crew.logs()


def test_a_deleted_input_stream_and_group_are_survived(redis_server: Server, crew: Workers) -> None:
    crew.start("scorer")
    with redis_server.client() as client, publish(0, 11) as publisher:
        bars_of(client, crew, publisher, 20)
        for keys in all_partitions(publisher.tenant):
            client.delete(keys.ticks)
        publisher.publish_many([("AAPL", 200.0 + n, 1.0, n * MINUTE) for n in range(11, 22)])
        home = publisher.tenant.keys.partition(publisher.tenant.partition_of("AAPL"))
        until(lambda: client.xlen(home.bars("AAPL:1m")) == 21, "bars of the new stream", logs=crew.logs)
        numbers = [int(fields[b"bar"]) for _, fields in entries(client, home.bars("AAPL:1m"))]
    assert numbers == list(range(21))


def test_what_cannot_be_used_is_set_aside_and_the_rest_goes_on(redis_server: Server, crew: Workers) -> None:
    crew.start("scorer")
    with redis_server.client() as client, publish(0, 2) as publisher:
        bars_of(client, crew, publisher, 2)
        tenant = publisher.tenant
        home = tenant.keys.partition(tenant.partition_of("AAPL"))
        other = tenant.keys.partition(1 - tenant.partition_of("AAPL"))
        good = {"symbol": "AAPL", "price": "1", "size": "1"}
        client.xadd(home.ticks, {**good, "price": "nan", "ts": str(2 * MINUTE)})
        client.xadd(home.ticks, {**good, "ts": "5"})
        client.xadd(home.ticks, {**good, "ts": str(2**62)})
        client.xadd(home.ticks, {"hello": "world"})
        client.xadd(other.ticks, {**good, "ts": str(2 * MINUTE)})
        publisher.publish_many([("AAPL", 9.0, 1.0, n * MINUTE) for n in (2, 3)])
        until(lambda: caught_up(client, tenant), "the rest", logs=crew.logs)
        reasons = [DeadLetter.from_fields(fields).reason for _, fields in entries(client, home.dead)]
        assert reasons == ["malformed", "late", "future", "malformed"]
        [wrong] = [DeadLetter.from_fields(fields) for _, fields in entries(client, other.dead)]
        assert (wrong.reason, home.ticks in wrong.detail) == ("wrong_partition", True)
        assert client.xlen(home.bars("AAPL:1m")) == 3


def test_a_state_of_another_configuration_is_refused_until_told_to_start_anew(
    redis_server: Server, crew: Workers
) -> None:
    scorer = crew.start("scorer")
    with redis_server.client() as client, publish(0, 3) as publisher:
        bars_of(client, crew, publisher, 4)
        tenant = publisher.tenant
        assert scorer.stop() == 0
        home = tenant.keys.partition(tenant.partition_of("AAPL"))
        client.hset(home.state, "fingerprint", "another")
        scorer.start()
        until(lambda: "--start-anew" in crew.logs(), "it says what to do", logs=crew.logs)
        scorer.kill()
        before = client.xlen(home.bars("AAPL:1m"))
        crew.env["RED10_LOG_LEVEL"] = "info"
        again = crew.start("scorer", "--start-anew")
        until(lambda: client.xlen(home.bars("AAPL:1m")) == 2 * before, "the bars are made again", logs=crew.logs)
        assert client.hget(home.state, "incarnation") == b"1"
        assert again.stop() == 0


def test_metrics_and_health_tell_what_was_done(redis_server: Server, crew: Workers) -> None:
    crew.env["RED10_WEB_PORT"] = "0"
    worker = crew.start("scorer")
    with redis_server.client() as client, publish(0, 11) as publisher:
        bars_of(client, crew, publisher, 20)
        client.xadd(publisher.tenant.keys.partition(0).ticks, {"hello": "world"})
        until(lambda: caught_up(client, publisher.tenant), "the bad entry", logs=crew.logs)
        port = listening_port(worker.process.pid if worker.process else 0)
        base = f"http://127.0.0.1:{port}"

        def metrics() -> str:
            with urllib.request.urlopen(f"{base}/metrics", timeout=10) as reply:
                return str(reply.read().decode())

        def total(name: str, **labels: str) -> float:
            wanted = [f'{label}="{value}"' for label, value in labels.items()]
            lines = [line for line in metrics().splitlines() if line.startswith(name + "{")]
            return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(part in line for part in wanted))

        assert total("red10_ticks_total") == 22
        assert total("red10_bars_total") == 20
        assert total("red10_dead_letters_total", reason="malformed") == 1
        assert total("red10_commits_total", answer="OK") >= 2
        assert total("red10_commits_total", answer="FENCED") == 0
        assert "red10_partitions_owned 2.0" in metrics()
        with urllib.request.urlopen(f"{base}/health", timeout=10) as reply:
            health = reply.read().decode()
        assert '"partitions":[0,1]' in health.replace(" ", "")


def listening_port(pid: int) -> int:
    """The TCP port that a process listens on."""
    import psutil

    [port] = {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return int(port)


def test_a_worker_refuses_a_partition_count_that_differs(redis_server: Server, crew: Workers) -> None:
    with publish(0, 2):
        pass
    crew.env["RED10_PARTITIONS"] = "4"
    scorer = crew.start("scorer")
    assert scorer.process is not None
    assert scorer.process.wait(30) == 2
    scorer.process = None
    assert "was created with partitions = 2, but 4 (from RED10_PARTITIONS) was asked for" in crew.logs()
    assert "Traceback" not in crew.logs()
    assert os.environ["RED10_PARTITIONS"] == "2"
