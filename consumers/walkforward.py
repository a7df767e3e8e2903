"""Walking forward: the forecasts that a series would have got, had it been trained every so many bars. Pure.

At each cut c the models are fitted on the bars before it, exactly as the trainer would do it, and forecast at the
closes of bar c and of those that follow, up to the next cut. A bar's own forecast is made from the bars up to it and
models that were trained on bars before it, so nothing of what comes can be in it. That is checked all the same: a
forecast at a bar which ends at or before its version's `trained_through` is in the sample. It is marked and never
counts.

The other naive forecasts that a model might have started from are carried along, their constants from the same rows,
so that a model can be held against the one that turned out best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consumers.features import FeatureSet, feature_matrix, load_feature_set
from consumers.fit import FitOutcome, FitParameters, FitRequest, bars_needed, fit_series
from consumers.history import BarWindow
from consumers.naive import Naive, NaiveKind, NaiveRows, offered
from consumers.targets import VOLUME_BARS, Target, labels
from modelstore.forest import Forest
from modelstore.kernel import ForestPack
from modelstore.version import NewVersion
from streams.settings import Pipeline, Settings

#: Bars between two cuts, unless that makes more than `MOST_CUTS`.
STEP = 250
MOST_CUTS = 16

#: Carries out fits, in order.
Fits = Callable[[Sequence[FitRequest]], Iterable[FitOutcome]]


@dataclass(frozen=True, slots=True)
class Walk:
    """How to walk.

    Attributes:
        feature_set: `module:attribute`.
        targets: names of the targets to forecast.
        longest: the pipeline's longest horizon, bars.
        parameters: how to fit.
        max_bars: most bars of a fit, the newest.
        step: bars between two cuts; `None`: `STEP`, or as many as make `MOST_CUTS` cuts.
    """

    feature_set: str
    targets: tuple[str, ...]
    longest: int
    parameters: FitParameters
    max_bars: int = 20_000
    step: int | None = None

    @classmethod
    def of(cls, settings: Settings, pipeline: Pipeline, step: int | None = None) -> Walk:
        """As a tenant with these settings and this pipeline trains."""
        return cls(
            pipeline.feature_set,
            pipeline.targets,
            max(pipeline.horizons),
            FitParameters.of(settings),
            settings.max_bars,
            step,
        )

    def cuts(self, window: int, count: int) -> list[int]:
        """Places of the cuts in `count` bars; none if there are too few.

        Args:
            window: bars that the feature set looks at.
        """
        first = bars_needed(window, self.longest, self.parameters.min_rows)
        step = self.step or max(STEP, -(-(count - first) // MOST_CUTS))
        return list(range(first, count, step))


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The versions in force from bar `at` on; one per target, `None` where none could be fitted yet."""

    at: int
    versions: tuple[NewVersion | None, ...]

    @property
    def digests(self) -> tuple[str | None, ...]:
        """Of the versions."""
        return tuple(None if version is None else version.digest for version in self.versions)

    @property
    def trees(self) -> tuple[int, ...]:
        """How many trees each has; 0 is the naive forecast."""
        return tuple(0 if version is None else Forest.decode(version.forest).n_trees for version in self.versions)


@dataclass(frozen=True, slots=True, eq=False)
class Walked:
    """What was forecast at every close, and what came; n bars, T targets.

    Attributes:
        series: such as `SPY:1d`.
        targets: T targets.
        bars, ends: the n bars, and the end of each, int64 (n,), epoch ns.
        cuts: in order of time.
        values, naive: float32 (n, T), forecast labels, of the models and of the naive forecasts that they start from;
            NaN where there is none.
        rivals: kind -> float32 (n, T), what every naive forecast on offer says; NaN where it is not on offer.
        actuals: float64 (n, T), labels that came; NaN where the horizon has not passed.
        in_sample: bool (n, T), forecasts that do not count because the version was trained on the bar or a later one.
        skipped: target -> why the newest fit made no version.
    """

    series: str
    targets: tuple[Target, ...]
    bars: BarWindow
    ends: NDArray[np.int64]
    cuts: tuple[Cut, ...]
    values: NDArray[np.float32]
    naive: NDArray[np.float32]
    rivals: dict[NaiveKind, NDArray[np.float32]]
    actuals: NDArray[np.float64]
    in_sample: NDArray[np.bool_]
    skipped: dict[str, str]

    @property
    def first(self) -> int:
        """The first bar with forecasts; n without any."""
        return self.cuts[0].at if self.cuts else len(self.bars)

    @property
    def judged(self) -> NDArray[np.bool_]:
        """bool (n, T): forecasts that count and whose horizon has passed."""
        return np.isfinite(self.values) & np.isfinite(self.naive) & np.isfinite(self.actuals) & ~self.in_sample


def in_process(requests: Sequence[FitRequest]) -> Iterable[FitOutcome]:
    """Carry out fits here, one after the other."""
    return map(fit_series, requests)


