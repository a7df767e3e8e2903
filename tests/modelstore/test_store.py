"""What the store holds is whole, checked, and never overwritten."""

from __future__ import annotations

import pickle
import threading

import pytest
import redis
import zstandard
from redis.exceptions import ResponseError

from modelstore.compression import compress
from modelstore.errors import BadModel, NotFound
from modelstore.manifest import Manifest, Serving
from modelstore.releases import Releases
from modelstore.store import ModelStore
from modelstore.version import NewVersion, VersionInfo, digest_of, hash_parts
from modelstore.versions import PUT_CHUNK
from streams.clients import error_code
from streams.errors import BadName
from streams.keys import STORE, Keys
from tests.modelstore.made import FEATURE_SET, FEATURES, contents, fitted, made_up, made_up_many, manifest
from tests.servers import Server

NAMES = ["SPY:1m/close_5", "SPY:1m/open_5", "XLE:1m/close_5", "iris/species"]


@pytest.fixture
def keys() -> Keys:
    return Keys("t")


@pytest.fixture
def store(client: redis.Redis, keys: Keys) -> ModelStore:
    return ModelStore(client, keys)


@pytest.fixture
def versions() -> list[NewVersion]:
    return made_up_many(NAMES)


def test_what_was_stored_is_what_is_read(store: ModelStore, versions: list[NewVersion]) -> None:
    infos = store.put_many(versions)
    assert [info.digest for info in infos] == [version.digest for version in versions]
    assert store.count() == len(versions)
    for version, info in zip(versions, infos, strict=True):
        assert store.info(version.digest) == info == VersionInfo(version.digest, info.name, 1, info.created_ms)
        assert store.manifest(version.digest) == version.manifest
        assert store.forest(version.digest) == version.forest
        assert store.ubj(version.digest) == version.ubj
        (blobs,) = store.load_serving([version.digest])
        assert blobs is not None
        assert (blobs.serving, blobs.forest, blobs.name) == (version.serving.encode(), version.forest, info.name)
        assert blobs.created_ms == info.created_ms


def test_a_manifest_that_could_not_be_read_again_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelstore.version.MAX_MANIFEST", 100)
    with pytest.raises(BadModel, match="100 at most can be stored"):
        made_up("SPY:1m/close_5", 1)


def test_storing_again_changes_nothing(store: ModelStore, client: redis.Redis, versions: list[NewVersion]) -> None:
    first = store.put_many(versions)
    before = contents(client)
    assert store.put_many([*reversed(versions), versions[0]]) == [*reversed(first), first[0]]
    assert contents(client) == before


def test_numbers_count_the_versions_of_one_model_from_1(store: ModelStore) -> None:
    store.put_many([made_up("SPY:1m/close_5", seed) for seed in range(3)] + [made_up("SPY:1m/open_5", 7)])
    numbered = store.versions("SPY:1m/close_5")
    assert [info.number for info in numbered] == [1, 2, 3]
    assert [info.digest for info in numbered] == [made_up("SPY:1m/close_5", seed).digest for seed in range(3)]
    assert [info.number for info in store.versions("SPY:1m/open_5")] == [1]
    assert store.versions("QQQ:1m/close_5") == []


