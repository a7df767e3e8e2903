"""What an alias, a kept release or a running import needs is never removed; the rest can be."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from modelstore.errors import BadModel, InUse, NotFound
from modelstore.imports import DEAD_AFTER_MS, _clear, pinned_versions
from modelstore.release import Aliases
from modelstore.releases import Releases
from modelstore.retention import Retention, kept_releases, superfluous
from modelstore.store import ModelStore
from streams.keys import Keys
from tests.modelstore.made import contents, made_up
from tests.modelstore.whole import check_whole
from tests.servers import Server

NAMES = ["SPY:1m/close_5", "SPY:1m/open_5", "XLE:1m/close_5"]
DIGESTS = {(name, seed): made_up(name, 10 * at + seed).digest for at, name in enumerate(NAMES) for seed in range(6)}


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    store = ModelStore(client, Keys("t"))
    store.put_many([made_up(name, 10 * at + seed) for at, name in enumerate(NAMES) for seed in range(6)])
    return store


def champions(*seeds: int) -> dict[tuple[str, str], str]:
    return {(name, "champion"): DIGESTS[name, seed] for name, seed in zip(NAMES, seeds, strict=False)}


def left(store: ModelStore, name: str = NAMES[0]) -> list[int]:
    """Seeds of the versions that are there."""
    there = {info.digest for info in store.versions(name)}
    return [seed for seed in range(6) if DIGESTS[name, seed] in there]


# The decisions


@given(st.sets(st.integers(1, 50)), st.integers(-1, 60), st.sets(st.integers(1, 50)))
def test_the_last_and_the_needed_stay_and_all_others_go(numbers: set[int], keep: int, needed: set[int]) -> None:
    gone = superfluous({number: str(number) for number in numbers}, keep, {str(number) for number in needed})
    last = set(sorted(numbers)[-max(keep, 1) :])
    assert {int(digest) for digest in gone} == numbers - last - needed
    assert [int(digest) for digest in gone] == sorted(map(int, gone))


@given(st.lists(st.sampled_from("abcdef")), st.lists(st.sampled_from("defgh"), unique=True), st.integers(1, 7))
def test_the_release_in_force_and_the_last_different_ones_stay(
    history: Sequence[str], candidates: Sequence[str], keep: int
) -> None:
    kept = kept_releases(history[0] if history else None, history, candidates, keep)
    assert len(set(kept)) == len(kept)
    different = list(dict.fromkeys(history))[:keep]
    assert set(different) <= set(kept) <= set(different) | set(candidates[:keep])
    assert not history or kept[-1] == history[0]
    assert set(candidates[:keep]) <= set(kept) | set(history)


# Removing


def test_what_an_alias_or_a_kept_release_needs_is_refused_and_nothing_removed(store: ModelStore) -> None:
    store.releases.promote(champions(0, 0), who="t", why="")
    store.releases.promote(champions(1, 0), who="t", why="")
    before = contents(store.client)
    with pytest.raises(InUse, match=r"SPY:1m/close_5@champion of the release in force"):
        store.remove([f"{NAMES[0]}@6", f"{NAMES[0]}@champion"])
    with pytest.raises(InUse, match=r"one of the last 100 that are kept to go back to"):
        store.remove([f"{NAMES[0]}@1"])
    with pytest.raises(NotFound, match="has no version 9"):
        store.remove([f"{NAMES[0]}@6", f"{NAMES[0]}@9"])
    assert contents(store.client) == before
    assert [info.number for info in store.remove([f"{NAMES[0]}@6", f"{NAMES[0]}@3"])] == [6, 3]
    assert left(store) == [0, 1, 3, 4]
    store.remove([f"{NAMES[0]}@1"], keep_releases=1)
    assert left(store) == [1, 3, 4]
    check_whole(store.client, store.keys)
    with pytest.raises(NotFound, match="store it first"):
        store.rollback("1", who="t")


def test_a_number_is_given_once_also_after_all_versions_are_gone(store: ModelStore) -> None:
    store.remove([f"{NAMES[2]}@{number}" for number in range(1, 7)])
    assert (store.names(), store.versions(NAMES[2])) == (NAMES[:2], [])
    check_whole(store.client, store.keys)
    (info,) = store.put_many([made_up(NAMES[2], 20)])
    assert info.number == 7
    assert store.names() == NAMES
    check_whole(store.client, store.keys)


def test_candidates_are_kept(store: ModelStore) -> None:
    release = store.releases.put_candidate(champions(2))
    with pytest.raises(InUse, match=release[:12]):
        store.remove([f"{NAMES[0]}@3"])
    pruned = store.prune(1)
    assert left(store) == [2, 5]
    assert pruned.releases == ()
    store.promote(release[:10], who="t")
    check_whole(store.client, store.keys)


def test_pruning_leaves_the_last_and_what_kept_releases_need(store: ModelStore) -> None:
    for seeds in ((0, 0), (1, 0), (2, 0), (3, 0)):
        store.releases.promote(champions(*seeds), who="t", why="")
    would = store.prune(1, keep_releases=2, dry_run=True)
    assert [left(store, name) for name in NAMES] == [[*range(6)]] * 3
    pruned = store.prune(1, keep_releases=2)
    assert {name: set(digests) for name, digests in pruned.versions.items()} == {
        name: set(digests) for name, digests in would.versions.items()
    }
    assert [left(store, name) for name in NAMES] == [[2, 3, 5], [0, 5], [5]]
    check_whole(store.client, store.keys)
    assert store.prune(1, keep_releases=2).versions == {}
    store.rollback(who="t")
    with pytest.raises(NotFound):
        store.rollback("1", who="t")
    check_whole(store.client, store.keys)


def test_bases_of_kept_releases_stay_and_others_go(store: ModelStore) -> None:
    """Each release is stored as a difference to the one before; the first, whole, carries all that follow."""
    infos = [store.releases.promote(champions(seed % 6, seed // 6), who="t", why="") for seed in range(36)]
    pruned = store.prune(1, keep_releases=2)
    there = [info.id for info in infos if store.client.exists(store.keys.release(info.id))]
    assert set(pruned.releases) == {info.id for info in infos} - set(there)
    # The 33rd is whole again: the 32 before it go, those from it on stay.
    assert there == [info.id for info in infos[32:]]
    fresh = Releases(store.client, store.keys)
    assert fresh.get(infos[34].id).aliases == champions(34 % 6, 34 // 6)
    check_whole(store.client, store.keys)
    with pytest.raises(NotFound, match=infos[5].id[:12]):
        store.rollback(infos[5].id, who="t")


def test_a_damaged_release_stops_it_for_nobody_knows_what_it_needs(store: ModelStore) -> None:
    first = store.releases.promote(champions(0), who="t", why="")
    store.releases.promote(champions(1, 1), who="t", why="")
    store.client.hset(store.keys.release(first.id), "body", b"damaged")
    for act in (lambda: store.prune(1), lambda: store.remove([f"{NAMES[2]}@1"])):
        before = contents(store.client)
        store.releases = Releases(store.client, store.keys)
        with pytest.raises(BadModel, match="damaged"):
            act()
        assert contents(store.client) == before


def test_a_release_in_force_that_is_gone_stops_it_too(store: ModelStore) -> None:
    info = store.releases.promote(champions(0), who="t", why="")
    store.client.delete(store.keys.release(info.id))
    fresh = ModelStore(store.client, store.keys)
    with pytest.raises(NotFound, match=info.id[:12]):
        fresh.prune(1)
    assert left(store) == [*range(6)]


@pytest.mark.parametrize("step", range(1, 6))
def test_two_that_remove_at_once_find_nothing_damaged(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whatever one has read when the other switches and removes, it decides anew, and calls nothing damaged."""
    # Every second release is whole, so that bases go too.
    monkeypatch.setattr("modelstore.releases.CHAIN", 2)
    for seed in range(4):
        store.releases.promote(champions(seed), who="t", why="")
    one, other = ModelStore(store.client, store.keys), ModelStore(store.client, store.keys)
    hmget, calls = store.client.hmget, 0

    def in_between(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            for seed in range(4):
                other.releases.promote(champions(5, seed), who="t", why="")
            other.prune(1, keep_releases=1)
        return hmget(*args)

    monkeypatch.setattr(store.client, "hmget", in_between)
    one.prune(1, keep_releases=3)
    monkeypatch.undo()
    assert other.releases.get(other.releases.find("8")).aliases == champions(5, 3)
    check_whole(store.client, store.keys)


def test_versions_that_a_running_import_needs_stay(store: ModelStore) -> None:
    pinned, other = DIGESTS[NAMES[0], 0], DIGESTS[NAMES[0], 1]
    with (
        pinned_versions(store.client, store.keys, [pinned]),
        pinned_versions(store.client, store.keys, [pinned, other]),
    ):
        with pytest.raises(InUse, match="running import"):
            store.remove([pinned])
        pruned = store.prune(1)
        assert set(pruned.pinned) == {pinned, other}
        assert left(store) == [0, 1, 5]
    store.remove([pinned])
    check_whole(store.client, store.keys)
    assert not store.client.exists(store.keys.pins, store.keys.imports)


def test_an_import_that_died_keeps_nothing_for_ever(store: ModelStore) -> None:
    pinned = DIGESTS[NAMES[0], 0]
    with pinned_versions(store.client, store.keys, [pinned]):
        (mine,) = cast(list[bytes], store.client.zrange(store.keys.imports, 0, -1))
        # Its last sign of life was long ago.
        store.client.zincrby(store.keys.imports, -2 * DEAD_AFTER_MS, mine)
        store.remove([pinned])
        assert store.client.zcard(store.keys.pins) == 1
        _clear(store.client, store.keys)
        assert not store.client.exists(store.keys.pins, store.keys.imports)


def test_a_release_that_comes_up_while_removing_finds_its_versions(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decision and the removal somebody promotes, or stores as a candidate, what was to be removed."""
    original = Retention.needed

    def promote() -> object:
        return store.releases.promote(champions(0), who="u", why="")

    def put_candidate() -> object:
        return store.releases.put_candidate(champions(1))

    acts = itertools.cycle([promote, put_candidate])
    seen: list[int] = []

    def interrupted(self: Retention) -> object:
        found = original(self)
        if len(seen) < 2:
            seen.append(1)
            next(acts)()
        return found

    monkeypatch.setattr(Retention, "needed", interrupted)
    with pytest.raises(InUse, match="release in force"):
        store.remove([DIGESTS[NAMES[0], 0]])
    with pytest.raises(InUse, match="kept to go back to"):
        store.remove([DIGESTS[NAMES[0], 1]])
    assert left(store) == [*range(6)]
    seen.clear()
    store.prune(1)
    assert left(store) == [0, 1, 5]
    check_whole(store.client, store.keys)


def test_promoting_and_pruning_at_the_same_time_breaks_nothing(server: Server, store: ModelStore) -> None:
    """Promoters pick versions that pruning would remove: each ends up in force with its versions, or is told."""
    stop = threading.Event()

    def prune() -> int:
        rounds = 0
        with server.client() as client:
            own = ModelStore(client, store.keys)
            while not stop.is_set():
                own.prune(1, keep_releases=1)
                rounds += 1
        return rounds

    def promote(name: str) -> int:
        done = 0
        with server.client() as client:
            own = ModelStore(client, store.keys)
            for step in range(60):
                own.put_many([made_up(name, 10 * NAMES.index(name) + seed) for seed in range(6)])
                try:
                    own.set_alias(name, "champion", DIGESTS[name, step % 6], who="t")
                    done += 1
                except NotFound:
                    continue
        return done

    with ThreadPoolExecutor() as pool:
        pruner = pool.submit(prune)
        try:
            promoted = list(pool.map(promote, NAMES))
        finally:
            stop.set()
        assert pruner.result() > 0
    assert all(promoted)
    store.prune(1, keep_releases=1)
    check_whole(store.client, store.keys)
    aliases: Aliases = ModelStore(store.client, store.keys).aliases()
    assert set(aliases) == set(champions(0, 0, 0))


def test_a_full_memory_keeps_nothing_from_being_removed(store: ModelStore, client: redis.Redis) -> None:
    store.tags.change(DIGESTS[NAMES[0], 0], ["a"])
    client.config_set("maxmemory", 1)
    try:
        store.prune(2)
    finally:
        client.config_set("maxmemory", 0)
    assert left(store) == [4, 5]
    check_whole(client, store.keys)
