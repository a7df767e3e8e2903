"""The follower has the release in force, whatever happens to the store, and never ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import numpy as np
import pytest

from modelstore.errors import BadModel, NotFound
from modelstore.follow import KEEP, Follower
from modelstore.loaded import EMPTY, LoadedRelease
from modelstore.releases import Releases
from modelstore.store import ModelStore
from streams.clients import connect
from streams.errors import RedisUnavailable
from streams.keys import Keys
from tests.conftest import binary_of
from tests.modelstore.made import FEATURE_SET, FEATURES, fitted
from tests.servers import Server

KEYS = Keys("t")
NAMES = ["SPY:1m/close_5", "SPY:1m/open_5", "XLE:1m/close_5"]
SEEDS = range(4)
version = functools.cache(fitted)
#: So long that only an event can wake a follower within a test.
NEVER_MS = 600_000


class Elsewhere(Keys):
    """Keys of a promoter whose events nobody hears."""

    @property
    def events(self) -> str:
        return "elsewhere"


@pytest.fixture(params=["embedded", "system"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that the test may kill."""
    server = Server(binary_of(request.param)).start()
    yield server
    server.close()


def promote(server: Server, seed: int, names: Sequence[str] = NAMES) -> str:
    with server.client() as client:
        ModelStore(client, KEYS).put_many([version(name, seed) for name in names])
        champions = {(name, "champion"): version(name, seed).digest for name in names}
        return Releases(client, KEYS).promote(champions, who="t", why="").id


def follower(server: Server, follow_ms: int = 20, url: str | None = None) -> Follower:
    return Follower(
        lambda: connect(url or server.url),
        KEYS,
        targets=("open_5", "close_5"),
        feature_count=FEATURES,
        features=FEATURE_SET,
        follow_ms=follow_ms,
    )


@contextlib.asynccontextmanager
async def running(found: Follower) -> AsyncIterator[asyncio.Queue[LoadedRelease]]:
    """Run a follower; the releases it tells of arrive in the queue."""
    told: asyncio.Queue[LoadedRelease] = asyncio.Queue()
    task = asyncio.create_task(found.run(told.put))
    try:
        yield told
        assert not task.done(), "a follower never ends by itself"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def next_of(told: asyncio.Queue[LoadedRelease]) -> LoadedRelease:
    return await asyncio.wait_for(told.get(), 15)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def seeds_of(release: LoadedRelease) -> set[int]:
    """Which versions a release serves, by what it says of them."""
    groups = [release.group("SPY:1m"), release.group("XLE:1m")]
    return {int(value) for group in groups if group is not None for value in group.trained_through}


async def test_a_release_is_told_when_it_is_in_force_before_and_after_the_start(server: Server) -> None:
    first = promote(server, 0)
    found = follower(server)
    async with running(found) as told:
        release = await next_of(told)
        assert (release.id, release.number, release.models) == (first, 1, 3)
        assert found.current is release
        second = promote(server, 1)
        assert (await next_of(told)).id == second
        assert found.current.number == 2
        assert told.empty()


async def test_an_event_wakes_at_once(server: Server) -> None:
    found = follower(server, NEVER_MS)
    async with running(found) as told:
        for seed in SEEDS:
            wanted = promote(server, seed)
            assert (await next_of(told)).id == wanted


async def test_without_an_event_the_pointer_is_looked_at_all_the_same(server: Server) -> None:
    found = follower(server, 30)
    async with running(found) as told:
        await asyncio.wait_for(found.ready.wait(), 15)
        with server.client() as client:
            ModelStore(client, KEYS).put_many([version(NAMES[0], 0)])
            silent = Releases(client, Elsewhere("t"))
            wanted = silent.promote({(NAMES[0], "champion"): version(NAMES[0], 0).digest}, who="t", why="").id
        assert (await next_of(told)).id == wanted


async def test_ready_without_any_release(server: Server) -> None:
    found = follower(server)
    async with running(found) as told:
        await asyncio.wait_for(found.ready.wait(), 15)
        assert found.current is EMPTY
        assert (found.problem, found.away_since) == (None, None)
        assert told.empty()


