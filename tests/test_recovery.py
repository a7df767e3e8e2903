"""Crashes leave no trace: workers and servers are killed, and what comes out equals an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.requests import post_request, wait_results
from modelstore.releases import Releases
from modelstore.store import ModelStore
from ops.embedded import open_roles
from producers.bars import to_ticks
from producers.controls import planted
from producers.publisher import TickPublisher
from streams.columns import Ticks
from streams.keys import Keys
from streams.records import TrainingRequest
from streams.settings import load_settings
from streams.tenant import Tenant, find_tenant
from tests.conftest import binary_of
from tests.servers import Server, embedded_binary, system_binary
from tests.workers import Worker, Workers, all_partitions, caught_up, in_force, outputs, until, workers

DAY = 86_400 * 1_000_000_000
#: Small models on few bars, so that what is tested is the machinery; leases short, so that takeovers are quick.
ENV = {
    "RED10_INTERVALS": "1d",
    "RED10_HORIZONS": "2,5",
    "RED10_PARTITIONS": "3",
    "RED10_ROUNDS": "10",
    "RED10_MIN_ROWS": "100",
    "RED10_MIN_CHILD_WEIGHT": "1",
    "RED10_POLICY_OPTIONS": '{"horizon": 5, "cost_bps": 1}',
    "RED10_LEASE_MS": "600",
    "RED10_FOLLOW_MS": "100",
    "RED10_PROCESSES": "1",
    "RED10_BATCH_TICKS": "50",
}

pytestmark = pytest.mark.timeout(240)


#: Symbol -> seed. Made up, with a relation strong enough that models of few bars find it: without trees no signals.
SYMBOLS = {"AAPL": 1, "IBM": 5, "MSFT": 6}


def stocks() -> dict[str, Ticks]:
    """420 days of three series, as ticks."""
    return {name: to_ticks(planted(name, seed=seed)).take(slice(0, 420 * 4)) for name, seed in SYMBOLS.items()}


@dataclass
class Setting:
    """Two servers and a tenant."""

    streams: Server
    models: Server
    directory: Path

    def env(self, tenant: str) -> dict[str, str]:
        urls = {"RED10_STREAMS_URL": self.streams.url, "RED10_MODELS_URL": self.models.url}
        return {**ENV, **urls, "RED10_TENANT": tenant}


@pytest.fixture(params=["embedded", "system"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    binary = binary_of(request.param)
    streams, models = Server(binary, ("--appendonly", "yes")).start(), Server(binary).start()
    yield Setting(streams, models, tmp_path)
    streams.close()
    models.close()


def train(client: redis.Redis, models: redis.Redis, tenant: Tenant, as_of: int, crew: Workers) -> str:
    """Train every symbol, wait until the release is in force; its id."""
    requests = [
        post_request(client, tenant.keys, TrainingRequest(series=f"{symbol}:1d", as_of=as_of)) for symbol in SYMBOLS
    ]
    results = wait_results(client, tenant.keys, requests, timeout_s=60)
    assert {result.status for result in results.values()} == {"done"}, results
    release = Releases(models, tenant.keys).current()
    assert release is not None
    until(lambda: in_force(client, tenant, release.id), "the release is in force", logs=crew.logs)
    return release.id


def predictions(client: redis.Redis, tenant: Tenant) -> int:
    return sum(int(client.xlen(keys.predictions)) for keys in all_partitions(tenant))


def await_more(client: redis.Redis, tenant: Tenant, wanted: int) -> None:
    until(lambda: predictions(client, tenant) >= wanted or caught_up(client, tenant), "some more predictions")


def pause_and_wake(scorer: Worker, crew: Workers, client: redis.Redis, tenant: Tenant) -> None:
    """Stop a scorer at work for longer than its lease, let another one finish, and wake it as a zombie."""
    assert scorer.process is not None
    os.kill(scorer.process.pid, signal.SIGSTOP)
    assert not caught_up(client, tenant), "the pause must hit a scorer at work"
    heir = crew.start("scorer")
    until(lambda: caught_up(client, tenant), "another scorer has taken over", logs=crew.logs)
    tokens = {client.get(keys.lease) for keys in all_partitions(tenant)}
    assert heir.process is not None
    assert all(f"-{heir.process.pid}-".encode() in (token or b"") for token in tokens)
    os.kill(scorer.process.pid, signal.SIGCONT)
    until(lambda: "lease" in scorer.log.read_text(), "the zombie notices", logs=crew.logs)
    assert heir.stop() == 0


def run_through(
    setting: Setting, name: str, monkeypatch: pytest.MonkeyPatch, *, kills: int = 0, zombie: bool = False
) -> dict[str, Any]:
    """History, training, and the rest.

    Args:
        kills: how often the scorer is killed in the midst of the rest.
        zombie: whether it is paused there for longer than its lease, and woken when another has taken over.
    """
    directory = setting.directory / name
    directory.mkdir()
    for variable, value in setting.env(name).items():
        monkeypatch.setenv(variable, value)
    settings, origins = load_settings()
    tables = stocks()
    whole = Ticks.concat(list(tables.values()))
    whole = whole.take(whole.ts.argsort(kind="stable"))
    middle, last = int(whole.ts[3 * 4 * 250]) // DAY * DAY, int(whole.ts[-1])
    moments = random.Random(7)
    with (
        workers(setting.env(name), directory) as crew,
        TickPublisher(settings, origins=origins) as publisher,
        setting.streams.client() as client,
        setting.models.client() as models,
    ):
        scorer = crew.start("scorer")
        trainer = crew.start("trainer")
        publisher.publish_many(whole.slice(None, middle))
        publisher.clock(middle)
        tenant = publisher.tenant
        until(lambda: caught_up(client, tenant), "the history is scored", logs=crew.logs)
        train(client, models, tenant, middle, crew)
        rest = whole.slice(middle, None)
        behind = 0
        for number, piece in enumerate(rest.chunks(len(rest) // (kills + 1) + 1)):
            publisher.publish_many(piece)
            if zombie:
                await_more(client, tenant, predictions(client, tenant) + 20)
            if number < kills:
                wanted = predictions(client, tenant) + moments.randint(1, 40)
                await_more(client, tenant, wanted)
                scorer.kill()
                behind += not caught_up(client, tenant)
                scorer.start()
        assert behind >= kills / 2, "the kills must hit a scorer at work"
        if zombie:
            pause_and_wake(scorer, crew, client, tenant)
        publisher.clock((last // DAY + 1) * DAY)
        until(lambda: caught_up(client, tenant), "everything is scored", logs=crew.logs)
        assert scorer.stop() == 0
        assert trainer.stop() == 0
        assert not [keys.lease for keys in all_partitions(tenant) if client.exists(keys.lease)], "leases are given back"
        return outputs(client, tenant)


def test_a_scorer_killed_or_paused_in_the_midst_leaves_the_outputs_of_an_undisturbed_run(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run_through(setting, "calm", monkeypatch)
    killed = run_through(setting, "killed", monkeypatch, kills=4)
    assert len(calm["signals"]) > 20
    assert len(calm["predictions"]) == 3 * 170
    assert len(calm["outcomes"]) > 400, "what the judge and the paper account say is compared as well"
    assert {row["position"] for row in calm["outcomes"]} > {"0", "1"}
    assert killed == calm
    woken = run_through(setting, "woken", monkeypatch, zombie=True)
    assert woken == calm


def test_models_come_back_from_the_rdb_after_the_model_redis_and_a_worker_were_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With embedded servers, as a user has them: nothing is trained again, scoring goes on."""
    env = {**ENV, "RED10_DATA_DIR": str(tmp_path / "data"), "RED10_TENANT": "t"}
    env["RED10_REDIS_SERVER"] = system_binary() or embedded_binary()
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    settings, origins = load_settings()
    whole = stocks()["IBM"]
    middle = int(whole.ts[4 * 300]) // DAY * DAY
    keys = Keys("t")
    with workers(env, tmp_path) as crew:
        with open_roles(settings) as roles:
            client, models = (redis.Redis.from_url(server.url) for server in roles.embedded.values())
            scorer, trainer = crew.start("scorer"), crew.start("trainer")
            with TickPublisher(roles.settings, origins=origins) as publisher:
                publisher.publish_many(whole.slice(None, middle))
                publisher.clock(middle)
                tenant = publisher.tenant
            until(lambda: caught_up(client, tenant), "the history is scored", logs=crew.logs)
            request = post_request(client, keys, TrainingRequest(series="IBM:1d", as_of=middle))
            [result] = wait_results(client, keys, [request], timeout_s=60).values()
            assert result.status == "done"
            release = str(result.release)
            until(lambda: in_force(client, tenant, release), "the release is in force", logs=crew.logs)
            before = ModelStore(models, keys).count()
            for victim in (scorer, trainer):
                victim.kill()
            os.kill(roles.embedded["models"].pid, signal.SIGKILL)
            client.close()
            models.close()
        with open_roles(settings) as roles:
            client, models = (redis.Redis.from_url(server.url) for server in roles.embedded.values())
            assert ModelStore(models, keys).count() == before > 0
            again = crew.start("scorer")
            with TickPublisher(roles.settings, origins=origins) as publisher:
                publisher.publish_many(whole.slice(middle, None))
                assert find_tenant(client, "t") == tenant
            until(lambda: caught_up(client, tenant), "the rest is scored", logs=crew.logs)
            current = Releases(models, keys).current()
            assert current is not None
            assert current.id == release
            home = tenant.keys.partition(tenant.partition_of("IBM"))
            assert client.xlen(home.predictions) >= 100
            assert client.xlen(keys.requests) == 1, "nothing was trained again"
            # A worker that is killed would leave the servers to nobody.
            assert again.stop() == 0
            client.close()
            models.close()
