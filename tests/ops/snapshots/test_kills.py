"""kill -9 at each step of each command: what is there is whole, and the command can be called again to the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from modelstore.store import ModelStore
from ops.snapshots.archive import Archive
from ops.snapshots.files import hash_file
from ops.snapshots.inventory import tenant_of
from ops.snapshots.shelf import Shelf, Snapshot, read_snapshot
from ops.snapshots.take import take
from ops.snapshots.verify import verify
from tests.conftest import binary_of
from tests.modelstore.made import contents
from tests.modelstore.whole import check_whole
from tests.objects import ObjectServer
from tests.ops.snapshots.killed import KILLED, Killer, When
from tests.ops.snapshots.made import KEYS, aliases, fill, settings_of
from tests.servers import Server

#: More calls than any command makes.
MANY = 200
BOTH: tuple[When, When] = ("before", "after")
S3_CALL = "botocore.client:BaseClient._make_api_call"


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    found = Killer()
    yield found
    found.close()


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectServer]:
    server = ObjectServer()
    server.client().create_bucket(Bucket="models")
    yield server
    server.close()


@pytest.fixture(scope="module")
def source() -> Iterator[Server]:
    """A store with a release, larger than a part of an upload."""
    server = Server(binary_of("embedded")).start()
    with server.client() as client:
        fill(client, 1)
        client.set("padding", os.urandom(6 << 20))
    yield server
    server.close()


@pytest.fixture(scope="module")
def snapshot(source: Server, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    settings = settings_of(tmp_path_factory.mktemp("made"), environment="staging")
    found = take(source.url, settings)
    assert verify(found, settings).ok
    return found


@dataclass
class Red10:
    """Runs commands in a directory of the test's own."""

    killer: Killer
    directory: Path
    env: dict[str, str]

    def __call__(
        self,
        *argv: str,
        point: str | None = None,
        when: When = "before",
        nth: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> int:
        out = self.directory / "out"
        return self.killer.run([*argv], self.env | dict(env or {}), out, point, when, nth)

    def said(self) -> str:
        return (self.directory / "out").read_text()

    def done(self, *argv: str, env: Mapping[str, str] | None = None) -> Any:
        assert self(*argv, "--json", env=env) == 0, self.said()
        return orjson.loads(self.said().splitlines()[-1])


@pytest.fixture
def red10(killer: Killer, objects: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Red10:
    own = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RED10_")}
    env = kept | {
        "RED10_DATA_DIR": str(tmp_path / "data"),
        "RED10_SNAPSHOT_DIR": str(tmp_path / "snapshots"),
        "RED10_ENVIRONMENT": "staging",
        "RED10_ARCHIVE": "s3://models/red10",
        "RED10_S3_ENDPOINT": objects.url,
        "RED10_S3_PART_MB": "5",
    }
    return Red10(killer, tmp_path, env)


def settings_for(red10: Red10, **options: Any) -> Any:
    found = {name.removeprefix("RED10_").lower(): value for name, value in red10.env.items() if "RED10_" in name}
    return settings_of(red10.directory, **{name: found[name] for name in ("archive", "s3_endpoint")} | options)


def put(snapshot: Snapshot, shelf: Path) -> Snapshot:
    """The snapshot on another shelf."""
    place = shelf / snapshot.manifest.environment / snapshot.manifest.id
    place.mkdir(parents=True)
    for path in snapshot.path.iterdir():
        os.link(path, place / path.name)
    return read_snapshot(place)


TAKE: list[tuple[str, When, int]] = [
    ("ops.snapshots.replication:_Payload._more", "after", 3),
    ("ops.snapshots.take:receive", "after", 1),
    ("ops.snapshots.take:check_form", "after", 1),
    ("ops.snapshots.take:_contents", "after", 1),
    ("ops.snapshots.take:write_file", "before", 1),
    ("ops.snapshots.take:finish", "before", 1),
    ("ops.snapshots.files:sync_directory", "after", 2),
    ("ops.snapshots.take:finish", "after", 1),
]


def test_take(red10: Red10, source: Server) -> None:
    shelf = Shelf.of(settings_for(red10))
    whole = 0
    for point, when, nth in TAKE:
        code = red10("snapshot", "take", "--models-url", source.url, point=point, when=when, nth=nth)
        assert code == KILLED, f"{point}: {red10.said()}"
        for listed in shelf.list():
            found = shelf.find(f"{listed.environment}/{listed.id}")
            assert hash_file(found.data) == found.manifest.sha256
        whole = len(shelf.list())
        assert whole <= 1
    assert whole == 1, "only the last point lies behind the rename"
    done = red10.done("snapshot", "take", "--models-url", source.url)
    assert Path(done["path"]).exists()
    left = {path.name for path in (shelf.directory / "staging").iterdir()}
    assert left == {listed.id for listed in shelf.list()}, "what was left is gone"


def test_verify(red10: Red10, snapshot: Snapshot) -> None:
    own = put(snapshot, red10.directory / "snapshots")
    own.report.unlink()
    points: list[tuple[str, When]] = [
        ("ops.snapshots.verify:_check_file", "after"),
        ("ops.snapshots.verify:_check_versions", "before"),
        ("ops.snapshots.verify:write_file", "before"),
    ]
    for point, when in points:
        assert red10("snapshot", "verify", point=point, when=when) == KILLED, point
        assert not own.report.exists()
        assert not [path for path in (red10.directory / "data").glob("*/*/pid") if _runs(path)]
    assert red10.done("snapshot", "verify")["ok"]
    assert own.report.exists()


def _runs(note: Path) -> bool:
    try:
        os.kill(int(note.read_text()), 0)
    except ProcessLookupError:
        return False
    return not Path(f"/proc/{note.read_text()}/stat").read_text().rpartition(")")[2].startswith(" Z")


def test_archive_at_every_request(red10: Red10, snapshot: Snapshot) -> None:
    """The archive of each try is its own, so each begins anew and is killed one request later."""
    for nth in range(1, MANY):
        shelf = red10.directory / f"{nth}"
        own = put(snapshot, shelf)
        env = {"RED10_SNAPSHOT_DIR": str(shelf), "RED10_ARCHIVE": f"s3://models/{nth}"}
        archive = Archive.of(settings_for(red10, archive=env["RED10_ARCHIVE"]))
        code = red10("snapshot", "archive", point=S3_CALL, when="after", nth=nth, env=env)
        if code == 0:
            break
        assert code == KILLED, red10.said()
        for listed in archive.list():
            assert listed.size == own.manifest.size
        assert red10.done("snapshot", "archive", env=env)["url"].startswith(env["RED10_ARCHIVE"])
        [listed] = archive.list()
        assert listed.reported
        assert archive.bucket.holds(
            f"{nth}/staging/{own.manifest.id}/models.rdb", own.manifest.size, own.manifest.sha256
        )
        assert not (own.path / ".upload.json").exists()
    assert nth > 8, "several requests were met"


FETCH: list[tuple[str, When, int]] = [
    (S3_CALL, "after", 2),
    (S3_CALL, "before", 3),
    ("urllib3.response:HTTPResponse.read1", "after", 4),
    ("ops.snapshots.archive:hash_file", "after", 1),
    ("ops.snapshots.archive:write_file", "before", 2),
    ("ops.snapshots.archive:finish", "before", 1),
    ("ops.snapshots.archive:finish", "after", 1),
]


def test_fetch(red10: Red10, snapshot: Snapshot) -> None:
    Archive.of(settings_for(red10)).put(put(snapshot, red10.directory / "own"))
    for number, (point, when, nth) in enumerate(FETCH):
        shelf = red10.directory / f"{number}"
        env = {"RED10_SNAPSHOT_DIR": str(shelf)}
        code = red10("snapshot", "fetch", point=point, when=when, nth=nth, env=env)
        assert code == KILLED, f"{point}: {red10.said()}"
        for listed in Shelf(shelf).list():
            assert hash_file(Shelf(shelf).find(listed.id).data) == snapshot.manifest.sha256
        done = red10.done("snapshot", "fetch", env=env)
        assert hash_file(Path(done["path"]) / "models.rdb") == snapshot.manifest.sha256
        assert os.listdir(shelf / "staging") == [snapshot.manifest.id]
        shutil.rmtree(shelf)


PROMOTE: list[tuple[str, When, int]] = [
    ("ops.snapshots.promote:must_be_sound", "after", 1),
    ("ops.snapshots.promote:pinned_versions", "before", 1),
    ("modelstore.store:ModelStore.put_incoming", "before", 1),
    ("redis.client:Pipeline.execute", "after", 4),
    ("modelstore.store:ModelStore.put_incoming", "after", 1),
    ("modelstore.releases:Releases.put_candidate", "before", 1),
    ("modelstore.releases:Releases.put_candidate", "after", 1),
    ("ops.snapshots.promote:promote_release", "before", 1),
    ("ops.snapshots.promote:promote_release", "after", 1),
    ("ops.snapshots.promote:record", "before", 1),
    ("ops.snapshots.promote:record", "after", 1),
    ("modelstore.saves:SaveBarrier.wait_saved", "after", 1),
]


def test_promote_and_rollback(red10: Red10, server: Server, client: redis.Redis, snapshot: Snapshot) -> None:
    own = put(snapshot, red10.directory / "snapshots")
    name = f"staging/{own.manifest.id}"
    env = {"RED10_MODELS_URL": server.url, "RED10_ENVIRONMENT": "production"}
    switched = 0
    # One server is killed everywhere, the other where it matters most.
    points = PROMOTE if server.binary != binary_of("embedded") else PROMOTE[4:9]
    for point, when, nth in points:
        client.flushall()
        for record in own.path.glob("promoted-*"):
            record.unlink()
        before = fill(client, 0)
        code = red10("snapshot", "promote", name, point=point, when=when, nth=nth, env=env)
        assert code == KILLED, f"{point}: {red10.said()}"
        check_whole(client, KEYS)
        store = ModelStore(client, KEYS)
        in_force = store.releases.current()
        assert in_force is not None
        assert dict(store.aliases()) == (aliases(0) if in_force.id == before else aliases(1))
        switched += in_force.id != before
        done = red10.done("snapshot", "promote", name, env=env)
        assert done["saved"]
        assert dict(store.aliases()) == aliases(1)
        assert [switch.snapshot for switch in store.releases.history()] == [name, None], "once"
        assert (own.path / "promoted-production.json").exists()
        check_whole(client, KEYS)
    assert switched == sum(PROMOTE.index(point) >= 8 for point in points), "those behind the switch"

    for when in BOTH:
        assert red10("release", "rollback", point="modelstore.releases:Releases._call", when=when, env=env) == KILLED
        check_whole(client, KEYS)
    assert dict(ModelStore(client, KEYS).aliases()) == aliases(0)
    check_whole(client, KEYS)


def test_prune_of_this_machine(red10: Red10, snapshot: Snapshot) -> None:
    shelf = Shelf(red10.directory / "snapshots")
    env = {"RED10_MODELS_URL": "redis://127.0.0.1:1"}
    points: list[tuple[str, When]] = [
        ("pathlib:Path.rename", "before"),
        ("pathlib:Path.rename", "after"),
        ("shutil:rmtree", "after"),
    ]
    for point, when in points:
        shutil.rmtree(shelf.directory, ignore_errors=True)
        put(snapshot, shelf.directory)
        for number in range(2):
            place = shelf.place("staging", f"2020010{number + 1}T000000Z-00000000")
            shutil.copytree(snapshot.path, place, copy_function=os.link)
        code = red10("snapshot", "prune", "--keep", "1", point=point, when=when, env=env)
        assert code == KILLED, red10.said()
        assert snapshot.manifest.id in {listed.id for listed in shelf.list()}
        red10.done("snapshot", "prune", "--keep", "1", env=env)
        assert os.listdir(shelf.directory / "staging") == [snapshot.manifest.id]


def test_prune_of_the_archive(red10: Red10, snapshot: Snapshot, objects: ObjectServer) -> None:
    env = {"RED10_MODELS_URL": "redis://127.0.0.1:1"}
    old = "20200101T000000Z-00000000"
    for number, (when, nth) in enumerate((when, nth) for when in BOTH for nth in (3, 4)):
        env["RED10_ARCHIVE"] = f"s3://models/prune-{number}"
        archive = Archive.of(settings_for(red10, archive=env["RED10_ARCHIVE"]))
        for name in ("manifest.json", "models.rdb", "report.json"):
            archive.write("staging", old, name, b"{}")
            archive.write("staging", snapshot.manifest.id, name, b"{}")
        code = red10("snapshot", "prune", "--archive", "--keep", "1", point=S3_CALL, when=when, nth=nth, env=env)
        assert code == KILLED, red10.said()
        assert snapshot.manifest.id in {listed.id for listed in archive.list()}
        red10.done("snapshot", "prune", "--archive", "--keep", "1", env=env)
        assert [listed.id for listed in archive.list()] == [snapshot.manifest.id]
        assert len(list(archive.bucket.objects(archive.prefix))) == 3, "nothing is left of the other"


RESTORE: list[tuple[str, When, int]] = [
    ("ops.snapshots.restore:hash_file", "before", 1),
    ("ops.snapshots.restore:_put", "before", 1),
    ("ops.snapshots.restore:hash_file", "after", 2),
    ("os:link", "after", 1),
    ("ops.snapshots.restore:_put", "after", 1),
    ("ops.snapshots.restore:_set_aside", "before", 1),
    ("ops.snapshots.restore:_set_aside", "after", 1),
]


@pytest.mark.parametrize("kind", ["embedded", "system"])
def test_restore(red10: Red10, snapshot: Snapshot, kind: str) -> None:
    own = put(snapshot, red10.directory / "snapshots")
    first = Server(binary_of(kind), ("--appendonly", "yes"), red10.directory / "first")
    first.directory.mkdir()
    with first.start().client() as client:
        client.set("old", "data")
        client.save()
    first.kill()
    points = RESTORE if kind == "embedded" else RESTORE[3:]
    for number, (point, when, nth) in enumerate(points):
        place = red10.directory / f"{number}"
        shutil.copytree(first.directory, place, ignore=shutil.ignore_patterns("*.sock"))
        arguments = ["snapshot", "restore", "latest", str(place), "--replace"]
        assert red10(*arguments, point=point, when=when, nth=nth) == KILLED, f"{point}: {red10.said()}"
        # The server that ran there still finds its old data, until the append-only file is set aside.
        server = Server(first.binary, first.options, place)
        if point != "ops.snapshots.restore:_set_aside" or when == "before":
            copied = red10.directory / f"{number}-copy"
            shutil.copytree(place, copied)
            server.directory = copied
            with server.start().client() as client:
                assert contents(client) == {b"old": b"data"}
            server.kill()
            server.directory = place
        red10.done(*arguments)
        server.options = ()
        with server.start().client() as client:
            assert tenant_of(client, "default") == own.manifest.tenants[0]
        server.kill()
        kept = [path.name for path in place.glob("dump.rdb.before-*")]
        assert kept, "the old file is there"
        assert b"old" in (place / kept[0]).read_bytes()


def test_a_point_that_is_not_met_kills_nothing(red10: Red10, snapshot: Snapshot) -> None:
    put(snapshot, red10.directory / "snapshots")
    assert red10("snapshot", "list", point="os:link") == 0
    assert snapshot.manifest.id in red10.said()
