"""What all scorers of a tenant share: the pipeline, as objects. Frozen; equal specs compute equal outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consumers.features import FeatureSet
from consumers.judge import Judge
from consumers.policy import Policy
from consumers.targets import Target
from streams.series import Interval


@dataclass(frozen=True, slots=True)
class Spec:
    """What all scorers of a tenant share.

    Attributes:
        lateness_ns: how long a bar waits for late ticks.
        max_ahead_ns: how far the ts of a tick or clock may lie ahead of its entry's time.
        keep_ticks_ms: how long consumed entries are kept, in entry time.
        judge: of the targets.
        tail_bars: newest bars of a series that its next bar's outputs depend on, that bar included.
    """

    partitions: int
    intervals: tuple[Interval, ...]
    lateness_ns: int
    max_ahead_ns: int
    keep_ticks_ms: int
    features: FeatureSet
    policy: Policy
    targets: Mapping[str, Target]
    fingerprint: str
    judge: Judge = field(init=False, repr=False, compare=False)
    tail_bars: int = field(init=False)

    def __post_init__(self) -> None:
        judge = Judge(self.targets)
        object.__setattr__(self, "judge", judge)
        object.__setattr__(self, "tail_bars", max(self.features.window, judge.bars, judge.longest + 1))
