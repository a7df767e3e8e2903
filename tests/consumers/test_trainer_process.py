"""Trainer processes that are killed in the midst of a fit, beside others: one version, one result, whatever dies."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from consumers.history import BarWindow
from consumers.requests import post_request, wait_results
from modelstore.store import ModelStore
from streams.clients import connect
from streams.ids import StreamID
from streams.keys import TRAINERS
from streams.records import DeadRequest
from streams.settings import load_settings
from streams.tenant import Tenant, open_tenant
from tests.conftest import binary_of
from tests.consumers.asking import asked, entries, pending, results
from tests.consumers.walks import random_bars, store_bars
from tests.modelstore.made import made_up
from tests.servers import Server
from tests.workers import Workers, until, workers

pytestmark = pytest.mark.timeout(120)

IDLE_MS = 1500


@dataclass
class Setting:
    server: Server
    client: redis.Redis
    crew: Workers
    tenant: Tenant
    started: Path
    go: Path

    def add_bars(self, symbol: str, factor: float = 1.0) -> None:
        bars = random_bars(150)
        key = self.tenant.keys.partition(self.tenant.partition_of(symbol)).bars(f"{symbol}:1d")
        scale = np.array([factor] * 4 + [1.0])
        store_bars(self.client, key, BarWindow(bars.start, bars.values * scale))

    def post(self, symbol: str) -> StreamID:
        return post_request(self.client, self.tenant.keys, asked(f"{symbol}:1d"))

    def consumers(self) -> set[str]:
        found = cast(Any, self.client.xinfo_consumers(self.tenant.keys.requests, TRAINERS))
        return {row["name"].decode() for row in found}

    def owners(self) -> list[tuple[str, int]]:
        found = cast(Any, self.client.xpending_range(self.tenant.keys.requests, TRAINERS, "-", "+", 10))
        return [(row["consumer"].decode(), row["times_delivered"]) for row in found]


@pytest.fixture(params=["embedded", "system"])
def setting(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    server = Server(binary_of(request.param)).start()
    env = {
        "RED10_STREAMS_URL": server.url,
        "RED10_MODELS_URL": server.url,
        "RED10_DATA_DIR": str(tmp_path / "data"),
        "RED10_PARTITIONS": "2",
        "RED10_INTERVALS": "1d",
        "RED10_COLUMNS": "close",
        "RED10_HORIZONS": "1",
        "RED10_ROUNDS": "3",
        "RED10_MIN_ROWS": "50",
        "RED10_PROCESSES": "1",
        "RED10_CLAIM_IDLE_MS": str(IDLE_MS),
        "RED10_MAX_DELIVERIES": "3",
        "RED10_BLOCK_MS": "50",
        "RED10_FEATURE_SET": "tests.consumers.deadly_features:DEADLY_SET",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    started, go = tmp_path / "started", tmp_path / "go"
    more = {"PYTHONPATH": str(Path(__file__).parents[2]), "TEST_STARTED": str(started), "TEST_GO": str(go)}
    with connect(server.url, block_ms=1000) as client, workers({**env, **more}, tmp_path) as crew:
        tenant = open_tenant(client, load_settings()[0])
        yield Setting(server, client, crew, tenant, started, go)
    server.close()


def test_a_trainer_killed_in_mid_fit_is_relieved_by_another_and_one_version_and_result_come_of_it(
    setting: Setting,
) -> None:
    client, tenant, crew = setting.client, setting.tenant, setting.crew
    setting.add_bars("SLOW", 1e-9)
    request = setting.post("SLOW")
    first = crew.start("trainer")
    until(setting.started.exists, "the fit has begun", logs=crew.logs)
    [(owner, deliveries)] = setting.owners()
    assert deliveries == 1
    second = crew.start("trainer")
    until((setting.started.parent / "data" / "trainer-1.lock").exists, "the other one has its name", logs=crew.logs)
    # No waiting for an event: that there is none is what is looked for.
    time.sleep(2.5 * IDLE_MS / 1000)
    assert setting.owners() == [(owner, 1)], "a long fit is kept from the other trainer"
    setting.started.unlink()
    first.kill()
    until(setting.started.exists, "the other one has begun", logs=crew.logs)
    [(heir, deliveries)] = setting.owners()
    assert (heir != owner, deliveries) == (True, 2)
    setting.go.touch()
    [result] = wait_results(client, tenant.keys, [request], timeout_s=60).values()
    assert (result.status, len(result.versions)) == ("done", 1)
    assert second.stop() == 0
    assert len(results(client, tenant.keys)) == 1
    assert len(ModelStore(client, tenant.keys).versions("SLOW:1d/close_1")) == 1
    assert pending(client, tenant.keys) == 0


def test_a_trainer_that_is_started_again_takes_its_own_requests_at_once(setting: Setting) -> None:
    client, tenant, crew = setting.client, setting.tenant, setting.crew
    setting.add_bars("SLOW", 1e-9)
    request = setting.post("SLOW")
    trainer = crew.start("trainer")
    until(setting.started.exists, "the fit has begun", logs=crew.logs)
    [(owner, _)] = setting.owners()
    trainer.kill()
    setting.go.touch()
    # Nobody may take it over within this test; only its own trainer has no need to.
    crew.env["RED10_CLAIM_IDLE_MS"] = "600000"
    again = crew.start("trainer")
    [result] = wait_results(client, tenant.keys, [request], timeout_s=60).values()
    assert result.status == "done"
    assert setting.consumers() == {owner}
    assert again.stop() == 0


def test_a_fit_that_hangs_is_answered_and_what_is_not_kept_is_removed(setting: Setting) -> None:
    client, tenant, crew = setting.client, setting.tenant, setting.crew
    store = ModelStore(client, tenant.keys)
    store.put_many([made_up("SPY:1d/close_1", seed) for seed in range(4)])
    crew.env |= {"RED10_KEEP_VERSIONS": "2", "RED10_FIT_TIMEOUT_S": "1"}
    trainer = crew.start("trainer")
    setting.add_bars("SLOW", 1e-9)
    request = setting.post("SLOW")
    until(lambda: len(store.versions("SPY:1d/close_1")) == 2, "old versions are removed", logs=crew.logs)
    [result] = wait_results(client, tenant.keys, [request], timeout_s=60).values()
    assert result.status == "failed"
    assert result.reason is not None
    assert "did not end within 1 s" in result.reason
    assert "deadly_features.py" in crew.logs(), "where it hung"
    assert trainer.stop() == 0


def test_a_request_that_kills_trainers_is_given_up_and_takes_no_other_along(setting: Setting) -> None:
    client, tenant, crew = setting.client, setting.tenant, setting.crew
    setting.add_bars("GOOD")
    setting.add_bars("DEAD", 1e9)
    setting.add_bars("FINE")
    good, deadly, fine = (setting.post(symbol) for symbol in ("GOOD", "DEAD", "FINE"))
    trainer = crew.start("trainer")

    def done_or_started_again() -> bool:
        if trainer.process is not None and trainer.process.poll() is not None:
            trainer.start()
        return len(results(client, tenant.keys)) == 3

    until(done_or_started_again, "all are answered", logs=crew.logs)
    assert trainer.stop() == 0
    answered = wait_results(client, tenant.keys, [good, deadly, fine], timeout_s=5)
    assert [found.status for found in answered.values()] == ["done", "failed", "done"]
    assert "delivered 3 times without an answer" in answered[deadly].reason
    [(_, fields)] = entries(client, tenant.keys.dead)
    letter = DeadRequest.from_fields(fields)
    assert (letter.request, letter.deliveries) == (str(deadly), 3)
    assert re.fullmatch(r"its trainer left it undone|trainer .* went silent", letter.last_reason or "")
    assert len(results(client, tenant.keys)) == 3
    assert pending(client, tenant.keys) == 0


def test_a_trainer_goes_on_after_everything_was_deleted_under_it(setting: Setting) -> None:
    client, tenant, crew = setting.client, setting.tenant, setting.crew
    trainer = crew.start("trainer")
    setting.add_bars("GOOD")
    [result] = wait_results(client, tenant.keys, [setting.post("GOOD")], timeout_s=60).values()
    assert result.status == "done"
    for harm in ("group", "everything"):
        if harm == "group":
            client.xgroup_destroy(tenant.keys.requests, TRAINERS)
        else:
            client.flushall()
        open_tenant(client, load_settings()[0])
        client.delete(tenant.keys.partition(tenant.partition_of("GOOD")).bars("GOOD:1d"))
        setting.add_bars("GOOD")
        [result] = wait_results(client, tenant.keys, [setting.post("GOOD")], timeout_s=60).values()
        assert result.status == "done"
    assert trainer.stop() == 0
    assert "Traceback" not in crew.logs()
