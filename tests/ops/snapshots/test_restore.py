"""A whole models Redis comes back as it was in the snapshot, and nothing that was there is lost."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import redis

from ops.errors import Refused, SnapshotError
from ops.snapshots.inventory import tenant_of
from ops.snapshots.restore import restore
from ops.snapshots.shelf import Snapshot
from ops.snapshots.take import take
from streams.settings import Settings
from tests.conftest import binary_of
from tests.modelstore.made import contents
from tests.modelstore.whole import check_whole
from tests.ops.snapshots.made import KEYS, fill, settings_of
from tests.servers import Server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.fixture(params=["embedded", "system"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def snapshot(kind: str, settings: Settings) -> tuple[Snapshot, dict[bytes, object]]:
    server = Server(binary_of(kind)).start()
    try:
        with server.client() as client:
            fill(client, 0)
            fill(client, 1)
            client.set("foreign", "key")
            found = take(server.url, settings), contents(client)
    finally:
        server.close()
    return found


def started(server: Server) -> redis.Redis:
    server.start()
    return server.client()


def test_all_of_it_comes_back(
    snapshot: tuple[Snapshot, dict[bytes, object]], kind: str, settings: Settings, tmp_path: Path
) -> None:
    found, before = snapshot
    server = Server(binary_of(kind), directory=tmp_path / "server")
    done = restore(found, server.directory, settings)
    assert done.kept == ()
    try:
        with started(server) as client:
            assert contents(client) == before
            assert tenant_of(client, "default") == found.manifest.tenants[0]
            check_whole(client, KEYS)
    finally:
        server.kill()
    assert restore(found, server.directory, settings).kept == (), "doing it again changes nothing"


def test_old_data_is_refused_and_kept_and_an_append_only_file_does_not_win(
    snapshot: tuple[Snapshot, dict[bytes, object]], kind: str, settings: Settings
) -> None:
    found, before = snapshot
    server = Server(binary_of(kind), ("--appendonly", "yes")).start()
    try:
        with server.client() as client:
            client.set("old", "data")
            client.save()
            with pytest.raises(Refused, match="a server runs"):
                restore(found, server.directory, settings, replace=True)
        server.kill()
        there = sorted(path.name for path in server.directory.iterdir())
        aof = "appendonlydir" if kind == "system" else "appendonly.aof"
        assert aof in there
        with pytest.raises(Refused, match=f"{aof}.*--replace"):
            restore(found, server.directory, settings)
        plan = restore(found, server.directory, settings, replace=True, dry_run=True)
        assert sorted(path.name for path in server.directory.iterdir()) == there

        done = restore(found, server.directory, settings, replace=True)
        assert done == plan
        assert {path.name for path in done.kept} == {
            f"dump.rdb.before-{found.manifest.id}",
            f"{aof}.before-{found.manifest.id}",
        }
        assert all(path.exists() for path in done.kept)
        server.options = ()
        with started(server) as client:
            assert contents(client) == before
        server.kill()
        # The old data is what it was.
        (server.directory / "dump.rdb").unlink()
        (server.directory / f"dump.rdb.before-{found.manifest.id}").rename(server.directory / "dump.rdb")
        with started(server) as client:
            assert contents(client) == {b"old": b"data"}
    finally:
        server.close()


def test_a_server_that_would_come_up_empty_is_refused(settings: Settings, tmp_path: Path) -> None:
    server = Server(binary_of("system")).start()
    try:
        with server.client() as client:
            fill(client)
        found = take(server.url, settings)
    finally:
        server.close()
    only = settings_of(tmp_path, redis_server=binary_of("embedded"))
    with pytest.raises(SnapshotError, match=r"written by Redis 7\.0"):
        restore(found, tmp_path / "server", only)
    assert not (tmp_path / "server").exists()


def test_a_full_disk_is_not_filled_with_what_is_no_use(
    snapshot: tuple[Snapshot, dict[bytes, object]], settings: Settings, tmp_path: Path
) -> None:
    found, _ = snapshot
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        with pytest.raises(SnapshotError, match="File too large"):
            restore(found, tmp_path / "server", settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list((tmp_path / "server").iterdir()) == []


def test_a_file_that_changed_is_not_put_in_place(
    snapshot: tuple[Snapshot, dict[bytes, object]], settings: Settings, tmp_path: Path
) -> None:
    found, _ = snapshot
    place = tmp_path / "server"
    place.mkdir()
    (place / "dump.rdb").write_bytes(b"the old one")
    found.data.write_bytes(found.data.read_bytes()[:-1] + b"!")
    with pytest.raises(SnapshotError, match="manifest"):
        restore(found, place, settings, replace=True)
    assert (place / "dump.rdb").read_bytes() == b"the old one"
    assert {path.name for path in place.iterdir()} == {"dump.rdb"}