async def test_a_user_that_may_not_subscribe_follows_by_looking(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+hello", "resetchannels")
    try:
        url = server.url.replace("unix://", "unix://reader:secret@")
        found = follower(server, 30, url)
        async with running(found) as told:
            for seed in (0, 1):
                wanted = promote(server, seed)
                assert (await next_of(told)).id == wanted
        assert found.away_since is None
        assert sum("no events" in record.message for record in caplog.records) == 1
        assert "secret" not in caplog.text
    finally:
        with server.client() as client:
            client.execute_command("ACL", "DELUSER", "reader")


async def test_a_store_that_goes_and_comes_back_is_waited_for_and_said_once(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = promote(own_server, 0)
    found = follower(own_server, 20)
    with own_server.client() as client:
        client.save()
    async with running(found) as told:
        await next_of(told)
        own_server.kill()
        await until(lambda: found.away_since is not None)
        since = found.away_since
        assert since is not None
        assert since <= time.monotonic()
        assert found.current.id == first
        # What is loaded scores without the store, and stays at hand.
        assert seeds_of(await found.get(first)) == {0}
        with pytest.raises(RedisUnavailable):
            await found.get("f" * 64)
        assert found.away_since == since
        await asyncio.to_thread(own_server.start)
        await until(lambda: found.away_since is None)
        second = promote(own_server, 1)
        assert (await next_of(told)).id == second
    said = [record.message for record in caplog.records if record.name == "modelstore.follow"]
    assert sum("is away" in message for message in said) == 1
    assert sum("is back" in message for message in said) == 1


async def test_a_store_that_is_away_at_the_start_is_waited_for(own_server: Server) -> None:
    own_server.kill()
    found = follower(own_server, NEVER_MS)
    async with running(found) as told:
        await until(lambda: found.away_since is not None)
        assert not found.ready.is_set()
        await asyncio.to_thread(own_server.start)
        await asyncio.wait_for(found.ready.wait(), 15)
        wanted = promote(own_server, 0)
        assert (await next_of(told)).id == wanted


async def test_a_store_killed_and_restored_from_an_older_save_is_followed_back(own_server: Server) -> None:
    first = promote(own_server, 0)
    with own_server.client() as client:
        client.save()
    lost = promote(own_server, 1)
    found = follower(own_server, 20)
    async with running(found) as told:
        assert (await next_of(told)).id == lost
        own_server.kill()
        await asyncio.to_thread(own_server.start)
        release = await next_of(told)
        assert (release.id, release.number) == (first, 1)
        assert seeds_of(release) == {0}
        # The number that the lost release had is given again.
        other = promote(own_server, 2)
        release = await next_of(told)
        assert (release.id, release.number) == (other, 2)


async def test_another_store_with_the_same_numbers_is_followed(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    promote(server, 0)
    found = follower(server, 20)
    async with running(found) as told:
        assert (await next_of(told)).number == 1
        with server.client() as client:
            client.flushall()
        wanted = promote(server, 1)
        release = await next_of(told)
        assert (release.id, release.number) == (wanted, 1)
    assert sum("another store" in record.message for record in caplog.records) == 1


async def test_the_first_version_does_not_make_it_another_store(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    found = follower(server, 20)
    async with running(found) as told:
        await asyncio.wait_for(found.ready.wait(), 15)
        wanted = promote(server, 0)
        assert (await next_of(told)).id == wanted
    assert "another store" not in caplog.text


async def test_the_same_release_under_a_new_number_is_not_told_again(server: Server) -> None:
    first = promote(server, 0)
    found = follower(server, 20)
    async with running(found) as told:
        await next_of(told)
        with server.client() as client:
            client.hset(KEYS.release_pointer, "number", 41)
        await until(lambda: found.current.number == 41)
        assert found.current.id == first
        assert told.empty()
        last = promote(server, 1)
        assert (await next_of(told)).id == last


async def test_an_emptied_store_does_not_end_scoring(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    first = promote(server, 0)
    found = follower(server, 20)
    async with running(found) as told:
        await next_of(told)
        with server.client() as client:
            client.flushall()
        await until(lambda: found.problem is not None)
        assert found.current.id == first
        assert found.away_since is None
        second = promote(server, 1)
        assert (await next_of(told)).id == second
        assert found.problem is None
    assert sum("no release any more" in record.message for record in caplog.records) == 1


async def test_a_release_that_cannot_be_loaded_leaves_the_last_one_in_force(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    first = promote(server, 0)
    found = follower(server, 20)
    async with running(found) as told:
        await next_of(told)
        with server.client() as client:
            client.hset(KEYS.release_pointer, mapping={"id": "f" * 64, "number": 2})
        await until(lambda: found.problem is not None)
        assert found.current.id == first
        with pytest.raises(NotFound):
            await found.refresh()
        with server.client() as client:
            client.hset(KEYS.release_pointer, mapping={"id": first, "number": 3})
        await until(lambda: found.problem is None)
        assert found.current.number == 3
        assert told.empty()
    assert sum("cannot be loaded" in record.message for record in caplog.records) == 1


async def test_a_failing_listener_is_told_again(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    wanted = promote(server, 0)
    found = follower(server, NEVER_MS)
    told: list[str] = []

    async def listen(release: LoadedRelease) -> None:
        told.append(release.id)
        if len(told) < 4:
            raise RedisUnavailable("streams", "away")

    task = asyncio.create_task(found.run(listen))
    await until(lambda: len(told) >= 4)
    assert told == [wanted] * 4
    again = promote(server, 1)
    await until(lambda: len(told) >= 5)
    assert told[4:] == [again]
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert sum("could not be passed on" in record.message for record in caplog.records) == 1


async def test_releases_are_loaded_by_id_and_the_last_few_stay_at_hand(server: Server) -> None:
    ids = [promote(server, seed) for seed in SEEDS]
    ids += [promote(server, seed, NAMES[:1]) for seed in range(2)]
    assert len(set(ids)) == len(ids) > KEEP
    found = follower(server)
    assert await found.get("") is EMPTY
    for seed, release_id in zip(SEEDS, ids, strict=False):
        assert seeds_of(await found.get(release_id)) == {seed}
    loaded = [await found.get(release_id) for release_id in ids]
    with server.client() as client:
        client.flushall()
    for release_id, release in list(zip(ids, loaded, strict=True))[-KEEP:]:
        assert await found.get(release_id) is release
    with pytest.raises(NotFound):
        await found.get(ids[0])
    assert found.current is EMPTY, "asking for a release does not put it in force"
    found.close()


async def test_a_damaged_release_is_told_to_who_asks_for_it(server: Server) -> None:
    wanted = promote(server, 0)
    with server.client() as client:
        client.hset(KEYS.release(wanted), "body", b"damaged")
    found = follower(server)
    with pytest.raises(BadModel):
        await found.get(wanted)
    found.close()


async def test_a_release_that_several_ask_for_is_loaded_once(server: Server) -> None:
    wanted = promote(server, 0)
    found = follower(server)
    first, *others = await asyncio.gather(*(found.get(wanted) for _ in range(5)))
    assert all(other is first for other in others)
    found.close()


async def test_scorers_see_whole_releases_only_while_they_are_switched(server: Server) -> None:
    """All versions of a release have the same seed; a mix would show two."""
    promote(server, 0)
    found = follower(server, 5)
    rows = np.zeros((2, FEATURES), np.float32)
    looks = 0

    def switch() -> None:
        for step in range(1, 60):
            promote(server, step % len(SEEDS))

    async with running(found):
        await until(lambda: found.current is not EMPTY)
        switching = asyncio.create_task(asyncio.to_thread(switch))
        while not switching.done():
            release = found.current
            assert len(seeds_of(release)) == 1
            spy, xle = release.group("SPY:1m"), release.group("XLE:1m")
            assert spy is not None
            assert xle is not None
            assert [len(scores) for scores in release.score(rows, [spy, xle])] == [2, 1]
            assert (await found.get(release.id)).id == release.id
            looks += 1
            await asyncio.sleep(0.001)  # With 0 the two threads would wait for each other's lock most of the time.
        await switching
        await until(lambda: seeds_of(found.current) == {59 % len(SEEDS)})
    assert looks > 10


async def test_a_follower_that_ended_leaves_no_connection(server: Server) -> None:
    with server.client() as client:
        before = client.info("clients")["connected_clients"]
        found = follower(server)
        async with running(found) as told:
            promote(server, 0)
            await next_of(told)
            assert client.info("clients")["connected_clients"] > before
        await until(lambda: client.info("clients")["connected_clients"] == before)


async def test_a_hung_store_does_not_hold_up_the_end(own_server: Server) -> None:
    promote(own_server, 0)
    found = follower(own_server, 20)
    async with running(found) as told:
        await next_of(told)
        assert own_server.process is not None
        os.kill(own_server.process.pid, signal.SIGSTOP)
        began = time.monotonic()
    ended = time.monotonic() - began
    os.kill(own_server.process.pid, signal.SIGCONT)
    assert ended < 2, "a cancelled follower must not wait for the reply's time-out"
