from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.gate import (
    ALPHA,
    GROWTH,
    MOST_OUTCOMES,
    Losses,
    Verdict,
    alpha_at,
    bars_needed,
    look_number,
    looks,
    review,
)
from consumers.har import critical, har_mean, least_count
from tests.consumers.overlapping import Values, overlapping, wandering

HORIZONS = (1, 5, 30)


def _final(horizon: int, losses: Losses) -> tuple[int, Verdict]:
    """The first verdict that is not to wait, or the last look's, with the outcomes that it took."""
    for look, count in enumerate(looks(horizon), start=1):
        challenger = None if losses.challenger is None else losses.challenger[:count]
        verdict = review(horizon, Losses(losses.champion[:count], losses.naive[:count], challenger), look)
        if verdict.kind != "wait":
            break
    return count, verdict


def _losses(labels: Values, champion: Values, challenger: Values | None = None) -> Losses:
    """Squared errors; the naive forecast is 0."""
    return Losses((labels - champion) ** 2, labels**2, None if challenger is None else (labels - challenger) ** 2)


def _worthless(seed: int, horizon: int, size: float) -> Losses:
    """Champion and challenger of equal skill, which is none."""
    rng = np.random.default_rng((seed, horizon))
    labels = overlapping(rng, MOST_OUTCOMES, horizon, heavy=True)
    return _losses(labels, wandering(rng, MOST_OUTCOMES, size), wandering(rng, MOST_OUTCOMES, size))


def _effect(gain: Values, horizon: int) -> float:
    """Mean over long-run standard deviation per bar, from a long path."""
    test = har_mean(gain, horizon)
    assert test is not None
    return test.t / float(np.sqrt(len(gain)))


@pytest.mark.parametrize("size", [0.02, 0.14])
@pytest.mark.parametrize("horizon", [5, 30])
def test_noise_is_promoted_or_proven_in_one_of_fifty_trials_at_most_over_all_looks(horizon: int, size: float) -> None:
    trials = [_worthless(seed, horizon, size) for seed in range(200)]
    promoted = [_final(horizon, losses)[1].kind == "promote" for losses in trials]
    assert np.mean(promoted) <= 0.02
    proven = [_final(horizon, Losses(losses.champion, losses.naive))[1].kind == "prove" for losses in trials]
    assert np.mean(proven) <= 0.02


@pytest.mark.parametrize("horizon", [5, 30])
def test_a_challenger_only_as_good_as_a_skilled_champion_is_seldom_promoted(horizon: int) -> None:
    promoted = []
    for seed in range(200):
        rng = np.random.default_rng((seed, horizon))
        signal, count = wandering(rng, MOST_OUTCOMES, 0.8, stay=0.5), MOST_OUTCOMES
        ours, theirs = signal + wandering(rng, count, 0.1), signal + wandering(rng, count, 0.1)
        _, verdict = _final(horizon, _losses(signal + overlapping(rng, count, horizon), ours, theirs))
        promoted.append(verdict.kind == "promote")
    assert np.mean(promoted) <= 0.05


@pytest.mark.parametrize("horizon", [5, 30])
def test_a_bare_lower_error_would_promote_a_third_of_the_same_noise(horizon: int) -> None:
    lower = []
    for seed in range(200):
        losses = _worthless(seed, horizon, 0.02)
        assert losses.challenger is not None
        first = looks(horizon)[0]
        ours, champion, naive = (x[:first].mean() for x in (losses.challenger, losses.champion, losses.naive))
        lower.append(ours < min(champion, naive))
    assert np.mean(lower) > 0.25


@pytest.mark.parametrize("horizon", [5, 30])
def test_one_plain_test_repeated_at_every_look_would_prove_noise_too_often(horizon: int) -> None:
    found = []
    for seed in range(200):
        losses = _worthless(seed, horizon, 0.02)
        tests = [har_mean((losses.naive - losses.champion)[:count], horizon) for count in looks(horizon)]
        found.append(any(test is not None and test.t > critical(test.dof, 0.05) for test in tests))
    assert np.mean(found) > 0.1


