"""The index can be made anew at any time, and a store without one becomes searchable by itself."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import ResponseError

from modelstore import index
from modelstore.errors import BadQuery
from modelstore.search import Query
from modelstore.store import ModelStore
from streams.clients import error_code
from streams.keys import Keys
from tests.modelstore.made import contents, made_up
from tests.modelstore.test_search import version
from tests.modelstore.whole import check_whole, essence

VERSIONS = [version(f"S{seed % 3}:1m/close_5", seed, {"skill": seed / 10, f"m{seed}": 1}) for seed in range(23)]


@pytest.fixture
def store(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setattr(index, "CHUNK", 5)
    store = ModelStore(client, Keys("t"))
    store.put_incoming(VERSIONS)
    store.tags.change(VERSIONS[3].digest, ["env=prod", "checked"])
    return store


def forget(store: ModelStore) -> None:
    """Make it a store from before there was an index."""
    store.index.drop()
    for one in VERSIONS:
        store.client.hdel(store.keys.version(one.digest), "row")


def found(store: ModelStore) -> list[tuple[str, object]]:
    return [(one.info.digest, one.metrics["skill"]) for one in store.search(Query(sort="skill", where="skill > 0.3"))]


def test_a_store_that_is_older_than_the_index_is_indexed_at_the_first_search(store: ModelStore) -> None:
    before, expected = essence(store.client, store.keys), found(store)
    forget(store)
    check_whole(store.client, store.keys, indexed=False)
    assert store.index.missing() == len(VERSIONS)
    assert found(store) == expected
    assert len(store.search(Query(tags=("env=prod",)))) == 1
    assert store.index.missing() == 0
    check_whole(store.client, store.keys)
    assert essence(store.client, store.keys) == before


def test_indexing_goes_on_where_it_was_stopped(store: ModelStore) -> None:
    expected = found(store)
    forget(store)

    class Stopped(Exception):
        pass

    for chunks in range(1, 5):
        seen: list[int] = []

        def stop(done: int, total: int, seen: list[int] = seen, chunks: int = chunks) -> None:
            seen.append(done)
            if len(seen) == chunks:
                raise Stopped

        with pytest.raises(Stopped):
            store.index.complete(progress=stop)
        assert store.index.missing() == len(VERSIONS) - 5 * chunks
        check_whole(store.client, store.keys, indexed=False)
    assert store.index.complete() == 3
    assert found(store) == expected
    check_whole(store.client, store.keys)


def test_versions_that_come_and_go_in_an_old_store_are_right(store: ModelStore) -> None:
    forget(store)
    new = version("S9:1m/close_5", 99, {"skill": 9.0})
    store.put_incoming([new])
    store.tags.change(VERSIONS[4].digest, ["late"])
    store.remove([VERSIONS[5].digest])
    check_whole(store.client, store.keys, indexed=False)
    assert store.index.missing() == len(VERSIONS) - 1
    assert found(store)[0] == (new.digest, 9.0)
    assert len(store.search(Query(tags=("late",)))) == 1
    check_whole(store.client, store.keys)


def test_an_index_made_anew_is_the_same(store: ModelStore) -> None:
    expected, looked = found(store), []
    assert store.index.complete() == 0
    assert store.index.complete(anew=True, progress=lambda done, total: looked.append((done, total))) == len(VERSIONS)
    assert looked == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    assert found(store) == expected
    check_whole(store.client, store.keys)


def test_an_index_of_another_format_is_made_anew(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found(store)
    monkeypatch.setattr(index, "FORMAT", "2")
    assert store.index.missing() == len(VERSIONS)
    new = version("S9:1m/close_5", 99, {"skill": 0.0})
    store.put_incoming([new])
    assert found(store) == expected
    assert store.client.hget(store.keys.index, "format") == b"2"
    check_whole(store.client, store.keys)


def test_a_version_that_is_damaged_is_found_by_what_is_known(store: ModelStore) -> None:
    damaged = VERSIONS[7]
    store.client.hset(store.keys.version(damaged.digest), "manifest", b"damaged")
    store.index.complete(anew=True)
    (only,) = [one for one in store.search(Query(dataset="S1:1m", sort="skill")) if one.info.digest == damaged.digest]
    assert (only.metrics, only.trained_through_ms) == ({"skill": None}, None)
    store.remove([damaged.digest])
    assert store.index.missing() == 0


def test_rows_are_used_again(store: ModelStore) -> None:
    rows = store.client.hget(store.keys.index, "rows")
    for one in VERSIONS[:10]:
        store.remove([one.digest])
    store.put_incoming(VERSIONS[:10])
    assert store.client.hget(store.keys.index, "rows") == rows
    check_whole(store.client, store.keys)


def test_what_redis_refuses_leaves_no_half_row(store: ModelStore, client: redis.Redis) -> None:
    new = made_up("S0:1m/close_5", 1)
    for key in (store.keys.index_free, store.keys.index_metrics, store.keys.column("created")):
        there = client.dump(key)
        client.delete(key)
        client.xadd(key, {"of": "the wrong type"})
        before = contents(client)
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            store.put_many([new])
        assert contents(client) == before
        client.delete(key)
        if there is not None:
            client.restore(key, 0, there)
    forget(store)
    client.config_set("maxmemory", 1)
    before = contents(client)
    with pytest.raises(redis.RedisError) as refused:
        store.index.complete()
    assert error_code(refused.value) == "OOM"
    assert contents(client) == before
    store.remove([VERSIONS[0].digest])
    client.config_set("maxmemory", 0)
    store.index.complete()
    check_whole(client, store.keys)


def test_an_empty_store_is_searched(client: redis.Redis) -> None:
    store = ModelStore(client, Keys("empty"))
    assert store.search(Query()) == []
    assert store.index.missing() == 0
    with pytest.raises(BadQuery):
        store.search(Query(where="skill > 0"))
    assert client.dbsize() == 0


def used_memory(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def test_the_index_takes_some_hundred_bytes_of_a_version(client: redis.Redis) -> None:
    """Eight metrics, as training writes them: what is given back when the index, and its field in each, are dropped."""
    names = ("skill", "skill_low", "skill_high", "out_of_fold_rows", "rounds", "rows", "label_std", "train_rmse")
    store, count = ModelStore(client, Keys("t")), 4000
    many = [
        version(f"S{seed // 100}:1m/close_5", seed, {name: seed + at / 10 for at, name in enumerate(names)})
        for seed in range(count)
    ]
    store.put_incoming(many)
    before = used_memory(client)
    store.index.drop()
    for one in many:
        client.hdel(store.keys.version(one.digest), "row")
    assert 100 < (before - used_memory(client)) / count < 500
