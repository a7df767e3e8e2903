"""The monitor as a process: killed without warning it decides what an undisturbed one decides; either Redis may go."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import redis

from consumers.monitor import Monitor
from consumers.retraining import Rules
from modelstore.releases import Releases
from modelstore.verdicts import Verdicts
from streams.settings import Settings, load_settings
from streams.tenant import Tenant, open_tenant
from tests.consumers.asking import entries
from tests.consumers.outcomes import World
from tests.servers import Server
from tests.workers import Worker, Workers, until, workers

pytestmark = pytest.mark.timeout(120)

SERIES = ("SPY:1d", "QQQ:1d", "IWM:1d")
HORIZONS = {"close_1": 1, "close_5": 5}


@pytest.fixture
def crew(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    env = {
        "RED10_STREAMS_URL": server.url,
        "RED10_MODELS_URL": server.url,
        "RED10_TENANT": "t",
        "RED10_PARTITIONS": "2",
        "RED10_INTERVALS": "1d",
        "RED10_COLUMNS": "close",
        "RED10_HORIZONS": "1,5",
        "RED10_MIN_ROWS": "50",
        "RED10_BLOCK_MS": "20",
        "RED10_LOG_LEVEL": "info",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with workers(env, tmp_path) as found:
        yield found


@pytest.fixture
def settings(crew: Workers) -> Settings:
    return load_settings()[0]


def history(client: redis.Redis, settings: Settings) -> Tenant:
    """Outcomes of three series, with something to decide in each."""
    tenant = open_tenant(client, settings)
    for number, series in enumerate(SERIES):
        flip = 200 + 40 * number

        def champion(bar: int, flip: int = flip) -> float:
            return 0.7 if bar < flip else 1.5

        world = World(client, tenant, series, HORIZONS, client, first_id=1000 * number)
        world.alias("close_1", champion=world.version("close_1", 1, champion))
        world.alias("close_5", champion=world.version("close_5", 1, lambda bar: 1.0))
        world.alias("close_5", challenger=world.version("close_5", 2, lambda bar: 1.4))
        world.close(400)
    return tenant


def told(client: redis.Redis, tenant: Tenant) -> dict[str, Any]:
    state = cast(dict[bytes, bytes], client.hgetall(tenant.keys.monitor))
    verdicts = Verdicts(client, tenant.keys)
    return {
        "verdicts": {
            name: [noted.note for noted in verdicts.of(name)] for name in (f"{s}/{t}" for s in SERIES for t in HORIZONS)
        },
        "switches": [(s.who, s.why) for s in Releases(client, tenant.keys).history(1000)],
        "requests": sorted(str(fields) for _, fields in entries(client, tenant.keys.requests)),
        "state": {name: value for name, value in state.items() if name != b"counter"},
    }


def read_to_the_end(client: redis.Redis, tenant: Tenant) -> bool:
    for number in range(tenant.partitions):
        last = cast(Any, client.xrevrange(tenant.keys.partition(number).outcomes, count=1))
        if last and client.hget(tenant.keys.monitor, f"partition:{number}") != last[0][0]:
            return False
    return True


def counter(client: redis.Redis, tenant: Tenant) -> int:
    return int(cast(Any, client.hget(tenant.keys.monitor, "counter")) or 0)


def test_a_monitor_that_is_killed_again_and_again_decides_what_an_undisturbed_one_decides(
    client: redis.Redis, crew: Workers, settings: Settings
) -> None:
    tenant = history(client, settings)
    rules = Rules.of(settings, tenant.pipeline)
    assert Monitor(streams=client, models=client, tenant=tenant, rules=rules).step() == 3 * 399
    expected = told(client, tenant)
    assert expected["requests"]
    assert {note.verdict for notes in expected["verdicts"].values() for note in notes} >= {"drift", "dropped"}
    client.flushall()
    history(client, settings)
    for kill_at in (1, 3):
        worker = crew.start("monitor")
        until(lambda at=kill_at: counter(client, tenant) >= at, "a checkpoint", logs=crew.logs)  # type: ignore[misc]
        worker.kill()
    last = crew.start("monitor")
    until(lambda: read_to_the_end(client, tenant), "all outcomes are read", logs=crew.logs)
    assert last.stop() == 0
    assert told(client, tenant) == expected
    assert "Traceback" not in crew.logs()


def test_it_waits_for_a_redis_that_is_away_and_tells_how_it_is(
    server: Server, client: redis.Redis, crew: Workers, settings: Settings
) -> None:
    tenant = history(client, settings)
    worker = crew.start("monitor")
    until(lambda: read_to_the_end(client, tenant), "all outcomes are read", logs=crew.logs)
    address = f"http://127.0.0.1:{until(lambda: port_of(worker), 'its port')}"
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert f"red10_outcomes_judged_total {3 * 399}.0" in text
    assert re.search(r"red10_drifts_total [1-9]", text)
    with urllib.request.urlopen(f"{address}/health", timeout=10) as page:
        assert json.load(page) == {"role": "monitor", "state": "running"}
    client.save()
    server.kill()
    until(lambda: "waiting for the streams Redis" in crew.logs(), "it says so", logs=crew.logs)
    server.start()
    until(lambda: "the streams Redis is back" in crew.logs(), "it goes on", logs=crew.logs)
    assert worker.stop() == 0
    assert "Traceback" not in crew.logs()


def port_of(worker: Worker) -> int | None:
    """The port that a process listens on."""
    assert worker.process is not None
    found = [c.laddr.port for c in psutil.Process(worker.process.pid).net_connections("tcp") if c.status == "LISTEN"]
    return found[0] if found else None
