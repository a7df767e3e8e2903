"""Is a mean above zero, when neighbouring values overlap? A test that stays honest on overlapping labels.

The label of a bar reaches `horizon` bars ahead, so the losses of consecutive bars share most of their returns. A plain
t-test counts them as that many independent values and finds skill in pure noise. Here the variance of the mean comes
from the values' own slowest movements: their first B orthonormal cosine coefficients, each of which estimates the
long-run variance once. The ratio then follows Student's t with B degrees of freedom (equal-weighted cosines: Lazarus,
Lewis, Stock and Watson, "HAR Inference: Recommendations for Practice", Journal of Business & Economic Statistics 36,
2018). Few cosines cost some power and keep the size; B is

    min(0.4 n^(2/3), n / (2 horizon)), rounded down

The first is the authors' choice. The second keeps to periods of at least four horizons: a mean over `horizon` bars
damps what is faster, and such cosines would tell of too little variance.

Skill is `1 - sum(loss) / sum(naive loss)` (Murphy, Monthly Weather Review 116, 1988). Everything here is pure. What
cannot be known is `None`: fewer than four cosines, or values that do not vary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dct
from scipy.special import stdtr, stdtrit

#: Fewer cosines than this are no test: Student's t with 3 degrees of freedom asks for 1.6 times the error that counts.
LEAST_COSINES = 4
#: Values are taken as not varying where they differ by less than this share of the largest: rounding, not movement.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class MeanTest:
    """A mean and how sure it is. `se` is the standard error in the units of the values, above 0."""

    n: int
    mean: float
    se: float
    #: Cosines used: the degrees of freedom of Student's t.
    dof: int

    @property
    def t(self) -> float:
        """Standard errors between the mean and 0."""
        return self.mean / self.se

    @property
    def p_greater(self) -> float:
        """Chance of a `t` at least as high when the true mean is 0; small speaks for a mean above 0."""
        return float(stdtr(self.dof, -self.t))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval that covers the true mean with probability `level`."""
        reach = critical(self.dof, (1 - level) / 2) * self.se
        return self.mean - reach, self.mean + reach


@dataclass(frozen=True, slots=True)
class Skill:
    """Skill over n outcomes with its interval; `test` is of the mean of `naive loss - loss`."""

    n: int
    skill: float
    low: float
    high: float
    test: MeanTest


def cosines(count: int, horizon: int) -> int:
    """B, the cosines used for `count` values that overlap over `horizon` bars; may be below `LEAST_COSINES`."""
    # The hair more keeps whole powers whole: 0.4 * 1000 ** (2 / 3) is 39.999999999999993 in doubles.
    return int(min(0.4 * float(count) ** (2 / 3) + 1e-9, count / (2 * horizon)))


def least_count(horizon: int) -> int:
    """The fewest values that can be tested."""
    free: int = math.ceil((LEAST_COSINES / 0.4) ** 1.5)
    return max(free, 2 * LEAST_COSINES * horizon)


def critical(dof: int, alpha: float) -> float:
    """The `t` that pure chance exceeds with probability `alpha` (one-sided)."""
    return -float(stdtrit(dof, alpha))


def har_mean(x: ArrayLike, horizon: int) -> MeanTest | None:
    """The mean of values in time order that may be correlated over `horizon` bars.

    Args:
        x: (n,) finite, one value per consecutive bar.
        horizon: bars over which neighbours overlap, at least 1.

    Returns:
        The test, or None where there are fewer than `least_count(horizon)` values or they do not vary.

    Raises:
        ValueError: `x` is not (n,), holds NaN or infinities, or the horizon is below 1.
    """
    values = _series(x, "x", horizon)
    count = len(values)
    dof = cosines(count, horizon)
    if dof < LEAST_COSINES or np.ptp(values) <= ROUNDING * np.abs(values).max():
        return None
    # The mean has no part in cosines 1 … B; taking it off first only spares digits.
    mean = float(values.mean())
    waves = dct(values - mean, type=2, norm="ortho")[1 : dof + 1]
    se = math.sqrt(float(np.mean(np.square(waves))) / count)
    return MeanTest(count, mean, se, dof) if se > 0 else None


def skill_of(loss: ArrayLike, naive_loss: ArrayLike, horizon: int, level: float = 0.95) -> Skill | None:
    """Skill against the naive forecast, with an interval by the delta method.

    Args:
        loss, naive_loss: (n,) squared errors of the same consecutive bars.
        horizon: bars over which the labels overlap.
        level: probability with which the interval covers the true skill.

    Returns:
        The skill, or None where the mean of `naive loss - loss` cannot be tested: too few bars, a model that is the
        naive forecast, or naive losses that are all 0.

    Raises:
        ValueError: as `har_mean`, or the lengths differ.
    """
    ours, naive = _series(loss, "loss", horizon), _series(naive_loss, "naive_loss", horizon)
    gain = gains(ours, naive)
    test = har_mean(gain, horizon)
    scale = float(naive.mean()) if len(naive) else 0.0
    if test is None or scale <= 0:
        return None
    skill = test.mean / scale
    # A ratio of means moves, to first order, as the mean of what is left when the skill is taken off each bar.
    spread = har_mean(gain - skill * naive, horizon)
    reach = 0.0 if spread is None else critical(spread.dof, (1 - level) / 2) * spread.se / scale
    return Skill(len(ours), skill, skill - reach, skill + reach, test)


def gains(loss: NDArray[np.float64], than: NDArray[np.float64]) -> NDArray[np.float64]:
    """`than - loss`, float64 (n,): how much less each bar's loss is; exactly 0 where they differ by rounding only.

    Raises:
        ValueError: the lengths differ.
    """
    if len(loss) != len(than):
        raise ValueError(f"{len(loss)} losses against {len(than)}: give the losses of the same bars")
    gain = than - loss
    gain[np.abs(gain) <= ROUNDING * np.maximum(loss, than)] = 0.0
    return gain


def _series(x: ArrayLike, name: str, horizon: int) -> NDArray[np.float64]:
    """`x` as float64 (n,), checked."""
    values = np.asarray(x, np.float64)
    if values.ndim != 1:
        raise ValueError(f"{name} has the shape {values.shape}: give one value per bar")
    if horizon < 1:
        raise ValueError(f"a horizon of {horizon} bars: give at least 1")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite: leave out bars without an outcome")
    return values
