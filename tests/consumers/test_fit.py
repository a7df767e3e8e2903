from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from consumers.features import STANDARD, feature_matrix
from consumers.figures import Figures
from consumers.fit import MAX_BIN, FitOutcome, FitParameters, FitRequest, bars_needed, fit_series
from consumers.folds import walk_forward
from consumers.history import BarWindow
from consumers.naive import Naive, NaiveKind, NaiveRows, offered
from consumers.plans import split
from consumers.targets import Target, labels
from modelstore import compiler
from modelstore.errors import BadModel
from modelstore.kernel import ForestPack
from modelstore.manifest import Serving
from modelstore.version import NewVersion
from streams.settings import Pipeline, load_settings
from tests.consumers.walks import DAY_NS, random_bars

PARAMETERS = FitParameters(rounds=8, max_depth=3, learning_rate=0.3, min_child_weight=5, seed=3, min_rows=50)
TARGETS = ("close_2", "high_5", "volume_2", "volume_5")


def planted_bars(count: int, seed: int = 0) -> BarWindow:
    """Bars whose next moves, of price and of volume, follow from the last ones."""
    bars = random_bars(count, seed)
    moves = bars.values[:, :4] / np.roll(bars.values[:, 3], 1)[:, None]
    momentum = np.log(moves[:, 3])
    momentum[0] = 0
    for at in range(1, count):
        momentum[at] += 0.8 * momentum[at - 1]
    close = 100 * np.exp(np.cumsum(momentum))
    bars.values[:, :4] *= (close / bars.values[:, 3])[:, None]
    swing = np.random.default_rng(seed).normal(0, 0.3, count)
    for at in range(1, count):
        swing[at] += 0.7 * swing[at - 1]
    bars.values[:, 4] = 1000 * np.exp(swing)
    return bars


def request(bars: BarWindow, targets: tuple[str, ...] = TARGETS) -> FitRequest:
    return FitRequest("SPY:1d", targets, 5, "consumers.features:STANDARD", bars, bars.start + DAY_NS, PARAMETERS)


def digests(outcome: FitOutcome) -> dict[str, str]:
    return {version.manifest.name: version.digest for version in outcome.versions}


def naive_of(version: NewVersion) -> Naive:
    return Naive(NaiveKind(version.serving.naive), version.serving.naive_table)


def test_trees_are_those_of_one_plain_fit_per_target_on_what_its_naive_forecast_leaves() -> None:
    import xgboost

    bars = planted_bars(600)
    bars.values[250:275, 4] = 0  # some rows have no label for volume
    outcome = fit_series(request(bars))
    assert [version.manifest.name for version in outcome.versions] == [f"SPY:1d/{target}" for target in TARGETS]
    matrix = feature_matrix(STANDARD, bars)[: 600 - 60 - 5]
    rows = set()
    for text, version in zip(TARGETS, outcome.versions, strict=True):
        target = Target.parse(text)
        label = labels(target, bars)[60:595] - naive_of(version).history(target, bars)[60:595]
        known = np.isfinite(label)
        own = xgboost.QuantileDMatrix(
            matrix[known], label[known], feature_names=list(STANDARD.columns), max_bin=MAX_BIN, nthread=1
        )
        rounds = version.manifest.parameters["rounds"]
        assert 0 < rounds == version.manifest.metrics["rounds"]
        alone = xgboost.train(PARAMETERS.booster | {"nthread": 1, "seed": 3}, own, num_boost_round=rounds)
        together = xgboost.Booster(model_file=bytearray(version.ubj))
        assert together.get_dump(with_stats=True) == alone.get_dump(with_stats=True)
        rows.add(version.manifest.dataset["rows"])
    assert len(rows) == 2, "the two groups of targets have different rows"


def test_noise_gives_models_without_trees_that_are_the_naive_forecast() -> None:
    versions = fit_series(request(random_bars(700), ("open_5", "close_5"))).versions
    for version in versions:
        assert version.manifest.parameters["rounds"] == 0
        assert set(version.manifest.golden["margins"]) == {0.0}
        assert version.manifest.metrics["train_rmse"] == version.manifest.metrics["train_rmse_naive"]
        empty = ForestPack.build([version.forest], len(STANDARD.columns))
        row = np.zeros((1, len(STANDARD.columns)), np.float32)
        assert empty.score_pairs(row, np.zeros(1, np.int32), np.zeros(1, np.int32)).tolist() == [0.0]


