"""What `red10 status` reads: numbers that are right, or not known."""

from __future__ import annotations

from typing import cast

import pytest
import redis
from pydantic import SecretStr

from ops.status import COUNT_TO, Member, PartitionStatus, Training, read_members, read_partitions, read_status
from ops.status import read_training as training_of
from streams.errors import BrokenKey, Red10Error
from streams.ids import StreamID
from streams.keys import SCORERS, TRAINERS, Keys
from streams.settings import load_settings
from streams.tenant import Tenant, open_tenant
from tests.servers import Server

KEYS = Keys("t")


@pytest.fixture
def tenant(client: redis.Redis) -> Tenant:
    return open_tenant(client, load_settings(tenant="t", partitions=2)[0])


def publish(client: redis.Redis, count: int, partition: int = 0) -> list[str]:
    key = KEYS.partition(partition).ticks
    with client.pipeline(transaction=False) as pipe:
        for number in range(1, count + 1):
            pipe.xadd(key, {"n": number}, id=f"{number}-0")
        return [entry.decode() for entry in pipe.execute()]


def consume(client: redis.Redis, checkpoint: str, *, entries: int | None = None) -> None:
    """Leave behind what the commit leaves: state, and the group's cursor as far as the server can keep it."""
    keys = KEYS.partition(0)
    client.hset(keys.state, mapping={"checkpoint": checkpoint, "release": "ab" * 32})
    if not client.xinfo_groups(keys.ticks):
        client.xgroup_create(keys.ticks, SCORERS, "0")
    if entries is None or int(client.info("server")["redis_version"].split(".")[0]) < 7:
        client.xgroup_setid(keys.ticks, SCORERS, checkpoint)
    else:
        client.xgroup_setid(keys.ticks, SCORERS, checkpoint, entries_read=entries)


def first(client: redis.Redis, tenant: Tenant) -> PartitionStatus:
    return read_partitions(client, tenant)[0]


def test_untouched_partition_has_no_lag_and_no_owner(client: redis.Redis, tenant: Tenant) -> None:
    empty = PartitionStatus(1, None, None, None, None, None, 0, None, None, 0, {})
    assert read_partitions(client, tenant)[1] == empty


def test_lag_counts_what_was_published_and_not_consumed(client: redis.Redis, tenant: Tenant) -> None:
    publish(client, 30)
    assert first(client, tenant).lag == 30
    consume(client, "10-0", entries=10)
    found = first(client, tenant)
    assert (found.lag, found.checkpoint, found.last) == (20, StreamID(10, 0), StreamID(30, 0))
    assert found.oldest == StreamID(1, 0)
    client.xtrim(KEYS.partition(0).ticks, minid="10-0", approximate=False)
    assert first(client, tenant).lag == 20
    consume(client, "30-0", entries=30)
    assert first(client, tenant).lag == 0


def test_lag_that_redis_does_not_tell_is_counted_up_to_a_bound_and_never_guessed(
    client: redis.Redis, tenant: Tenant
) -> None:
    publish(client, COUNT_TO + 3)
    # A bare SETID: the server no longer knows.
    consume(client, "3-0")
    assert (first(client, tenant).lag, first(client, tenant).lag_exceeds) == (COUNT_TO, None)
    consume(client, "2-0")
    assert (first(client, tenant).lag, first(client, tenant).lag_exceeds) == (None, COUNT_TO)


def test_lag_that_redis_tells_wrongly_is_counted(client: redis.Redis, tenant: Tenant) -> None:
    """A cursor ahead of the stream's own count, as after the stream was deleted and made anew: 7.0 tells -85."""
    publish(client, 20)
    consume(client, "5-0", entries=105)
    assert first(client, tenant).lag == 15


def test_lag_is_unknown_where_the_input_fell_behind_the_checkpoint(client: redis.Redis, tenant: Tenant) -> None:
    publish(client, 5)
    consume(client, "5-0", entries=5)
    client.delete(KEYS.partition(0).ticks)
    assert (first(client, tenant).lag, first(client, tenant).lag_exceeds) == (None, None)
    publish(client, 3)
    assert first(client, tenant).lag is None


def test_key_of_the_wrong_type_is_unknown_and_no_error(client: redis.Redis, tenant: Tenant) -> None:
    client.set(KEYS.partition(0).ticks, "not a stream")
    client.set(KEYS.partition(0).state, "not a hash")
    assert first(client, tenant).lag is None


