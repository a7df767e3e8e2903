"""What must be found in the two controls when they ran live, beside the real series. Pure.

RANDOM: nothing. PLANTED: the whole sequence. Skill appears, no more than there is to be had; what was planted flips,
and the old models do harm; drift is noticed; models are trained on what came since; one is promoted; skill is back.
The truths come from `producers.controls`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from consumers.har import Skill
from ops.report_evaluation import PLANTED_HORIZONS
from ops.report_model import Event, EventKind, Expectation, SeriesReport, colour_map
from ops.report_outcomes import Losses
from ops.report_words import DAY_NS, HAPPENED, percent, when
from producers.controls import FLIPS_AT, PHI, attainable_skill, stale_skill

FLIP_NS = int(np.datetime64(FLIPS_AT, "ns").astype(np.int64))


def expect_nothing(one: SeriesReport) -> Expectation:
    """RANDOM: no model may be better than naive."""
    found = colour_map((one,))
    better = [place[1] for place, colour in found.colours.items() if colour == "predictable"]
    return Expectation(
        what=one.name,
        should="nothing is predictable",
        found=f"predictable: {', '.join(better)}" if better else f"none of {found.tested} models that could be tested",
        holds=not better if found.tested else None,
    )


def expect_planted(one: SeriesReport, losses: Mapping[str, Losses], level: float = 0.95) -> list[Expectation]:
    """PLANTED: the sequence, for the close of the shortest of `PLANTED_HORIZONS`, where most is planted.

    Args:
        losses: target -> its losses.

    Returns:
        One expectation per step; none if that close was not judged both before and after the flip.
    """
    for horizon in sorted(PLANTED_HORIZONS):
        found = losses.get(f"close_{horizon}")
        if found is not None and len(found.ts) and found.ts[0] < FLIP_NS < found.ts[-1]:
            return _sequence(one, f"close_{horizon}", horizon, found, level)
    return []


def _sequence(one: SeriesReport, target: str, horizon: int, losses: Losses, level: float) -> list[Expectation]:
    name, there, last = f"{one.name}/{target}", attainable_skill(PHI, horizon), int(losses.ts[-1])
    noticed = _first(one.events, ("drift", "doubt"), target, FLIP_NS)
    trained = None if noticed is None else _first(one.events, ("retrain",), target, noticed.ts)
    promoted = _first(one.events, ("promotion",), target, FLIP_NS if trained is None else trained.ts)
    before = losses.between(0, FLIP_NS).skill(horizon, level)
    stale = losses.between(FLIP_NS + _days(horizon), last if promoted is None else promoted.ts).plain
    found = [
        Expectation(
            f"{name}, before the flip on {FLIPS_AT}",
            f"skill above 0, and not above the {percent(there)} that there is by more than chance explains",
            _told(before),
            None if before is None else 0 < before.low <= there,
        ),
        Expectation(
            f"{name}, after the flip",
            f"skill below 0 until another model takes over, down to {percent(stale_skill(-PHI, PHI, horizon))}",
            "too little to tell" if stale is None else percent(stale),
            None if stale is None else stale < 0,
        ),
        _came(f"{name}, drift", "is noticed: an alarm, or found worse than naive", noticed, FLIP_NS),
        _came(f"{name}, training", "because of that", trained, None if noticed is None else FLIP_NS),
        _came(f"{name}, promotion", "of a model that beats the old one", promoted, FLIP_NS),
    ]
    if promoted is not None:
        after = losses.after_switch(promoted.ts).skill(horizon, level)
        left = attainable_skill(-PHI, horizon)
        should = (
            f"skill above 0 again, and not above the {percent(left)} that there is now by more than chance explains"
        )
        held = None if after is None else 0 < after.low <= left
        found.append(Expectation(f"{name}, with new models", should, _told(after), held))
    return found


def _days(horizon: int) -> int:
    """So many bars of a weekday series in ns, and somewhat more: weekends lie between."""
    return (horizon * 3 // 2 + 2) * DAY_NS


def _first(events: Sequence[Event], kinds: Sequence[EventKind], target: str, since: int) -> Event | None:
    """The first event of one of the kinds that is about the target, at `since` or later."""
    about = (e for e in events if e.kind in kinds and e.ts >= since and (not e.targets or target in e.targets))
    return next(about, None)


def _came(what: str, should: str, event: Event | None, since: int | None) -> Expectation:
    """A step that must have come; it cannot be asked for where the one before it did not."""
    if since is None:
        return Expectation(what, should, "–", None)
    if event is None:
        return Expectation(what, should, "it did not come", False)
    found = f"{HAPPENED[event.kind]} on {when(event.ts, days=True)}, {(event.ts - since) // DAY_NS} days after the flip"
    return Expectation(what, should, found, True)


def _told(skill: Skill | None) -> str:
    if skill is None:
        return "too little to tell"
    return f"{percent(skill.skill)} ({percent(skill.low)} to {percent(skill.high)})"
