from __future__ import annotations

from consumers.plans import Plan, Refusal, check_bars, decide
from streams.records import TrainingRequest
from streams.series import NS, Series
from streams.settings import Pipeline

SERIES = Series.parse("SPY:1m")


def test_a_plan_keeps_both_ends_of_the_time_that_is_asked_for() -> None:
    for targets in (None, ("close_5",)):
        plan = decide(TrainingRequest(series="SPY:1m", targets=targets, as_of=7, since=3), Pipeline())
        assert isinstance(plan, Plan)
        assert (plan.as_of, plan.since) == (7, 3)
    assert decide(TrainingRequest(series="SPY:1m", since=3), Pipeline()) != decide(
        TrainingRequest(series="SPY:1m"), Pipeline()
    )


def test_too_few_bars_are_refused_with_the_time_they_were_looked_for_in() -> None:
    assert check_bars(Plan(SERIES, (), None, NS), 10, 10) is None
    refusal = check_bars(Plan(SERIES, (), 60 * NS, NS), 9, 10)
    assert refusal == Refusal(
        "SPY:1m needs 10 bars, found 9 after 1970-01-01 00:00:01Z up to 1970-01-01 00:01:00Z: "
        "train it again when there are more"
    )