@pytest.mark.parametrize("worthless", [0.0, 0.1], ids=["naive champion", "worthless champion"])
@pytest.mark.parametrize(("horizon", "size"), [(1, 0.3), (5, 0.5), (30, 0.8)])
def test_a_real_improvement_is_promoted_and_proven_by_the_bars_that_theory_needs(
    horizon: int, size: float, worthless: float
) -> None:
    def path(rng: np.random.Generator, count: int) -> Losses:
        signal = wandering(rng, count, size, stay=0.5)
        return _losses(signal + overlapping(rng, count, horizon), wandering(rng, count, worthless, stay=0.5), signal)

    long = path(np.random.default_rng(0), 200_000)
    assert long.challenger is not None
    effect = min(_effect(long.champion - long.challenger, horizon), _effect(long.naive - long.challenger, horizon))
    needed = bars_needed(effect, horizon)
    assert needed is not None
    found = [_final(horizon, path(np.random.default_rng((seed, horizon)), MOST_OUTCOMES)) for seed in range(100)]
    in_time = [verdict.kind == "promote" and verdict.proven and count <= needed for count, verdict in found]
    assert np.mean(in_time) >= 0.8
    assert needed < MOST_OUTCOMES, "the improvement is too small for this test to say anything about time"


@pytest.mark.parametrize("horizon", HORIZONS)
def test_a_harmful_champion_gives_way_to_one_without_trees_which_is_not_proven(horizon: int) -> None:
    def path(rng: np.random.Generator, count: int) -> Losses:
        labels = overlapping(rng, count, horizon)
        return _losses(labels, wandering(rng, count, 0.7, stay=0.5), np.zeros(count))

    long = path(np.random.default_rng(0), 100_000)
    needed = bars_needed(_effect(long.champion - long.naive, horizon), horizon)
    assert needed is not None
    replaced = []
    for seed in range(60):
        count, verdict = _final(horizon, path(np.random.default_rng((seed, horizon)), MOST_OUTCOMES))
        replaced.append(verdict.kind == "promote" and count <= needed)
        assert not verdict.proven
        assert verdict.over_naive.test is None
    assert np.mean(replaced) >= 0.8


def test_a_challenger_that_is_better_than_a_harmful_champion_but_harmful_too_is_dropped() -> None:
    count = looks(1)[10]
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels = overlapping(rng, count, 1)
        losses = _losses(labels, wandering(rng, count, 1.5, stay=0.5), wandering(rng, count, 0.7, stay=0.5))
        verdict = review(1, losses, 11)
        assert verdict.over_champion is not None
        assert verdict.over_champion.better
        assert verdict.kind == "drop"


def test_a_harmful_champion_is_doubted_and_a_good_one_proven() -> None:
    rng = np.random.default_rng(0)
    signal, noise = wandering(rng, MOST_OUTCOMES, 0.6, stay=0.5), overlapping(rng, MOST_OUTCOMES, 5)
    _, harmful = _final(5, _losses(noise, signal))
    assert (harmful.kind, harmful.proven) == ("doubt", False)
    _, good = _final(5, _losses(signal + noise, signal))
    assert (good.kind, good.proven) == ("prove", True)
    assert good.over_champion is None


def test_a_worse_challenger_goes_early_and_one_that_shows_nothing_at_the_last_look() -> None:
    rng = np.random.default_rng(2)
    labels = overlapping(rng, MOST_OUTCOMES, 1)
    good, bad = np.zeros(MOST_OUTCOMES), wandering(rng, MOST_OUTCOMES, 0.8, stay=0.5)
    count, verdict = _final(1, _losses(labels, good, bad))
    assert verdict.kind == "drop"
    assert count < 1000
    like = bad * 0.01
    count, verdict = _final(1, _losses(labels, like, like[::-1]))
    assert (count, verdict.kind) == (MOST_OUTCOMES, "drop")
    assert "not shown better" in verdict.reason