def test_many_at_once_get_each_number_once(server: Server, keys: Keys) -> None:
    versions = [made_up("SPY:1m/close_5", seed) for seed in range(4 * PUT_CHUNK)]
    errors: list[BaseException] = []

    def put(part: list[NewVersion]) -> None:
        try:
            with server.client() as client:
                ModelStore(client, keys).put_many(part)
        except BaseException as error:
            errors.append(error)

    # Every version is put by two threads.
    threads = [threading.Thread(target=put, args=(versions[at::4] + versions[at - 1 :: 4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with server.client() as client:
        found = ModelStore(client, keys).versions("SPY:1m/close_5")
    assert [info.number for info in found] == list(range(1, len(versions) + 1))
    assert {info.digest for info in found} == {version.digest for version in versions}


def test_a_put_that_stopped_midway_leaves_whole_versions_and_can_be_done_again(
    server: Server, store: ModelStore, client: redis.Redis
) -> None:
    versions = [made_up("SPY:1m/close_5", seed) for seed in range(400)]
    store.put_many(versions[:1])
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 300_000)
    with pytest.raises(redis.RedisError) as refused:
        store.put_many(versions)
    assert error_code(refused.value) == "OOM"
    client.config_set("maxmemory", 0)
    found = store.versions("SPY:1m/close_5")
    assert 1 < len(found) < len(versions), "the limit was meant to be reached in between"
    assert store.count() == len(found)
    for info in found:
        assert store.ubj(info.digest)
        assert store.manifest(info.digest).name == info.name
    infos = store.put_many(versions)
    assert sorted(info.number for info in infos) == list(range(1, len(versions) + 1))


def test_a_name_that_is_none_is_refused_before_anything_is_stored(store: ModelStore, client: redis.Redis) -> None:
    with pytest.raises(BadName):
        store.put_many([made_up("SPY:1m/close_5"), made_up("SPY:60s/close_5")])
    assert client.dbsize() == 0


def test_a_key_of_the_wrong_type_is_an_error_before_the_first_write(
    store: ModelStore, client: redis.Redis, keys: Keys
) -> None:
    store.uuid()
    for key in (keys.versions, keys.models, keys.model("SPY:1m/close_5")):
        client.set(key, "taken")
        before = contents(client)
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            store.put_many([made_up("SPY:1m/close_5")])
        assert contents(client) == before
        client.delete(key)


def test_names_are_listed_by_prefix_in_order(store: ModelStore, versions: list[NewVersion]) -> None:
    assert store.names() == []
    store.put_many(versions)
    assert store.names() == sorted(NAMES)
    assert store.names("SPY:1m/") == ["SPY:1m/close_5", "SPY:1m/open_5"]
    assert store.names("nothing") == []


def test_references_resolve(store: ModelStore, client: redis.Redis, keys: Keys) -> None:
    first, second, other = (
        made_up("SPY:1m/close_5", 1),
        made_up("SPY:1m/close_5", 2),
        made_up("SPY:1m/open_5", 3),
    )
    store.put_many([first, second, other])
    Releases(client, keys).promote({("SPY:1m/close_5", "champion"): first.digest}, who="test", why="")
    assert store.resolve("SPY:1m/close_5") == store.resolve("SPY:1m/close_5@champion") == first.digest
    assert store.resolve("SPY:1m/close_5@latest") == store.resolve("SPY:1m/close_5@2") == second.digest
    assert store.resolve(f"SPY:1m/close_5@sha:{first.digest[:10]}") == first.digest
    assert store.resolve(other.digest[:10]) == store.resolve(other.digest) == other.digest


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("SPY:1m/close_5@3", "has no version 3; it has 1-2"),
        ("SPY:1m/close_5@champion", "no release yet"),
        ("QQQ:1m/close_5@1", "no version of QQQ:1m/close_5"),
        ("QQQ:1m/close_5@latest", "no version of QQQ:1m/close_5"),
        ("ffffffffffff", "no version sha:ffffffffffff"),
        ("SPY:1m/close_5@sha:ffffffffffff", "no version SPY:1m/close_5@sha:ffffffffffff"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(store: ModelStore, ref: str, message: str) -> None:
    store.put_many([made_up("SPY:1m/close_5", seed) for seed in (1, 2)])
    with pytest.raises(NotFound, match=message):
        store.resolve(ref)


def test_a_prefix_of_several_digests_is_refused(store: ModelStore, client: redis.Redis, keys: Keys) -> None:
    client.zadd(keys.versions, {"abcdef" + "0" * 58: 0, "abcdef" + "1" * 58: 0})
    with pytest.raises(NotFound, match="several versions"):
        store.resolve("abcdef")


def test_what_is_not_there_is_not_found(store: ModelStore) -> None:
    digest = made_up("SPY:1m/close_5").digest
    assert list(store.load_serving([digest])) == [None]
    assert store.infos([digest]) == [None]
    for read in (store.info, store.manifest, store.forest, store.ubj, store.verify):
        with pytest.raises(NotFound, match=digest[:12]):
            read(digest)


def test_verify_accepts_what_was_stored(store: ModelStore) -> None:
    version = fitted("SPY:1m/close_5")
    (info,) = store.put_many([version])
    assert store.verify(version.digest) == info


@pytest.mark.parametrize("name", ["parts", "manifest", "serving", "forest", "ubj"])
def test_damage_to_any_part_is_found(store: ModelStore, client: redis.Redis, keys: Keys, name: str) -> None:
    version = fitted("SPY:1m/close_5")
    store.put_many([version])
    key = keys.version(version.digest)
    sound = client.hget(key, name)
    assert isinstance(sound, bytes)
    readers = {"manifest": store.manifest, "forest": store.forest, "ubj": store.ubj}
    for at in range(0, len(sound), max(1, len(sound) // 20)):
        client.hset(key, name, sound[:at] + bytes([sound[at] ^ 0x10]) + sound[at + 1 :])
        if name in readers:
            with pytest.raises(BadModel):
                readers[name](version.digest)
        with pytest.raises(BadModel):
            store.verify(version.digest)
    client.hset(key, name, sound[:-1])
    with pytest.raises(BadModel):
        store.verify(version.digest)
    client.hdel(key, name)
    with pytest.raises(BadModel, match=f"no field {name}"):
        store.verify(version.digest)
    client.hset(key, name, sound)
    store.verify(version.digest)


def test_a_frame_that_would_fill_the_memory_is_refused(store: ModelStore, client: redis.Redis, keys: Keys) -> None:
    version = made_up("SPY:1m/close_5")
    store.put_many([version])
    bomb = zstandard.ZstdCompressor().compress(bytes(2**25))
    assert len(bomb) < 10_000
    client.hset(keys.version(version.digest), "manifest", bomb)
    with pytest.raises(BadModel, match="announces"):
        store.manifest(version.digest)


def test_two_versions_whose_parts_are_swapped_are_found(store: ModelStore, client: redis.Redis, keys: Keys) -> None:
    one, two = made_up("SPY:1m/close_5", 1), made_up("SPY:1m/close_5", 2)
    store.put_many([one, two])
    client.hset(keys.version(one.digest), "forest", two.forest)
    with pytest.raises(BadModel, match="forest"):
        store.forest(one.digest)


def test_a_version_that_was_replaced_by_another_as_a_whole_is_found(
    store: ModelStore, client: redis.Redis, keys: Keys
) -> None:
    """Its parts agree with each other, but not with the digest that it is asked for by."""
    one, two = fitted("SPY:1m/close_5", 1), fitted("SPY:1m/close_5", 2)
    store.put_many([one, two])
    client.copy(keys.version(two.digest), keys.version(one.digest), replace=True)
    for read in (store.manifest, store.forest, store.ubj, store.verify):
        with pytest.raises(BadModel, match="does not give its digest"):
            read(one.digest)


def smuggle(store: ModelStore, stated: str, manifest: Manifest, serving: Serving, forest: bytes) -> str:
    """Put a version that no `NewVersion` would be; its digest."""
    parts = hash_parts(manifest.canonical(), serving.encode(), forest, b"")
    digest = digest_of(parts)
    fields: dict[str, str | bytes] = {
        "name": stated,
        "number": "1",
        "created": "1",
        "parts": parts,
        "manifest": compress(manifest.canonical()),
        "serving": serving.encode(),
        "forest": forest,
        "ubj": compress(b""),
    }
    for field, value in fields.items():
        store.client.hset(store.keys.version(digest), field, value)
    store.client.hset(store.keys.model(stated), mapping={"last": 1, "1": digest})
    return digest


def test_verify_finds_parts_that_contradict_each_other(store: ModelStore, client: redis.Redis, keys: Keys) -> None:
    name, sound, wide = "SPY:1m/close_5", fitted("SPY:1m/close_5", 1), fitted("SPY:1m/close_5", 1, FEATURES + 1)
    assert store.verify(smuggle(store, name, sound.manifest, sound.serving, sound.forest))
    cases = [
        (smuggle(store, "SPY:1m/close_10", sound.manifest, sound.serving, sound.forest), "is stored as"),
        (smuggle(store, name, manifest(name, 2), sound.serving, sound.forest), "disagree on trained_through"),
        (smuggle(store, name, sound.manifest, sound.serving, wide.forest), "features"),
    ]
    for digest, message in cases:
        with pytest.raises(BadModel, match=message):
            store.verify(digest)
    digest = smuggle(store, name, sound.manifest, sound.serving, sound.forest)
    client.hset(keys.model(name), "1", wide.digest)
    with pytest.raises(BadModel, match="is not number"):
        store.verify(digest)


def test_the_digest_covers_every_part_and_nothing_else() -> None:
    version = made_up("SPY:1m/close_5")
    serving = Serving(version.serving.trained_through, FEATURE_SET, version.serving.low, version.serving.high + 1)
    other = manifest("SPY:1m/close_10", version.manifest.trained_through)
    assert NewVersion(version.manifest, version.serving, version.forest, version.ubj) == version
    variants = {
        version.digest,
        NewVersion(other, version.serving, version.forest, version.ubj).digest,
        NewVersion(version.manifest, serving, version.forest, version.ubj).digest,
        NewVersion(version.manifest, version.serving, version.forest + b"0", version.ubj).digest,
        NewVersion(version.manifest, version.serving, version.forest, version.ubj + b"0").digest,
        NewVersion(version.manifest, version.serving, version.forest + version.ubj, b"").digest,
    }
    assert len(variants) == 6


def test_a_version_that_contradicts_itself_cannot_be_made() -> None:
    version = made_up("SPY:1m/close_5", 1)
    with pytest.raises(BadModel, match="disagree on trained_through"):
        NewVersion(manifest("SPY:1m/close_5", 2), version.serving, b"", b"")
    with pytest.raises(BadModel, match="one low and one high"):
        NewVersion(version.manifest, Serving(1, FEATURE_SET, version.serving.low, version.serving.high[:-1]), b"", b"")


def test_a_version_travels_between_processes() -> None:
    version = made_up("SPY:1m/close_5")
    again = pickle.loads(pickle.dumps(version))  # noqa: S301
    assert again == version
    assert (again.forest, again.ubj, again.parts) == (version.forest, version.ubj, version.parts)


def test_the_uuid_stays_and_an_emptied_store_gets_another(store: ModelStore, client: redis.Redis) -> None:
    assert store.find_uuid() is None
    found = store.uuid()
    assert store.uuid() == store.find_uuid() == found
    client.delete(STORE)
    assert store.uuid() != found


def test_bulk_reads_keep_the_order_over_several_round_trips(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, versions: list[NewVersion]
) -> None:
    monkeypatch.setattr("modelstore.versions.READ_CHUNK", 3)
    store.put_many(versions)
    missing = made_up("SPY:1m/close_5", 99).digest
    digests = [version.digest for version in versions] + [missing] + [versions[0].digest]
    found = [blobs.name if blobs else None for blobs in store.load_serving(digests)]
    assert found == [*NAMES, None, NAMES[0]]


def test_reading_many_that_is_broken_off_leaves_no_answers_behind(store: ModelStore) -> None:
    versions = made_up_many([f"SPY:1m/close_{number}" for number in range(450)])
    digests = [info.digest for info in store.put_many(versions)]
    found = store.load_serving(digests)
    first = next(found)
    assert first is not None
    assert first.name == "SPY:1m/close_0"
    del found
    assert store.count() == 450
    names = [blobs.name for blobs in store.load_serving(digests) if blobs is not None]
    assert names == [version.manifest.name for version in versions]


def test_a_key_of_another_type_among_many_is_the_drivers_error_and_the_next_call_works(store: ModelStore) -> None:
    digests = [info.digest for info in store.put_many(made_up_many([f"SPY:1m/close_{number}" for number in range(9)]))]
    store.client.set(store.keys.version("f" * 64), "no hash")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        list(store.load_serving([*digests, "f" * 64, *digests]))
    assert len(list(store.load_serving(digests))) == 9
