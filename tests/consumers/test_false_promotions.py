"""Real models of noise, from training to the gate: next to none is promoted or proven."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.fit import FitParameters, FitRequest, fit_series
from consumers.gate import MOST_OUTCOMES
from consumers.history import BarWindow
from consumers.naive import Naive, NaiveKind
from consumers.review import Judgement, SeriesReview
from consumers.targets import Target, labels
from modelstore.kernel import ForestPack
from modelstore.version import NewVersion
from producers.controls import random_walk
from streams.settings import load_settings
from tests.consumers.walks import DAY_NS

TARGETS = ("open_5", "high_5", "low_10", "close_5", "close_10", "volume_5")
SEEDS = range(20)
#: Bars that champion and challenger are trained on; what follows is judged.
CHAMPION, CHALLENGER = 900, 1500


def losses(version: NewVersion, target: Target, bars: BarWindow, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared errors at every bar that has features, NaN where its label is not known."""
    pack = ForestPack.build([version.forest], features.shape[1])
    count = len(features)
    margins = pack.score_pairs(features, np.arange(count, dtype=np.int32), np.zeros(count, np.int32))
    naive = Naive(NaiveKind(version.serving.naive), version.serving.naive_table)
    first = len(bars) - count
    said = naive.history(target, bars)[first:] + margins
    found: NDArray[np.float64] = np.square(said - labels(target, bars)[first:])
    return found


@pytest.mark.timeout(240)
def test_of_twenty_random_walks_at_most_one_has_a_model_promoted_or_proven() -> None:
    from consumers.features import STANDARD, feature_matrix

    parameters = FitParameters.of(load_settings()[0])
    deceived = []
    for seed in SEEDS:
        found = random_walk(seed=100 + seed)
        values = np.column_stack((found.open, found.high, found.low, found.close, found.volume))
        bars = BarWindow(found.start, np.ascontiguousarray(values))
        features = feature_matrix(STANDARD, bars)
        first = len(bars) - len(features)
        fits = {}
        for cut in (CHAMPION, CHALLENGER):
            known = bars.slice(0, cut)
            request = FitRequest(
                "R:1d", TARGETS, 10, "consumers.features:STANDARD", known, known.start + DAY_NS, parameters
            )
            fits[cut] = {version.manifest.name.split("/")[1]: version for version in fit_series(request).versions}
        review = SeriesReview({name: Target.parse(name).horizon for name in TARGETS}, {})
        told = {
            name: [losses(fits[cut][name], Target.parse(name), bars, features) for cut in (CHAMPION, CHALLENGER)]
            for name in TARGETS
        }
        acts = []
        for bar in range(CHAMPION, len(bars)):
            judged = []
            for name in TARGETS:
                target = Target.parse(name)
                made = bar - target.horizon
                if made < CHAMPION:
                    continue
                champion, challenger = (loss[made - first] for loss in told[name])
                version = fits[CHAMPION][name]
                naive = Naive(NaiveKind(version.serving.naive), version.serving.naive_table)
                label = float(labels(target, bars.slice(made - 30, bar + 1))[30])
                own = float(naive.history(target, bars.slice(made - 30, made + 1))[-1])
                rival = float(challenger) if made >= CHALLENGER else None
                judged.append(
                    Judgement(
                        name, "c", None if rival is None else "k", float(champion), (own - label) ** 2, label**2, rival
                    )
                )
            acts += review.take(bar, bar, judged)[0]
        assert len(bars) - CHAMPION < MOST_OUTCOMES
        if any(act.kind in ("promote", "prove") for act in acts):
            deceived.append((seed, [(act.kind, act.target, act.reason) for act in acts]))
    assert len(deceived) <= len(SEEDS) / 20, deceived
