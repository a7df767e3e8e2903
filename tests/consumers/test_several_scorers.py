"""Several scorer processes that join, leave, are killed and paused: what comes out equals what one alone puts out."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from producers.publisher import TickPublisher
from streams.settings import load_settings
from streams.tenant import Tenant
from tests.conftest import binary_of
from tests.servers import Server
from tests.workers import Worker, Workers, all_partitions, caught_up, outputs, until, workers

pytestmark = pytest.mark.timeout(120)

SECOND = 1_000_000_000
SYMBOLS = [f"S{n}" for n in range(12)]
LEASE_MS = 500


@pytest.fixture(params=["embedded", "system"])
def redis_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(binary_of(request.param)).start()
    yield server
    server.close()


def env(server: Server, tenant: str) -> dict[str, str]:
    return {
        "RED10_STREAMS_URL": server.url,
        "RED10_MODELS_URL": server.url,
        "RED10_TENANT": tenant,
        "RED10_PARTITIONS": "4",
        "RED10_INTERVALS": "1s,5s",
        "RED10_LATENESS_MS": "1500",
        "RED10_LEASE_MS": str(LEASE_MS),
        "RED10_BATCH_TICKS": "20",
        "RED10_BLOCK_MS": "50",
    }


def piece(number: int) -> list[tuple[str, float, float, int]]:
    """Ticks of some seconds, some of them late."""
    choose = random.Random(number)
    rows = []
    for at in range(400):
        ts = number * 20 * SECOND + at * SECOND // 20 - choose.randrange(3) * SECOND
        rows.append((choose.choice(SYMBOLS), 100 + choose.random(), float(choose.randrange(9)), max(0, ts)))
    return rows


def paused(worker: Worker) -> None:
    """Stop a process for longer than its leases, and let it go on as a zombie."""
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE_MS / 1000 * 1.5)
    worker.process.send_signal(signal.SIGCONT)


def joined(crew: Workers, client: redis.Redis, tenant: Tenant) -> Worker:
    """Another scorer, once it is among the members; a signal before that finds it importing."""
    worker = crew.start("scorer")
    assert worker.process is not None
    name = f"-{worker.process.pid}-scorer-".encode()

    def there() -> bool:
        members: Any = client.zrange(tenant.keys.members, 0, -1)
        return any(name in member for member in members)

    until(there, "the scorer has joined", 30, crew.logs)
    return worker


def run_through(
    server: Server, directory: Path, name: str, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> dict[str, Any]:
    """Six pieces of input; with a seed, something happens to one of three scorers after each."""
    (directory / name).mkdir()
    for variable, value in env(server, name).items():
        monkeypatch.setenv(variable, value)
    settings, origins = load_settings()
    with (
        workers(env(server, name), directory / name) as crew,
        TickPublisher(settings, origins=origins) as publisher,
        server.client() as client,
    ):
        tenant = publisher.tenant
        at_work = [joined(crew, client, tenant) for _ in range(1 if seed is None else 3)]
        choose = random.Random(seed)
        for number in range(6):
            publisher.publish_many(piece(number))
            if seed is None:
                continue
            victim = choose.choice(at_work)
            what = choose.choice(["pause", "kill", "leave", "pause"])
            time.sleep(choose.random() * 0.2)
            if what == "pause":
                paused(victim)
                continue
            at_work.remove(victim)
            if what == "kill":
                victim.kill()
            else:
                assert victim.stop() == 0
            at_work.append(joined(crew, client, tenant))
        publisher.clock(1000 * SECOND)
        until(lambda: caught_up(client, tenant), "everything is scored", logs=crew.logs)
        for worker in at_work:
            assert worker.stop() == 0
        assert not [keys.lease for keys in all_partitions(tenant) if client.exists(keys.lease)], "leases are given back"
        assert "Traceback" not in crew.logs()
        assert seed is None or "the lease" in crew.logs(), "no pause outlasted a lease"
        return outputs(client, tenant)


def test_scorers_that_pause_die_join_and_leave_never_interleave(
    redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run_through(redis_server, tmp_path, "calm", monkeypatch, None)
    assert len(calm["dead"]) > 20
    assert len(calm["bars:S0:1s"]) > 50
    assert run_through(redis_server, tmp_path, "disturbed", monkeypatch, seed=1) == calm


def owners(client: redis.Redis, tenant: Tenant) -> list[str]:
    found: list[Any] = [client.get(keys.lease) for keys in all_partitions(tenant)]
    return [token.decode().partition("/")[0] for token in found if token]


def test_partitions_are_spread_over_those_who_are_there(
    redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in env(redis_server, "t").items():
        monkeypatch.setenv(variable, value)
    settings, origins = load_settings()
    with (
        workers(env(redis_server, "t"), tmp_path) as crew,
        TickPublisher(settings, origins=origins) as publisher,
        redis_server.client() as client,
    ):

        def spread(*shares: int) -> None:
            def right() -> bool:
                found = owners(client, publisher.tenant)
                return sorted(found.count(name) for name in set(found)) == sorted(shares)

            until(right, f"the partitions are spread as {shares}", 20, crew.logs)

        publisher.publish_many(piece(0))
        one = joined(crew, client, publisher.tenant)
        spread(4)
        two = joined(crew, client, publisher.tenant)
        spread(2, 2)
        three = joined(crew, client, publisher.tenant)
        two.kill()
        spread(2, 2)
        assert one.stop() == 0
        spread(4)
        assert three.stop() == 0
        assert not owners(client, publisher.tenant)
        assert not client.exists(publisher.tenant.keys.members)
