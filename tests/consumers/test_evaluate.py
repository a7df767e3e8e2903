"""Walking forward forecasts what was known, judges it by the book, and says what the live scorer says."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from consumers import paper
from consumers.evaluate import Evaluation, evaluate, judge_target, rolling_skill
from consumers.features import STANDARD, feature_matrix, fingerprint
from consumers.fit import FitParameters, fit_series
from consumers.har import skill_of
from consumers.history import CLOSE, OPEN, BarWindow
from consumers.naive import Naive, NaiveKind
from consumers.policy import Hysteresis
from consumers.spec import Spec
from consumers.targets import Target, labels
from consumers.walkforward import MOST_CUTS, STEP, Walk, walk_forward
from modelstore.loaded import LoadedRelease, load_release
from modelstore.manifest import feature_set_id
from modelstore.releases import Releases
from modelstore.store import ModelStore
from producers.bars import Bars, to_ticks
from producers.controls import FIRST, LAST, planted, weekdays
from streams.decoded import RawEntry
from streams.keys import Keys
from streams.records import Outcome, Prediction
from streams.series import partition_of
from streams.settings import COLUMNS, Pipeline, load_settings
from tests.consumers.committed import Store, as_bytes, raw_entry

TARGETS = ("close_5", "close_2", "high_5", "volume_5")
COST = 2.0
POLICY = Hysteresis(horizon=2, cost_bps=COST, enter=1.5)
SETTINGS, _ = load_settings(rounds=12, max_depth=3, learning_rate=0.1, min_child_weight=20, min_rows=250)
WALK = Walk("consumers.features:STANDARD", TARGETS, 5, FitParameters.of(SETTINGS), step=150)


def series_of(bars: Bars) -> tuple[BarWindow, NDArray[np.int64]]:
    """Bars as the features see them, and their ends."""
    values = np.stack((bars.open, bars.high, bars.low, bars.close, bars.volume), axis=1)
    return BarWindow(bars.start, np.ascontiguousarray(values)), bars.start + bars.interval.ns


@functools.cache
def planted_bars() -> Bars:
    """700 bars of a relation that is worth following."""
    return planted(days=weekdays(FIRST, LAST)[:700])


@functools.cache
def found() -> Evaluation:
    bars, ends = series_of(planted_bars())
    return evaluate("PLANTED:1d", bars, ends, WALK, POLICY, cost_bps=COST, count=200)


def test_forecasts_are_naive_plus_the_boosters_margin_of_versions_that_know_earlier_bars_only() -> None:
    import xgboost

    walked = found().walked
    assert [cut.at for cut in walked.cuts] == [315, 465, 615]
    features = np.concatenate((np.full((60, len(STANDARD.columns)), np.nan), feature_matrix(STANDARD, walked.bars)))
    for cut, until in zip(walked.cuts, (465, 615, 700), strict=True):
        for at, version in enumerate(cut.versions):
            assert version is not None
            assert version.manifest.trained_through <= walked.ends[cut.at - 1]
            booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(version.ubj))
            rows = xgboost.DMatrix(features[cut.at : until].astype(np.float32), feature_names=list(STANDARD.columns))
            naive = Naive(NaiveKind(version.serving.naive), version.serving.naive_table)
            start = naive.history(walked.targets[at], walked.bars)[cut.at : until]
            assert walked.naive[cut.at : until, at].tobytes() == start.astype(np.float32).tobytes()
            said = start + booster.predict(rows, output_margin=True)
            assert walked.values[cut.at : until, at].tobytes() == said.astype(np.float32).tobytes()
    assert np.isnan(walked.values[:315]).all()
    assert not walked.in_sample.any()


def test_every_forecast_whose_horizon_has_passed_counts_once() -> None:
    assert [(str(result.target), result.n) for result in found().results] == [
        ("close_5", 380), ("close_2", 383), ("high_5", 380), ("volume_5", 380),
    ]  # fmt: skip


def test_skill_is_the_stricter_of_both_naive_forecasts() -> None:
    walked = found().walked
    for at, result in enumerate(found().results):
        label = labels(result.target, walked.bars)[315:]
        known = np.isfinite(label)
        loss, own = (
            (forecasts[315:, at].astype(np.float64)[known] - label[known]) ** 2
            for forecasts in (walked.values, walked.naive)
        )
        rivals = {
            kind: float(np.mean((said[315:, at].astype(np.float64)[known] - label[known]) ** 2))
            for kind, said in walked.rivals.items()
            if np.isfinite(said[315:, at]).all()
        }
        assert len(rivals) == (1 if result.target.column == "close" else 3)
        assert result.best_naive_mse == min(rivals.values())
        assert result.best_naive is not None
        assert rivals[result.best_naive] == result.best_naive_mse
        assert result.mse == pytest.approx(loss.mean())
        assert result.naive_mse == pytest.approx(own.mean())
        assert result.skill == pytest.approx(1 - loss.mean() / min(own.mean(), *rivals.values()))
        assert result.against_own == skill_of(loss, own, result.target.horizon)
        if result.stricter is not None:
            assert result.stricter.skill == pytest.approx(result.skill)
            assert result.stricter.low < result.stricter.skill < result.stricter.high


def test_constants_of_rival_naive_forecasts_come_from_the_rows_trained_on() -> None:
    walked = found().walked
    for at, target in enumerate(walked.targets):
        # The rows before the second cut at bar 465: 60 bars of features before them, the longest horizon after them.
        if target.column == "close":
            continue
        mean = labels(target, walked.bars.slice(0, 465))[60:460].mean()
        if target.column != "volume":
            values = walked.bars.values[60:460]
            mean = np.log(values[:, COLUMNS.index(target.column)] / values[:, CLOSE]).mean()
        assert set(walked.rivals[NaiveKind.MEAN][465:615, at].tolist()) == {float(np.float32(mean))}


def test_hits_leave_out_what_says_no_direction_and_stand_beside_always_up() -> None:
    walked, result = found().walked, found().results[0]
    said, came = walked.values[315:695, 0], labels(Target("close", 5), walked.bars)[315:695]
    directed = said != 0
    assert result.hits is not None
    assert result.hits.n == directed.sum()
    assert result.hits.rate == np.mean((said > 0)[directed] == (came > 0)[directed])
    assert result.hits.up == np.mean(came[directed] > 0)
    assert [other.hits is None for other in found().results] == [False, False, True, True]
    test = found().results[1].hits
    assert test is not None
    assert test.test is not None
    assert test.test.mean == pytest.approx(test.rate - test.up)


def test_a_forecast_of_exactly_zero_is_no_guess() -> None:
    walked = found().walked
    quiet = walked.values.copy()
    quiet[400:, :2] = 0
    walked = replace(walked, values=quiet)
    hits, none = judge_target(walked, 1).hits, judge_target(walked, 1, within=(400, 700)).hits
    assert hits is not None
    assert hits.n == np.count_nonzero(quiet[315:400, 1])
    assert none is None


def test_bars_within_which_it_is_judged_are_those_of_forecast_and_outcome() -> None:
    result = judge_target(found().walked, 0, within=(400, 500))
    assert (result.n, judge_target(found().walked, 0, within=(0, 300)).n) == (95, 0)


def test_the_account_is_that_of_whole_paths_and_stands_beside_holding() -> None:
    account, walked = found().paper, found().walked
    assert account is not None
    assert account.first == 315
    bars = walked.bars.slice(315, 700)
    opened, closed = bars.values[:, OPEN], bars.values[:, CLOSE]
    assert set(account.positions.tolist()) == {-1, 0, 1}
    assert account.profit == pytest.approx(paper.path(account.positions, opened, closed, COST))
    assert account.own.total == pytest.approx(account.profit.sum())
    bought = closed[-1] / opened[1]
    assert account.hold.total == pytest.approx(np.log(bought) + np.log1p(-COST / 1e4))
    assert account.hold.exposure == 1
    assert account.luck is not None
    assert len(account.luck.totals) == 200
    assert account.luck.percentile > 0.9, "who knows the relation is luckier than luck"


def test_rolling_skill_ends_with_the_bars_that_told_it() -> None:
    walked = found().walked
    at, skill = rolling_skill(walked, 0, 100)
    assert (at[0], at[-1], len(at)) == (315 + 99 + 5, 699, 281)
    came = walked.actuals[595:695, 0]
    said, naive = walked.values[595:695, 0], walked.naive[595:695, 0]
    assert skill[-1] == pytest.approx(1 - np.sum((said - came) ** 2) / np.sum((naive - came) ** 2))
    assert len(rolling_skill(walked, 0, 381)[0]) == 0


def test_fits_may_run_side_by_side() -> None:
    bars, ends = series_of(planted_bars())
    with ThreadPoolExecutor(2) as pool:
        beside = walk_forward("PLANTED:1d", bars, ends, WALK, lambda requests: pool.map(fit_series, requests))
    assert [cut.digests for cut in beside.cuts] == [cut.digests for cut in found().walked.cuts]
    assert beside.values.tobytes() == found().walked.values.tobytes()


@pytest.mark.parametrize("count", [0, 1, 61, 315])
def test_too_few_bars_are_told_as_such(count: int) -> None:
    bars, ends = series_of(planted(days=weekdays(FIRST, LAST)[:count]))
    nothing = evaluate("PLANTED:1d", bars, ends, WALK, POLICY, cost_bps=COST)
    assert nothing.paper is None
    assert [result.n for result in nothing.results] == [0] * len(TARGETS)
    assert all(result.skill is None and result.stricter is None for result in nothing.results)


def test_a_target_that_can_no_longer_be_fitted_keeps_its_version() -> None:
    bars, ends = series_of(planted_bars())
    quiet = BarWindow(bars.start, bars.values.copy())
    quiet.values[:, 4] = np.where(np.arange(700) < 320, bars.values[:, 4], 0)
    narrow = Walk(WALK.feature_set, TARGETS, 5, WALK.parameters, max_bars=320, step=150)
    walked = walk_forward("PLANTED:1d", quiet, ends, narrow)
    assert list(walked.skipped) == ["volume_5"]
    [first, second, third] = [cut.digests for cut in walked.cuts]
    assert first[3] is not None
    assert first[3] == second[3] == third[3]
    assert first[0] != second[0] != third[0]


def test_there_are_not_too_many_cuts() -> None:
    walk = Walk(WALK.feature_set, TARGETS, 5, WALK.parameters)
    assert walk.cuts(61, 315) == []
    assert walk.cuts(61, 316) == [315]
    assert walk.cuts(61, 1000) == [315, 315 + STEP, 315 + 2 * STEP]
    assert len(walk.cuts(61, 12_345)) == MOST_CUTS
    settings, _ = load_settings()
    of = Walk.of(settings, Pipeline())
    assert (of.longest, of.targets, of.max_bars) == (30, Pipeline().targets, settings.max_bars)


# The live scorer


def release_of(client: redis.Redis, evaluation: Evaluation, cut: int) -> LoadedRelease:
    """The versions of a cut as the champions of a release, loaded as a scorer does it."""
    store = ModelStore(client, Keys("t"))
    releases = Releases(client, store.keys)
    versions = [version for version in evaluation.walked.cuts[cut].versions if version is not None]
    store.put_many(versions)
    champions = {(version.manifest.name, "champion"): version.digest for version in versions}
    release = releases.promote(champions, who="t", why="")
    return load_release(
        store,
        releases,
        release.id,
        targets=TARGETS,
        feature_count=len(STANDARD.columns),
        features=feature_set_id(fingerprint(STANDARD)),
    )


def test_the_live_scorer_says_the_same(client: redis.Redis) -> None:
    evaluation, bars = found(), planted_bars()
    walked, account = evaluation.walked, evaluation.paper
    assert account is not None
    loaded = [release_of(client, evaluation, cut) for cut in range(3)]
    keys = Keys("t").partition(partition_of("PLANTED", 1))
    spec = Spec(
        partitions=1,
        intervals=(bars.interval,),
        lateness_ns=0,
        max_ahead_ns=0,
        keep_ticks_ms=1000,
        features=STANDARD,
        policy=POLICY,
        targets={name: Target.parse(name) for name in TARGETS},
        fingerprint="f" * 64,
    )
    live = Store(spec, keys, {release.id: release for release in loaded})
    ticks = to_ticks(bars)
    entries: list[RawEntry] = []
    now_ms = 1_700_000_000_000
    switches = {cut.at: release for cut, release in zip(walked.cuts, loaded, strict=True)}
    for tick in range(len(ticks.ts)):
        # A bar closes with the first tick of the next one: a release that comes after it first scores that next bar.
        if tick % 4 == 1 and tick // 4 in switches:
            entries.append(raw_entry(now_ms + len(entries), kind="release", release=switches[tick // 4].id))
        fields = {"price": float(ticks.price[tick]), "size": float(ticks.size[tick]), "ts": int(ticks.ts[tick])}
        entries.append(raw_entry(now_ms + len(entries), symbol="PLANTED", **fields))
    entries.append(raw_entry(now_ms + len(entries), kind="clock", ts=int(walked.ends[-1])))
    live.run(live.scorer(), entries)
    predictions = [Prediction.from_fields(as_bytes(row)) for row in live.streams[keys.predictions]]
    assert [record.bar for record in predictions] == list(range(315, 700))
    said = np.array([record.values for record in predictions], np.float64).astype(np.float32)
    assert said.tobytes() == walked.values[315:].tobytes()
    assert not any(any(record.in_sample) for record in predictions)
    outcomes = {row.bar: row for row in map(Outcome.from_fields, map(as_bytes, live.streams[keys.outcomes]))}
    judged = walked.judged
    for bar in range(316, 700):
        made = {name: bar - Target.parse(name).horizon for name in TARGETS}
        wanted = {
            name: walked.values[then, at] - walked.actuals[then, at]
            for at, (name, then) in enumerate(made.items())
            if judged[then, at]
        }
        outcome = outcomes.get(bar)
        errors = {} if outcome is None else dict(zip(outcome.targets, outcome.errors, strict=True))
        assert errors == pytest.approx(wanted, abs=1e-6)
        assert (outcome.profit if outcome else 0.0) == pytest.approx(account.profit[bar - 315], abs=1e-12)
