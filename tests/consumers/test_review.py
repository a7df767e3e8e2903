from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.gate import MOST_OUTCOMES
from consumers.review import KEEP_BARS, Act, Judgement, SeriesReview

HORIZONS = {"close_1": 1, "close_5": 5}


def judgement(
    target: str,
    bar: int,
    champion: str,
    challenger: str | None,
    size: float = 1.0,
    rival: float | None = 1.0,
    still: float = 1.0,
) -> Judgement:
    """Losses of made-up forecasts: `size`, `rival` and `still` (no change) say how large errors are beside naive."""
    naive, one, two = np.random.default_rng((bar, HORIZONS[target])).standard_normal(3).tolist()
    loss, other = (naive * (size + 0.1 * one)) ** 2, None if rival is None else (naive * (rival + 0.1 * two)) ** 2
    no_change = (naive * still) ** 2
    return Judgement(target, champion, challenger, loss, naive**2, no_change, None if challenger is None else other)


def test_a_trial_ends_with_the_gates_last_look_and_is_not_begun_again() -> None:
    review = SeriesReview(HORIZONS, {})
    acts: list[Act] = []
    for bar in range(MOST_OUTCOMES + 500):
        # Errors of the same size: only chance differs.
        found = judgement("close_1", bar, "a", "b")
        acts += review.take(bar, bar, [found])[0]
    assert [(act.kind, act.at) for act in acts if act.kind != "doubt"] == [("drop", MOST_OUTCOMES - 1)]
    assert not review.targets["close_1"].young
    assert review.needed_from(bar) > bar - KEEP_BARS


def test_a_challenger_counts_from_its_first_forecast_that_counts() -> None:
    review = SeriesReview(HORIZONS, {})
    for bar in range(100):
        review.take(bar, bar, [judgement("close_1", bar, "a", "b", rival=None if bar < 60 else 1.0)])
    champion, _, challenger, trial, _ = review.marks()["close_1"]
    assert (champion, challenger, trial) == ("a", "b", 60)
    assert review.targets["close_1"].young


def test_another_champion_begins_everything_anew_and_is_told() -> None:
    review = SeriesReview(HORIZONS, {})
    for bar in range(50):
        assert review.take(bar, bar, [judgement("close_1", bar, "a", "b")]) == ([], [])
    acts, changed = review.take(50, 50, [judgement("close_1", 50, "c", "b")])
    assert (acts, changed) == ([], ["close_1"])
    assert review.marks()["close_1"] == ("c", 50, "b", 50, 50)


def test_targets_that_the_pipeline_does_not_have_are_passed_over() -> None:
    review = SeriesReview({"close_1": 1}, {"close_5": ("a", 1, None, None, 1)})
    assert review.take(1, 1, [judgement("close_5", 1, "a", None)]) == ([], [])
    assert review.marks() == {}
    assert review.needed_from(1) == 2


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    bars=st.integers(1, 700),
    changes=st.lists(
        st.tuples(st.integers(0, 700), st.sampled_from("abc"), st.sampled_from([None, *"abc"]), st.booleans()),
        max_size=6,
    ),
)
def test_a_review_that_is_given_what_it_needs_again_goes_on_as_if_nothing_had_been(
    data: st.DataObject, bars: int, changes: list[tuple[int, str, str | None, bool]]
) -> None:
    sizes = {"a": 0.8, "b": 1.0, "c": 1.3}
    stream: list[list[Judgement]] = []
    champion, challenger, flipped = "a", None, False
    planned = {bar: (one, two, flip) for bar, one, two, flip in changes}
    for bar in range(bars):
        if bar in planned:
            champion, challenger, flip = planned[bar]
            flipped = flipped != flip
        size = sizes[champion] + (0.7 if flipped else 0.0)
        rival = sizes[challenger] if challenger else None
        stream.append([judgement(target, bar, champion, challenger, size, rival) for target in HORIZONS])
    one = SeriesReview(HORIZONS, {})
    stop = data.draw(st.integers(0, bars - 1))
    told = []
    marks, needed = {}, 0
    for bar, found in enumerate(stream):
        acts = one.take(bar, bar, found)
        if bar > stop:
            told.append(acts)
        elif bar == stop:
            marks, needed = one.marks(), one.needed_from(bar)
    two = SeriesReview(HORIZONS, marks)
    for bar in range(max(0, needed - data.draw(st.integers(0, 64))), stop + 1):
        two.learn(bar, bar, stream[bar])
    assert [two.take(bar, bar, stream[bar]) for bar in range(stop + 1, bars)] == told
    assert two.marks() == one.marks()
    assert two.needed_from(bars) == one.needed_from(bars)


def test_a_stretch_that_gaps_draw_out_ends_so_that_it_can_always_be_read_again() -> None:
    review = SeriesReview(HORIZONS, {})
    for bar in range(30):
        review.take(bar, bar, [judgement("close_1", bar, "a", "b")])
    late = KEEP_BARS + 5
    assert review.needed_from(late - 6) == 0
    review.take(late, late, [judgement("close_1", late, "a", "b")])
    assert review.marks()["close_1"] == ("a", None, "b", None, 0)
    assert review.needed_from(late) >= late - KEEP_BARS


def test_what_is_needed_again_begins_with_the_earliest_of_the_three_stretches() -> None:
    for mark in (("a", None, "b", 10, 500), ("a", 10, "b", 500, 500), ("a", 10, None, None, 500)):
        assert SeriesReview(HORIZONS, {"close_1": mark}).needed_from(600) == 10
    assert SeriesReview(HORIZONS, {"close_1": ("a", None, None, None, 500)}).needed_from(600) == 500


def test_a_champion_that_equals_a_poor_naive_forecast_is_doubted_where_no_change_does_better() -> None:
    """Such as the mean of a boom, forecast ever after by a champion without trees."""
    review = SeriesReview(HORIZONS, {})
    acts: list[Act] = []
    for bar in range(400):
        naive = np.random.default_rng(bar).standard_normal() ** 2 + 1
        rival = "m" if bar >= 200 else None
        found = Judgement("close_1", "c", rival, naive, naive, naive * 0.4, None if rival is None else naive * 0.4)
        acts += review.take(bar, bar, [found])[0]
    assert [act.kind for act in acts] == ["doubt", "promote"]
