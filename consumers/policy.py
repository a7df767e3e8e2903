"""From forecasts to target positions: a policy is a pure function `(state, outlook) -> (state, decision)`.

The state is JSON-able and lives in the partition's state, so a policy needs no memory of its own. A decision says
which position to hold from the next bar's open on; it is made only when the position changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from consumers.plugins import load_plugin
from consumers.targets import Target
from streams.errors import ConfigurationError
from streams.settings import Pipeline

PolicyState = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known about one series at one bar close.

    Attributes:
        series: such as `SPY:1m`.
        ts: end of the bar, epoch ns.
        close: the bar's close.
        targets: T targets that have a model.
        forecasts: float32 (T,), forecast labels (log ratios).
        usable: bool (T,); false where the model was trained on this bar or a later one.
    """

    series: str
    ts: int
    close: float
    targets: tuple[Target, ...]
    forecasts: NDArray[np.float32]
    usable: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Decision:
    """A change of position.

    Attributes:
        position: +1 long, 0 flat, -1 short.
        change: new position minus old.
        forecast: index of the target that decided.
        expected_return: forecast log return over `horizon` bars.
        cost: log return that the change costs.
    """

    position: int
    change: int
    forecast: int
    expected_return: float
    cost: float
    horizon: int

    @property
    def strength(self) -> float:
        """|expected return| over the cost of one change; infinite costs nothing, so without cost it is the return."""
        return abs(self.expected_return) / self.cost if self.cost > 0 else abs(self.expected_return)


class Policy(Protocol):
    """A signal policy; `name` and `version` are part of the fingerprint of a partition's state."""

    @property
    def name(self) -> str:
        """Short name."""

    @property
    def version(self) -> int:
        """Raised whenever the same outlooks may lead to other decisions."""

    def initial(self) -> PolicyState:
        """State of a series that was never decided on."""

    def decide(self, state: PolicyState, outlook: Outlook) -> tuple[PolicyState, Decision | None]:
        """The state after this outlook, and what changed, if anything."""


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """Enter on a forecast that pays for the trade with room to spare, leave when it no longer pays at all.

    Long when the forecast return of the close exceeds `enter` × the cost of a round trip, short below minus that
    (flat, if `long_only`); a position is left when the forecast falls below `leave` × the cost of a round trip on its
    side. The gap between both keeps the position from flickering around one threshold.

    Attributes:
        horizon: bars ahead whose close is looked at.
        cost_bps: cost of a change of position by one unit, in basis points of the price.
        enter, leave: thresholds in round trips; enter >= leave.
        long_only: never go short.
    """

    horizon: int = 10
    cost_bps: float = 5.0
    enter: float = 1.5
    leave: float = 0.0
    long_only: bool = False

    def __post_init__(self) -> None:
        if not (self.cost_bps >= 0 and math.isfinite(self.cost_bps) and self.enter >= self.leave >= 0):
            raise ConfigurationError("policy: needs cost_bps >= 0 and enter >= leave >= 0")

    @property
    def name(self) -> str:
        """Short name."""
        return "hysteresis"

    @property
    def version(self) -> int:
        """Raised whenever the same outlooks may lead to other decisions."""
        return 1

    def initial(self) -> PolicyState:
        """Flat."""
        return {"position": 0}

    def decide(self, state: PolicyState, outlook: Outlook) -> tuple[PolicyState, Decision | None]:
        """See the class."""
        index = next((i for i, t in enumerate(outlook.targets) if t == Target("close", self.horizon)), None)
        if index is None or not outlook.usable[index]:
            return state, None
        expected = float(outlook.forecasts[index])
        if not math.isfinite(expected):
            return state, None
        held = int(state["position"])
        wanted = self._position(held, expected)
        if wanted == held:
            return state, None
        cost = -math.log1p(-abs(wanted - held) * self.cost_bps / 1e4)
        return {"position": wanted}, Decision(wanted, wanted - held, index, expected, cost, self.horizon)

    def _position(self, held: int, expected: float) -> int:
        round_trip = 2 * self.cost_bps / 1e4
        if expected > self.enter * round_trip:
            return 1
        if expected < -self.enter * round_trip:
            return 0 if self.long_only else -1
        if held * expected <= self.leave * round_trip:
            return 0
        return held


def load_policy(pipeline: Pipeline) -> Policy:
    """The policy that a pipeline names, called with its options.

    Raises:
        ConfigurationError: it cannot be imported, or refuses its options.
    """
    factory: Any = load_plugin(pipeline.policy, "policy")
    try:
        policy = factory(**pipeline.policy_options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"policy {pipeline.policy!r} refuses its options: {error}") from error
    for name in ("name", "version", "initial", "decide"):
        if not hasattr(policy, name):
            raise ConfigurationError(f"policy {pipeline.policy!r} has no {name}: see consumers.policy.Policy")
    found: Policy = policy
    return found