def test_the_naive_forecast_is_the_one_that_did_best_out_of_the_sample() -> None:
    bars = planted_bars(600)
    target = Target("volume", 5)
    version = fit_series(request(bars, ("volume_5",))).versions[0]
    rows = np.arange(60, 595)
    label = labels(target, bars)[rows]
    found = NaiveRows.of(target, bars, rows, label)
    assert version.serving.naive == found.choose(offered("volume", DAY_NS), walk_forward(rows, 5, PARAMETERS.folds), 5)
    drifting = planted_bars(600)
    drifting.values[:, :4] *= np.exp(0.02 * np.arange(600))[:, None]
    still, usual = fit_series(request(drifting, ("close_5", "high_5"))).versions
    assert still.manifest.naive == {"kind": "no_change", "value": None}, "a drift is no naive forecast"
    assert usual.manifest.naive["kind"] in ("persistence", "mean")


def test_volume_of_intraday_bars_may_start_from_its_time_of_day() -> None:
    width = DAY_NS // 48
    bars = random_bars(1200, interval_ns=width)
    busy = np.exp(2 * np.sin(2 * np.pi * np.arange(1200) / 48))
    bars.values[:, 4] = busy * np.random.default_rng(0).uniform(900, 1100, 1200)
    asked = replace(request(bars, ("volume_5", "close_5")), series="SPY:30m", ends=bars.start + width)
    volume, close = fit_series(asked).versions
    assert volume.manifest.naive["kind"] == "time_of_day"
    assert Serving.decode(volume.serving.encode()).naive_table.tolist() == volume.manifest.naive["value"]
    assert close.manifest.naive["kind"] in ("no_change", "mean")


def told(figures: Figures) -> dict[str, float]:
    """Figures of which none is unknown."""
    found = {name: value for name, value in figures.items() if value is not None}
    assert len(found) == len(figures)
    return found


@pytest.mark.parametrize("name", ["close_2", "low_2"])
def test_figures_of_a_fold_come_from_bars_before_it_alone(name: str) -> None:
    bars = planted_bars(800)
    changed = BarWindow(bars.start, bars.values.copy())
    manifest = fit_series(request(bars, (name,))).versions[0].manifest
    whole = [told(fold) for fold in manifest.folds]
    assert len(whole) == PARAMETERS.folds
    if name == "low_2":
        assert manifest.naive["kind"] == "mean", "so that there is a constant that could look ahead"
    for fold in whole[1:-1]:
        # After the bars of the fold's labels the market is another one: it rises faster, or its lows lie lower.
        beyond = int(np.searchsorted(bars.start, fold["through"])) + 2
        changed.values[:] = bars.values
        if name == "close_2":
            changed.values[beyond:] *= np.exp(0.01 * np.arange(800 - beyond))[:, None]
        else:
            changed.values[beyond:, 2] *= 0.99
        other = fit_series(request(changed, (name,))).versions[0].manifest
        assert other.naive["kind"] == manifest.naive["kind"]
        known = [each for each in whole if each["through"] <= fold["through"]]
        assert list(other.folds[: len(known)]) == known
        assert other.folds[len(known)] != whole[len(known)]


def test_the_manifest_tells_what_the_trees_were_worth_out_of_the_sample() -> None:
    bars = planted_bars(800)
    manifest = fit_series(request(bars, ("close_2",))).versions[0].manifest
    metrics = told(manifest.metrics)
    first, *later = (told(fold) for fold in manifest.folds)
    assert (first["rounds"], first["skill"], first["mse"]) == (0, 0.0, first["naive_mse"])
    assert metrics["out_of_fold_rows"] == sum(fold["rows"] for fold in later)
    loss, naive_loss = (sum(fold[name] * fold["rows"] for fold in later) for name in ("mse", "naive_mse"))
    assert metrics["skill"] == pytest.approx(1 - loss / naive_loss)
    assert 0.2 < metrics["skill_low"] < metrics["skill"] < metrics["skill_high"]
    starts = [fold["from"] for fold in (first, *later)]
    ends = [fold["through"] for fold in (first, *later)]
    assert starts[1:] == ends[:-1]
    assert ends[-1] == bars.start[-6] + DAY_NS, "the newest row is the bar that the longest horizon lies behind"


