from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from consumers.features import STANDARD, feature_matrix
from consumers.fit import FitOutcome, FitParameters, FitRequest, bars_needed, fit_series
from consumers.history import BarWindow
from consumers.plans import split
from consumers.targets import Target, labels
from modelstore import compiler
from modelstore.errors import BadModel
from modelstore.kernel import ForestPack
from streams.settings import Pipeline, load_settings
from tests.consumers.walks import DAY_NS, random_bars

PARAMETERS = FitParameters(rounds=8, max_depth=3, learning_rate=0.3, min_child_weight=5, seed=3, min_rows=50)
TARGETS = ("close_2", "high_5", "volume_2", "volume_5")


def request(bars: BarWindow, targets: tuple[str, ...] = TARGETS) -> FitRequest:
    return FitRequest("SPY:1d", targets, 5, "consumers.features:STANDARD", bars, bars.start + DAY_NS, PARAMETERS)


def digests(outcome: FitOutcome) -> dict[str, str]:
    return {version.manifest.name: version.digest for version in outcome.versions}


def test_trees_are_those_of_one_fit_per_target_on_its_own_matrix() -> None:
    import xgboost

    bars = random_bars(300)
    bars.values[150:175, 4] = 0  # some rows have no label for volume
    outcome = fit_series(request(bars))
    assert [version.manifest.name for version in outcome.versions] == [f"SPY:1d/{target}" for target in TARGETS]
    matrix = feature_matrix(STANDARD, bars)[: 300 - 60 - 5]
    rows = set()
    for target, version in zip(TARGETS, outcome.versions, strict=True):
        label = labels(Target.parse(target), bars)[60:295]
        known = np.isfinite(label)
        own = xgboost.QuantileDMatrix(matrix[known], label[known], feature_names=list(STANDARD.columns), nthread=1)
        alone = xgboost.train(PARAMETERS.booster | {"nthread": 1, "seed": 3}, own, num_boost_round=8)
        together = xgboost.Booster(model_file=bytearray(version.ubj))
        assert together.get_dump(with_stats=True) == alone.get_dump(with_stats=True)
        rows.add(version.manifest.dataset["rows"])
    assert len(rows) == 2, "the two groups of targets have different rows"


def test_two_fits_of_the_same_thing_are_one_version() -> None:
    bars = random_bars(200)
    assert digests(fit_series(request(bars))) == digests(fit_series(request(bars)))
    other = random_bars(200, seed=1)
    assert not set(digests(fit_series(request(bars))).values()) & set(digests(fit_series(request(other))).values())


def test_a_version_depends_neither_on_what_else_is_asked_for_nor_on_how_it_is_shared_out() -> None:
    asked = request(random_bars(200))
    together = digests(fit_series(asked))
    shared: dict[str, str] = {}
    for part in split(asked, 3):
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
    bars = random_bars(200)
    version = fit_series(request(bars, ("close_2",))).versions[0]
    manifest = version.manifest
    label = labels(Target("close", 2), bars)[60:195]
    assert manifest.dataset["rows"] == 135 == manifest.metrics["rows"]
    assert manifest.dataset["from"] == bars.start[0]
    assert manifest.metrics["label_std"] == pytest.approx(label.std())
    assert manifest.metrics["train_rmse_naive"] == pytest.approx(np.sqrt(np.mean(label**2)))
    trained, naive = manifest.metrics["train_rmse"], manifest.metrics["train_rmse_naive"]
    assert trained is not None
    assert naive is not None
    assert 0 < trained < naive
    assert manifest.feature_set == {"name": "standard", "version": 1, "columns": list(STANDARD.columns)}
    assert manifest.parameters["rounds"] == 8
    matrix = feature_matrix(STANDARD, bars)[:135]
    assert version.serving.low.tobytes() == matrix.min(axis=0).tobytes()
    assert version.serving.high.tobytes() == matrix.max(axis=0).tobytes()


def test_golden_rows_score_from_the_forest_as_the_manifest_says() -> None:
    version = fit_series(request(random_bars(200), ("close_2",))).versions[0]
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
        return bytes(compile_booster(booster[:7]))

    monkeypatch.setattr(compiler, "compile_booster", fewer_trees)
    with pytest.raises(BadModel, match="SPY:1d/close_2: the packed forest"):
        fit_series(request(random_bars(200), ("close_2",)))


def test_an_xgboost_model_that_reads_back_otherwise_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    save_raw = xgboost.Booster.save_raw

    def fewer_trees(booster: xgboost.Booster, form: str) -> bytearray:
        return bytearray(save_raw(booster[:7], form))

    monkeypatch.setattr(xgboost.Booster, "save_raw", fewer_trees)
    with pytest.raises(BadModel, match="SPY:1d/close_2: the XGBoost model read back"):
        fit_series(request(random_bars(200), ("close_2",)))


def test_a_fit_has_one_thread_and_the_seed_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    train = xgboost.train
    given: list[dict[str, Any]] = []

    def noting(parameters: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        given.append(parameters)
        return train(parameters, *arguments, **named)

    monkeypatch.setattr(xgboost, "train", noting)
    fit_series(request(random_bars(200)))
    assert [(parameters["nthread"], parameters["seed"]) for parameters in given] == [(1, 3)] * len(TARGETS)


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
    settings, _ = load_settings(rounds=7, max_depth=2, learning_rate=0.5, min_child_weight=1, seed=9, min_rows=11)
    assert FitParameters.of(settings) == FitParameters(7, 2, 0.5, 1, 9, 11)
    assert replace(PARAMETERS, max_depth=2).booster["max_depth"] == 2


def test_the_settings_targets_are_split_without_loss() -> None:
    asked = request(random_bars(1), Pipeline().targets)
    for parts in (1, 2, 7, 100):
        shared = [target for part in split(asked, parts) for target in part.targets]
        assert sorted(shared) == sorted(Pipeline().targets)


def test_queueing_fits_loads_neither_xgboost_nor_numba() -> None:
    code = "import sys, consumers.trainer; sys.exit(bool({'xgboost', 'numba'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
