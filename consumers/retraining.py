"""When the models of a series are trained anew. Pure: `(state, facts) -> (state, what to ask for)`.

There are four reasons:

- **drift** of a target's champion: asked for as soon as the bars since the change are enough to train on, on those bars
  only, and again whenever they have grown by half. What was before the change is not learnt from again, be the champion
  another one by then: the first models after a change know too little to be the last;
- **doubt**: the gate found a champion worse than naive; asked for once;
- **interval**: so much event time has passed since the last training of the whole series;
- **growth**: the series has grown by such a share since then. Beyond `max_bars`, which is all that a model is trained
  on, the share is of `max_bars`.

Two requests of a series lie at least `cooldown_bars` apart; what falls due meanwhile is asked for then. A target whose
challenger has not come to its first look at the gate is left alone: a newer one would take its place unjudged. One that
drifted is left out of trainings on all data, until the change lies `max_bars` back.

The first bar with a judged forecast counts as the first training: a model was there by then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from consumers.drift import Change
from consumers.fit import bars_needed
from streams.series import NS
from streams.settings import Pipeline, Settings

#: After a drift, models are trained again when there are so many times the bars of the last time.
AGAIN = 1.5
#: Longest reason, in characters: what a request may carry.
MAX_WHY = 200


@dataclass(frozen=True, slots=True)
class Rules:
    """When to train.

    Attributes:
        targets: of the pipeline, in its order.
        interval_ns: event time between trainings; 0: never for this reason.
        growth: share by which a series must have grown; 0: never for this reason.
        cooldown_bars: least bars between two requests of a series.
        fresh_bars: least bars after a change that can be trained on.
        max_bars: most bars that are trained on.
    """

    targets: tuple[str, ...]
    interval_ns: int
    growth: float
    cooldown_bars: int
    fresh_bars: int
    max_bars: int

    @classmethod
    def of(cls, settings: Settings, pipeline: Pipeline) -> Rules:
        """Take them from the settings and the tenant's pipeline."""
        return cls(
            targets=pipeline.targets,
            interval_ns=settings.retrain_interval_s * NS,
            growth=settings.retrain_growth,
            cooldown_bars=settings.retrain_cooldown_bars,
            # Features may look at bars before the change; rows and labels may not.
            fresh_bars=bars_needed(1, max(pipeline.horizons), settings.min_rows),
            max_bars=settings.max_bars,
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """What one outcome tells.

    Attributes:
        bar, ts: number and end (ns) of the bar.
        judged: whether any forecast was judged.
        drifted: target -> since when, for champions that were seen to drift here.
        doubted: targets whose champion was found worse than naive here.
        changed: targets whose champion is another one than before.
        young: targets whose challenger has not come to its first look.
    """

    bar: int
    ts: int
    judged: bool
    drifted: Mapping[str, Change] = field(default_factory=dict)
    doubted: Collection[str] = ()
    changed: Collection[str] = ()
    young: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """A drifted target.

    Attributes:
        asked: bars since the change at the last request; 0 before the first.
        replaced: whether the champion that drifted was replaced since.
    """

    change: Change
    asked: int = 0
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class RetrainState:
    """What is known of one series between outcomes.

    Attributes:
        bar, ts: when the whole series was last asked for, or first judged; `None` before that.
        asked: number of the bar at the last request for any reason; `None` before the first.
        waits: drifted targets.
        doubted: targets to be trained because their champion is worse than naive.
    """

    bar: int | None = None
    ts: int = 0
    asked: int | None = None
    waits: Mapping[str, Wait] = field(default_factory=dict)
    doubted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the checkpoint."""
        waits = {name: [*astuple(wait.change), wait.asked, wait.replaced] for name, wait in self.waits.items()}
        return {"bar": self.bar, "ts": self.ts, "asked": self.asked, "waits": waits, "doubted": list(self.doubted)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> RetrainState:
        """The inverse of `to_json`."""
        waits = {name: Wait(Change(bar, ts), *rest) for name, (bar, ts, *rest) in found["waits"].items()}
        return cls(found["bar"], found["ts"], found["asked"], waits, tuple(found["doubted"]))


@dataclass(frozen=True, slots=True)
class Ask:
    """A training to ask for. `targets` `None`: all; `since` `None`: on all bars. `kind` is the reason in one word."""

    kind: str
    targets: tuple[str, ...] | None
    since: int | None
    why: str


def retrain(rules: Rules, state: RetrainState, facts: Facts) -> tuple[RetrainState, list[Ask]]:
    """Take what one outcome tells; what to ask for now."""
    state = _noted(rules, state, facts)
    if state.asked is not None and facts.bar - state.asked < rules.cooldown_bars:
        return state, []
    state, asks = _whole(rules, state, facts)
    state, doubts = _doubts(state, facts)
    state, drifts = _drifts(rules, state, facts)
    asks += doubts + drifts
    return (replace(state, asked=facts.bar) if asks else state), asks


def _noted(rules: Rules, state: RetrainState, facts: Facts) -> RetrainState:
    if state.bar is None and facts.judged:
        state = replace(state, bar=facts.bar, ts=facts.ts)
    waits = {
        name: replace(wait, replaced=True) if name in facts.changed else wait
        for name, wait in state.waits.items()
        if facts.bar - wait.change.bar < rules.max_bars
    }
    for name, change in facts.drifted.items():
        # Once models were asked for, a further alarm about the same champion adds nothing.
        if name not in waits or waits[name].asked == 0 or waits[name].replaced:
            waits[name] = Wait(change)
    pending = {*state.doubted, *facts.doubted} - {*facts.changed} - waits.keys()
    return replace(state, waits=waits, doubted=tuple(name for name in rules.targets if name in pending))


def _whole(rules: Rules, state: RetrainState, facts: Facts) -> tuple[RetrainState, list[Ask]]:
    """The whole series, by time or by growth."""
    if state.bar is None:
        return state, []
    base, more = state.bar + 1, facts.bar - state.bar
    if rules.growth > 0 and more >= max(1.0, rules.growth * min(base, rules.max_bars)):
        kind, why = "growth", f"{more} bars more than the {base} at the last training"
    elif rules.interval_ns > 0 and facts.ts - state.ts >= rules.interval_ns:
        kind, why = "interval", f"the last training was at {_utc(state.ts)}"
    else:
        return state, []
    left_out = state.waits.keys() | {*facts.young}
    targets = tuple(name for name in rules.targets if name not in left_out)
    state = replace(state, bar=facts.bar, ts=facts.ts)
    if not targets:
        return state, []
    return state, [Ask(kind, None if targets == rules.targets else targets, None, why)]


def _doubts(state: RetrainState, facts: Facts) -> tuple[RetrainState, list[Ask]]:
    """Champions that are worse than naive, on all bars."""
    targets = tuple(name for name in state.doubted if name not in facts.young)
    if not targets:
        return state, []
    state = replace(state, doubted=tuple(name for name in state.doubted if name in facts.young))
    return state, [Ask("doubt", targets, None, _cut(f"worse than naive: {', '.join(targets)}"))]


def _drifts(rules: Rules, state: RetrainState, facts: Facts) -> tuple[RetrainState, list[Ask]]:
    """Drifted targets, on the bars since their change; targets of one change in one request."""
    due: dict[Change, list[str]] = {}
    waits = dict(state.waits)
    for name in rules.targets:
        wait = waits.get(name)
        if wait is None or name in facts.young:
            continue
        fresh = facts.bar - wait.change.bar
        if fresh >= max(rules.fresh_bars, AGAIN * wait.asked):
            due.setdefault(wait.change, []).append(name)
            waits[name] = replace(wait, asked=fresh)
    asks = [
        Ask("drift", tuple(names), change.ts, _cut(f"drift since {_utc(change.ts)} in {', '.join(names)}"))
        for change, names in sorted(due.items(), key=lambda item: item[0].bar)
    ]
    return replace(state, waits=waits), asks


def _cut(text: str) -> str:
    return text if len(text) <= MAX_WHY else text[: MAX_WHY - 1] + "…"


def _utc(ns: int) -> str:
    """A time for people, to the second; what no calendar has stays a number."""
    try:
        return f"{datetime.fromtimestamp(ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