@pytest.mark.parametrize("count", [130, 300, 700])
def test_rows_that_begin_later_are_those_of_bars_that_end_later(count: int) -> None:
    bars = planted_bars(900)
    ends = bars.start + DAY_NS
    since = int(ends[-count - 1])  # the end of the bar before the last `count`
    version = fit_series(replace(request(bars, ("close_2", "volume_5")), since=since)).versions[0]
    assert version.manifest.dataset["rows"] == count - 5
    # The features of the first row look back over bars before it; older ones are not touched at all.
    assert version.manifest.dataset["from"] == bars.start[900 - count - 60]
    same = fit_series(request(bars.slice(900 - count - 60, 900), ("close_2", "volume_5"))).versions[0]
    assert same.digest == version.digest
    assert fit_series(replace(request(bars, ("close_2",)), since=since + DAY_NS)).versions[0].digest != version.digest


def test_since_the_first_bars_is_since_ever_and_since_the_last_is_too_late() -> None:
    bars = planted_bars(300)
    asked = request(bars, ("close_2",))
    assert digests(fit_series(replace(asked, since=int(bars.start[30])))) == digests(fit_series(asked))
    for since in (bars.start[-1], bars.start[-1] + 10 * DAY_NS, bars.start[-40]):
        outcome = fit_series(replace(asked, since=int(since)))
        assert not outcome.versions
        assert "rows with a known label, 50 needed" in outcome.skipped["close_2"]


def test_two_fits_of_the_same_thing_are_one_version() -> None:
    bars = random_bars(200)
    assert digests(fit_series(request(bars))) == digests(fit_series(request(bars)))
    other = random_bars(200, seed=1)
    assert not set(digests(fit_series(request(bars))).values()) & set(digests(fit_series(request(other))).values())


def test_a_version_depends_neither_on_what_else_is_asked_for_nor_on_how_it_is_shared_out() -> None:
    asked = request(planted_bars(400), ("open_5", "high_2", "close_1", *TARGETS))
    together = digests(fit_series(asked))
    for parts in (2, 3, 7):
        shared: dict[str, str] = {}
        for part in split(asked, parts):
            shared |= digests(fit_series(part))
        assert shared == together


def test_trained_through_is_the_end_of_the_last_bar_that_a_label_touched() -> None:
    bars = random_bars(200)
    ends = bars.start + DAY_NS
    through = {v.manifest.target["horizon"]: v.manifest.trained_through for v in fit_series(request(bars)).versions}
    assert through == {5: ends[-1], 2: ends[-4]}


def test_bars_after_trained_through_change_nothing() -> None:
    bars = random_bars(200)
    changed = BarWindow(bars.start, bars.values.copy())
    changed.values[-3:] *= 2  # the last row is bar 194: its close_2 is that of bar 196
    assert digests(fit_series(request(bars, ("close_2",)))) == digests(fit_series(request(changed, ("close_2",))))
    changed.values[-4] *= 2
    assert digests(fit_series(request(bars, ("close_2",)))) != digests(fit_series(request(changed, ("close_2",))))


def test_the_manifest_says_what_was_done() -> None:
    bars = planted_bars(400)
    version = fit_series(request(bars, ("close_2",))).versions[0]
    manifest = version.manifest
    label = labels(Target("close", 2), bars)[60:395]
    assert manifest.dataset["rows"] == 335 == manifest.metrics["rows"]
    assert manifest.dataset["from"] == bars.start[0]
    assert manifest.metrics["label_std"] == pytest.approx(label.std())
    residual = label - naive_of(version).history(Target("close", 2), bars)[60:395]
    assert manifest.metrics["train_rmse_naive"] == pytest.approx(np.sqrt(np.mean(residual**2)))
    trained, naive = manifest.metrics["train_rmse"], manifest.metrics["train_rmse_naive"]
    assert trained is not None
    assert naive is not None
    assert 0 < trained < naive
    assert manifest.feature_set == {"name": "standard", "version": 1, "columns": list(STANDARD.columns)}
    assert 0 < manifest.parameters["rounds"] <= manifest.parameters["most_rounds"] == 8
    assert manifest.parameters["folds"] == 4
    matrix = feature_matrix(STANDARD, bars)[:335]
    assert version.serving.low.tobytes() == matrix.min(axis=0).tobytes()
    assert version.serving.high.tobytes() == matrix.max(axis=0).tobytes()