@pytest.mark.parametrize("name", ["ticks", "state", "dead", "lease"])
def test_key_of_the_wrong_type_is_named(client: redis.Redis, tenant: Tenant, name: str) -> None:
    publish(client, 5)
    consume(client, "5-0", entries=5)
    assert not first(client, tenant).broken
    key = getattr(KEYS.partition(0), name)
    client.delete(key)
    client.rpush(key, "not ours")
    found = first(client, tenant)
    assert found.broken == (key,)
    assert found.lag == (None if name in ("ticks", "state") else 0)
    assert found.dead == (None if name == "dead" else 0)


def test_members_and_requests_of_another_type_are_named(client: redis.Redis) -> None:
    client.set(KEYS.members, "not ours")
    with pytest.raises(BrokenKey, match=f"{KEYS.members} is no sorted set.*RENAME"):
        read_members(client, KEYS)
    for key in (KEYS.requests, KEYS.dead):
        client.set(key, "not ours")
        with pytest.raises(BrokenKey, match=f"{key} is no stream.*RENAME"):
            training_of(client, KEYS)
        client.delete(key)


def test_owner_release_and_dead_letters_are_shown(client: redis.Redis, tenant: Tenant) -> None:
    publish(client, 1)
    consume(client, "1-0", entries=1)
    keys = KEYS.partition(0)
    client.set(keys.lease, "host-1-scorer/0123456789abcdef", px=5000)
    client.xadd(keys.dead, {"reason": "malformed"})
    found = first(client, tenant)
    assert (found.owner, found.release, found.dead) == ("host-1-scorer", "ab" * 32, 1)
    assert found.lease_ms is not None
    assert 0 < found.lease_ms <= 5000


def test_other_groups_are_shown_with_what_is_known_of_their_lag(client: redis.Redis, tenant: Tenant) -> None:
    publish(client, 5)
    client.xgroup_create(KEYS.partition(0).ticks, "tap", "0")
    client.xreadgroup("tap", "c", {KEYS.partition(0).ticks: ">"}, count=2)
    tells = not str(client.info("server")["redis_version"]).startswith("6.")
    assert first(client, tenant).groups == {"tap": 3 if tells else None}


def test_required_groups_that_are_missing_are_named(client: redis.Redis, tenant: Tenant) -> None:
    publish(client, 5)
    client.xgroup_create(KEYS.partition(0).ticks, "tap", "0")
    one, other = read_partitions(client, tenant, ("tap", "archive"))[:2]
    assert one.missing == ("archive",)
    assert other.missing == (), "nothing was published there"


def test_members_come_with_the_age_of_their_heartbeat(client: redis.Redis) -> None:
    seconds, micros = client.time()
    client.zadd(KEYS.members, {"b": seconds * 1000 + micros // 1000 - 4000, "a": seconds * 1000})
    (a, b) = read_members(client, KEYS)
    assert (a.name, b.name) == ("a", "b")
    assert 4000 <= b.age_ms < 60_000
    assert isinstance(a, Member)


def test_training_requests_are_told_apart(client: redis.Redis) -> None:
    assert training_of(client, KEYS) == Training(0, 0, 0, 0)
    requests = [cast(bytes, client.xadd(KEYS.requests, {"kind": "train"})) for _ in range(5)]
    assert training_of(client, KEYS) == Training(5, 0, 5, 0)
    client.xgroup_create(KEYS.requests, TRAINERS, "0")
    client.xreadgroup(TRAINERS, "one", {KEYS.requests: ">"}, count=3)
    client.xack(KEYS.requests, TRAINERS, requests[0])
    client.xadd(KEYS.dead, {"reason": "deliveries"})
    assert training_of(client, KEYS) == Training(5, 2, 2, 1)


def test_server_that_is_away_is_said_and_hides_nothing_else(server: Server, client: redis.Redis) -> None:
    away = SecretStr("redis://user:secret@127.0.0.1:1")
    found = read_status("t", away, SecretStr(server.url))
    streams, models = found.servers
    assert streams.error is not None
    assert "secret" not in repr(found)
    assert (streams.version, found.partitions) == (None, None)
    assert models.error is None
    assert found.models is not None
    assert found.models.models == 0


def test_looking_changes_nothing(server: Server, client: redis.Redis, tenant: Tenant) -> None:
    publish(client, 3)
    before = {key: client.dump(key) for key in client.scan_iter()}
    read_status("t", SecretStr(server.url), SecretStr(server.url))
    assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_reading_without_permission_is_an_error(server: Server, client: redis.Redis, tenant: Tenant) -> None:
    client.acl_setuser("looker", enabled=True, nopass=True, keys=["none"], commands=["+@all"], reset=True)
    url = SecretStr(server.url.replace("unix://", "unix://looker:x@"))
    try:
        with pytest.raises(Red10Error, match="refuses this user"):
            read_status("t", url, SecretStr(server.url))
    finally:
        client.acl_deluser("looker")
