"""A snapshot is taken over the wire, whole or not at all, and its manifest tells what it holds."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import redis

from modelstore.store import ModelStore
from ops.errors import Refused, SnapshotError
from ops.snapshots.files import hash_file
from ops.snapshots.inventory import tenant_of
from ops.snapshots.manifest import decode_manifest, id_of, taken_of
from ops.snapshots.rdb import read_head
from ops.snapshots.replication import receive
from ops.snapshots.shelf import Shelf, read_snapshot
from ops.snapshots.take import plan_take, take
from streams.errors import Red10Error
from streams.keys import Keys
from tests.conftest import binary_of
from tests.ops.snapshots.made import KEYS, NAMES, fill, generation, settings_of
from tests.servers import Server


@pytest.fixture(params=["embedded", "system"])
def quick(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that may write to the connection at once."""
    options = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
    server = Server(binary_of(request.param), options).start()
    yield server
    server.close()


def test_a_snapshot_tells_what_it_holds(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    fill(client, 0)
    release = fill(client, 1)
    other = ModelStore(client, Keys("other"))
    other.put_many(generation(2))
    settings = settings_of(tmp_path, environment="staging")
    taken = take(server.url, settings)
    manifest = taken.manifest
    assert taken.path == tmp_path / "snapshots" / "staging" / manifest.id
    assert manifest.id == id_of(manifest.taken_ms, manifest.sha256)
    assert taken_of(manifest.id) == manifest.taken_ms // 1000 * 1000
    assert (manifest.environment, manifest.store) == ("staging", other.uuid())
    assert manifest.server.version == client.info("server")["redis_version"]
    assert manifest.rdb_version == (9 if str(manifest.server.version).startswith("6.2") else 10)
    assert manifest.sha256 == hash_file(taken.data)
    assert [tenant.tenant for tenant in manifest.tenants] == ["default", "other"]
    mine = manifest.tenants[0]
    assert mine.release is not None
    assert mine.release.id == release
    assert mine == tenant_of(client, "default")
    assert {version.name for version in mine.versions} == set(NAMES)
    assert len(mine.versions) == 6
    assert dict(mine.aliases()) == dict(ModelStore(client, KEYS).aliases())
    assert manifest.tenants[1].release is None
    # What is on the disk is that and nothing else; what is read again is the same.
    assert sorted(path.name for path in taken.path.iterdir()) == ["manifest.json", "models.rdb"]
    assert [path.name for path in taken.path.parent.iterdir()] == [manifest.id]
    assert read_snapshot(taken.path) == taken
    assert Shelf.of(settings).find("latest") == taken
    assert taken.path.stat().st_mode & 0o077 == 0


def test_both_forms_of_the_payload_are_read(quick: Server, tmp_path: Path) -> None:
    with quick.client() as client:
        client.set("large", os.urandom(5 << 20))
        fill(client)
    found: dict[bool, list[tuple[int, int | None]]] = {False: [], True: []}
    for diskless, told in found.items():
        with open(tmp_path / f"{diskless}", "w+b") as file:
            size = receive(
                quick.url, cast(BinaryIO, file), diskless=diskless, progress=lambda *at, to=told: to.append(at)
            )
            assert file.tell() == size
        assert read_head(tmp_path / f"{diskless}").product == "redis"
    assert found[False][-1][0] == found[False][-1][1], "the server said how long it is"
    assert all(total is None for _, total in found[True]), "and did not, writing to the connection"
    assert found[True]
    for diskless in (False, True):
        taken = take(quick.url, settings_of(tmp_path, environment=f"e{diskless}"), diskless=diskless)
        assert taken.manifest.count() == 3


def serve(answers: bytes) -> str:
    """Something that listens, takes what is said to it, and answers the SYNC with these bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        line, _ = listener.accept()
        with listener, line:
            heard = b""
            while b"SYNC" not in heard:
                data = line.recv(1000)
                heard += data
                for _ in range(data.count(b"REPLCONF") + data.count(b"CLIENT") + data.count(b"HELLO")):
                    line.sendall(b"+OK\r\n")
            line.sendall(answers)

    threading.Thread(target=run, daemon=True).start()
    return f"redis://127.0.0.1:{listener.getsockname()[1]}"


MARK = b"0123456789" * 4


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (b"\n\n$10\r\nREDIS0009", "broke off"),
        (b"$EOF:" + MARK + b"\r\nREDIS0009" + MARK[:-1], "broke off"),
        (b"-NOPERM this user has no permissions\r\n", r"\+sync \+replconf"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no snapshot"),
        (b"x" * 5000, "no Redis"),
        (b"", "closed the connection"),
    ],
)
def test_a_transfer_that_breaks_off_is_an_error(answers: bytes, told: str, tmp_path: Path) -> None:
    with open(tmp_path / "f", "w+b") as file, pytest.raises(SnapshotError, match=told):
        receive(serve(answers), cast(BinaryIO, file))


@pytest.mark.parametrize("cut", [1, 5, 20, 40, 41])
def test_the_closing_mark_is_found_wherever_the_pieces_end(cut: int, tmp_path: Path) -> None:
    """The server's pieces end anywhere; here the last is sent apart, and the data holds half of the mark."""
    data = b"REDIS0009" + MARK[:20] + b"!" * 100 + MARK[:39]
    whole = b"$EOF:" + MARK + b"\r\n" + data + MARK
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        line, _ = listener.accept()
        with listener, line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            heard = b""
            while b"SYNC" not in heard:
                more = line.recv(1000)
                heard += more
                for _ in range(more.count(b"REPLCONF") + more.count(b"CLIENT") + more.count(b"HELLO")):
                    line.sendall(b"+OK\r\n")
            for start in range(0, len(whole), cut):
                line.sendall(whole[start : start + cut])
            line.recv(1)

    threading.Thread(target=run, daemon=True).start()
    with open(tmp_path / "f", "w+b") as file:
        size = receive(f"redis://127.0.0.1:{listener.getsockname()[1]}", cast(BinaryIO, file))
    assert (tmp_path / "f").read_bytes() == data
    assert size == len(data)


def test_what_cannot_be_taken_leaves_nothing(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    client.set("key", "no models here")
    with pytest.raises(Refused, match="no models"):
        take(server.url, settings)
    fill(client)
    digest = generation(0)[0].digest
    client.hdel(KEYS.version(digest), "manifest")
    with pytest.raises(SnapshotError, match="damaged"):
        take(server.url, settings)
    assert Shelf.of(settings).list() == []
    assert list((tmp_path / "snapshots" / "default").iterdir()) == []
    with pytest.raises(Red10Error, match="not available"):
        take("redis://127.0.0.1:1", settings)


def test_a_server_without_checksums_is_refused(tmp_path: Path) -> None:
    server = Server(binary_of("embedded"), ("--rdbchecksum", "no")).start()
    try:
        with server.client() as client:
            fill(client)
        with pytest.raises(SnapshotError, match="rdbchecksum no"):
            take(server.url, settings_of(tmp_path))
    finally:
        server.close()


def test_snapshots_are_found_by_what_people_write(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    shelf = Shelf.of(settings_of(tmp_path))
    with pytest.raises(SnapshotError, match="snapshot list"):
        shelf.find("latest")
    fill(client)
    taken = [take(server.url, settings_of(tmp_path, environment="staging"))]
    client.set("another", "key")  # the same bytes within the same second would have the same id
    taken.append(take(server.url, settings_of(tmp_path, environment="production")))
    ids = [one.manifest.id for one in taken]
    assert shelf.find(ids[0]) == taken[0]
    assert shelf.find(f"staging/{ids[0][:-2]}") == taken[0]
    assert shelf.find("latest", "staging") == taken[0]
    assert shelf.find(str(taken[1].path)) == taken[1]
    with pytest.raises(SnapshotError, match="several"):
        shelf.find(ids[0][:4])
    assert {one.id for one in shelf.list()} == set(ids)
    (taken[0].path / "manifest.json").unlink()
    assert [one.id for one in shelf.list()] == [ids[1]], "a file without a manifest is no snapshot"
    with pytest.raises(SnapshotError):
        shelf.find(ids[0])


def test_a_manifest_that_contradicts_itself_is_refused(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    fill(client)
    manifest = take(server.url, settings_of(tmp_path)).manifest
    raw = manifest.encode()
    assert decode_manifest(raw, "here") == manifest
    release = manifest.tenants[0].release
    assert release is not None
    for old, new in (
        (manifest.id.encode(), b"20200101T000000Z-00000000"),
        (release.id.encode(), b"0" * 64),
        (b'"champion"', b'"challenger"'),
        (b'"size"', b'"sise"'),
        (b"red10 snapshot 1", b"red10 snapshot 2"),
        (raw[-40:], b""),
    ):
        with pytest.raises(SnapshotError, match="here is no manifest"):
            decode_manifest(raw.replace(old, new), "here")


def test_a_store_that_holds_something_else_is_said_to_be_damaged(tmp_path: Path) -> None:
    server = Server(binary_of("embedded")).start()
    try:
        with server.client() as client:
            for key, value in ((KEYS.release_pointer, {"number": "many"}), (KEYS.versions, {"a": "hash"})):
                fill(client)
                client.delete(KEYS.versions) if key == KEYS.versions else None
                client.hset(key, mapping=value)
                with pytest.raises(SnapshotError, match="damaged"):
                    take(server.url, settings_of(tmp_path))
                client.flushall()
    finally:
        server.close()


def test_another_database_than_the_first_is_refused(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    """The manifest would tell of the models in database 0, which are somebody else's."""
    fill(client)
    url = f"{server.url}?db=3"
    with redis.Redis.from_url(url) as other:
        fill(other, 1)
        try:
            with pytest.raises(Refused, match="database 3"):
                plan_take(other, settings_of(tmp_path))
            with pytest.raises(Refused, match="database 3"):
                take(url, settings_of(tmp_path))
        finally:
            other.flushdb()
    assert not (tmp_path / "snapshots").exists()