@pytest.mark.parametrize("horizon", HORIZONS)
def test_identical_losses_wait_until_the_last_look(horizon: int) -> None:
    naive = overlapping(np.random.default_rng(0), MOST_OUTCOMES, horizon) ** 2
    for look, count in enumerate(looks(horizon), start=1):
        same = naive[:count]
        assert review(horizon, Losses(same, same), look).kind == "wait"
        verdict = review(horizon, Losses(same, same, same), look)
        assert verdict.kind == ("drop" if count == MOST_OUTCOMES else "wait")
        assert "the same error as the champion and the same error as naive" in verdict.reason


@given(horizon=st.integers(1, 2000))
def test_looks_grow_evenly_can_be_tested_end_at_the_most_and_spend_no_more_than_alpha(horizon: int) -> None:
    counts = looks(horizon)
    assert counts[-1] == MOST_OUTCOMES
    assert sum(alpha_at(look) for look in range(1, len(counts) + 1)) <= ALPHA
    assert [look_number(count, horizon) for count in counts] == list(range(1, len(counts) + 1))
    assert look_number(counts[0] - 1, horizon) is None
    if len(counts) > 1:
        assert counts[0] >= max(64, least_count(horizon))
    for one, other in pairwise(counts):
        assert one < other < one * GROWTH * 1.15


def test_the_bars_needed_fall_with_the_effect_and_are_none_for_one_too_small() -> None:
    for horizon in HORIZONS:
        needed = [bars_needed(effect, horizon) for effect in (0.13, 0.2, 0.3, 1.0)]
        assert None not in needed
        assert needed == sorted(needed, key=lambda count: -(count or 0))
        assert needed[-1] == looks(horizon)[0]
        assert bars_needed(0.03, horizon) is None
        # Large samples: (z_alpha + z_power)², and one look's growth more; few cosines at long horizons cost the rest.
        least = ((critical(10**6, ALPHA / 200) + critical(10**6, 0.1)) / 0.2) ** 2
        assert needed[1] is not None
        assert least / 1.5 < needed[1] < least * 1.7
    assert bars_needed(5.0, 2000) is None


@given(
    seed=st.integers(0, 999),
    sizes=st.tuples(*[st.floats(0, 1e12)] * 3),
    look=st.integers(1, 11),
    alone=st.booleans(),
)
def test_reasons_are_sentences_of_at_most_200_characters(
    seed: int, sizes: tuple[float, float, float], look: int, alone: bool
) -> None:
    rng = np.random.default_rng(seed)
    count = looks(30)[look - 1]
    champion, naive, challenger = (size * rng.exponential(size=count) for size in sizes)
    verdict = review(30, Losses(champion, naive, None if alone else challenger), look)
    assert verdict.reason.startswith(f"after {count} bars")
    assert len(verdict.reason) <= 200
    assert verdict.reason.isascii()


def test_a_reason_tells_the_figures() -> None:
    rng = np.random.default_rng(0)
    naive = rng.exponential(1.0, 64)
    champion, challenger = naive * rng.uniform(0.9, 1.1, 64), naive * rng.uniform(0.4, 0.6, 64)
    verdict = review(1, Losses(champion, naive, challenger), 1)
    assert verdict.kind == "promote"
    assert verdict.proven
    assert verdict.over_champion is not None
    assert verdict.over_champion.test is not None
    assert verdict.over_champion.less == pytest.approx(1 - challenger.sum() / champion.sum())
    told = f"{verdict.over_champion.less * 100:.1f} % less squared error than the champion"
    assert verdict.reason.startswith(f"after 64 bars {told} (t {verdict.over_champion.test.t:.3g}, needs ")


def test_what_is_no_look_is_refused() -> None:
    ones = np.ones(65)
    with pytest.raises(ValueError, match="are not look 1 of horizon 5"):
        review(5, Losses(ones, ones), 1)
    with pytest.raises(ValueError, match="same bars"):
        review(5, Losses(ones[:64], ones), 1)
