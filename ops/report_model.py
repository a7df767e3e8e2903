"""What a report holds: figures and arrays, ready to be shown. Pure; no I/O, no words beyond short labels.

Whoever judges (the live outcomes, or a walk through history) fills these; `ops.report_html` shows them. Times are int64
epoch ns, UTC; returns are log returns; positions are -1, 0 or 1. Everything that is not known is `None`.

A cell's colour corrects for the many cells beside it: among hundreds of worthless models some pass any single test.
Over the cells of one **family** (all real series together; each control by itself, so that what was planted cannot lend
its success to the others) the one-sided p-values go through the step-up procedure of Benjamini and Hochberg (Journal of
the Royal Statistical Society B 57, 1995), once for better and once for worse than naive, each at half of `FALSE_SHARE`:
of the cells of either colour at most so many are expected to have it by chance. Cells of a series go up and down
together, and for such tests the procedure keeps its promise (Benjamini and Yekutieli, Annals of Statistics 29, 2001).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Share of coloured cells that may be coloured by chance, on average; one half for each colour.
FALSE_SHARE = 0.05

#: What a cell says: better than naive, not told from it, worse; or nothing could be judged.
Colour = Literal["predictable", "naive", "worse", "unknown"]
#: What a series is: real data, or one of the two that were made up.
Kind = Literal["real", "random", "planted"]
EventKind = Literal["retrain", "drift", "doubt", "promotion", "proven", "flip"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One target of one series against its naive forecast.

    Attributes:
        target: such as `close_5`.
        n: forecasts judged.
        skill: 1 - sum of squared errors over that of the naive forecast.
        low, high: interval of the skill for this cell alone, at `Report.level`; `None` where it cannot be tested.
        p: probability of as much skill or more by chance, one-sided; `None` where it cannot be tested.
        naive: what it was measured against, in words.
        hits, up: close only: share of forecasts with the right sign, and what always-up had on the same bars.
        trees: mean number of trees behind the forecasts; 0 means that the model is the naive forecast.
    """

    target: str
    n: int
    skill: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    naive: str = ""
    hits: float | None = None
    up: float | None = None
    trees: float | None = None

    @property
    def is_naive(self) -> bool:
        """Whether the model was its naive forecast throughout: it has no trees, so nothing differs."""
        return self.skill == 0 and self.p is None

    @property
    def column(self) -> str:
        """The column of the bar that is forecast."""
        return self.target.rpartition("_")[0]

    @property
    def horizon(self) -> int:
        """Bars ahead."""
        return int(self.target.rpartition("_")[2])


