"""A search finds what looking at every version would, and says what is wrong with a query that cannot be read."""

from __future__ import annotations

import math
import operator
from fnmatch import fnmatchcase

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from modelstore.errors import BadQuery
from modelstore.index import MOST_METRICS
from modelstore.manifest import Manifest
from modelstore.search import Query
from modelstore.store import ModelStore
from modelstore.version import Incoming, RawVersion, digest_of
from modelstore.where import MAX_CONDITIONS, Condition, parse_where
from streams.errors import BadName
from streams.keys import Keys
from tests.modelstore.whole import check_whole
from tests.servers import Server

DATASETS, TARGETS = ["SPY:1m", "SPY:1h", "XLE:1m", "iris"], ["close_5", "close_10", "volume_5"]
METRICS = ["skill", "rounds", "skill_low"]
TAGS = ["deprecated", "env=prod", "env=test", "run/7=x"]


def version(name: str, seed: int, metrics: dict[str, float | int | None], through: int = 0, **tags: str) -> Incoming:
    manifest = Manifest(
        name=name,
        dataset={},
        trained_through=through,
        feature_set={},
        target={},
        parameters={},
        seed=seed,
        metrics=metrics,
    )
    raw = RawVersion(manifest.canonical(), b"", b"", b"")
    return Incoming(digest_of(raw.parts), raw, manifest, tags)


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    return ModelStore(client, Keys("t"))


# Conditions


