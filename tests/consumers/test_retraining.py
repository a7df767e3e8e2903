from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.drift import Change
from consumers.fit import bars_needed
from consumers.retraining import MAX_WHY, Ask, Facts, RetrainState, Rules, retrain
from streams.records import TrainingRequest
from streams.settings import Settings

NS = 1_000_000_000
TARGETS = ("close_1", "close_5", "volume_5")
QUIET = Rules(TARGETS, interval_ns=0, growth=0.0, cooldown_bars=10, fresh_bars=50, max_bars=1000)


def play(
    rules: Rules, bars: range, events: Mapping[int, Mapping[str, Any]] | None = None, state: RetrainState | None = None
) -> tuple[RetrainState, list[tuple[int, Ask]]]:
    """Take one outcome per bar; what was asked for, and at which bar. A bar is a second long."""
    state, asked = state or RetrainState(), []
    for bar in bars:
        facts = Facts(bar=bar, ts=(bar + 1) * NS, judged=True, **(events or {}).get(bar, {}))
        state, asks = retrain(rules, state, facts)
        asked += [(bar, ask) for ask in asks]
    return state, asked


def drifted(*names: str, bar: int) -> dict[str, Any]:
    return {"drifted": dict.fromkeys(names, Change(bar, (bar + 1) * NS))}


def test_nothing_is_asked_for_without_a_reason() -> None:
    assert play(QUIET, range(5000))[1] == []


def test_after_a_drift_it_waits_for_data_and_asks_again_whenever_they_have_grown_by_half() -> None:
    _, asked = play(QUIET, range(500), {120: drifted("close_5", bar=100)})
    assert [bar for bar, _ in asked] == [150, 175, 213, 270, 355, 483]
    first = asked[0][1]
    assert (first.kind, first.targets, first.since) == ("drift", ("close_5",), 101 * NS)
    assert "drift since 1970-01-01 00:01:41Z in close_5" in first.why
    assert {ask.since for _, ask in asked} == {101 * NS}


def test_another_champion_is_trained_on_what_came_after_the_change_as_well() -> None:
    events = {120: drifted("close_5", bar=100), 160: {"changed": ["close_5"]}}
    _, asked = play(QUIET, range(200), events)
    assert [(bar, ask.targets, ask.since) for bar, ask in asked] == [
        (150, ("close_5",), 101 * NS),
        (175, ("close_5",), 101 * NS),
    ]


def test_the_drift_of_another_champion_is_another_change() -> None:
    events = {120: drifted("close_5", bar=100), 160: {"changed": ["close_5"]}, 165: drifted("close_5", bar=161)}
    _, asked = play(QUIET, range(230), events)
    assert [(bar, ask.since) for bar, ask in asked] == [(150, 101 * NS), (211, 162 * NS)]


def test_a_change_that_lies_further_back_than_any_training_looks_is_forgotten() -> None:
    rules = replace(QUIET, growth=0.5, max_bars=200)
    _, asked = play(rules, range(500), {120: drifted("close_5", bar=100)})
    assert all(ask.targets == ("close_5",) for bar, ask in asked if ask.kind == "drift")
    assert [ask.targets for bar, ask in asked if ask.kind == "growth" and bar >= 300][-1] is None
    assert max(bar for bar, ask in asked if ask.kind == "drift") < 300


def test_targets_of_different_changes_are_trained_on_different_bars() -> None:
    events = {120: drifted("close_5", bar=100) | {}, 121: drifted("close_1", bar=90)}
    _, asked = play(replace(QUIET, cooldown_bars=0), range(155), events)
    assert [(bar, ask.targets, ask.since) for bar, ask in asked] == [
        (140, ("close_1",), 91 * NS),
        (150, ("close_5",), 101 * NS),
    ]


def test_a_later_alarm_moves_the_change_only_until_models_were_asked_for() -> None:
    events = {30: drifted("close_5", bar=20), 40: drifted("close_5", bar=35), 90: drifted("close_5", bar=80)}
    _, asked = play(QUIET, range(130), events)
    assert [(bar, ask.since) for bar, ask in asked] == [(85, 36 * NS), (110, 36 * NS)]


def test_a_doubted_champion_is_trained_anew_once() -> None:
    _, asked = play(QUIET, range(300), {70: {"doubted": ["volume_5"]}})
    assert [(bar, ask.kind, ask.targets, ask.since) for bar, ask in asked] == [(70, "doubt", ("volume_5",), None)]
    assert "worse than naive: volume_5" in asked[0][1].why


def test_growth_asks_for_the_whole_series_and_is_bounded_by_what_is_trained_on() -> None:
    rules = replace(QUIET, growth=0.25, cooldown_bars=0)
    _, asked = play(rules, range(99, 4000))
    bars = [bar for bar, _ in asked]
    assert bars[:3] == [124, 156, 196], "from the first judged bar, number 99, on"
    assert [later - earlier for earlier, later in zip(bars[-3:], bars[-2:], strict=False)] == [250, 250]
    assert asked[0][1] == Ask("growth", None, None, "25 bars more than the 100 at the last training")


