"""Models from a snapshot: any file or object, loaded apart, for reading only, and followed when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from modelstore.follow import Follower
from modelstore.loaded import LoadedRelease, load_release
from modelstore.releases import Releases
from modelstore.store import ModelStore, Query
from modelstore.versions import VersionStore
from ops.embedded import open_roles, refuse_snapshot
from ops.errors import SnapshotError
from ops.snapshot_server import SnapshotServer
from ops.snapshot_source import source_of
from streams.clients import connect
from streams.errors import ConfigurationError
from streams.keys import Keys
from streams.settings import Settings, load_settings
from tests.conftest import binary_of
from tests.modelstore.made import FEATURE_SET, FEATURES, fitted
from tests.objects import ObjectServer
from tests.servers import Server, embedded_binary

KEYS = Keys("t")
NAME = "SPY:1m/close_5"
VERSIONS = [fitted(NAME, seed) for seed in range(3)]


@pytest.fixture(params=["embedded", "system"])
def binary(request: pytest.FixtureRequest) -> str:
    return binary_of(request.param)


@pytest.fixture
def snapshots(binary: str, tmp_path: Path) -> list[Path]:
    """Snapshots of one store, in each of which another release is in force."""
    server = Server(binary).start()
    made = []
    try:
        with server.client() as client:
            for number, version in enumerate(VERSIONS):
                ModelStore(client, KEYS).put_many([version])
                Releases(client, KEYS).promote({(NAME, "champion"): version.digest}, who="t", why="")
                client.save()
                made.append(tmp_path / f"{number}.rdb")
                shutil.copy(server.directory / "dump.rdb", made[-1])
    finally:
        server.close()
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models.rdb"


def put(source: Path, path: Path) -> None:
    """Put another snapshot in a file's place, as whoever ships snapshots should."""
    beside = path.with_name("beside")
    shutil.copy(source, beside)
    beside.replace(path)


def make(tmp_path: Path, path: Path | str, **options: Any) -> Settings:
    url = path if isinstance(path, str) else f"rdb://{path}"
    return load_settings(models_url=url, data_dir=tmp_path / "data", **{"follow_ms": 50} | options)[0]


def release_of(url: str) -> str | None:
    with connect(url) as client:
        found = Releases(client, KEYS).current()
        return found.id if found else None


def changed(url: str, before: str | None) -> Callable[[], bool]:
    """Whether another release is in force, asked across the moment in which one server follows another."""

    def look() -> bool:
        try:
            return release_of(url) != before
        except redis.ConnectionError:
            return False

    return look


def seed_of(release: LoadedRelease) -> int | None:
    group = release.group("SPY:1m")
    return int(group.trained_through[0]) if group is not None else None


def holds(follower: Follower, seed: int) -> Callable[[], bool]:
    return lambda: seed_of(follower.current) == seed