def test_conditions_are_read() -> None:
    assert parse_where("") == parse_where("  ") == ()
    assert parse_where("skill > 0.02 and rounds<=40 and a.b-c != -1.5e-3") == (
        Condition("skill", ">", 0.02),
        Condition("rounds", "<=", 40),
        Condition("a.b-c", "!=", -0.0015),
    )
    assert [parse_where(f"x {sign} +.5")[0].operator for sign in ("=", "==", "<", ">=")] == ["=", "==", "<", ">="]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("skill", "ends too early"),
        ("skill >", "ends too early"),
        ("skill > x", "'x' stands where a number"),
        ("skill > 1x", "stands where a number"),
        ("skill > 1.2.3", "stands where a number"),
        ("skill ! 1", "'!' stands where an operator"),
        ("skill => 1", "stands where a number"),
        ("0.1 < skill", "'0.1' stands where a metric"),
        ("skill > 1 or rounds < 2", "'or' stands where `and`"),
        ("skill > 1, rounds < 2", "',' stands where `and`"),
        ("skill > 1 and", "nothing follows"),
        ("and > 1", "'and' stands where a metric"),
        ("skill > nan", "'nan' stands where a number"),
        ("skill > 1e999", "too large"),
        ("__import__('os') > 1", "stands where an operator"),
        ("skill > 0 and " * MAX_CONDITIONS + "skill > 0", "conditions are too many"),
        ("x" * 2000, "too long"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_place(text: str, told: str) -> None:
    with pytest.raises(BadQuery, match=told):
        parse_where(text)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_where(text)
    except BadQuery:
        return
    assert parse_where(" and ".join(f"{c.metric} {c.operator} {c.number!r}" for c in found)) == found


# Queries


def test_a_metric_that_no_version_has_is_told_with_those_that_there_are(store: ModelStore) -> None:
    with pytest.raises(BadQuery, match="no version has a metric yet"):
        store.search(Query(where="skill > 0"))
    store.put_incoming([version("SPY:1m/close_5", 0, {"skill": 1, "rounds": 2})])
    with pytest.raises(BadQuery, match=r"'skil' \(did you mean skill\?\); there are: rounds, skill"):
        store.search(Query(where="skil > 0"))
    with pytest.raises(BadQuery, match="there are: rounds, skill"):
        store.search(Query(sort="accuracy"))
    with pytest.raises(BadQuery, match="limit"):
        store.search(Query(limit=-1))
    with pytest.raises(BadName, match="cannot be a tag"):
        store.search(Query(tags=("a b",)))
    with pytest.raises(BadQuery, match="tags are a list"):
        store.search(Query(tags="deprecated"))


def test_what_is_not_known_fulfils_nothing_and_comes_last(store: ModelStore) -> None:
    odd = {"nan": math.nan, "inf": math.inf, "skill": None, "a b": 1.0}
    store.put_incoming(
        [
            version("SPY:1m/close_5", 0, {"skill": 1.0}),
            version("SPY:1m/close_5", 1, odd),
            version("SPY:1m/close_5", 2, {"skill": -1.0}),
        ]
    )
    assert [found.info.number for found in store.search(Query(sort="skill"))] == [1, 3, 2]
    assert [found.info.number for found in store.search(Query(sort="skill", ascending=True))] == [3, 1, 2]
    assert [found.info.number for found in store.search(Query(where="skill != 5", sort="skill"))] == [1, 3]
    (unknown,) = store.search(Query(sort="skill"))[2:]
    assert unknown.metrics == {"skill": None}
    with pytest.raises(BadQuery, match="there are: skill"):
        store.search(Query(where="nan > 0"))


def test_times_and_aliases_are_searched_for(store: ModelStore, client: redis.Redis) -> None:
    infos = [
        store.put_incoming([version("SPY:1m/close_5", seed, {}, through=10**18 * (5 - seed))])[0][0]
        for seed in range(3)
    ]
    for info in infos:
        at = info.created_ms
        for query, bound in ((Query(since_ms=at), operator.ge), (Query(before_ms=at), operator.lt)):
            expected = {other.digest for other in infos if bound(other.created_ms, at)}
            assert {found.info.digest for found in store.search(query)} == expected
    by_training = store.search(Query(sort="trained_through"))
    assert [found.info.number for found in by_training] == [1, 2, 3]
    assert [found.trained_through_ms for found in by_training] == [5 * 10**12, 4 * 10**12, 3 * 10**12]
    assert store.search(Query(alias="champion")) == []
    store.set_alias("SPY:1m/close_5", "champion", "SPY:1m/close_5@2", who="t")
    assert [found.info.number for found in store.search(Query(alias="champion"))] == [2]
    assert store.search(Query(alias="other")) == []


def test_metrics_beyond_the_most_have_no_column_and_harm_nobody(store: ModelStore, client: redis.Redis) -> None:
    many: dict[str, float | int | None] = {f"m{number:03}": number for number in range(MOST_METRICS + 5)}
    (info, _), *_ = store.put_incoming([version("SPY:1m/close_5", 0, many), version("SPY:1m/close_5", 1, {"late": 1})])
    assert len(store.search(Query(where=f"m{MOST_METRICS - 1:03} > 0"))) == 1
    with pytest.raises(BadQuery):
        store.search(Query(where="late > 0"))
    check_whole(client, store.keys)
    store.remove([info.digest])
    check_whole(client, store.keys)
    store.index.complete(anew=True)
    assert len(store.search(Query(where="late > 0"))) == 1


def test_rows_that_were_given_away_while_searching_are_noticed(
    store: ModelStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading columns and digests a version is removed, and another one takes its row."""
    from modelstore import search

    store.put_incoming([version("SPY:1m/close_5", seed, {"skill": float(seed)}) for seed in range(3)])
    other = version("XLE:1m/close_5", 9, {"skill": -9.0})
    original = search._digests
    done: list[bool] = []

    def interrupted(*args: object) -> object:
        if not done:
            done.append(True)
            store.remove(["SPY:1m/close_5@3"])
            store.put_incoming([other])
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "_digests", interrupted)
    found = store.search(Query(where="skill > 0", limit=10))
    assert [one.info.name for one in found] == ["SPY:1m/close_5"]
    assert done


metrics = st.dictionaries(
    st.sampled_from(METRICS), st.one_of(st.none(), st.sampled_from([-1.5, -0.0, 0.25, 3.0, 1e-300])), max_size=3
)
conditions = st.lists(
    st.tuples(
        st.sampled_from(METRICS), st.sampled_from([">", ">=", "<", "<=", "=", "!="]), st.sampled_from([-1.5, 0, 0.25])
    ),
    max_size=3,
)
queries = st.builds(
    Query,
    dataset=st.one_of(st.none(), st.sampled_from([*DATASETS, "QQQ:1m", "SPY:*", "*:1m", "i?is", "*"])),
    target=st.one_of(st.none(), st.sampled_from([*TARGETS, "close_*", "x*"])),
    tags=st.lists(st.sampled_from(["deprecated", "env", "env=prod", "run/7", "none"]), max_size=2),
    where=conditions.map(lambda found: " and ".join(f"{name} {sign} {number}" for name, sign, number in found)),
    sort=st.sampled_from(["created", "trained_through", *METRICS]),
    ascending=st.booleans(),
    limit=st.one_of(st.none(), st.integers(0, 6)),
)
SIGNS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "=": operator.eq, "!=": operator.ne}


def key(query: Query, one: Incoming, created: int) -> tuple[bool, float]:
    """What the query sorts by: unknown last."""
    manifest = one.manifest
    times = {"created": created, "trained_through": manifest.trained_through}
    value = times.get(query.sort, manifest.metrics.get(query.sort))
    if value is None:
        return (True, 0.0)
    return (False, value if query.ascending else -value)


def fits(query: Query, one: Incoming, tags: dict[str, str]) -> bool:
    """Whether a version fulfils a query."""
    dataset, _, target = one.manifest.name.rpartition("/")
    texts = {*tags, *(f"{key}={value}" for key, value in tags.items() if value)}
    return (
        (query.dataset is None or fnmatchcase(dataset, query.dataset))
        and (query.target is None or fnmatchcase(target, query.target))
        and set(query.tags) <= texts
        and all(
            (value := one.manifest.metrics.get(c.metric)) is not None and SIGNS[c.operator](value, c.number)
            for c in parse_where(query.where)
        )
    )


def test_a_search_finds_what_looking_at_every_version_would(server: Server) -> None:
    """Any order of puts, tags, removals and rebuilds, against plain dictionaries."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.client = server.client()
            self.client.flushall()
            self.store = ModelStore(self.client, Keys("t"))
            # All metrics are known, so that every query can be read; one is kept for ever for that.
            self.model: dict[str, tuple[Incoming, dict[str, str]]] = {}
            self.put(("keep", "me"), dict.fromkeys(METRICS, 0.25), 0, [])

        @rule(
            name=st.tuples(st.sampled_from(DATASETS), st.sampled_from(TARGETS)),
            found=metrics,
            through=st.integers(0, 5),
            tags=st.lists(st.sampled_from(TAGS), max_size=2),
        )
        def put(
            self, name: tuple[str, str], found: dict[str, float | int | None], through: int, tags: list[str]
        ) -> None:
            pairs = {tag.partition("=")[0]: tag.partition("=")[2] for tag in tags}
            new = version("/".join(name), through, found, through * 10**9)
            new = Incoming(new.digest, new.raw, new.manifest, pairs)
            ((_, fresh),) = self.store.put_incoming([new])
            assert fresh == (new.digest not in self.model)
            self.model.setdefault(new.digest, (new, pairs))

        @precondition(lambda self: len(self.model) > 1)
        @rule(
            data=st.data(),
            put=st.lists(st.sampled_from(TAGS), max_size=2),
            gone=st.lists(st.sampled_from(TAGS), max_size=2),
        )
        def tag(self, data: st.DataObject, put: list[str], gone: list[str]) -> None:
            digest = data.draw(st.sampled_from(sorted(self.model)))
            removed = [tag.partition("=")[0] for tag in gone]
            self.store.tags.change(digest, put, removed)
            tags = {key: value for key, value in self.model[digest][1].items() if key not in removed}
            tags |= {tag.partition("=")[0]: tag.partition("=")[2] for tag in put}
            self.model[digest] = (self.model[digest][0], tags)
            assert self.store.tags.of([digest]) == [dict(sorted(tags.items()))]

        @precondition(lambda self: len(self.model) > 1)
        @rule(data=st.data())
        def remove(self, data: st.DataObject) -> None:
            digest = data.draw(
                st.sampled_from([d for d, (v, _) in sorted(self.model.items()) if v.manifest.name != "keep/me"])
            )
            self.store.remove([digest])
            del self.model[digest]

        @rule(anew=st.booleans())
        def rebuild(self, anew: bool) -> None:
            assert self.store.index.complete(anew=anew) == (len(self.model) if anew else 0)

        @rule(query=queries)
        def search(self, query: Query) -> None:
            found = self.store.search(query)
            expected = {digest for digest, (one, tags) in self.model.items() if fits(query, one, tags)}
            digests = [one.info.digest for one in found]
            assert len(set(digests)) == len(digests)
            assert set(digests) <= expected
            assert len(digests) == (len(expected) if query.limit is None else min(query.limit, len(expected)))
            keys = [
                key(query, self.model[digest][0], one.info.created_ms)
                for digest, one in zip(digests, found, strict=True)
            ]
            assert keys == sorted(keys)
            if query.sort != "created" and found:
                rest = [key(query, self.model[digest][0], 0) for digest in expected - set(digests)]
                assert not rest or keys[-1] <= min(rest)
            for one in found:
                known = self.model[one.info.digest][0].manifest.metrics
                assert all(known.get(name) == value for name, value in one.metrics.items())

        @invariant()
        def whole(self) -> None:
            check_whole(self.client, self.store.keys)

        def teardown(self) -> None:
            self.client.close()

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))
