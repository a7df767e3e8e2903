"""A small pipeline for chaos runs: cheap features, three targets, and a policy that signals often.

What is tested is the machinery, so models are small and every forecast's bits reach a signal: a policy that hardly
ever decides would let a wrong forecast pass unseen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from consumers.history import CLOSE, VOLUME, BarWindow
from consumers.policy import Decision, Outlook, PolicyState
from streams.settings import as_variable

#: Partitions of the tenant under test, and of the one whose streams are deleted.
PARTITIONS = 6
SCRATCH_PARTITIONS = 2
LEASE_MS = 1000
#: Lengths of bars in ns, as `SETTINGS` names them, and how long a bar waits for late ticks.
INTERVALS_NS = {"1s": 1_000_000_000, "5s": 5_000_000_000}
LATENESS_NS = 500_000_000
MAX_AHEAD_NS = 300_000_000_000

#: Settings of the tenant under test.
SETTINGS: dict[str, object] = {
    "partitions": PARTITIONS,
    "intervals": tuple(INTERVALS_NS),
    "lateness_ms": LATENESS_NS // 1_000_000,
    "max_ahead_ms": MAX_AHEAD_NS // 1_000_000,
    "columns": ("close",),
    "horizons": (1, 2, 3),
    "feature_set": "tests.chaos.pipeline:SMALL",
    "policy": "tests.chaos.pipeline:Restless",
    "lease_ms": LEASE_MS,
    "follow_ms": 200,
    "block_ms": 100,
    "batch_ticks": 400,
    "rounds": 5,
    "folds": 2,
    "min_rows": 40,
    "min_child_weight": 1,
    "max_bars": 200,
    "processes": 1,
    "web_port": 0,
}


def variables(**settings: object) -> dict[str, str]:
    """Settings as the variables that a process reads."""
    return {f"RED10_{name.upper()}": as_variable(value) for name, value in {**SETTINGS, **settings}.items()}


@dataclass(frozen=True)
class Small:
    """Four features of the last four bars."""

    name: str = "chaos-small"
    version: int = 1
    window: int = 4
    columns: tuple[str, ...] = ("return_1", "return_3", "range", "volume")

    def __call__(self, bars: BarWindow) -> list[float]:
        closes, volumes = bars.values[:, CLOSE], bars.values[:, VOLUME]
        last = float(closes[-1])
        return [
            math.log(last / float(closes[-2])),
            math.log(last / float(closes[0])),
            math.log(float(closes.max()) / float(closes.min())),
            math.log1p(float(volumes[-1])) - math.log1p(float(volumes[0])),
        ]


SMALL = Small()


@dataclass(frozen=True)
class Restless:
    """Follows the sign of all forecasts together, and stays flat every third time: its state is a count."""

    cost_bps: float = 1.0

    @property
    def name(self) -> str:
        return "restless"

    @property
    def version(self) -> int:
        return 1

    def initial(self) -> PolicyState:
        return {"position": 0, "asked": 0}

    def decide(self, state: PolicyState, outlook: Outlook) -> tuple[PolicyState, Decision | None]:
        asked = int(state["asked"]) + 1
        held = int(state["position"])
        if not outlook.usable.all():
            return {"position": held, "asked": asked}, None
        expected = float(outlook.forecasts.sum())
        wanted = 0 if asked % 3 == 0 else (1 if expected > 0 else -1)
        after: PolicyState = {"position": wanted, "asked": asked}
        if wanted == held:
            return after, None
        cost = abs(wanted - held) * self.cost_bps / 1e4
        return after, Decision(wanted, wanted - held, 0, expected, cost, outlook.targets[0].horizon)