@contextlib.contextmanager
def serving(settings: Settings, said: list[str] | None = None) -> Iterator[SnapshotServer]:
    with SnapshotServer.of(settings, (said if said is not None else []).append) as server:
        server.start().wait()
        yield server


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def servers_in(directory: Path) -> list[int]:
    """Processes that work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "cwd").readlink()).startswith(str(directory)):
                found.append(int(process.name))
    return found


def test_a_snapshot_is_a_store_that_can_be_read_and_not_written(
    snapshots: list[Path], path: Path, tmp_path: Path, binary: str
) -> None:
    put(snapshots[1], path)
    before = path.read_bytes()
    with open_roles(make(tmp_path, path, redis_server=binary), ("models",)) as roles:
        assert roles.embedded == {}
        with connect(roles.models_url) as client:
            store, releases = ModelStore(client, KEYS), Releases(client, KEYS)
            assert store.resolve(NAME) == VERSIONS[1].digest
            assert store.verify(VERSIONS[1].digest).name == NAME
            assert VERSIONS[1].digest in [found.info.digest for found in store.search(Query())]
            for write in (
                lambda: store.put_many([VERSIONS[2]]),
                lambda: releases.promote({(NAME, "champion"): VERSIONS[0].digest}, who="t", why=""),
                client.flushall,
                client.save,
                lambda: client.config_set("dir", "/"),
            ):
                with pytest.raises(NoPermissionError):
                    write()
    assert path.read_bytes() == before
    assert servers_in(tmp_path) == []
    assert list((tmp_path / "data").iterdir()) == []


async def test_a_snapshot_that_is_replaced_is_followed_forwards_and_back(
    snapshots: list[Path], path: Path, tmp_path: Path, binary: str
) -> None:
    put(snapshots[0], path)
    with serving(make(tmp_path, path, redis_server=binary)) as server:
        follower = Follower(
            lambda: connect(server.url),
            KEYS,
            targets=("close_5",),
            feature_count=FEATURES,
            features=FEATURE_SET,
            follow_ms=20,
        )
        told: list[int | None] = []

        async def tell(release: LoadedRelease) -> None:
            told.append(seed_of(release))

        following = asyncio.create_task(follower.run(tell))
        # Forwards, back to an older one with older numbers, and over several at once.
        for seed in (0, 1, 0, 2):
            put(snapshots[seed], path)
            await until(holds(follower, seed))
        assert told == [0, 1, 0, 2]
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await until(lambda: len(servers_in(tmp_path)) == 1)
    assert servers_in(tmp_path) == []


async def test_a_snapshot_that_cannot_be_loaded_changes_nothing_and_is_said_once(
    snapshots: list[Path], path: Path, tmp_path: Path, binary: str
) -> None:
    put(snapshots[0], path)
    said: list[str] = []
    with serving(make(tmp_path, path, redis_server=binary), said) as server:
        first = release_of(server.url)
        data = bytearray(snapshots[1].read_bytes())
        data[len(data) // 2] ^= 1
        damaged = tmp_path / "damaged.rdb"
        damaged.write_bytes(data)
        put(damaged, path)
        await until(lambda: len(said) == 1)
        assert "cannot be loaded" in said[0]
        os.unlink(path)
        await until(lambda: len(said) == 2)
        assert "No such file" in said[1]
        await asyncio.sleep(0.3)
        assert len(said) == 2
        assert release_of(server.url) == first
        put(snapshots[1], path)
        await until(changed(server.url, first))
    assert said[2:] == ["the snapshot has changed"]


async def test_a_start_in_haste_serves_what_is_sound_and_no_other_file_is_taken_unchecked(
    snapshots: list[Path], path: Path, tmp_path: Path, binary: str
) -> None:
    damaged = []
    for number in range(2):
        data = bytearray(snapshots[number].read_bytes())
        data[place_in(data, VERSIONS[number].forest)] ^= 1
        damaged.append(tmp_path / f"damaged-{number}.rdb")
        damaged[-1].write_bytes(data)
    put(damaged[0], path)
    said: list[str] = []
    settings = make(tmp_path, path, redis_server=binary)
    with pytest.raises(SnapshotError, match="cannot be loaded"), serving(settings):
        pass
    with SnapshotServer.of(settings, said.append, in_haste=True) as server:
        server.start().wait()
        first = release_of(server.url)
        assert first is not None
        with connect(server.url) as client:
            release = load_release(
                VersionStore(client, KEYS),
                Releases(client, KEYS),
                first,
                targets=("close_5",),
                feature_count=FEATURES,
                features=FEATURE_SET,
            )
        assert "its forest is not what was stored" in release.refused[NAME]
        assert release.group("SPY:1m") is None
        put(damaged[1], path)
        await until(lambda: bool(said))
        assert "cannot be loaded" in said[0]
        assert release_of(server.url) == first
        put(snapshots[1], path)
        await until(changed(server.url, first))


def place_in(data: bytes | bytearray, part: bytes) -> int:
    """Where some bytes of a part stand in a file that may hold it compressed."""
    found = (data.find(part[at : at + 6]) for at in range(len(part) - 6))
    return next(place + 3 for place in found if place >= 0)


async def test_a_server_that_is_killed_is_loaded_again(snapshots: list[Path], path: Path, tmp_path: Path) -> None:
    put(snapshots[0], path)
    said: list[str] = []
    with serving(make(tmp_path, path), said) as server:
        first = release_of(server.url)
        [pid] = servers_in(tmp_path)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: said == ["the server of the snapshot had ended: loaded again"])
        assert release_of(server.url) == first


async def test_a_directory_that_vanishes_is_said_and_what_is_served_stays(
    snapshots: list[Path], path: Path, tmp_path: Path
) -> None:
    put(snapshots[0], path)
    said: list[str] = []
    with serving(make(tmp_path, path), said) as server:
        first = release_of(server.url)
        [directory] = (tmp_path / "data").glob("snapshot-*")
        kept = directory.rename(tmp_path / "elsewhere")
        put(snapshots[1], path)
        await until(lambda: bool(said))
        assert "no directory for the snapshot" in said[0]
        kept.rename(directory)
        await until(changed(server.url, first))


@pytest.mark.parametrize("what", ["cut", "flipped", "empty", "text", "missing", "directory"])
def test_what_is_no_snapshot_is_refused_with_the_servers_words(
    snapshots: list[Path], path: Path, tmp_path: Path, what: str
) -> None:
    data = bytearray(snapshots[0].read_bytes())
    if what == "cut":
        path.write_bytes(data[:-20])
    elif what == "flipped":
        data[200] ^= 4
        path.write_bytes(data)
    elif what == "directory":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(b"" if what == "empty" else b"no snapshot at all")
    with pytest.raises(SnapshotError, match="snapshot") as caught, serving(make(tmp_path, path)):
        pass
    if what in ("cut", "flipped"):
        assert "last words" in str(caught.value)
        assert "rror" in str(caught.value) or "CRC" in str(caught.value)
    assert servers_in(tmp_path) == []
    assert list((tmp_path / "data").iterdir()) == []


def test_a_snapshot_may_take_no_more_memory_than_it_is_allowed(path: Path, tmp_path: Path) -> None:
    server = Server(embedded_binary()).start()
    try:
        with server.client() as client:
            client.setrange("zeros", 150_000_000, "x")
            client.save()
        put(server.directory / "dump.rdb", path)
    finally:
        server.close()
    assert path.stat().st_size < 10_000_000, "a small file that takes much memory"
    with (
        pytest.raises(SnapshotError, match="snapshot_memory_mb"),
        serving(make(tmp_path, path, snapshot_memory_mb=120)),
    ):
        pass
    with serving(make(tmp_path, path, snapshot_memory_mb=600)) as loaded, connect(loaded.url) as client:
        assert client.strlen("zeros") == 150_000_001


def test_a_snapshot_of_a_newer_server_needs_a_newer_server(path: Path, tmp_path: Path) -> None:
    server = Server(binary_of("system")).start()
    try:
        with server.client() as client:
            client.set("key", "value")
            client.save()
        put(server.directory / "dump.rdb", path)
    finally:
        server.close()
    with (
        pytest.raises(SnapshotError, match=r"Redis 7\.0\.0 or newer|Redis 7\.0"),
        serving(make(tmp_path, path, redis_server=embedded_binary())),
    ):
        pass
    # Left to itself it finds one that reads the file.
    with serving(make(tmp_path, path)) as loaded, connect(loaded.url) as client:
        assert client.get("key") == b"value"


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A store of objects on this machine, with one bucket."""
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ObjectServer()
    try:
        server.client().create_bucket(Bucket="models")
        yield server
    finally:
        server.close()


