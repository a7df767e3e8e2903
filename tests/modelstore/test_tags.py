"""Tags are what people last said, all at once, and no part of a version."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import ResponseError

from modelstore.errors import ModelStoreError, NotFound
from modelstore.names import MAX_TAG_VALUE, MAX_TAGS
from modelstore.search import Query
from modelstore.store import ModelStore
from modelstore.tags import tag_texts
from streams.clients import error_code
from streams.errors import BadName
from streams.keys import Keys
from tests.modelstore.made import contents, made_up
from tests.modelstore.whole import check_whole

VERSIONS = [made_up("SPY:1m/close_5", seed) for seed in range(3)]
FIRST, SECOND, _ = (version.digest for version in VERSIONS)


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    store = ModelStore(client, Keys("t"))
    store.put_many(VERSIONS)
    return store


def tagged(store: ModelStore, tag: str) -> set[str]:
    return {found.info.digest for found in store.search(Query(tags=(tag,)))}


def test_tags_are_set_replaced_removed_and_found(store: ModelStore, client: redis.Redis) -> None:
    store.tags.change(FIRST, ["deprecated", "env=prod"])
    store.tags.change(SECOND, ["env=test"])
    assert store.tags.of([FIRST, SECOND, "f" * 64]) == [{"deprecated": "", "env": "prod"}, {"env": "test"}, {}]
    assert (tagged(store, "env"), tagged(store, "env=prod"), tagged(store, "env=x")) == (
        {FIRST, SECOND},
        {FIRST},
        set(),
    )
    store.tags.change(FIRST, ["env=test"], ["deprecated", "never"])
    assert (tagged(store, "env=test"), tagged(store, "env=prod")) == ({FIRST, SECOND}, set())
    assert store.tags.known() == {"env": 2, "env=test": 2}
    assert tag_texts({"a": "", "b": "c"}) == ["a", "b=c"]
    store.tags.change(FIRST, ["env"])
    assert store.tags.of([FIRST]) == [{"env": ""}]
    check_whole(client, store.keys)
    store.tags.change(FIRST, (), ["env"])
    store.tags.change(SECOND, (), ["env"])
    assert store.tags.known() == {}
    check_whole(client, store.keys)


def test_the_same_key_set_and_removed_at_once_is_set(store: ModelStore) -> None:
    store.tags.change(FIRST, ["env=prod"])
    store.tags.change(FIRST, ["env=test"], ["env"])
    assert store.tags.of([FIRST]) == [{"env": "test"}]


def test_tags_change_no_digest_and_go_with_their_version(store: ModelStore, client: redis.Redis) -> None:
    store.tags.change(FIRST, ["env=prod"])
    assert store.info(FIRST).digest == FIRST
    assert [info.digest for info in store.put_many(VERSIONS[:1])] == [FIRST]
    assert store.tags.of([FIRST]) == [{"env": "prod"}]
    store.remove([FIRST])
    assert (store.tags.of([FIRST]), store.tags.known()) == ([{}], {})
    check_whole(client, store.keys)


@pytest.mark.parametrize("tag", ["", "a b", "=x", "a=", "-a", "ä", "a" * 65, f"a={'x' * (MAX_TAG_VALUE + 1)}", "a=\n"])
def test_what_cannot_be_a_tag_is_refused(store: ModelStore, client: redis.Redis, tag: str) -> None:
    before = contents(client)
    with pytest.raises(BadName, match="tag"):
        store.tags.change(FIRST, ["fine", tag])
    assert contents(client) == before
    with pytest.raises(BadName, match="tag"):
        store.tags.change(FIRST, ["fine"], ["a b"])


def test_odd_values_are_kept(store: ModelStore) -> None:
    values = ["a=b=c", "k=ü 漢", f"v={'x' * MAX_TAG_VALUE}", "run/7=s3://b/k"]
    store.tags.change(FIRST, values)
    assert sorted(tag_texts(store.tags.of([FIRST])[0])) == sorted(values)
    assert tagged(store, "a=b=c") == tagged(store, "k=ü 漢") == {FIRST}


def test_a_version_has_only_so_many(store: ModelStore, client: redis.Redis) -> None:
    store.tags.change(FIRST, [f"t{number}" for number in range(MAX_TAGS)])
    before = contents(client)
    with pytest.raises(ModelStoreError, match=f"{MAX_TAGS + 1} tags"):
        store.tags.change(FIRST, ["one-more"])
    assert contents(client) == before
    store.tags.change(FIRST, ["one-more"], ["t0"])
    store.tags.change(FIRST, ["t1=x"])
    assert len(store.tags.of([FIRST])[0]) == MAX_TAGS


def test_a_version_that_is_not_there_has_none(store: ModelStore) -> None:
    with pytest.raises(NotFound, match="ffffffffffff"):
        store.tags.change("f" * 64, ["x"])


def test_what_redis_refuses_is_refused_as_a_whole(store: ModelStore, client: redis.Redis) -> None:
    client.set(store.keys.tagged("taken"), "by something else")
    before = contents(client)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        store.tags.change(FIRST, ["fine", "taken"])
    assert contents(client) == before
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.RedisError) as refused:
        store.tags.change(FIRST, ["fine", "other"])
    assert error_code(refused.value) == "OOM"
    client.config_set("maxmemory", 0)
    assert contents(client) == before
