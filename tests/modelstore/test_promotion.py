"""Of two who put something in force at once, one wins and the other is told what changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from modelstore.errors import NotFound, ReleaseConflict
from modelstore.promotion import champion_change
from modelstore.release import ReleaseInfo
from modelstore.store import ModelStore
from modelstore.verdicts import Verdicts
from streams.errors import BadName
from streams.keys import Keys
from tests.modelstore.made import contents, made_up
from tests.servers import Server

NAME, OTHER = "SPY:1m/close_5", "SPY:1m/open_5"
FIRST, SECOND, THIRD = (made_up(NAME, seed).digest for seed in range(3))


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    store = ModelStore(client, Keys("t"))
    store.put_many([made_up(name, seed) for name in (NAME, OTHER) for seed in range(3)])
    for alias, number in (("champion", 1), ("challenger", 2), ("proven", 1)):
        store.set_alias(NAME, alias, f"{NAME}@{number}", who="t")
    return store


def test_a_champion_is_no_challenger_and_on_probation() -> None:
    aliases = {(NAME, "champion"): FIRST, (NAME, "challenger"): SECOND, (NAME, "proven"): FIRST}
    assert champion_change(NAME, SECOND, aliases) == {
        (NAME, "champion"): SECOND,
        (NAME, "challenger"): None,
        (NAME, "proven"): None,
    }
    assert champion_change(NAME, FIRST, aliases) == {(NAME, "champion"): FIRST}
    assert champion_change(NAME, THIRD, {}) == {(NAME, "champion"): THIRD}


def test_a_version_is_promoted_by_alias_and_the_verdict_written(store: ModelStore) -> None:
    info = store.promote(f"{NAME}@challenger", who="ann", why="the better one")
    assert store.aliases() == {(NAME, "champion"): SECOND}
    newest, *_ = store.releases.history(1)
    assert (newest.id, newest.who, newest.why) == (info.id, "ann", "the better one")
    (noted,) = Verdicts(store.client, store.keys).of(NAME)
    assert (noted.note.verdict, noted.note.version, noted.note.over) == ("promoted", SECOND, FIRST)
    assert (noted.note.reason, noted.release) == ("by ann: the better one", info.id)
    before = contents(store.client)
    assert store.promote(f"{NAME}@2", who="ann") == info
    assert contents(store.client) == before
    with pytest.raises(NotFound, match="has no SPY:1m/close_5@challenger") as told:
        store.promote(f"{NAME}@challenger", who="ann")
    words = f"version {SECOND[:12]} became champion with release {info.id[:12]} (by ann: the better one)"
    assert told.value.__notes__ == [words]


def test_aliases_of_any_name_are_set_and_taken_away(store: ModelStore) -> None:
    store.set_alias(OTHER, "canary", f"{OTHER}@3", who="ann", why="try")
    assert store.resolve(f"{OTHER}@canary") == made_up(OTHER, 2).digest
    assert store.releases.history(1)[0].why == "try"
    store.set_alias(OTHER, "canary", None, who="ann")
    assert (OTHER, "canary") not in store.aliases()
    assert store.releases.history(1)[0].why == f"{OTHER}@canary taken away"
    with pytest.raises(BadName, match="reserved"):
        store.set_alias(OTHER, "latest", f"{OTHER}@1", who="ann")


def conflicting(store: ModelStore, act: Callable[[str], object]) -> ReleaseConflict:
    """Somebody is faster; what the slower one is told. Nothing is changed."""
    parent = store.releases.current()
    assert parent is not None
    store.promote(f"{NAME}@3", who="ben", why="mine")
    store.set_alias(OTHER, "champion", f"{OTHER}@1", who="cid", why="and mine")
    before = contents(store.client)
    with pytest.raises(ReleaseConflict) as told:
        act(parent.id)
    assert contents(store.client) == before
    return told.value


def test_the_slower_promoter_of_a_version_is_told_what_changed(store: ModelStore) -> None:
    told = conflicting(store, lambda parent: store.promote(f"{NAME}@2", who="ann", parent=parent))
    current = store.releases.current()
    assert current is not None
    assert told.found == current.id
    for words in (
        "release 4 by ben (mine), 5 by cid (and mine)",
        f"{NAME}@champion from {FIRST[:12]} to {THIRD[:12]}",
        f"{OTHER}@champion from none to {made_up(OTHER, 0).digest[:12]}",
        "red10 release diff",
    ):
        assert words in str(told)


def test_the_slower_promoter_of_a_release_is_told_what_changed(store: ModelStore) -> None:
    told = conflicting(store, lambda parent: store.promote("1", who="ann", parent=parent))
    assert "release 4 by ben (mine), 5 by cid (and mine)" in str(told)


def test_of_two_promoters_at_once_one_wins_and_the_other_is_told(server: Server, store: ModelStore) -> None:
    for turn in range(10):
        parent = store.releases.current()
        assert parent is not None
        start = threading.Barrier(2)

        def promote(number: int, start: threading.Barrier = start) -> ReleaseInfo | ReleaseConflict:
            with server.client() as client:
                own = ModelStore(client, store.keys)
                base = own.releases.current()
                assert base is not None
                start.wait()
                try:
                    return own.promote(f"{NAME}@{number}", who=f"p{number}", parent=base.id)
                except ReleaseConflict as conflict:
                    return conflict

        first, second = (2, 3) if turn % 2 else (3, 2)
        store.promote(f"{NAME}@1", who="t")
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(promote, (first, second)))
        (won,) = [answer for answer in answers if isinstance(answer, ReleaseInfo)]
        (lost,) = [answer for answer in answers if isinstance(answer, ReleaseConflict)]
        winner = (first, second)[answers.index(won)]
        assert store.releases.current() == won
        assert store.resolve(f"{NAME}@champion") == made_up(NAME, winner - 1).digest
        assert f"release {won.number} by p{winner}" in str(lost)


def test_going_back_is_one_switch_on_record(store: ModelStore) -> None:
    before = store.aliases()
    store.promote(f"{NAME}@2", who="ann")
    back = store.rollback(who="ben", why="worse")
    assert store.aliases() == before
    entry = store.releases.history(1)[0]
    assert (entry.number, entry.id, entry.who, entry.why) == (5, back.id, "ben", "worse")
    assert entry.created_ms > 0


def test_going_back_again_without_saying_how_far_is_refused(store: ModelStore) -> None:
    """It would lead forward; so a rollback that landed, but was not seen to, may be repeated."""
    store.promote(f"{NAME}@2", who="ann")
    store.rollback(who="ben", why="worse")
    before = contents(store.client)
    with pytest.raises(NotFound, match=r"release 5 is itself a rollback \(by ben\) from 4"):
        store.rollback(who="ben", why="worse")
    assert contents(store.client) == before
    assert store.rollback("2", who="ben").number == 6
    assert store.rollback("2", who="ben").number == 6
    with pytest.raises(NotFound, match="knows no release '77'"):
        store.rollback("77", who="ben")


def test_before_the_first_release_there_is_nothing_to_go_back_to(client: redis.Redis) -> None:
    store = ModelStore(client, Keys("new"))
    with pytest.raises(NotFound, match="no earlier release"):
        store.rollback(who="t")
    store.put_many([made_up(NAME, 0)])
    store.promote(f"{NAME}@1", who="t")
    with pytest.raises(NotFound, match="no earlier release"):
        store.rollback(who="t")
