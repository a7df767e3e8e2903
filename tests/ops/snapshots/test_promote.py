"""Models go from one environment's servers to another's: whole, verified, by one switch, and back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.features import STANDARD, fingerprint
from modelstore.loaded import load_release
from modelstore.release import Release
from modelstore.releases import Releases
from modelstore.store import ModelStore
from ops.errors import Refused, SnapshotError
from ops.snapshots.archive import Archive
from ops.snapshots.compatibility import Needs, needs_of_pipeline
from ops.snapshots.promote import Promoter
from ops.snapshots.prune import used_snapshots
from ops.snapshots.shelf import Shelf, Snapshot
from ops.snapshots.take import take
from ops.snapshots.verify import verify
from streams.clients import connect
from streams.errors import Red10Error
from streams.settings import Pipeline, Settings
from tests.conftest import binary_of
from tests.modelstore.made import FEATURE_SET, FEATURES, manifest
from tests.modelstore.whole import check_whole, essence
from tests.objects import ObjectServer
from tests.ops.snapshots.made import KEYS, NAMES, aliases, fill, generation, settings_of
from tests.servers import Server

RUNS = needs_of_pipeline(
    Pipeline(columns=("close", "volume"), horizons=(5,)), manifest("SPY:1m/close_5", 1).feature_set, "the workers"
)


def spoken(message: str) -> None:
    raise AssertionError(message)


def promoter(client: redis.Redis, settings: Settings) -> Promoter:
    return Promoter(ModelStore(client, KEYS), settings, spoken)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ObjectServer()
    server.client().create_bucket(Bucket="models")
    yield "s3://models/red10", server.url
    server.close()


@pytest.fixture(params=[("embedded", "system"), ("system", "embedded")], ids=["6.2 to 7.0", "7.0 to 6.2"])
def servers(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    """Models and streams of staging, and of production, which runs the other server."""
    with ExitStack() as stack:
        started = []
        for kind in request.param:
            for _ in range(2):
                started.append(Server(binary_of(kind)).start())
                stack.callback(started[-1].close)
        yield started


class Reader(threading.Thread):
    """Reads the release in force, with all its models, again and again, and remembers what it saw."""

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.number = number
        self.seen: list[tuple[str, frozenset[tuple[str, str]], int]] = []
        self.stop = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with connect(self.url) as client:
                while not self.stop.is_set():
                    releases = Releases(client, KEYS)
                    current = releases.current()
                    assert current is not None
                    release = releases.get(current.id)
                    loaded = load_release(
                        ModelStore(client, KEYS),
                        releases,
                        release.id,
                        targets=("close_5", "volume_5"),
                        feature_count=FEATURES,
                        features=FEATURE_SET,
                    )
                    pairs = frozenset((name, digest) for (name, _), digest in release.aliases.items())
                    self.seen.append((release.id, pairs, len(loaded.refused)))
        except BaseException as error:
            self.error = error


def test_from_staging_to_production_and_back_under_load(
    servers: list[Server], bucket: tuple[str, str], tmp_path: Path
) -> None:
    models, _, target, _ = servers
    archive, endpoint = bucket
    with models.client() as client:
        store = ModelStore(client, KEYS)
        fill(client, 1)
        store.tags.change(generation(1)[0].digest, ["checked"])
    staging = settings_of(tmp_path / "staging", environment="staging", archive=archive, s3_endpoint=endpoint)
    taken = take(models.url, staging)
    verify(taken, staging)
    Archive.of(staging).put(taken)

    production = settings_of(
        tmp_path / "production", environment="production", archive=archive, s3_endpoint=endpoint, models_url=target.url
    )
    fetched, _ = Archive.of(production).get(Archive.of(production).find("staging/latest"), Shelf.of(production))
    with target.client() as client:
        before = fill(client, 0)
        store = ModelStore(client, KEYS)
        readers = [Reader(target.url, number) for number in range(3)]
        for reader in readers:
            reader.start()
        told: list[tuple[int, int]] = []
        done = promoter(client, production).promote(
            fetched, runs=RUNS, who="me", why="tested", anew=True, progress=lambda *at: told.append(at)
        )
        assert (done.copied, done.there, done.saved, done.verified) == (3, 0, True, True)
        after = done.release
        assert told[-1] == (3, 3)
        until(lambda: all(reader.seen and reader.seen[-1][0] == after for reader in readers))
        back = store.rollback(who="me", why="worse")
        assert back.id == before
        until(lambda: all(reader.seen[-1][0] == before for reader in readers))
        for reader in readers:
            reader.stop.set()
            reader.join()
            assert reader.error is None
        expected = {
            number: frozenset((name, digest) for (name, _), digest in aliases(number).items()) for number in (0, 1)
        }
        for reader in readers:
            assert {seen[:2] for seen in reader.seen} == {(before, expected[0]), (after, expected[1])}
            assert {refused for _, _, refused in reader.seen} == {0}, "every model of it could be read"
            switches = sum(one[0] != other[0] for one, other in zip(reader.seen, reader.seen[1:], strict=False))
            assert switches == 2
        check_whole(client, KEYS)
        assert store.tags.of([generation(1)[0].digest]) == [{"checked": ""}]
        name = f"staging/{taken.manifest.id}"
        last, promoted, _ = store.releases.history()
        assert (promoted.id, promoted.who, promoted.why, promoted.snapshot) == (after, "me", "tested", name)
        assert (last.id, last.snapshot) == (before, None)
        assert used_snapshots(production, spoken) == {name}
        # A record stands beside the snapshot and in the archive; doing it again puts the release in force again.
        assert [listed.promoted for listed in Archive.of(production).list()] == [("production",)]
        assert [listed.promoted for listed in Shelf.of(production).list()] == [("production",)]
        again = promoter(client, production).promote(fetched, runs=RUNS, who="me")
        assert (again.copied, again.there, again.already, again.verified) == (0, 3, False, False)
        assert promoter(client, production).promote(fetched, runs=RUNS, who="me").already
        assert len(store.releases.history()) == 4


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def snapshot(server: Server, client: redis.Redis, tmp_path: Path) -> Snapshot:
    """Of a server that is empty afterwards, and so can be the target."""
    fill(client, 1)
    settings = settings_of(tmp_path, environment="staging")
    found = take(server.url, settings)
    assert verify(found, settings).ok
    client.flushall()
    return found


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> Settings:
    return settings_of(tmp_path, environment="production", models_url=server.url)


def changed(needs: Needs, **changes: Any) -> Needs:
    return replace(needs, **changes)


def test_models_that_do_not_fit_what_runs_there_are_refused(
    snapshot: Snapshot, client: redis.Redis, settings: Settings
) -> None:
    fill(client, 0)
    before = essence(client, KEYS)
    standard = needs_of_pipeline(Pipeline(columns=("close", "volume"), horizons=(5,)), fingerprint(STANDARD), "workers")
    for runs, reason in (
        (standard, "feature set made 1"),
        (changed(RUNS, targets=RUNS.targets | {"open_5"}), "it lacks open_5"),
        (changed(RUNS, targets=frozenset(["close_5"])), "it also has volume_5"),
        (changed(RUNS, intervals=frozenset(["1h"])), "bars of 1m"),
    ):
        with pytest.raises(Refused, match=reason):
            promoter(client, settings).promote(snapshot, runs=runs, who="me")
    # Without a pipeline to ask, the models in force there are what counts.
    other = replace(generation(0)[0], manifest=generation(0)[0].manifest.model_copy(update={"name": "SPY:1m/open_5"}))
    store = ModelStore(client, KEYS)
    store.put_many([other])
    store.releases.promote({("SPY:1m/open_5", "champion"): other.digest}, who="me", why="")
    with pytest.raises(Refused, match=r"it lacks open_5") as caught:
        promoter(client, settings).promote(snapshot, runs=None, who="me")
    assert "in force there" in str(caught.value)
    store.rollback(who="me")
    assert promoter(client, settings).promote(snapshot, runs=None, who="me", dry_run=True).copied == 3
    assert essence(client, KEYS)["aliases"] == before["aliases"]


def test_a_dry_run_changes_nothing(snapshot: Snapshot, client: redis.Redis, settings: Settings) -> None:
    fill(client, 0)
    before = essence(client, KEYS)
    files = {path: path.stat().st_mtime_ns for path in snapshot.path.iterdir()}
    for anew in (False, True):
        found = promoter(client, settings).promote(snapshot, runs=RUNS, who="me", anew=anew, dry_run=True)
        assert (found.copied, found.number, found.saved) == (3, None, None)
    assert essence(client, KEYS) == before
    assert {path: path.stat().st_mtime_ns for path in snapshot.path.iterdir()} == files


def test_an_empty_store_takes_a_snapshot_without_anything_to_hold_it_against(
    snapshot: Snapshot, client: redis.Redis, settings: Settings
) -> None:
    done = promoter(client, settings).promote(snapshot, runs=None, who="me")
    assert (done.compared, done.copied, done.number) == (None, 3, 1)
    assert dict(ModelStore(client, KEYS).aliases()) == aliases(1)
    check_whole(client, KEYS)


def test_what_is_not_sound_is_not_promoted(snapshot: Snapshot, client: redis.Redis, settings: Settings) -> None:
    data = bytearray(snapshot.data.read_bytes())
    data[len(data) // 2] ^= 1
    snapshot.data.write_bytes(data)
    with pytest.raises(Refused, match="sha256") as caught:
        promoter(client, settings).promote(snapshot, runs=None, who="me")
    assert "form" in str(caught.value)
    assert client.dbsize() == 0
    snapshot.data.unlink()
    with pytest.raises(SnapshotError, match="cannot be read"):
        promoter(client, settings).promote(snapshot, runs=None, who="me")


def test_somebody_who_is_faster_wins_and_is_named(
    snapshot: Snapshot, client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fill(client, 0)
    put = ModelStore.put_incoming

    def meanwhile(self: ModelStore, versions: Sequence[Any]) -> Any:
        monkeypatch.undo()
        self.releases.promote({(NAMES[0], "challenger"): generation(0)[0].digest}, who="somebody", why="faster")
        return put(self, versions)

    monkeypatch.setattr(ModelStore, "put_incoming", meanwhile)
    with pytest.raises(Refused, match="by somebody"):
        promoter(client, settings).promote(snapshot, runs=RUNS, who="me")
    store = ModelStore(client, KEYS)
    assert store.releases.history(1)[0].who == "somebody"
    with pytest.raises(Refused, match="by somebody"):
        promoter(client, settings).promote(snapshot, runs=RUNS, who="me", parent=first)
    done = promoter(client, settings).promote(snapshot, runs=RUNS, who="me")
    assert (done.copied, done.there) == (0, 3), "the versions were there already"
    check_whole(client, KEYS)


def test_it_writes_no_faster_than_it_may(snapshot: Snapshot, client: redis.Redis, settings: Settings) -> None:
    slow = settings.model_copy(update={"promote_mb_s": 0.02})
    began = time.monotonic()
    promoter(client, slow).promote(snapshot, runs=None, who="me")
    took = time.monotonic() - began
    # The versions' own bytes, not the file's: a file of Redis 6.2 also holds every script that its server ever ran.
    size = sum(client.hstrlen(key, field) for key in client.scan_iter(KEYS.version("*")) for field in client.hkeys(key))
    # A lower bound, however busy the machine is.
    assert size > 3000
    assert took > 0.9 * size / 20_000


def test_an_error_names_the_server_that_answered_it(
    snapshot: Snapshot, server: Server, client: redis.Redis, settings: Settings
) -> None:
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(Red10Error, match="read only replica") as caught:
            promoter(client, settings).promote(snapshot, runs=None, who="me")
    finally:
        client.replicaof("NO", "ONE")
    assert f"Redis at {server.url}".replace("unix://", "unix:") in str(caught.value).replace("unix://", "unix:")
    assert client.dbsize() == 0


def test_a_store_without_room_is_refused_before_it_is_full(
    snapshot: Snapshot, client: redis.Redis, settings: Settings
) -> None:
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 5000)
    try:
        with pytest.raises(Refused, match="maxmemory"):
            promoter(client, settings).promote(snapshot, runs=None, who="me")
    finally:
        client.config_set("maxmemory", 0)
    assert client.dbsize() == 0


def test_room_is_wanted_for_versions_and_not_for_the_rest_of_the_snapshot(
    server: Server, client: redis.Redis, settings: Settings
) -> None:
    fill(client)
    client.set("others", os.urandom(3 << 20))
    found = take(server.url, settings)
    client.flushall()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1_000_000)
    try:
        assert promoter(client, settings).promote(found, runs=None, who="me").copied == 3
    finally:
        client.config_set("maxmemory", 0)


def test_a_snapshot_of_a_newer_server_than_there_is_here_is_refused_with_the_reason(tmp_path: Path) -> None:
    newer, older = Server(binary_of("system")).start(), Server(binary_of("embedded")).start()
    try:
        with newer.client() as client:
            fill(client, 1)
        found = take(newer.url, settings_of(tmp_path))
        only = settings_of(tmp_path, redis_server=binary_of("embedded"))
        with older.client() as client, pytest.raises(Refused, match=r"written by Redis 7\.0") as caught:
            promoter(client, only).promote(found, runs=None, who="me")
        assert "redis_server" in str(caught.value)
    finally:
        newer.close()
        older.close()


def test_without_a_release_there_is_nothing_to_promote(server: Server, client: redis.Redis, settings: Settings) -> None:
    ModelStore(client, KEYS).put_many(generation(0))
    found = take(server.url, settings)
    with pytest.raises(Refused, match="nothing to promote"):
        promoter(client, settings).promote(found, runs=None, who="me")


def test_the_release_carries_every_alias(server: Server, client: redis.Redis, settings: Settings) -> None:
    wanted = aliases(0) | {
        (NAMES[0], "challenger"): generation(1)[0].digest,
        (NAMES[1], "proven"): generation(0)[1].digest,
    }
    store = ModelStore(client, KEYS)
    store.put_many([*generation(0), *generation(1)])
    store.releases.promote(wanted, who="me", why="")
    found = take(server.url, settings)
    client.flushall()
    done = promoter(client, settings).promote(found, runs=RUNS, who="me")
    assert done.copied == 4, "what the release points at, and no other version"
    assert done.release == Release.of(wanted).id
    assert dict(ModelStore(client, KEYS).aliases()) == wanted
    assert os.listdir(found.path)
