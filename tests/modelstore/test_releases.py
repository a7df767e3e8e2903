"""A release is complete, content-addressed, and switched as a whole or not at all."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.exceptions import ResponseError

from modelstore.errors import BadModel, NotFound, ReleaseConflict
from modelstore.release import CHAIN, Aliases, Release, apply, assemble, decode, difference, encode, release_id
from modelstore.releases import ReleaseInfo, Releases
from modelstore.store import ModelStore
from modelstore.verdicts import KEPT, MAX_REASON, Note, Verdicts
from streams.clients import error_code
from streams.errors import BadName
from streams.keys import Keys
from tests.modelstore.made import contents, made_up
from tests.servers import Server

NAMES = [f"S{index}:1m/close_5" for index in range(4)]
#: Digest per (name, seed) of versions that `stored` puts.
DIGESTS = {(name, seed): made_up(name, seed).digest for name in NAMES for seed in range(3)}
EMPTY_ID = Release.of({}).id


@pytest.fixture
def keys() -> Keys:
    return Keys("t")


def stored(client: redis.Redis, keys: Keys) -> Releases:
    ModelStore(client, keys).put_many([made_up(name, seed) for name, seed in DIGESTS])
    return Releases(client, keys)


@pytest.fixture
def releases(client: redis.Redis, keys: Keys) -> Releases:
    return stored(client, keys)


def champions(*seeds: int) -> dict[tuple[str, str], str]:
    """The first models' champions: of each the version with this seed."""
    return {(name, "champion"): DIGESTS[name, seed] for name, seed in zip(NAMES, seeds, strict=False)}


def fresh(releases: Releases) -> Releases:
    """Another reader, which remembers nothing."""
    return Releases(releases.client, releases.keys)


aliases = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["champion", "challenger"])),
    st.sampled_from(["a" * 64, "b" * 64]),
)


@given(aliases)
def test_the_id_depends_on_the_set_alone(found: dict[tuple[str, str], str]) -> None:
    assert release_id(dict(reversed(found.items()))) == release_id(found)


@given(aliases, aliases)
def test_different_sets_have_different_ids(one: dict[tuple[str, str], str], two: dict[tuple[str, str], str]) -> None:
    assert (release_id(one) == release_id(two)) == (one == two)


@given(aliases, aliases)
def test_a_difference_leads_from_one_set_to_the_other_also_when_stored(
    one: dict[tuple[str, str], str], two: dict[tuple[str, str], str]
) -> None:
    delta = decode(encode(difference(one, two)), "x")
    assert apply(one, delta) == two
    assert assemble(release_id(two), [delta], Release.of(one), 1).aliases == two


def test_before_the_first_there_is_none(releases: Releases) -> None:
    assert releases.current() is None
    assert releases.history() == []
    with pytest.raises(NotFound, match="no earlier release"):
        releases.rollback(who="test", why="")