def test_the_interval_is_of_event_time() -> None:
    _, asked = play(replace(QUIET, interval_ns=100 * NS), range(10, 350))
    assert [bar for bar, _ in asked] == [110, 210, 310]
    assert asked[0][1].why == "the last training was at 1970-01-01 00:00:11Z"


def test_before_the_first_judged_bar_no_time_runs() -> None:
    state, asks = retrain(replace(QUIET, interval_ns=1), RetrainState(), Facts(bar=5, ts=10**18, judged=False))
    assert (state, asks) == (RetrainState(), [])


def test_two_requests_lie_a_cool_down_apart_and_what_fell_due_meanwhile_is_asked_for_then() -> None:
    events = {70: {"doubted": ["close_1"]}, 73: {"doubted": ["close_5"]}, 76: {"doubted": ["volume_5"]}}
    _, asked = play(QUIET, range(100), events)
    assert [(bar, ask.targets) for bar, ask in asked] == [(70, ("close_1",)), (80, ("close_5", "volume_5"))]


def test_a_challenger_is_not_replaced_before_its_first_look() -> None:
    young = {bar: {"young": ["close_5"]} for bar in range(100, 180)}
    young[120] |= drifted("close_5", "close_1", bar=100)
    young[130]["doubted"] = ["close_5"]
    _, asked = play(replace(QUIET, growth=1.0), range(89, 190), young)
    assert [(bar, ask.kind, ask.targets) for bar, ask in asked] == [
        (150, "drift", ("close_1",)),
        (175, "drift", ("close_1",)),
        (185, "growth", ("volume_5",)),
        (185, "drift", ("close_5",)),
    ]


def test_a_target_that_waits_after_a_drift_is_left_out_of_trainings_on_all_data() -> None:
    _, asked = play(replace(QUIET, growth=0.25), range(99, 126), {100: drifted("close_1", bar=98)})
    assert [(bar, ask.targets) for bar, ask in asked] == [(124, ("close_5", "volume_5"))]
    _, asked = play(replace(QUIET, growth=0.25), range(99, 126), {100: drifted(*TARGETS, bar=98)})
    assert asked == []


facts = st.fixed_dictionaries(
    {},
    optional={
        "drifted": st.dictionaries(
            st.sampled_from(TARGETS), st.builds(Change, st.integers(0, 50), st.integers(0, 2**62)), max_size=2
        ),
        "doubted": st.lists(st.sampled_from(TARGETS), unique=True, max_size=2),
        "changed": st.lists(st.sampled_from(TARGETS), unique=True, max_size=2),
        "young": st.lists(st.sampled_from(TARGETS), unique=True, max_size=2),
    },
)


@given(
    events=st.dictionaries(st.integers(0, 400), facts, max_size=8),
    stop=st.integers(0, 400),
    growth=st.sampled_from([0.0, 0.3]),
    interval=st.sampled_from([0, 70 * NS]),
)
def test_a_state_that_went_through_json_asks_for_the_same_and_what_it_asks_for_can_be_asked(
    events: dict[int, dict[str, Any]], stop: int, growth: float, interval: int
) -> None:
    rules = replace(QUIET, growth=growth, interval_ns=interval)
    whole_state, whole = play(rules, range(401), events)
    state, first = play(rules, range(stop), events)
    again = RetrainState.from_json(orjson.loads(orjson.dumps(state.to_json())))
    assert again == state
    end_state, rest = play(rules, range(stop, 401), events, again)
    assert (end_state, first + rest) == (whole_state, whole)
    bars = sorted({bar for bar, _ in whole})
    assert all(later - earlier >= rules.cooldown_bars for earlier, later in itertools.pairwise(bars))
    for bar, ask in whole:
        TrainingRequest(
            kind="train", series="S:1d", targets=ask.targets, as_of=bar, since=ask.since, why=ask.why, id="x"
        )


def test_a_long_list_of_targets_is_cut_to_what_a_request_may_carry() -> None:
    many = tuple(f"close_{horizon}" for horizon in range(1, 100))
    _, asked = play(replace(QUIET, targets=many), range(80), {70: {"doubted": many}})
    assert len(asked[0][1].why) == MAX_WHY
    assert asked[0][1].targets == many


def test_the_rules_are_those_of_the_settings() -> None:
    settings = Settings(
        retrain_interval_s=5, retrain_growth=0.5, retrain_cooldown_bars=7, min_rows=300, horizons=(1, 30), max_bars=400
    )
    rules = Rules.of(settings, settings.pipeline)
    assert (rules.interval_ns, rules.growth, rules.cooldown_bars, rules.max_bars) == (5 * NS, 0.5, 7, 400)
    assert rules.fresh_bars == 330 == bars_needed(1, 30, 300)
    assert rules.targets == settings.pipeline.targets


@pytest.mark.parametrize("ns", [-1, 2**62, 10**20])
def test_times_that_no_calendar_has_can_be_told(ns: int) -> None:
    _, asks = retrain(QUIET, RetrainState(), Facts(60, 61, True, {"close_1": Change(0, ns)}))
    assert asks[0].why.startswith("drift since ")
