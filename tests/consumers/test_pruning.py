"""Trainers remove what is not kept: one of them per period, and none stops for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
import redis

from consumers.pruning import Pruning, PruningEnded
from modelstore.store import ModelStore
from streams.keys import Keys
from streams.settings import Settings, load_settings
from tests.conftest import binary_of
from tests.consumers.asking import until
from tests.modelstore.made import made_up
from tests.modelstore.whole import check_whole
from tests.servers import Server

NAME = "SPY:1m/close_5"


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    store = ModelStore(client, Keys("t"))
    store.put_many([made_up(NAME, seed) for seed in range(6)])
    return store


def settings_of(**options: int) -> Settings:
    return load_settings(**{"keep_versions": 2, "prune_every_s": 1000, **options})[0]


def numbers(store: ModelStore) -> list[int]:
    return sorted(info.number for info in store.versions(NAME))


async def test_a_trainer_leaves_the_last_versions(store: ModelStore) -> None:
    told: list[int] = []
    pruning = asyncio.create_task(Pruning(store, settings_of(), told.append).run(0.01))
    await until(lambda: bool(told))
    assert told == [4]
    assert numbers(store) == [5, 6]
    check_whole(store.client, store.keys)
    store.put_many([made_up(NAME, seed) for seed in range(6, 9)])
    await asyncio.sleep(0.1)
    assert len(numbers(store)) == 5, "the period is not over"
    pruning.cancel()


def test_one_trainer_a_period(store: ModelStore) -> None:
    one, other = (Pruning(store, settings_of()) for _ in range(2))
    assert one.prune_if_due() is not None
    assert other.prune_if_due() is None
    assert 0 < int(store.client.ttl(store.keys.pruned)) <= 1000


def test_a_full_memory_does_not_keep_it_from_making_room(store: ModelStore) -> None:
    client = store.client
    client.config_set("maxmemory", 1)
    try:
        assert Pruning(store, settings_of()).prune_if_due() is not None
        assert numbers(store) == [5, 6]
        assert not client.exists(store.keys.pruned)
    finally:
        client.config_set("maxmemory", 0)
    check_whole(client, store.keys)


async def test_never_is_never(store: ModelStore) -> None:
    await Pruning(store, settings_of(prune_every_s=0)).run(0.01)
    assert len(numbers(store)) == 6


@pytest.fixture(params=["embedded", "system"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that the test may kill."""
    server = Server(binary_of(request.param)).start()
    yield server
    server.close()


async def test_a_store_that_is_away_is_said_once_and_waited_for(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    with own_server.client() as client:
        store = ModelStore(client, Keys("t"))
        store.put_many([made_up(NAME, seed) for seed in range(6)])
        client.save()
        own_server.kill()
        with caplog.at_level(logging.WARNING, "consumers.pruning"):
            pruning = asyncio.create_task(Pruning(store, settings_of(), told.append).run(0.01))
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(0.3)
        # Not once per try; the connection that breaks may say something else than those that are refused.
        assert len(caplog.records) <= 2
        await asyncio.to_thread(own_server.start)
        await until(lambda: bool(told))
        assert numbers(store) == [5, 6]
        pruning.cancel()


def test_a_trainer_that_ends_does_not_finish_first(store: ModelStore) -> None:
    store.put_many([made_up(NAME, seed) for seed in range(6, 160)])
    pruning = Pruning(store, settings_of())
    pruning.close()
    with pytest.raises(PruningEnded):
        pruning.prune_if_due()
    assert len(numbers(store)) == 160 - 50, "one chunk"
    check_whole(store.client, store.keys)
