"""Nothing is found where there is nothing, and the same check cries out when one bar leaks.

Twenty random walks are walked through with the real fit and a policy of momentum. The check is one function; it must
pass on the code as it is, and must fail on the same walks when the code is given a leak of one bar: in the features,
in the labels, in the split, in the fill.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import stdtrit

from consumers import evaluate as evaluating
from consumers import fit, walkforward
from consumers.evaluate import Evaluation, evaluate
from consumers.features import FeatureSet, feature_matrix
from consumers.fit import FitParameters
from consumers.history import CLOSE, BarWindow
from consumers.policy import Decision, Outlook, PolicyState
from consumers.targets import Target, labels
from consumers.walkforward import Walk
from producers.controls import FIRST, LAST, random_walk, weekdays
from streams.settings import load_settings

TARGETS = ("close_1", "close_5", "high_5", "low_5", "volume_5")
SEEDS, BARS = 20, 800
#: Probability that the check fails on code that is right, were the walks drawn anew; half of it each for skill, profit.
LEVEL = 0.01


@functools.cache
def walk() -> Walk:
    settings, _ = load_settings(rounds=20, max_depth=2, learning_rate=0.1, min_child_weight=30, min_rows=250)
    return Walk("consumers.features:STANDARD", TARGETS, 5, FitParameters.of(settings), step=200)


@dataclass(frozen=True, slots=True)
class Momentum:
    """Goes with the bar that just closed, at no cost."""

    name: str = "momentum"
    version: int = 1

    def initial(self) -> PolicyState:
        return {"close": 0.0, "position": 0}

    def decide(self, state: PolicyState, outlook: Outlook) -> tuple[PolicyState, Decision | None]:
        before, held = float(state["close"]), int(state["position"])
        wanted = int(np.sign(outlook.close - before)) if before else 0
        decision = Decision(wanted, wanted - held, 0, 0.0, 0.0, 1) if wanted != held else None
        return {"close": outlook.close, "position": wanted}, decision


@functools.cache
def noise(seed: int) -> tuple[BarWindow, NDArray[np.int64]]:
    """Bars of a random walk and their ends."""
    bars = random_walk(days=weekdays(FIRST, LAST)[:BARS], seed=1000 + seed)
    values = np.stack((bars.open, bars.high, bars.low, bars.close, bars.volume), axis=1)
    return BarWindow(bars.start, np.ascontiguousarray(values)), bars.start + bars.interval.ns


def evaluated(seeds: int) -> list[Evaluation]:
    found = []
    for seed in range(seeds):
        bars, ends = noise(seed)
        found.append(evaluate("NOISE:1d", bars, ends, walk(), Momentum(), cost_bps=0.0, count=1))
    return found


def t_of(values: Sequence[float]) -> float:
    """Student's t of independent values: one per walk, so that nothing within a walk need be independent."""
    spread = float(np.std(values, ddof=1))
    return float(np.mean(values)) / (spread / np.sqrt(len(values))) if spread > 0 else 0.0


def assert_nothing_found(evaluations: Sequence[Evaluation]) -> None:
    assert sum(found.in_sample for found in evaluations) == 0, "a version was judged on a bar that it was trained on"
    for at, target in enumerate(TARGETS):
        results = [found.results[at] for found in evaluations]
        assert min(result.n for result in results) > 400, "the check saw something"
        skills = [result.skill for result in results if result.skill is not None]
        t, needs = t_of(skills), -stdtrit(len(skills) - 1, LEVEL / 2 / len(TARGETS))
        assert t < needs, f"{target}: skill {np.mean(skills):.4f} on noise, t {t:.1f}, chance stays below {needs:.1f}"
    papers = [found.paper for found in evaluations]
    assert all(account is not None and account.own.exposure > 0.9 for account in papers)
    # Returns, not their logarithms: those of a position that knows nothing have mean zero.
    profits = [float(np.expm1(account.profit).mean()) for account in papers if account is not None]
    t, needs = t_of(profits), -stdtrit(len(profits) - 1, LEVEL / 4)
    assert abs(t) < needs, f"the paper account makes {np.mean(profits):.2e} per bar on noise, t {t:.1f}"


def leak_features(patch: pytest.MonkeyPatch) -> None:
    """Every window ends one bar late."""

    def late(features: FeatureSet, bars: BarWindow) -> NDArray[np.float32]:
        matrix = feature_matrix(features, bars)
        return np.concatenate((matrix[1:], matrix[-1:]))

    for module in (fit, walkforward):
        patch.setattr(module, "feature_matrix", late)


def leak_labels(patch: pytest.MonkeyPatch) -> None:
    """Prices are forecast from the close before the last: part of the way is known."""

    def early(target: Target, bars: BarWindow) -> NDArray[np.float64]:
        found = labels(target, bars)
        if target.column != "volume":
            found[1:] += np.diff(np.log(bars.values[:, CLOSE]))
        return found

    for module in (fit, walkforward):
        patch.setattr(module, "labels", early)


def leak_split(patch: pytest.MonkeyPatch) -> None:
    """A fit gets the bar at whose close its version makes its first forecast."""
    known: Callable[[int, int], tuple[int, int]] = walkforward._known
    patch.setattr(walkforward, "_known", lambda cut, most: known(cut + 1, most))


def leak_fill(patch: pytest.MonkeyPatch) -> None:
    """A position is filled at the open of the very bar at whose close it is decided."""
    account = evaluating._account

    def early(positions: Any, costs: Any, opened: Any, closed: Any) -> NDArray[np.float64]:
        return account(np.append(positions[1:], positions[-1:]), np.append(costs[1:], 0.0), opened, closed)

    patch.setattr(evaluating, "_account", early)


def test_nothing_is_found_on_noise() -> None:
    assert_nothing_found(evaluated(SEEDS))


@pytest.mark.parametrize(
    ("leak", "cry"),
    [
        (leak_features, r"close_1: skill 0\.[3-9]"),
        (leak_labels, r"close_1: skill 0\.[2-6]"),
        (leak_split, "trained on"),
        (leak_fill, "the paper account makes"),
    ],
)
def test_a_leak_of_one_bar_is_found(
    leak: Callable[[pytest.MonkeyPatch], None], cry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak(monkeypatch)
    with pytest.raises(AssertionError, match=cry):
        assert_nothing_found(evaluated(8))


@pytest.mark.parametrize("changed", [BARS - 301, BARS - 300, BARS - 1])
def test_what_comes_later_changes_no_version_and_no_forecast(changed: int) -> None:
    """Bars from `changed` on are other bars: everything that was known before stays, bit for bit."""
    bars, ends = noise(0)
    other = BarWindow(bars.start, bars.values.copy())
    other.values[changed:] = noise(99)[0].values[changed:] * 3
    ours, theirs = (walkforward.walk_forward("NOISE:1d", window, ends, walk()) for window in (bars, other))
    for one, two in zip(ours.cuts, theirs.cuts, strict=True):
        assert (one.digests == two.digests) is (one.at <= changed)
    assert ours.values[:changed].tobytes() == theirs.values[:changed].tobytes()
    assert ours.naive[:changed].tobytes() == theirs.naive[:changed].tobytes()
    for kind, said in ours.rivals.items():
        assert said[:changed].tobytes() == theirs.rivals[kind][:changed].tobytes()
    assert (ours.values[changed:] != theirs.values[changed:]).any(), "the other bars are seen at all"
