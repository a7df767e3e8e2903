"""What `wait_saved` returned for survives a kill; what no save covers is never vouched for."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from modelstore.releases import Releases
from modelstore.saves import Persistence, SaveBarrier, SaveFailed, Step, Watch
from modelstore.store import ModelStore
from streams.keys import Keys
from tests.conftest import binary_of
from tests.modelstore.made import made_up, made_up_many
from tests.servers import Server

NAMES = [f"S{index}:1m/close_5" for index in range(30)]
IDLE = Persistence(run_id="a", saving=False, ok=True, saves=None)
SAVING = replace(IDLE, saving=True)
BROKEN = replace(IDLE, ok=False)


@pytest.fixture(params=["embedded", "system"])
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Starts servers of their own, which the test may kill."""
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(binary_of(request.param), options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def slow_saves(client: redis.Redis) -> None:
    """Make the next saves take long: 10 ms per key."""
    client.config_set("rdb-key-save-delay", 10_000)


def fast_saves(client: redis.Redis) -> None:
    client.config_set("rdb-key-save-delay", 0)


@pytest.mark.parametrize("options", [("--save", "3600 1"), ("--save", ""), ("--appendonly", "yes")])
def test_what_was_waited_for_survives_a_kill(start: Callable[..., Server], options: tuple[str, ...]) -> None:
    server = start(*options)
    keys = Keys("t")
    with server.client() as client:
        store, releases, barrier = ModelStore(client, keys), Releases(client, keys), SaveBarrier(client)
        for seed in range(3):
            versions = made_up_many(NAMES, seed)
            store.put_many(versions)
            champions = {(version.manifest.name, "champion"): version.digest for version in versions}
            info = releases.promote(champions, who="t", why="")
            barrier.wait_saved(20)
        uuid = store.uuid()
    server.kill()
    server.start()
    with server.client() as client:
        store, releases = ModelStore(client, keys), Releases(client, keys)
        assert store.uuid() == uuid
        assert store.count() == 3 * len(NAMES)
        assert releases.current() == info
        assert releases.get(info.id).aliases == champions
        for version in versions:
            assert store.ubj(version.digest) == version.ubj
            assert store.forest(version.digest) == version.forest


def test_a_kill_in_the_midst_of_writing_leaves_whole_versions_and_releases(start: Callable[..., Server]) -> None:
    """A writer stores and promotes without pause; the save catches it somewhere, the kill somewhere else."""
    server = start("--save", "")
    keys = Keys("t")
    written: list[dict[tuple[str, str], str]] = []

    def write() -> None:
        # Until the server is killed.
        with server.client() as client, contextlib.suppress(redis.RedisError):
            for seed in itertools.count():
                versions = made_up_many(NAMES, seed)
                ModelStore(client, keys).put_many(versions)
                champions = {(version.manifest.name, "champion"): version.digest for version in versions}
                written.append(champions)
                Releases(client, keys).promote(champions, who="t", why="")

    writer = threading.Thread(target=write)
    writer.start()
    with server.client() as client:
        while (current := Releases(client, keys).current()) is None or current.number < 5:
            assert writer.is_alive()
        SaveBarrier(client).wait_saved(20)
    server.kill()
    writer.join()
    server.start()
    with server.client() as client:
        store, releases = ModelStore(client, keys), Releases(client, keys)
        restored = releases.current()
        assert restored is not None
        assert current.number <= restored.number <= len(written)
        assert releases.get(restored.id).aliases == written[restored.number - 1]
        infos = [info for name in store.names() for info in store.versions(name)]
        assert store.count() == len(infos) >= restored.number * len(NAMES)
        for info in infos:
            assert store.manifest(info.digest).name == info.name
            assert store.forest(info.digest)
            assert store.ubj(info.digest)
        # Everything can be done again, and nothing is there twice.
        store.put_many([made_up(name, seed) for seed in range(restored.number) for name in NAMES])
        assert releases.promote(written[restored.number - 1], who="t", why="again") == restored
        numbers = [info.number for info in store.versions(NAMES[0])]
        assert numbers == list(range(1, len(numbers) + 1))


def test_a_save_that_was_running_before_the_write_does_not_count(start: Callable[..., Server]) -> None:
    """The running save holds what was there when it began; only the next one has the version."""
    server = start("--save", "")
    keys = Keys("t")
    with server.client() as client:
        for index in range(20):
            client.set(index, "filler")
        slow_saves(client)
        client.bgsave(schedule=False)
        fast_saves(client)
        ModelStore(client, keys).put_many([made_up(NAMES[0])])
        assert client.info("persistence")["rdb_bgsave_in_progress"] == 1, "the save was meant to be slow"
        SaveBarrier(client).wait_saved(20)
    server.kill()
    server.start()
    with server.client() as client:
        assert ModelStore(client, keys).count() == 1


def test_waits_while_the_log_is_rewritten(start: Callable[..., Server]) -> None:
    server = start("--appendonly", "yes")
    with server.client() as client:
        for index in range(20):
            client.set(index, "filler")
        slow_saves(client)
        client.bgrewriteaof()
        fast_saves(client)
        before = client.lastsave()
        assert client.info("persistence")["aof_rewrite_in_progress"] == 1, "the rewrite was meant to be slow"
        SaveBarrier(client).wait_saved(20)
        assert client.lastsave() >= before
        assert (server.directory / "dump.rdb").exists()


def test_waiters_at_once_are_all_served(start: Callable[..., Server]) -> None:
    server = start("--save", "")
    keys = Keys("t")
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            with server.client() as client:
                ModelStore(client, keys).put_many([made_up(NAMES[0], seed)])
                SaveBarrier(client).wait_saved(30)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    server.kill()
    server.start()
    with server.client() as client:
        assert ModelStore(client, keys).count() == 8


def test_a_save_that_fails_is_told_and_the_next_one_is_not_held_back(start: Callable[..., Server]) -> None:
    server = start("--save", "")
    with server.client() as client:
        client.set("a", 1)
        # A directory in the file's place: the temporary file cannot be renamed to it. (Works as root, unlike chmod.)
        (server.directory / "dump.rdb").mkdir()
        (server.directory / "dump.rdb" / "x").touch()
        for _ in range(2):
            with pytest.raises(SaveFailed, match="failed to save"):
                SaveBarrier(client).wait_saved(20)
        (server.directory / "dump.rdb" / "x").unlink()
        (server.directory / "dump.rdb").rmdir()
        SaveBarrier(client).wait_saved(20)


def test_a_save_that_takes_too_long_is_told(start: Callable[..., Server]) -> None:
    server = start("--save", "")
    with server.client() as client:
        for index in range(100):
            client.set(index, "filler")
        slow_saves(client)
        clock = itertools.count(0.0, 0.25)
        with pytest.raises(SaveFailed, match=r"within 2 s \(a save is still running\)"):
            SaveBarrier(client, clock=lambda: next(clock), sleep=lambda _: None).wait_saved(2)


def test_a_restart_in_between_is_told(start: Callable[..., Server]) -> None:
    """The new process says that its last save is fine: it has not tried one."""
    server = start("--save", "")
    with server.client() as client:
        for index in range(50):
            client.set(index, "filler")
        slow_saves(client)

        def restart(_: float) -> None:
            server.kill()
            server.start()
            client.connection_pool.disconnect()

        with pytest.raises(SaveFailed, match="restarted"):
            SaveBarrier(client, sleep=restart).wait_saved(20)


def test_a_server_that_is_away_raises_the_drivers_error(start: Callable[..., Server]) -> None:
    server = start("--save", "")
    with server.client() as client:
        client.ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            SaveBarrier(client).wait_saved(20)


def judge(first: Persistence, *looks: Persistence, ours_after: int | None = None) -> list[Step]:
    """The steps after each look; our BGSAVE is accepted after look number `ours_after`."""
    watch = Watch(first)
    steps = []
    for index, look in enumerate(looks):
        steps.append(watch.judge(look))
        watch.ours |= index == ours_after
    return steps


def test_nothing_counts_before_a_save_was_begun() -> None:
    assert judge(IDLE, IDLE) == [Step.START]


def test_ours_counts_when_it_has_ended_well() -> None:
    assert judge(IDLE, IDLE, SAVING, IDLE, ours_after=0) == [Step.START, Step.WAIT, Step.DONE]
    assert judge(IDLE, IDLE, SAVING, BROKEN, ours_after=0) == [Step.START, Step.WAIT, Step.FAILED]


def test_one_that_was_running_does_not_count_with_or_without_a_counter() -> None:
    assert judge(SAVING, SAVING, IDLE) == [Step.WAIT, Step.START]
    # 7.0 counts a save when it begins; a server that counts when it ends must not deceive either.
    assert judge(replace(SAVING, saves=5), replace(IDLE, saves=5)) == [Step.START]
    assert judge(replace(SAVING, saves=5), replace(IDLE, saves=6)) == [Step.START]


def test_one_that_somebody_else_began_meanwhile_counts() -> None:
    assert judge(IDLE, SAVING, IDLE) == [Step.WAIT, Step.DONE]
    assert judge(SAVING, IDLE, SAVING, IDLE) == [Step.START, Step.WAIT, Step.DONE]
    assert judge(replace(IDLE, saves=5), replace(IDLE, saves=6)) == [Step.DONE]
    assert judge(replace(SAVING, saves=5), replace(IDLE, saves=7)) == [Step.DONE]


def test_one_that_somebody_else_began_and_that_failed_is_begun_again() -> None:
    assert judge(IDLE, SAVING, BROKEN, SAVING, IDLE, ours_after=1) == [Step.WAIT, Step.START, Step.WAIT, Step.DONE]


def test_a_failure_before_does_not_matter() -> None:
    assert judge(BROKEN, BROKEN, SAVING, IDLE, ours_after=0) == [Step.START, Step.WAIT, Step.DONE]


def test_an_append_only_file_must_have_been_written() -> None:
    behind = replace(IDLE, aof_written=False)
    assert judge(IDLE, IDLE, behind, IDLE, ours_after=0) == [Step.START, Step.WAIT, Step.DONE]
    assert judge(IDLE, IDLE, replace(IDLE, aof_ok=False), ours_after=0) == [Step.START, Step.AOF_FAILED]


def test_another_process_is_never_trusted() -> None:
    assert judge(IDLE, IDLE, replace(IDLE, run_id="b"), ours_after=0) == [Step.START, Step.RESTARTED]