async def test_an_object_is_fetched_loaded_and_followed(
    snapshots: list[Path], tmp_path: Path, objects: ObjectServer
) -> None:
    s3 = objects.client()
    settings = make(tmp_path, "s3://models/daily/models.rdb", s3_endpoint=objects.url)
    with pytest.raises(SnapshotError, match=r"s3://models/daily/models\.rdb cannot be read"), serving(settings):
        pass
    s3.upload_file(str(snapshots[0]), "models", "daily/models.rdb")
    said: list[str] = []
    with serving(settings, said) as server:
        first = release_of(server.url)
        s3.upload_file(str(snapshots[1]), "models", "daily/models.rdb")
        await until(changed(server.url, first))
        s3.delete_object(Bucket="models", Key="daily/models.rdb")
        await until(lambda: len(said) == 2)
        assert release_of(server.url) is not None
    assert said[0] == "the snapshot has changed"
    assert said[1].startswith("going on with the models of the snapshot before")


@pytest.mark.parametrize(
    ("url", "write"),
    [
        ("rdb:relative.rdb", "rdb:///absolute"),
        ("rdb://host/file.rdb", "rdb:///absolute"),
        ("rdb:///directory/", "rdb:///absolute"),
        ("s3://bucket", "s3://BUCKET/KEY"),
        ("s3:///key", "s3://BUCKET/KEY"),
    ],
)
def test_a_url_that_names_no_snapshot_says_how_to_write_one(tmp_path: Path, url: str, write: str) -> None:
    with pytest.raises(ConfigurationError, match=write):
        source_of(url, make(tmp_path, url))