def test_golden_rows_score_from_the_forest_as_the_manifest_says() -> None:
    version = fit_series(request(planted_bars(400), ("close_2",))).versions[0]
    golden = version.manifest.model_validate_json(version.manifest.canonical()).golden
    rows = np.array([[np.nan if cell is None else cell for cell in row] for row in golden["rows"]], np.float32)
    assert np.isnan(rows[-1]).all()
    pack = ForestPack.build([version.forest], rows.shape[1])
    index = np.arange(len(rows), dtype=np.int32)
    scores = pack.score_pairs(rows, index, np.zeros(len(rows), np.int32))
    assert scores.tobytes() == np.array(golden["margins"], np.float32).tobytes()


def test_a_forest_that_scores_otherwise_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    compile_booster = compiler.compile_booster

    def fewer_trees(booster: xgboost.Booster) -> bytes:
        return bytes(compile_booster(booster[:1]))

    monkeypatch.setattr(compiler, "compile_booster", fewer_trees)
    with pytest.raises(BadModel, match="SPY:1d/close_2: the packed forest"):
        fit_series(request(planted_bars(400), ("close_2",)))


def test_an_xgboost_model_that_reads_back_otherwise_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    save_raw = xgboost.Booster.save_raw

    def fewer_trees(booster: xgboost.Booster, form: str) -> bytearray:
        return bytearray(save_raw(booster[:1], form))

    monkeypatch.setattr(xgboost.Booster, "save_raw", fewer_trees)
    with pytest.raises(BadModel, match="SPY:1d/close_2: the XGBoost model read back"):
        fit_series(request(planted_bars(400), ("close_2",)))


def test_every_fit_has_one_thread_and_the_seed_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    begin = xgboost.Booster.__init__
    given: list[tuple[int, int]] = []

    def noting(self: xgboost.Booster, parameters: dict[str, Any], *arguments: Any, **named: Any) -> None:
        if "seed" in parameters:
            given.append((parameters["nthread"], parameters["seed"]))
        begin(self, parameters, *arguments, **named)

    monkeypatch.setattr(xgboost.Booster, "__init__", noting)
    fit_series(request(random_bars(200)))
    assert given == [(1, 3)] * (PARAMETERS.folds + len(TARGETS))


def test_targets_without_enough_known_labels_are_skipped_with_their_reason() -> None:
    bars = random_bars(200)
    bars.values[:, 4] = 0
    outcome = fit_series(request(bars))
    assert [version.manifest.target["column"] for version in outcome.versions] == ["close", "high"]
    assert outcome.skipped == dict.fromkeys(("volume_2", "volume_5"), "0 rows with a known label, 50 needed")


@pytest.mark.parametrize("count", [0, 4, 61, 66, 114])
def test_too_few_bars_make_no_version(count: int) -> None:
    outcome = fit_series(request(random_bars(count)))
    assert not outcome.versions
    assert set(outcome.skipped) == set(TARGETS)


def test_as_many_bars_as_are_needed_are_enough_and_one_less_is_not() -> None:
    needed = bars_needed(STANDARD.window, 5, 50)
    assert len(fit_series(request(random_bars(needed))).versions) == 4
    assert len(fit_series(request(random_bars(needed - 1))).versions) == 0


def test_constant_prices_give_models_that_forecast_no_change() -> None:
    bars = random_bars(200)
    bars.values[:, :4] = 100.0
    version = fit_series(request(bars, ("close_2",))).versions[0]
    assert set(version.manifest.golden["margins"]) == {0.0}


def test_parameters_come_from_the_settings() -> None:
    settings, _ = load_settings(
        rounds=7, max_depth=2, learning_rate=0.5, min_child_weight=1, seed=9, min_rows=11, folds=6
    )
    assert FitParameters.of(settings) == FitParameters(7, 2, 0.5, 1, 9, 11, 6)
    defaults, _ = load_settings()
    assert FitParameters.of(defaults).folds == PARAMETERS.folds
    assert replace(PARAMETERS, max_depth=2).booster["max_depth"] == 2


def test_the_settings_targets_are_split_without_loss() -> None:
    asked = request(random_bars(1), Pipeline().targets)
    for parts in (1, 2, 7, 100):
        shared = [target for part in split(asked, parts) for target in part.targets]
        assert sorted(shared) == sorted(Pipeline().targets)


def test_queueing_fits_loads_neither_xgboost_nor_numba() -> None:
    code = "import sys, consumers.trainer; sys.exit(bool({'xgboost', 'numba', 'scipy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