@dataclass(frozen=True, slots=True)
class Signal:
    """A change of position, decided at `ts` at the price `price`; filled at the next bar's open."""

    ts: int
    side: Literal["buy", "sell"]
    position: int
    price: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a series' models, or to the series itself (`flip`), in event time.

    Attributes:
        targets: whose models; empty: of all.
    """

    ts: int
    kind: EventKind
    text: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts:
    """The forecasts of one target and what came, labels, float64 (n,); `ts` (n,) is when each was made."""

    target: str
    ts: NDArray[np.int64]
    forecast: NDArray[np.float64]
    actual: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Rolling:
    """Skill of one target over a window that moves on: at each `ts` (n,) over the last `window` judged forecasts."""

    target: str
    window: int
    ts: NDArray[np.int64]
    skill: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figures:
    """How an account did: total and annual log return, largest drawdown (0 to 1), share of bars in the market, units
    traded per year."""

    name: str
    total: float
    annual: float | None = None
    sharpe: float | None = None
    drawdown: float | None = None
    exposure: float | None = None
    turnover: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Equity:
    """The paper account beside what it is held against.

    Attributes:
        ts: int64 (n,), ends of the bars.
        account, hold: float64 (n,), sums of log returns after cost, of the account and of buying and holding.
        band_ts: int64 (k,), where the band is given; empty without one.
        band: float64 (q, k), quantiles of the random policies' sums, rising in the first axis.
        quantiles: (q,) shares, such as 0.05, 0.5, 0.95.
        policies: how many random policies the band is of.
        percentile: share of them, 0 to 1, that made less than the account.
        figures: of the account and of the others, in the order to be shown.
    """

    ts: NDArray[np.int64]
    account: NDArray[np.float64]
    hold: NDArray[np.float64]
    band_ts: NDArray[np.int64]
    band: NDArray[np.float64]
    quantiles: tuple[float, ...] = ()
    policies: int = 0
    percentile: float | None = None
    figures: tuple[Figures, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SeriesReport:
    """Everything about one series. `ts` int64 (n,) are the ends of its bars, `close` float64 (n,) their closes."""

    name: str
    kind: Kind
    ts: NDArray[np.int64]
    close: NDArray[np.float64]
    cells: tuple[Cell, ...] = ()
    signals: tuple[Signal, ...] = ()
    forecasts: Forecasts | None = None
    equity: Equity | None = None
    rolling: tuple[Rolling, ...] = ()
    events: tuple[Event, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expectation:
    """What should be found in a control, and what was; `holds` is `None` where it could not be told."""

    what: str
    should: str
    found: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table to be shown as it is; columns named in `right` hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure about the run, such as `latency, p99`, `4.1 ms`, `tick to signal at 1,000 ticks/s`."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """The whole report, in the order in which it is shown.

    Attributes:
        title, subtitle: what was judged, and how or where it ran. No wall clock: equal data make equal reports.
        series: real ones and controls; shown apart.
        expectations: about the controls.
        models: tables of versions, releases and reasons.
        facts: about the run.
        caveats: sentences besides those that every report ends with.
        level: of the cells' intervals.
    """

    title: str
    subtitle: str = ""
    series: tuple[SeriesReport, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    models: tuple[Table, ...] = ()
    facts: tuple[Fact, ...] = ()
    caveats: tuple[str, ...] = ()
    level: float = 0.95

    @property
    def real(self) -> tuple[SeriesReport, ...]:
        """The series of real data."""
        return tuple(series for series in self.series if series.kind == "real")

    @property
    def controls(self) -> tuple[SeriesReport, ...]:
        """The series that were made up."""
        return tuple(series for series in self.series if series.kind != "real")


@dataclass(frozen=True, slots=True)
class SeriesMap:
    """The coloured cells of some series: one family.

    Attributes:
        series: names, in order.
        cells: (series, target) -> cell.
        colours: (series, target) -> colour.
        columns, horizons: of all cells, in the order to be shown.
        tested: cells that could be tested.
    """

    series: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    colours: dict[tuple[str, str], Colour]
    columns: tuple[str, ...]
    horizons: tuple[int, ...]
    tested: int

    def count(self, colour: Colour) -> int:
        """Cells of a colour."""
        return sum(found == colour for found in self.colours.values())


def colour_map(series: Sequence[SeriesReport]) -> SeriesMap:
    """Colour the cells of the series as one family; see the module."""
    cells = {(one.name, cell.target): cell for one in series for cell in one.cells}
    better = {place: cell.p for place, cell in cells.items() if cell.p is not None and cell.skill is not None}
    worse = {place: 1 - p for place, p in better.items()}
    bar_better, bar_worse = (step_up(found.values(), FALSE_SHARE / 2) for found in (better, worse))
    colours: dict[tuple[str, str], Colour] = {}
    for place, cell in cells.items():
        if place not in better:
            colours[place] = "naive" if cell.is_naive else "unknown"
        elif bar_better is not None and better[place] <= bar_better:
            colours[place] = "predictable"
        elif bar_worse is not None and worse[place] <= bar_worse:
            colours[place] = "worse"
        else:
            colours[place] = "naive"
    return SeriesMap(
        series=tuple(one.name for one in series),
        cells=cells,
        colours=colours,
        columns=tuple(dict.fromkeys(cell.column for cell in cells.values())),
        horizons=tuple(sorted({cell.horizon for cell in cells.values()})),
        tested=len(better),
    )


def step_up(p_values: Iterable[float], share: float) -> float | None:
    """The largest p-value that Benjamini's and Hochberg's procedure rejects at `share`; `None` if it rejects none."""
    ordered = sorted(p_values)
    passing = [p for rank, p in enumerate(ordered, start=1) if p <= share * rank / len(ordered)]
    return passing[-1] if passing else None
