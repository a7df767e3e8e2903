"""The hysteresis policy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from consumers.policy import Decision, Hysteresis, Outlook, load_policy
from consumers.targets import Target
from streams.errors import ConfigurationError
from streams.settings import Pipeline

TARGETS = (Target("close", 5), Target("close", 10), Target("high", 10))


def outlook(forecast: float, *, usable: bool = True) -> Outlook:
    values = np.array([9.0, forecast, 9.0], np.float32)
    return Outlook("A:1m", 0, 100.0, TARGETS, values, np.array([True, usable, True]))


def positions(policy: Hysteresis, forecasts: list[float]) -> list[int]:
    state, found = policy.initial(), []
    for forecast in forecasts:
        state, _ = policy.decide(state, outlook(forecast))
        found.append(int(state["position"]))
    return found


def test_a_position_is_entered_above_one_threshold_and_left_below_another() -> None:
    policy = Hysteresis(cost_bps=10, enter=2, leave=0.5)  # a round trip costs 0.002
    assert positions(policy, [0.0039, 0.0041, 0.0011, 0.0009, 0.0039]) == [0, 1, 1, 0, 0]
    assert positions(policy, [-0.0041, -0.0011, -0.0009]) == [-1, -1, 0]


def test_a_strong_forecast_the_other_way_turns_the_position_at_double_cost() -> None:
    policy = Hysteresis(cost_bps=10)
    state, first = policy.decide(policy.initial(), outlook(0.05))
    state, second = policy.decide(state, outlook(-0.05))
    assert first is not None
    assert second is not None
    assert (first.position, first.change, second.position, second.change) == (1, 1, -1, -2)
    assert first.cost == pytest.approx(-math.log(1 - 0.001))
    assert second.cost == pytest.approx(-math.log(1 - 0.002))
    assert second.expected_return == pytest.approx(-0.05)


def test_long_only_never_goes_short() -> None:
    policy = Hysteresis(long_only=True)
    assert positions(policy, [0.05, -0.05, -0.05]) == [1, 0, 0]


def test_nothing_is_decided_on_what_was_trained_on_or_is_unknown() -> None:
    policy = Hysteresis()
    state = policy.initial()
    assert policy.decide(state, outlook(0.5, usable=False)) == (state, None)
    assert policy.decide(state, outlook(math.nan)) == (state, None)
    assert Hysteresis(horizon=30).decide(state, outlook(0.5)) == (state, None)


def test_a_decision_is_made_only_when_the_position_changes() -> None:
    policy = Hysteresis()
    state, decision = policy.decide({"position": 1}, outlook(0.05))
    assert (state, decision) == ({"position": 1}, None)


def test_strength_is_the_return_over_the_cost() -> None:
    assert Decision(1, 1, 0, -0.01, 0.002, 5).strength == pytest.approx(5)
    assert Decision(1, 1, 0, -0.01, 0.0, 5).strength == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "consumers.policy:Nothing"}, "no attribute"),
        ({"policy_options": {"no_such": 1}}, "refuses its options"),
        ({"policy_options": {"cost_bps": -1}}, "cost_bps"),
        ({"policy": "consumers.policy:Decision", "policy_options": {}}, "refuses its options"),
        ({"policy": "builtins:dict"}, "has no name"),
    ],
)
def test_a_policy_that_cannot_be_used_is_refused_with_the_reason(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_policy(Pipeline.model_validate(changes))