def test_what_stores_models_refuses_a_snapshot(tmp_path: Path, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="read only, and a trainer stores models"):
        refuse_snapshot(make(tmp_path, path), "a trainer")
    refuse_snapshot(make(tmp_path, "redis://localhost:1"), "a trainer")


def test_what_a_killed_process_leaves_is_removed_by_the_next(snapshots: list[Path], path: Path, tmp_path: Path) -> None:
    put(snapshots[0], path)
    program = """
import os, shutil, sys
from ops import sidecar
from ops.snapshot_server import SnapshotServer
from streams.settings import load_settings
# As on a system where a server cannot be tied to the process that started it.
sidecar.shutil.which = lambda name: None if name == "setpriv" else shutil.which(name)
server = SnapshotServer.of(load_settings(models_url=sys.argv[1], data_dir=sys.argv[2])[0], print).start()
server.wait()
print("ready", flush=True)
sys.stdin.read()
"""
    data = tmp_path / "data"
    child = subprocess.Popen(
        [sys.executable, "-c", program, f"rdb://{path}", str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    [left] = servers_in(data)
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        assert stream is not None
        stream.close()
    assert servers_in(data) == [left]
    with serving(make(tmp_path, path)):
        assert left not in servers_in(data)
        assert len(servers_in(data)) == 1
        # The one of a process that lives is left alone.
        with serving(make(tmp_path, path)):
            assert len(servers_in(data)) == 2


def test_a_server_ends_with_its_process(snapshots: list[Path], path: Path, tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux)")
    put(snapshots[0], path)
    program = """
import os, sys
from ops.snapshot_server import SnapshotServer
from streams.settings import load_settings
SnapshotServer.of(load_settings(models_url=sys.argv[1], data_dir=sys.argv[2])[0], print).start().wait()
os.kill(os.getpid(), 9)
"""
    data = tmp_path / "data"
    done = subprocess.run([sys.executable, "-c", program, f"rdb://{path}", str(data)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    ended = threading.Event()
    for _ in range(500):
        if not servers_in(data):
            return
        ended.wait(0.01)
    raise AssertionError("the server outlived its process")


def test_the_present_server_can_be_asked_while_the_next_one_loads(
    snapshots: list[Path], path: Path, tmp_path: Path
) -> None:
    put(snapshots[0], path)
    with serving(make(tmp_path, path)) as server, connect(server.url) as client:
        store = ModelStore(client, KEYS)
        for seed in (1, 2, 0, 1):
            put(snapshots[seed], path)
            for _ in range(200):
                with contextlib.suppress(redis.ConnectionError):
                    assert store.names() == [NAME]