def walk_forward(series: str, bars: BarWindow, ends: NDArray[np.int64], walk: Walk, fits: Fits = in_process) -> Walked:
    """Walk through the bars of a series.

    Args:
        ends: int64 (n,), end of each bar, epoch ns.
        fits: carries out the fits; they do not depend on each other.

    Raises:
        BadModel, ConfigurationError, BadName: as `consumers.fit.fit_series`.
    """
    features = load_feature_set(walk.feature_set)
    targets = tuple(Target.parse(name) for name in walk.targets)
    places = walk.cuts(features.window, len(bars))
    requests = [_request(series, bars, ends, walk, cut) for cut in places]
    shape = (len(bars), len(targets))
    walked = Walked(
        series,
        targets,
        bars,
        ends,
        (),
        np.full(shape, np.nan, np.float32),
        np.full(shape, np.nan, np.float32),
        {kind: np.full(shape, np.nan, np.float32) for kind in NaiveKind},
        np.stack([labels(target, bars) for target in targets], axis=1) if targets else np.empty(shape),
        np.zeros(shape, np.bool_),
        {},
    )
    rows = _rows(features, bars)
    cuts: list[Cut] = []
    versions: tuple[NewVersion | None, ...] = (None,) * len(targets)
    skipped: dict[str, str] = {}
    untils = [*places[1:], len(bars)][: len(places)]
    for place, until, request, outcome in zip(places, untils, requests, fits(requests), strict=True):
        made = {version.manifest.name: version for version in outcome.versions}
        versions = tuple(made.get(f"{series}/{target}", old) for target, old in zip(targets, versions, strict=True))
        cuts.append(Cut(place, versions))
        skipped = outcome.skipped
        _forecast(walked, cuts[-1], rows, until)
        _rivals(walked, request, features.window, place, until)
    return replace(walked, cuts=tuple(cuts), skipped=dict(skipped))


def _request(series: str, bars: BarWindow, ends: NDArray[np.int64], walk: Walk, cut: int) -> FitRequest:
    begin, end = _known(cut, walk.max_bars)
    return FitRequest(
        series=series,
        targets=walk.targets,
        longest=walk.longest,
        feature_set=walk.feature_set,
        bars=bars.slice(begin, end),
        ends=ends[begin:end],
        parameters=walk.parameters,
    )


def _known(cut: int, most: int) -> tuple[int, int]:
    """The bars that a fit at a cut may see: from the first to before the second."""
    return max(0, cut - most), cut


def _rows(features: FeatureSet, bars: BarWindow) -> NDArray[np.float32]:
    """Features at every bar, float32 (n, F); NaN where there are too few bars before it."""
    found = np.full((len(bars), len(features.columns)), np.nan, np.float32)
    matrix = feature_matrix(features, bars)
    found[len(bars) - len(matrix) :] = matrix
    return found


def _forecast(walked: Walked, cut: Cut, rows: NDArray[np.float32], until: int) -> None:
    """Forecast at the closes of bars `cut.at` to before `until`."""
    held = [(at, version) for at, version in enumerate(cut.versions) if version is not None]
    if not held:
        return
    count = until - cut.at
    pack = ForestPack.build([version.forest for _, version in held], rows.shape[1])
    forests = np.repeat(np.arange(len(held)), count)
    chosen = np.tile(np.arange(cut.at, until), len(held))
    margins = pack.score_pairs(rows, chosen, forests).reshape(len(held), count)
    for (at, version), margin in zip(held, margins, strict=True):
        serving = version.serving
        naive = _history(Naive(NaiveKind(serving.naive), serving.naive_table), walked, at, cut.at, until)
        # As the scorer does it: the sum in doubles, then float32.
        walked.values[cut.at : until, at] = naive + margin
        walked.naive[cut.at : until, at] = naive
        walked.in_sample[cut.at : until, at] = walked.ends[cut.at : until] <= serving.trained_through


def _rivals(walked: Walked, request: FitRequest, window: int, begin: int, until: int) -> None:
    """What every naive forecast on offer says at bars `begin` to before `until`, fitted on the rows of a request."""
    interval_ns = int(request.ends[0] - request.bars.start[0])
    rows = slice(window - 1, max(window - 1, len(request.bars) - request.longest))
    for at, target in enumerate(walked.targets):
        label = labels(target, request.bars)[rows]
        known = np.isfinite(label)
        if not known.any():
            continue
        found = NaiveRows.of(target, request.bars, np.arange(rows.start, rows.stop)[known], label[known])
        for kind in offered(target.column, interval_ns):
            naive = found.fit(kind)
            walked.rivals[kind][begin:until, at] = _history(naive, walked, at, begin, until)


def _history(naive: Naive, walked: Walked, at: int, begin: int, until: int) -> NDArray[np.float64]:
    """A naive forecast of target `at` at bars `begin` to before `until`."""
    earliest = max(0, begin - VOLUME_BARS + 1)
    return naive.history(walked.targets[at], walked.bars.slice(earliest, until))[begin - earliest :]