def test_a_switch_is_in_force_recorded_and_announced(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    events = client.pubsub()  # type: ignore[no-untyped-call]
    events.subscribe(keys.events)
    assert events.get_message(timeout=5) is not None
    info = releases.switch(champions(0, 0), parent=None, who="ann", why="first")
    assert releases.current() == info == ReleaseInfo(Release.of(champions(0, 0)).id, 1, info.created_ms, None)
    assert fresh(releases).get(info.id).aliases == champions(0, 0)
    (entry,) = releases.history()
    assert (entry.number, entry.id, entry.parent, entry.who, entry.why) == (1, info.id, None, "ann", "first")
    assert entry.created_ms == info.created_ms
    message = events.get_message(timeout=5)
    assert message is not None
    assert message["data"] == f"1 {info.id}".encode()
    events.close()


def test_a_change_keeps_what_it_does_not_name(releases: Releases) -> None:
    first = releases.switch(champions(0, 0, 0), parent=None, who="t", why="")
    delta = {(NAMES[0], "champion"): DIGESTS[NAMES[0], 1], (NAMES[1], "champion"): None}
    second = releases.switch(delta, parent=first.id, who="t", why="")
    expected = {(NAMES[0], "champion"): DIGESTS[NAMES[0], 1], (NAMES[2], "champion"): DIGESTS[NAMES[2], 0]}
    assert fresh(releases).get(second.id).aliases == expected
    assert fresh(releases).get(first.id).aliases == champions(0, 0, 0)
    assert (second.number, second.parent) == (2, first.id)


def test_a_change_that_changes_nothing_makes_no_release(client: redis.Redis, releases: Releases) -> None:
    info = releases.promote(champions(0, 1), who="t", why="")
    before = contents(client)
    assert releases.promote({**champions(0, 1), (NAMES[3], "champion"): None}, who="t", why="again") == info
    assert releases.switch({}, parent=info.id, who="t", why="again") == info
    assert releases.rollback(info.id, who="t", why="again") == info
    assert contents(client) == before


def test_a_switch_from_what_is_no_longer_in_force_is_refused(client: redis.Redis, releases: Releases) -> None:
    first = releases.switch(champions(0), parent=None, who="t", why="")
    second = releases.switch(champions(1), parent=first.id, who="t", why="")
    before = contents(client)
    for parent in (None, first.id, EMPTY_ID):
        with pytest.raises(ReleaseConflict) as conflict:
            releases.switch(champions(2), parent=parent, who="t", why="")
        assert (conflict.value.expected, conflict.value.found) == (parent, second.id)
    assert contents(client) == before


def test_a_change_there_and_back_between_read_and_switch_is_seen(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = releases.switch(champions(0), parent=None, who="t", why="")
    releases.switch(champions(1), parent=first.id, who="t", why="")
    back = releases.rollback(first.id, who="t", why="")
    assert (back.id, back.number) == (first.id, 3)
    # A promoter that read the pointer when it was number 1 has the right id and the wrong number.
    monkeypatch.setattr(releases, "current", lambda: first)
    with pytest.raises(ReleaseConflict):
        releases.switch(champions(2), parent=first.id, who="t", why="")


def test_another_release_under_the_same_number_is_seen(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the store went back to a snapshot after the read, and gave the number again."""
    first = releases.promote(champions(0), who="t", why="")
    second = releases.promote(champions(1), who="t", why="")
    monkeypatch.setattr(releases, "current", lambda: replace(first, number=second.number))
    with pytest.raises(ReleaseConflict) as conflict:
        releases.switch(champions(2), parent=first.id, who="t", why="")
    assert conflict.value.found == second.id


def test_a_version_that_is_not_there_or_of_another_model_is_refused(client: redis.Redis, releases: Releases) -> None:
    releases.promote(champions(0, 0), who="t", why="")
    before = contents(client)
    with pytest.raises(NotFound, match="no version ffffffffffff"):
        releases.promote(champions(1) | {(NAMES[1], "champion"): "f" * 64}, who="t", why="")
    with pytest.raises(BadModel, match="of another model"):
        releases.promote({(NAMES[1], "champion"): DIGESTS[NAMES[0], 0]}, who="t", why="")
    assert contents(client) == before


@pytest.mark.parametrize(
    "delta", [{("SPY", "champion"): "a" * 64}, {(NAMES[0], "Champion"): "a" * 64}, {(NAMES[0], "champion"): "abc"}]
)
def test_what_cannot_be_named_is_refused(releases: Releases, delta: dict[tuple[str, str], str]) -> None:
    with pytest.raises(BadName):
        releases.promote(delta, who="t", why="")
    assert releases.current() is None


def test_rolling_back_restores_the_whole_set_under_a_new_number(releases: Releases) -> None:
    first = releases.promote(champions(0, 0), who="t", why="")
    second = releases.promote(champions(1, 1, 1), who="t", why="")
    back = releases.rollback(who="ann", why="worse")
    assert (back.id, back.number, back.parent) == (first.id, 3, second.id)
    assert fresh(releases).get(back.id).aliases == champions(0, 0)
    assert releases.rollback(who="ann", why="after all").id == second.id
    assert [entry.number for entry in releases.history()] == [4, 3, 2, 1]
    assert [entry.number for entry in releases.history(2)] == [4, 3]


def test_rolling_back_to_what_never_was_is_refused(releases: Releases) -> None:
    releases.promote(champions(0), who="t", why="")
    with pytest.raises(NotFound, match="no release ffffffffffff"):
        releases.rollback("f" * 64, who="t", why="")


def test_rolling_back_to_versions_that_are_gone_is_refused(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    first = releases.promote(champions(0), who="t", why="")
    second = releases.promote(champions(1), who="t", why="")
    client.delete(keys.version(DIGESTS[NAMES[0], 0]))
    with pytest.raises(NotFound, match=DIGESTS[NAMES[0], 0][:12]):
        releases.rollback(first.id, who="t", why="")
    assert releases.current() == second


def test_a_damaged_release_is_told_and_can_be_rolled_back_from(
    client: redis.Redis, releases: Releases, keys: Keys
) -> None:
    first = releases.promote(champions(0, 0), who="t", why="")
    second = releases.promote(champions(1, 1), who="t", why="")
    third = releases.promote(champions(2, 2), who="t", why="")
    client.hset(keys.release(third.id), "body", encode(champions(0, 2)))
    with pytest.raises(BadModel, match="damaged"):
        fresh(releases).get(third.id)
    with pytest.raises(BadModel, match="damaged"):
        fresh(releases).promote(champions(0, 1), who="t", why="")
    client.hset(keys.release(third.id), "body", b"\x28\xb5\x2f\xfd")
    with pytest.raises(BadModel, match="damaged"):
        fresh(releases).get(third.id)
    assert fresh(releases).rollback(first.id, who="t", why="").id == first.id
    client.delete(keys.release(first.id))
    with pytest.raises(BadModel, match="gone"):
        fresh(releases).get(second.id)


def test_a_release_that_builds_on_itself_is_damaged(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    first = releases.promote(champions(0), who="t", why="")
    client.hset(keys.release(first.id), "base", first.id)
    with pytest.raises(BadModel, match="more than"):
        fresh(releases).get(first.id)


def test_no_release_builds_on_too_many_others(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    random_walk = [champions(step % 3, step // 3 % 3, step // 9 % 3, step // 27 % 3) for step in range(81)]
    infos = [releases.promote(aliases, who="t", why="") for aliases in random_walk]
    depths = {int(client.hget(keys.release(info.id), "depth") or -1) for info in infos}
    assert depths == set(range(CHAIN))
    for info, wanted in zip(infos, random_walk, strict=True):
        assert fresh(releases).get(info.id).aliases == wanted
        assert client.hget(keys.release(info.id), "count") == b"4"


def test_a_release_that_is_there_already_keeps_its_form_whatever_leads_to_it_later(
    client: redis.Redis, releases: Releases, keys: Keys
) -> None:
    """Else a deep one, reached by a short way, would let its successors be too deep to be read."""
    deep = [releases.promote(champions(step % 3, step // 3 % 3, step // 9 % 3), who="t", why="") for step in range(27)]
    releases.rollback(deep[0].id, who="t", why="")
    again = fresh(releases)
    assert again.promote(champions(2, 2, 2), who="t", why="").id == deep[-1].id
    assert again.get(deep[-1].id).depth == 26
    after = again.promote(champions(2, 2, 2, 0), who="t", why="")
    assert client.hget(keys.release(after.id), "depth") == b"27"


def test_of_two_promoters_at_once_each_change_is_in_the_end(server: Server, releases: Releases) -> None:
    """Each promotes its own models; none overwrites the other's."""
    rounds = 40

    def promote(name: str) -> None:
        with server.client() as client:
            own = Releases(client, releases.keys)
            for step in range(rounds):
                own.promote({(name, "champion"): DIGESTS[name, step % 3]}, who=name[:2], why="")

    with ThreadPoolExecutor() as pool:
        list(pool.map(promote, NAMES))
    history = releases.history(1000)
    assert [entry.number for entry in history] == list(range(len(NAMES) * rounds, 0, -1))
    assert all(after.parent == before.id for after, before in itertools.pairwise(history))
    current = releases.current()
    assert current is not None
    assert releases.get(current.id).aliases == champions(*[(rounds - 1) % 3] * len(NAMES))


def test_of_two_switches_from_one_parent_one_wins_and_the_other_is_told(server: Server, releases: Releases) -> None:
    first = releases.promote(champions(0), who="t", why="")
    start = threading.Barrier(2)

    def switch(seed: int) -> ReleaseInfo | ReleaseConflict:
        with server.client() as client:
            own = Releases(client, releases.keys)
            start.wait()
            try:
                return own.switch(champions(seed), parent=first.id, who="t", why="")
            except ReleaseConflict as conflict:
                return conflict

    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(switch, (1, 2)))
    won = [answer for answer in answers if isinstance(answer, ReleaseInfo)]
    lost = [answer for answer in answers if isinstance(answer, ReleaseConflict)]
    assert releases.current() == won[0]
    assert [conflict.found for conflict in lost] == [won[0].id]


def test_a_reader_sees_whole_releases_only(server: Server, releases: Releases) -> None:
    """All models of a release have the same seed; a mix would show two."""
    releases.promote(champions(0, 0, 0, 0), who="t", why="")
    done = threading.Event()

    def read() -> int:
        seen, numbers = 0, [0]
        with server.client() as client:
            while not done.is_set() or seen == 0:
                own = Releases(client, releases.keys)
                current = own.current()
                assert current is not None
                assert current.number >= numbers[-1]
                numbers.append(current.number)
                found = own.get(current.id).aliases
                assert found in [champions(*[seed] * 4) for seed in range(3)]
                seen += 1
        return seen

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for step in range(1, 120):
                releases.promote(champions(*[step % 3] * 4), who="t", why="")
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_a_promotion_whose_reply_was_lost_can_be_done_again(client: redis.Redis, releases: Releases) -> None:
    first = releases.promote(champions(0), who="t", why="")
    landed = releases.promote(champions(1), who="t", why="its reply never came")
    before = contents(client)
    assert fresh(releases).promote(champions(1), who="t", why="again") == landed
    assert fresh(releases).rollback(landed.id, who="t", why="again") == landed
    assert contents(client) == before
    assert landed.parent == first.id


def test_a_full_memory_refuses_a_switch_as_a_whole(client: redis.Redis, releases: Releases) -> None:
    info = releases.promote(champions(0), who="t", why="")
    before = contents(client)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.RedisError) as refused:
            releases.promote(champions(1), who="t", why="")
        assert error_code(refused.value) == "OOM"
    finally:
        client.config_set("maxmemory", 0)
    assert contents(client) == before
    assert releases.current() == info


def test_a_history_of_the_wrong_type_is_an_error_before_the_first_write(
    client: redis.Redis, releases: Releases, keys: Keys
) -> None:
    client.set(keys.releases, "taken")
    before = contents(client)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        releases.promote(champions(0), who="t", why="")
    assert contents(client) == before


def test_a_store_that_was_emptied_meanwhile_is_noticed(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    """The promoter remembers a release that the store has forgotten; nothing may build on it."""
    releases.promote(champions(0, 0), who="t", why="")
    client.flushall()
    with pytest.raises(NotFound):
        releases.promote(champions(1), who="t", why="")
    stored(client, keys)
    info = releases.promote(champions(1), who="t", why="")
    assert fresh(releases).get(info.id).aliases == champions(1)


def test_a_pointer_restored_without_its_release_is_noticed(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    info = releases.promote(champions(0, 0), who="t", why="")
    client.delete(keys.release(info.id))
    with pytest.raises(NotFound):
        releases.promote(champions(1), who="t", why="")


def test_releases_are_found_by_number_and_by_the_beginning_of_their_id(releases: Releases) -> None:
    first = releases.promote(champions(0), who="t", why="")
    second = releases.promote(champions(1), who="t", why="")
    assert releases.find("1") == releases.find(first.id[:8]) == releases.find(first.id) == first.id
    assert releases.find("2") == second.id
    for text in ("3", "ffffff", "", "abc", "latest"):
        with pytest.raises(NotFound):
            releases.find(text)


def test_a_release_whose_id_begins_with_decimal_digits_is_found_by_them(releases: Releases) -> None:
    digest = DIGESTS[NAMES[0], 0]
    sets = ({(NAMES[0], f"x{number}"): digest} for number in range(10_000))
    waiting = releases.put_candidate(next(found for found in sets if release_id(found)[:8].isdigit()))
    assert releases.find(waiting[:8]) == waiting


def test_switching_follows_a_simple_model(server: Server) -> None:
    """Any order of promotions, conflicts, rollbacks, and forgetful readers gives what a dictionary would."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.client = server.client()
            self.client.flushall()
            self.releases = stored(self.client, Keys("t"))
            self.model: dict[tuple[str, str], str] = {}
            self.past: list[tuple[str, dict[tuple[str, str], str]]] = []

        @rule(name=st.sampled_from(NAMES), seed=st.one_of(st.none(), st.integers(0, 2)), forgetful=st.booleans())
        def promote(self, name: str, seed: int | None, forgetful: bool) -> None:
            if forgetful:
                self.releases = fresh(self.releases)
            delta = {(name, "champion"): None if seed is None else DIGESTS[name, seed]}
            info = self.releases.promote(delta, who="t", why="")
            self.model = apply(self.model, delta)
            if not self.past or self.past[-1][0] != info.id:
                self.past.append((info.id, dict(self.model)))

        @precondition(lambda self: len(self.past) > 0)
        @rule(data=st.data())
        def rollback(self, data: st.DataObject) -> None:
            target, wanted = data.draw(st.sampled_from(self.past))
            info = self.releases.rollback(target, who="t", why="")
            assert info.id == target
            self.model = dict(wanted)
            if self.past[-1][0] != target:
                self.past.append((target, wanted))

        @precondition(lambda self: len(self.past) > 1)
        @rule()
        def conflict(self) -> None:
            stale = next((past for past, _ in self.past if past != self.past[-1][0]), None)
            if stale is None:
                return
            with pytest.raises(ReleaseConflict):
                self.releases.switch({(NAMES[0], "other"): DIGESTS[NAMES[0], 0]}, parent=stale, who="t", why="")

        @invariant()
        def in_force_is_what_the_model_says(self) -> None:
            current = self.releases.current()
            assert (current is None) == (not self.past)
            if current is not None:
                assert current.id == self.past[-1][0] == release_id(self.model)
                assert current.number == len(self.past)
                assert fresh(self.releases).get(current.id).aliases == self.model

        def teardown(self) -> None:
            self.client.close()

    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))


# Verdicts


def note(version: str, verdict: str = "promoted", at: int = 7, reason: str = "because") -> Note:
    return Note(NAMES[0], at, verdict, version, None, reason)


def test_a_change_can_be_worked_out_from_what_is_in_force_at_each_try(
    releases: Releases,
) -> None:
    releases.promote(champions(0), who="t", why="")
    seen: list[str] = []

    def delta(aliases: Aliases) -> dict[tuple[str, str], str | None]:
        seen.append(aliases[NAMES[0], "champion"])
        if len(seen) == 1:
            # Somebody else is faster.
            fresh(releases).promote(champions(1), who="u", why="")
        return {(NAMES[0], "challenger"): aliases[NAMES[0], "champion"]}

    info = releases.promote(delta, who="t", why="")
    assert seen == [DIGESTS[NAMES[0], 0], DIGESTS[NAMES[0], 1]]
    assert set(fresh(releases).get(info.id).aliases.values()) == {DIGESTS[NAMES[0], 1]}


def test_verdicts_are_written_with_the_switch_that_they_explain_and_never_without(
    client: redis.Redis, releases: Releases, keys: Keys
) -> None:
    digest = DIGESTS[NAMES[0], 0]
    verdicts = Verdicts(client, keys)
    notes = [note(digest), Note(NAMES[1], 8, "first", DIGESTS[NAMES[1], 0], digest, "x" * 1000)]
    info = releases.promote(champions(0, 0), who="t", why="", notes=notes)
    releases.promote(champions(0, 0), who="t", why="nothing changes", notes=[note(digest, at=9)])
    (found,) = verdicts.of(NAMES[0])
    assert (found.note, found.release) == (notes[0], info.id)
    (other,) = verdicts.of(NAMES[1])
    assert (other.note.over, other.note.reason) == (digest, "x" * MAX_REASON)
    before = contents(client)
    with pytest.raises(NotFound):
        releases.promote({(NAMES[0], "champion"): "f" * 64}, who="t", why="", notes=[note("f" * 64)])
    client.set(keys.verdicts(NAMES[2]), "of the wrong type")
    wrong = Note(NAMES[2], 1, "first", digest, None, "")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        releases.promote(champions(1), who="t", why="", notes=[wrong])
    client.delete(keys.verdicts(NAMES[2]))
    assert contents(client) == before


def test_a_verdict_without_a_switch_is_on_record_once(client: redis.Redis, releases: Releases, keys: Keys) -> None:
    info = releases.promote(champions(0), who="t", why="", notes=[note("a" * 64)])
    verdicts = Verdicts(client, keys)
    verdicts.note([])
    for _ in range(2):
        verdicts.note([note("a" * 64), note("a" * 64, "drift"), note("a" * 64, "drift", at=8), note("b" * 64, "drift")])
    found = [(noted.note.verdict, noted.note.at, noted.note.version[0]) for noted in verdicts.of(NAMES[0])]
    assert found[::-1] == [("promoted", 7, "a"), ("drift", 7, "a"), ("drift", 8, "a"), ("drift", 7, "b")]
    assert {noted.release for noted in verdicts.of(NAMES[0])} == {info.id}


def test_only_about_so_many_verdicts_of_a_model_are_kept(client: redis.Redis, keys: Keys) -> None:
    verdicts = Verdicts(client, keys)
    for at in range(0, 5 * KEPT, 10):
        verdicts.note([note("a" * 64, "drift", at=at + more) for more in range(10)])
    assert KEPT <= client.xlen(keys.verdicts(NAMES[0])) <= 2 * KEPT
    assert verdicts.of(NAMES[0], 1)[0].note.at == 5 * KEPT - 1
