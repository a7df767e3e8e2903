"""Old snapshots go, but none that is in use; what differs between two is told."""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from modelstore.store import ModelStore
from ops.snapshots.diff import compare
from ops.snapshots.files import finish, remove_abandoned, work_directory
from ops.snapshots.inventory import tenant_of
from ops.snapshots.manifest import id_of
from ops.snapshots.promote import Promoter
from ops.snapshots.prune import DAY_MS, prune_shelf, superfluous, used_snapshots, with_records
from ops.snapshots.shelf import Listed, Shelf, in_use
from ops.snapshots.take import take
from streams.settings import Settings
from tests.ops.snapshots.made import KEYS, NAMES, aliases, fill, generation, settings_of
from tests.servers import Server

NOW = 1_800_000_000_000


def listed(age_days: int, environment: str = "staging", promoted: tuple[str, ...] = ()) -> Listed:
    return Listed(environment, id_of(NOW - age_days * DAY_MS, f"{age_days:08x}"), 1, True, promoted)


def ages(found: list[Listed]) -> list[int]:
    return [(NOW - one.taken_ms) // DAY_MS for one in found]


def test_the_newest_the_young_and_the_used_stay() -> None:
    there = [listed(age) for age in range(8)]
    there[5] = listed(5, promoted=("production",))
    there[6] = listed(6, promoted=("staging",))

    def gone(keep: int, keep_days: int, used: set[str] | None) -> list[int]:
        return ages(superfluous(there, keep=keep, keep_days=keep_days, used=used, environment="staging", now_ms=NOW))

    assert gone(3, 0, set()) == [7, 6, 4, 3]
    assert gone(3, 5, set()) == [7, 6], "age counts as well"
    assert gone(3, 0, {f"staging/{there[7].id}"}) == [6, 4, 3], "a kept release came from it"
    assert gone(3, 0, None) == [7, 4, 3], "the store cannot be asked: what was promoted anywhere stays"
    assert gone(0, 0, set()) == [7, 6, 4, 3, 2, 1], "the last one stays"


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab"), st.booleans()), unique=True),
    st.integers(1, 5),
    st.integers(0, 20),
)
def test_nothing_that_must_stay_goes(made: list[tuple[int, str, bool]], keep: int, days: int) -> None:
    there = sorted(
        {
            (age, environment): listed(age, environment, ("c",) if promoted else ())
            for age, environment, promoted in made
        }.values(),
        key=lambda one: one.id,
        reverse=True,
    )
    used = {f"{one.environment}/{one.id}" for one in there[::3]}
    gone = superfluous(there, keep=keep, keep_days=days, used=used, environment="a", now_ms=NOW)
    for one in there:
        newer = [other for other in there if other.environment == one.environment and other.id > one.id]
        stays = len(newer) < keep or NOW - one.taken_ms < days * DAY_MS
        stays = stays or f"{one.environment}/{one.id}" in used or bool(one.promoted)
        assert (one in gone) is not stays


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf.of(settings_of(tmp_path))


def test_what_a_kept_release_came_from_stays_until_the_release_goes(
    server: Server, client: redis.Redis, tmp_path: Path, shelf: Shelf
) -> None:
    def made(number: int) -> Settings:
        return settings_of(tmp_path, environment="staging", models_url=server.url, keep_releases=number)

    fill(client, 1)
    snapshot = take(server.url, made(100))
    client.flushall()
    fill(client, 0)
    promoter = Promoter(ModelStore(client, KEYS), made(100), print)
    promoter.promote(snapshot, runs=None, who="me")
    ModelStore(client, KEYS).rollback(who="me")
    name = f"staging/{snapshot.manifest.id}"
    said: list[str] = []
    assert used_snapshots(made(2), said.append) == {name}
    assert used_snapshots(made(1), said.append) == set(), "only the release in force is kept, and that came from none"
    away = settings_of(tmp_path, models_url="redis://127.0.0.1:1")
    assert not said
    assert used_snapshots(away, said.append) is None
    assert "cannot be asked" in said[0]

    (shelf.directory / "staging" / ".taking-1234").mkdir()
    (shelf.directory / "staging" / ".removed-1234").mkdir()
    (shelf.directory / "staging" / ".fetching-1234").mkdir()
    prune_shelf(shelf, list(shelf.list()))
    assert shelf.list() == []
    assert os.listdir(shelf.directory / "staging") == [".fetching-1234"], "a download goes on when it is called again"
    os.utime(shelf.directory / "staging" / ".fetching-1234", (0, 0))
    prune_shelf(shelf, [])
    assert os.listdir(shelf.directory / "staging") == [], "unless that was a week ago"


def test_an_empty_store_says_nothing_of_what_is_in_use(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    """It may have lost everything, and what it is to be restored from must not go then."""
    said: list[str] = []
    assert used_snapshots(settings_of(tmp_path, models_url=server.url), said.append) is None
    assert "is empty" in said[0]
    fill(client)
    assert used_snapshots(settings_of(tmp_path, models_url=server.url), said.append) == set()


def test_what_is_promoted_meanwhile_stays(server: Server, client: redis.Redis, tmp_path: Path, shelf: Shelf) -> None:
    fill(client)
    snapshot = take(server.url, settings_of(tmp_path))
    with in_use(snapshot):
        assert prune_shelf(shelf, shelf.list()) == []
    [before] = shelf.list()
    (snapshot.path / "promoted-production.json").write_bytes(b"{}")
    assert prune_shelf(shelf, [before]) == [], "it was promoted since it was listed"
    [after] = shelf.list()
    assert prune_shelf(shelf, [after, after]) == [after], "and another command may have removed it"
    assert shelf.list() == []
    archived = Listed(before.environment, before.id, 1, True, ("production",))
    assert with_records([before], [archived])[0].promoted == ("production",)


def test_commands_that_begin_while_others_end_leave_their_directories_alone(tmp_path: Path) -> None:
    wrong: list[str] = []

    def make(number: int) -> None:
        for _ in range(60):
            remove_abandoned(tmp_path, ".taking-")
            with work_directory(tmp_path, f".taking-{uuid.uuid4().hex}") as work:
                (work / "models.rdb").write_bytes(b"data")
                place = tmp_path / uuid.uuid4().hex
                finish(work, place)
            if os.listdir(place) != ["models.rdb"]:
                wrong.append(f"{number}: {os.listdir(place)}")

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(make, number) for number in range(4)]:
            done.result()
    assert wrong == []


def test_a_diff_tells_versions_and_aliases(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    fill(client, 0)
    first = take(server.url, settings_of(tmp_path)).manifest.tenant("default")
    fill(client, 1)
    store = ModelStore(client, KEYS)
    store.set_alias(NAMES[0], "challenger", f"{NAMES[0]}@1", who="me")
    second = take(server.url, settings_of(tmp_path)).manifest.tenant("default")
    found = compare(first, second)
    assert {version.digest for version in found.added} == {version.digest for version in generation(1)}
    assert found.gone == ()
    before, after = aliases(0), aliases(1)
    changed = [(name, "champion", before[name, "champion"], after[name, "champion"]) for name in sorted(NAMES)]
    assert list(found.aliases) == sorted(
        [*changed, (NAMES[0], "challenger", None, generation(0)[0].digest)], key=lambda row: row[:2]
    )
    back = compare(second, first)
    assert (back.added, {version.digest for version in back.gone}) == ((), {v.digest for v in generation(1)})
    assert compare(second, tenant_of(client, "default")).aliases == ()
    assert compare(None, second).gone == ()
