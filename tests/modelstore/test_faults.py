"""Killed at any step of promote, rollback, import, tag, rm, prune or reindex, the store is whole and the step can be
done again; so it is when Redis is killed, or goes back to an older snapshot, at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from modelstore import exports, imports, index, retention, versions
from modelstore.errors import ModelStoreError
from modelstore.search import Query
from modelstore.store import ModelStore
from streams.keys import Keys
from tests.conftest import binary_of
from tests.dying import Fate, Killed, When, doomed
from tests.modelstore.made import fitted
from tests.modelstore.whole import check_whole, essence
from tests.servers import Server

KEYS, SOURCE = Keys("t"), Keys("from")
NAMES = ["SPY:1m/close_5", "SPY:1m/open_5", "iris/species"]
VERSIONS = {(name, seed): fitted(name, 10 * at + seed) for at, name in enumerate(NAMES) for seed in range(4)}


def champions(*seeds: int) -> dict[tuple[str, str], str | None]:
    return {(name, "champion"): VERSIONS[name, seed].digest for name, seed in zip(NAMES, seeds, strict=False)}


def prepare(client: redis.Redis) -> None:
    """A store with some history, and some versions of what will be imported."""
    client.flushall()
    store = ModelStore(client, KEYS)
    store.put_many([VERSIONS[name, seed] for name in NAMES[:2] for seed in range(4)])
    for seeds in ((0,), (1, 0), (2, 1)):
        store.releases.promote(champions(*seeds), who="t", why="")
    store.set_alias(NAMES[0], "challenger", f"{NAMES[0]}@4", who="t")
    store.tags.change(VERSIONS[NAMES[0], 0].digest, ["env=prod", "old"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Exports of a series and of a release, made by another store."""
    directory = tmp_path_factory.mktemp("exports")
    server = Server(binary_of("embedded")).start()
    with server.client() as client:
        store = ModelStore(client, SOURCE)
        store.put_many(list(VERSIONS.values()))
        store.releases.promote(champions(3, 2, 1), who="t", why="")
        store.tags.change(VERSIONS[NAMES[2], 1].digest, ["from=afar"])
        store.tags.change(VERSIONS[NAMES[0], 3].digest, ["not-this"])
        store.export(store.select_release(), directory / "release")
        store.export(store.select("iris", every=True), directory / "series")
    yield directory
    server.close()


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One version per round trip: the most steps to be killed at."""
    monkeypatch.setattr(versions, "PUT_CHUNK", 1)
    monkeypatch.setattr(imports, "PUT_CHUNK", 1)
    monkeypatch.setattr(imports, "PINS", 2)
    monkeypatch.setattr(retention, "CHUNK", 1)
    monkeypatch.setattr(index, "CHUNK", 3)
    monkeypatch.setattr(exports, "CHUNK", 2)


@dataclass(frozen=True)
class Scenario:
    """Something that is done with a store, and what an error says when it is done already and done again."""

    name: str
    act: Callable[[ModelStore, Path], object]
    done: str | None = None


def drop_and_search(store: ModelStore, files: Path) -> None:
    store.index.drop()
    store.search(Query(dataset="SPY:*"))


def reindex(store: ModelStore, files: Path) -> None:
    store.index.complete(anew=True)


SCENARIOS = [
    Scenario(
        "promote a version",
        lambda store, files: store.promote(f"{NAMES[0]}@challenger", who="me", why="w"),
        "has no SPY:1m/close_5@challenger",
    ),
    Scenario("promote a number", lambda store, files: store.promote(f"{NAMES[0]}@4", who="me", why="w")),
    Scenario("promote a release", lambda store, files: store.promote("2", who="me", why="w")),
    Scenario(
        "roll back",
        lambda store, files: store.rollback(who="me", why="w"),
        "is itself a rollback",
    ),
    Scenario("roll back to", lambda store, files: store.rollback("1", who="me", why="w")),
    Scenario("set an alias", lambda store, files: store.set_alias(NAMES[1], "canary", f"{NAMES[1]}@4", who="me")),
    Scenario("import a series", lambda store, files: store.import_from(files / "series")),
    Scenario("import a release", lambda store, files: store.import_from(files / "release")),
    Scenario(
        "import a release and promote",
        lambda store, files: store.import_from(files / "release", promote=True, who="me", why="w"),
    ),
    Scenario("tag", lambda store, files: store.tags.change(VERSIONS[NAMES[0], 0].digest, ["env=test", "new"], ["old"])),
    Scenario("remove", lambda store, files: store.remove([f"{NAMES[1]}@4", f"{NAMES[1]}@3"])),
    Scenario("prune", lambda store, files: store.prune(1, keep_releases=1)),
    Scenario("drop the index and search", drop_and_search),
    Scenario("make the index anew", reindex),
]


def path_of(server: Server) -> str:
    return str(server.directory / "redis.sock")


def again(server: Server, scenario: Scenario, files: Path) -> None:
    """Do it again, as a new process."""
    with server.client() as client:
        try:
            scenario.act(ModelStore(client, KEYS), files)
        except ModelStoreError as error:
            if scenario.done is None or scenario.done not in str(error):
                raise


def tidy(client: redis.Redis) -> dict[str, Any]:
    """What a store holds. Pins of a killed import count for nothing once it counts as dead: they are not compared."""
    return essence(client, KEYS) | {"imports": None}


def unnumbered(found: dict[str, Any]) -> dict[str, Any]:
    """The same without numbers: what a store forgot and gets again, it numbers in another order."""
    models = {
        name: {digest for number, digest in model.items() if number != b"last"}
        for name, model in found["models"].items()
    }
    return found | {"models": models}


def undisturbed(server: Server, scenario: Scenario, files: Path) -> tuple[dict[str, Any], int]:
    """What it leads to, and in how many steps."""
    with server.client() as client:
        prepare(client)
    fate = Fate()
    with doomed(path_of(server), fate) as client:
        scenario.act(ModelStore(client, KEYS), files)
    with server.client() as client:
        check_whole(client, KEYS)
        found = tidy(client)
        assert essence(client, KEYS)["imports"] == 0
    return found, fate.steps


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_killed_at_any_step_the_store_is_whole_and_the_step_can_be_done_again(
    server: Server, files: Path, scenario: Scenario, when: When
) -> None:
    expected, steps = undisturbed(server, scenario, files)
    assert steps >= 1
    for at in range(steps):
        with server.client() as client:
            prepare(client)
        with doomed(path_of(server), Fate(at, when)) as client, pytest.raises(Killed):
            scenario.act(ModelStore(client, KEYS), files)
        with server.client() as client:
            check_whole(client, KEYS, indexed="index" not in scenario.name)
            again(server, scenario, files)
            ModelStore(client, KEYS).index.complete()
            check_whole(client, KEYS)
            assert tidy(client) == expected, f"{when} step {at}"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_store_that_goes_back_to_an_older_snapshot_at_any_step_is_whole_and_the_step_can_be_done_again(
    server: Server, files: Path, scenario: Scenario, when: When
) -> None:
    """All that was written since the beginning is forgotten, and the process goes on, unaware of it."""
    expected, steps = undisturbed(server, scenario, files)
    with server.client() as admin:
        prepare(admin)
        snapshot = {key: admin.dump(key) for key in admin.scan_iter()}

        def restore() -> None:
            with admin.pipeline() as pipe:
                pipe.flushall()
                for key, value in snapshot.items():
                    pipe.restore(key, 0, value)
                pipe.execute()

        for at in range(steps):
            restore()
            with doomed(path_of(server), Fate(at, when, restore)) as client:
                try:
                    scenario.act(ModelStore(client, KEYS), files)
                except (ModelStoreError, redis.RedisError):
                    check_whole(admin, KEYS, indexed="index" not in scenario.name)
            ModelStore(admin, KEYS).index.complete()
            check_whole(admin, KEYS)
            again(server, scenario, files)
            check_whole(admin, KEYS)
            assert unnumbered(tidy(admin)) == unnumbered(expected), f"{when} step {at}"


def test_an_import_into_a_store_that_forgets_it_says_so(server: Server, files: Path) -> None:
    """Whatever was stored before the store went back: an import that ends well has all of its versions there."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "import a series")
    _, steps = undisturbed(server, scenario, files)
    told: list[str] = []
    # Behind these, nothing is left but taking pins away.
    for at in range(steps - 3):
        with server.client() as admin, doomed(path_of(server), Fate(at, "before", lambda: prepare(admin))) as client:
            prepare(admin)
            try:
                scenario.act(ModelStore(client, KEYS), files)
            except ModelStoreError as error:
                told.append(str(error))
            else:
                there = ModelStore(admin, KEYS).infos([VERSIONS[NAMES[2], seed].digest for seed in range(4)])
                assert None not in there
    assert told
    assert all("import again" in message for message in told)


@pytest.fixture(params=["embedded", "system"])
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that may be killed."""
    server = Server(binary_of(request.param)).start()
    yield server
    server.close()


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario.name in ("import a release and promote", "prune", "roll back to")],
    ids=lambda scenario: scenario.name,
)
def test_a_redis_that_is_killed_at_any_step_and_comes_back_older_is_whole_and_the_step_can_be_done_again(
    own: Server, files: Path, scenario: Scenario
) -> None:
    """SIGKILL, and a new server on the snapshot that was written at the beginning."""
    expected, steps = undisturbed(own, scenario, files)
    for at in range(steps):
        with own.client() as client:
            prepare(client)
            client.save()

        def kill_and_restore() -> None:
            own.kill()
            own.start()

        with doomed(path_of(own), Fate(at, "after", kill_and_restore)) as client:
            try:
                scenario.act(ModelStore(client, KEYS), files)
            except (ModelStoreError, redis.RedisError):
                with own.client() as fresh:
                    check_whole(fresh, KEYS)
        again(own, scenario, files)
        with own.client() as client:
            check_whole(client, KEYS)
            assert unnumbered(tidy(client)) == unnumbered(expected), f"step {at}"
