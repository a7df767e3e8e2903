"""A loaded release scores as the boosters that were trained, and one bad model does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import redis

from modelstore.bulk import ServingBlobs
from modelstore.errors import BadModel, NotFound
from modelstore.loaded import EMPTY, LoadedRelease, load_release
from modelstore.manifest import Serving
from modelstore.releases import Releases
from modelstore.store import ModelStore
from modelstore.version import NewVersion
from streams.keys import Keys
from tests.modelstore.made import FEATURE_SET, FEATURES, fitted, manifest

TARGETS = ("open_5", "close_5", "close_10")
NAMES = ["XLE:1m/close_5", "SPY:1m/close_10", "SPY:1m/close_5", "BTC/USD:1h/open_5"]
ROWS = np.random.default_rng(9).normal(size=(5, FEATURES)).astype(np.float32)


@pytest.fixture
def store(client: redis.Redis) -> ModelStore:
    return ModelStore(client, Keys("t"))


@pytest.fixture
def releases(store: ModelStore) -> Releases:
    return Releases(store.client, store.keys)


def put(store: ModelStore, releases: Releases, versions: Sequence[NewVersion]) -> str:
    """Store versions and make them champions; the id of the release."""
    store.put_many(versions)
    champions = {(version.manifest.name, "champion"): version.digest for version in versions}
    return releases.promote(champions, who="t", why="").id


def load(
    store: ModelStore,
    releases: Releases,
    release: str,
    previous: LoadedRelease | None = None,
    targets: Sequence[str] = TARGETS,
) -> LoadedRelease:
    return load_release(
        store, releases, release, targets=targets, feature_count=FEATURES, features=FEATURE_SET, previous=previous
    )


def margins(version: NewVersion, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> list[float]:
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(version.ubj))
    return [float(value) for value in booster.predict(xgboost.DMatrix(rows), output_margin=True)]


def scores(release: LoadedRelease, series: Sequence[str]) -> list[list[float]]:
    """Scores of the first rows, one per series named."""
    groups = [group for name in series if (group := release.group(name)) is not None]
    assert len(groups) == len(series)
    return [[float(score) for score in found] for found in release.score(ROWS[: len(groups)], groups)]


def test_scores_equal_the_boosters_margins_bit_for_bit(store: ModelStore, releases: Releases) -> None:
    versions = {name: fitted(name, seed) for seed, name in enumerate(NAMES)}
    release = load(store, releases, put(store, releases, list(versions.values())))
    assert release.models == len(NAMES)
    assert release.refused == {}
    assert release.series == ("BTC/USD:1h", "SPY:1m", "XLE:1m")
    # A series may occur more than once in a batch, in any order.
    order = ["SPY:1m", "XLE:1m", "SPY:1m", "BTC/USD:1h"]
    for row, series, found in zip(ROWS, order, scores(release, order), strict=False):
        group = release.group(series)
        assert group is not None
        expected = [margins(versions[f"{series}/{target}"], row[None])[0] for target in group.targets]
        assert found == expected


def test_a_group_is_in_the_order_of_the_pipeline_and_describes_its_models(
    store: ModelStore, releases: Releases
) -> None:
    versions = {name: fitted(name, seed) for seed, name in enumerate(NAMES)}
    release = load(store, releases, put(store, releases, list(versions.values())))
    group = release.group("SPY:1m")
    assert group is not None
    assert (group.series, group.targets) == ("SPY:1m", ("close_5", "close_10"))
    both = [versions["SPY:1m/close_5"], versions["SPY:1m/close_10"]]
    assert group.versions == tuple(version.digest for version in both)
    assert group.trained_through.tolist() == [version.manifest.trained_through for version in both]
    assert group.low.dtype == group.high.dtype == np.float32
    np.testing.assert_array_equal(group.low, np.stack([version.serving.low for version in both]))
    np.testing.assert_array_equal(group.high, np.stack([version.serving.high for version in both]))
    assert release.group("QQQ:1m") is None
    infos = [store.info(version.digest) for version in versions.values()]
    assert release.oldest_created_ms == min(info.created_ms for info in infos)


def test_only_champions_of_the_pipelines_targets_are_loaded(store: ModelStore, releases: Releases) -> None:
    put(store, releases, [fitted(NAMES[0]), fitted("XLE:1m/volume_5"), fitted("iris/species")])
    challenger = fitted("XLE:1m/open_5")
    store.put_many([challenger])
    info = releases.promote({("XLE:1m/open_5", "challenger"): challenger.digest}, who="t", why="")
    release = load(store, releases, info.id)
    assert release.models == 1
    assert release.series == ("XLE:1m",)


def test_models_of_a_table_are_not_taken_for_a_series_whatever_its_columns_are_called(
    store: ModelStore, releases: Releases
) -> None:
    release = load(store, releases, put(store, releases, [fitted("prices/close_5"), fitted("SPY:1m/close_5", 1)]))
    assert (release.series, release.models, release.refused) == (("SPY:1m",), 1, {})


def test_challengers_are_loaded_beside_champions_and_proven_ones_are_marked(
    store: ModelStore, releases: Releases
) -> None:
    versions = {name: fitted(name, seed) for seed, name in enumerate(NAMES)}
    put(store, releases, list(versions.values()))
    rivals = {name: fitted(name, 10 + seed) for seed, name in enumerate(NAMES[1:3])}
    store.put_many(list(rivals.values()))
    proven, stale, alone = "SPY:1m/close_5", "SPY:1m/close_10", fitted("QQQ:1m/close_5", 30)
    store.put_many([alone])
    delta = {(name, "challenger"): version.digest for name, version in rivals.items()}
    delta |= {(NAMES[0], "challenger"): versions[NAMES[0]].digest, ("QQQ:1m/close_5", "challenger"): alone.digest}
    delta |= {(proven, "proven"): versions[proven].digest, (stale, "proven"): rivals[stale].digest}
    release = load(store, releases, releases.promote(delta, who="t", why="").id)
    group, challengers = release.group("SPY:1m"), release.challengers("SPY:1m")
    assert group is not None
    assert challengers is not None
    assert (group.targets, group.proven.tolist()) == (("close_5", "close_10"), [True, False])
    assert challengers.versions == tuple(rivals[f"SPY:1m/{target}"].digest for target in challengers.targets)
    assert release.models == len(NAMES)
    assert release.challengers("XLE:1m") is None, "the champion is not its own challenger"
    assert release.challengers("QQQ:1m") is None, "without a champion there is nobody to challenge"
    found = release.score(ROWS[[0, 0]], [group, challengers])
    for scored, models in zip(found, (versions, rivals), strict=True):
        expected = [margins(models[f"SPY:1m/{target}"], ROWS[:1])[0] for target in group.targets]
        assert [float(score) for score in scored] == expected


def test_the_next_release_reads_only_what_the_last_one_lacks(
    store: ModelStore, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(store, releases, put(store, releases, [fitted(name, 0) for name in NAMES]))
    changed = fitted(NAMES[0], 1)
    second_id = put(store, releases, [changed])
    asked: list[str] = []
    read = store.load_serving

    def spy(digests: Sequence[str]) -> Iterator[ServingBlobs | None]:
        asked.extend(digests)
        return read(digests)

    monkeypatch.setattr(store, "load_serving", spy)
    second = load(store, releases, second_id, first)
    assert asked == [changed.digest]
    alone = load(store, releases, second_id)
    order = ["SPY:1m", "XLE:1m", "BTC/USD:1h"]
    assert scores(second, order) == scores(alone, order)
    assert scores(second, order[:1]) == scores(first, order[:1])
    assert scores(second, order[1:2]) != scores(first, order[1:2])
    # What a release no longer points at is not held on to.
    releases.promote({(name, "champion"): None for name in NAMES[1:]}, who="t", why="")
    info = releases.current()
    assert info is not None
    assert load(store, releases, info.id, second).models == 1


def test_a_release_without_champions_serves_nothing(store: ModelStore, releases: Releases) -> None:
    release = load(store, releases, releases.promote({}, who="t", why="").id)
    assert (release.models, release.oldest_created_ms, release.series) == (0, None, ())
    assert release.score(ROWS[:0], []) == []


def test_the_empty_release_serves_nothing() -> None:
    assert (EMPTY.id, EMPTY.number, EMPTY.models, EMPTY.oldest_created_ms) == ("", None, 0, None)
    assert EMPTY.group("SPY:1m") is None
    assert EMPTY.score(ROWS[:0], []) == []


def test_what_is_no_release_is_not_found(store: ModelStore, releases: Releases) -> None:
    with pytest.raises(NotFound):
        load(store, releases, "f" * 64)


@pytest.mark.parametrize("name", ["serving", "forest", "parts", "created", "name", None])
def test_a_damaged_champion_is_left_out_and_the_others_are_served(
    store: ModelStore, releases: Releases, client: redis.Redis, name: str | None
) -> None:
    versions = [fitted(model, seed) for seed, model in enumerate(NAMES)]
    release_id = put(store, releases, versions)
    sound = load(store, releases, release_id)
    bad = versions[0]
    key = store.keys.version(bad.digest)
    if name is None:
        client.delete(key)
    elif name == "created":
        client.hdel(key, name)
    elif name == "name":
        client.hset(key, name, "SPY:1m/close_10")
    else:
        value = client.hget(key, name)
        assert isinstance(value, bytes)
        client.hset(key, name, value[:-1] + bytes([value[-1] ^ 1]))
    release = load(store, releases, release_id)
    assert list(release.refused) == [bad.manifest.name]
    assert bad.digest[:12] in release.refused[bad.manifest.name]
    assert release.models == len(NAMES) - 1
    assert release.group("XLE:1m") is None
    order = ["SPY:1m", "BTC/USD:1h"]
    assert scores(release, order) == scores(sound, order)


def test_champions_that_do_not_fit_the_pipeline_are_left_out(store: ModelStore, releases: Releases) -> None:
    good = fitted(NAMES[1])
    other_features = fitted("XLE:1m/open_5", features=FEATURES + 1)
    random = np.random.default_rng(0)
    low = np.zeros(FEATURES, np.float32)
    no_forest = NewVersion(manifest("XLE:1m/close_5", 1), Serving(1, FEATURE_SET, low, low), random.bytes(700), b"")
    # Its serving block says that it fits, its forest does not.
    liar = NewVersion(manifest("XLE:1m/close_10", 1), Serving(1, FEATURE_SET, low, low), other_features.forest, b"")
    release = load(store, releases, put(store, releases, [good, other_features, no_forest, liar]))
    assert set(release.refused) == {"XLE:1m/open_5", "XLE:1m/close_5", "XLE:1m/close_10"}
    assert "train it again" in release.refused["XLE:1m/open_5"]
    assert release.models == 1
    assert scores(release, ["SPY:1m"]) == [[margins(good, ROWS[:1])[0]]]


def test_a_champion_of_another_feature_set_is_left_out_even_if_it_takes_as_many_features(
    store: ModelStore, releases: Releases
) -> None:
    good, other = fitted(NAMES[1]), fitted("XLE:1m/open_5")
    other = replace(other, serving=replace(other.serving, features=b"another!"))
    release = load(store, releases, put(store, releases, [good, other]))
    assert set(release.refused) == {"XLE:1m/open_5"}
    assert "another feature set" in release.refused["XLE:1m/open_5"]
    assert release.models == 1


def test_a_model_with_several_outputs_is_left_out(store: ModelStore, releases: Releases) -> None:
    import xgboost

    from modelstore.compiler import compile_booster

    rows = np.random.default_rng(0).normal(size=(60, FEATURES)).astype(np.float32)
    label = np.arange(60) % 3
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "nthread": 1},
        xgboost.DMatrix(rows, label),
        num_boost_round=2,
    )
    low = np.zeros(FEATURES, np.float32)
    several = NewVersion(manifest("XLE:1m/open_5", 1), Serving(1, FEATURE_SET, low, low), compile_booster(booster), b"")
    good = fitted(NAMES[1])
    release = load(store, releases, put(store, releases, [several, good]))
    assert list(release.refused) == ["XLE:1m/open_5"]
    assert "3 outputs" in release.refused["XLE:1m/open_5"]
    assert scores(release, ["SPY:1m"]) == [[margins(good, ROWS[:1])[0]]]


def test_a_classification_is_left_out(store: ModelStore, releases: Releases) -> None:
    """Its margin is no forecast of a label."""
    import xgboost

    from modelstore.compiler import compile_booster

    rows = np.random.default_rng(0).normal(size=(60, FEATURES)).astype(np.float32)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 2, "nthread": 1},
        xgboost.DMatrix(rows, rows[:, 0] > 0),
        num_boost_round=2,
    )
    low = np.zeros(FEATURES, np.float32)
    odds = NewVersion(manifest("XLE:1m/open_5", 1), Serving(1, FEATURE_SET, low, low), compile_booster(booster), b"")
    release = load(store, releases, put(store, releases, [odds]))
    assert release.models == 0
    assert "logistic" in release.refused["XLE:1m/open_5"]


def test_a_release_loaded_for_other_features_is_not_built_upon(store: ModelStore, releases: Releases) -> None:
    release_id = put(store, releases, [fitted(NAMES[0])])
    narrow = load(store, releases, release_id)
    wide = load_release(
        store, releases, release_id, targets=TARGETS, feature_count=FEATURES + 1, features=FEATURE_SET, previous=narrow
    )
    assert wide.models == 0
    assert list(wide.refused) == [NAMES[0]]


def test_rows_of_another_width_are_refused(store: ModelStore, releases: Releases) -> None:
    release = load(store, releases, put(store, releases, [fitted(NAMES[0])]))
    group = release.group("XLE:1m")
    assert group is not None
    with pytest.raises(BadModel):
        release.score(np.zeros((1, FEATURES + 1), np.float32), [group])
