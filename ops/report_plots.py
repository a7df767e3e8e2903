"""The figures of a report, as SVG elements to stand inside a page. Needs matplotlib, which is imported when first used.

A figure has no colours and no font of its own: strokes and fills are variables of the page's style sheet (`--ink`,
`--accent`, …), text takes the page's font, so it follows light and dark. Equal data make equal bytes: ids come from the
data, nothing holds a date. Ids are prefixed with the figure's name, as several figures share a page. Long lines are
thinned to their highest and lowest points per piece, which looks the same at this width.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ops.report_model import Equity, Event, EventKind, Forecasts, Rolling, SeriesReport
from ops.report_words import HAPPENED
from streams.errors import Red10Error

#: Size in inches; 72 units of the SVG each. A page shows a figure about 1.4 times as large.
WIDTH, HEIGHT = 5.6, 2.7
#: Most points of a line, and of a cloud.
MOST_POINTS, MOST_DOTS = 900, 500
#: A price range wider than this factor is shown on a logarithmic scale.
WIDE = 4.0
#: Bins of a forecast whose outcomes are averaged.
BINS = 10

#: What is drawn in which colour; each becomes the page's variable of that name.
COLOURS = {
    "ink": "#010101",
    "soft": "#020202",
    "faint": "#030303",
    "accent": "#040404",
    "warn": "#050505",
    "band": "#060606",
    "paper": "#070707",
}
#: How events are marked: colour, dashes, width.
MARKS: dict[EventKind, tuple[str, Any, float]] = {
    "retrain": ("soft", (0, (1, 2.5)), 0.6),
    "drift": ("warn", (0, (4, 2)), 1.0),
    "doubt": ("warn", (0, (1, 2)), 0.7),
    "promotion": ("accent", "-", 0.9),
    "proven": ("accent", (0, (1, 1)), 0.9),
    "flip": ("ink", "-", 1.4),
}


class NoPlots(Red10Error):
    """matplotlib is missing."""

    def __init__(self) -> None:
        super().__init__('a report needs matplotlib, which is not installed: `pip install "red10[report]"`')


def check_plots() -> None:
    """See that figures can be drawn, before much else is done.

    Raises:
        NoPlots: matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise NoPlots from error


def price(series: SeriesReport, name: str) -> str:
    """Closes, with a mark at every change of position and the position held below.

    `name`, here and below: of the figure, unique on its page, letters, digits and `-`.

    Raises:
        NoPlots: matplotlib is missing; so do all figures.
    """

    def draw(axes: Any) -> None:
        ts, close = thin(series.ts, series.close)
        axes.plot(_days(ts), close, color=COLOURS["ink"], linewidth=0.8, zorder=2)
        for side, marker, colour in (("buy", "^", "accent"), ("sell", "v", "warn")):
            mine = [signal for signal in series.signals if signal.side == side]
            axes.plot(
                _days(np.array([signal.ts for signal in mine], np.int64)),
                [signal.price for signal in mine],
                linestyle="none",
                marker=marker,
                markersize=5,
                markeredgewidth=0,
                color=COLOURS[colour],
                zorder=3,
                label=side if mine else None,
            )
        if len(close) and close.min() > 0 and close.max() / close.min() > WIDE:
            axes.set_yscale("log")
            _plain_log_ticks(axes)
        _positions(axes, series)
        if series.signals:
            _legend(axes)

    return _figure(name, draw)


def forecasts(found: Forecasts, name: str) -> str:
    """Forecast against what came, in per cent: a cloud, and per tenth of the forecasts the mean and middle half of
    what came; the diagonal is where a perfect mean would lie."""

    def draw(axes: Any) -> None:
        known = np.isfinite(found.forecast) & np.isfinite(found.actual)
        said, came = found.forecast[known] * 100, found.actual[known] * 100
        axes.axhline(0, color=COLOURS["faint"], linewidth=0.6, zorder=1)
        if not len(said):
            return
        step = max(1, -(-len(said) // MOST_DOTS))
        axes.plot(
            said[::step], came[::step], linestyle="none", marker=".", markersize=2.5, markeredgewidth=0,
            color=COLOURS["soft"], alpha=0.45, zorder=1,
        )  # fmt: skip
        low, high = _reach(said)
        axes.plot([low, high], [low, high], color=COLOURS["soft"], linewidth=0.8, dashes=(4, 2), zorder=2)
        middle, mean, below, above = binned(said, came)
        axes.errorbar(
            middle, mean, yerr=np.stack([np.maximum(mean - below, 0), np.maximum(above - mean, 0)]),
            color=COLOURS["accent"], linestyle="none", marker="o", markersize=3.5, elinewidth=1, zorder=3,
        )  # fmt: skip
        axes.set_xlim(low, high)
        axes.set_ylim(*np.quantile(came, (0.005, 0.995)) * 1.05)
        axes.set_xlabel("forecast, %")
        axes.set_ylabel("came, %")

    return _figure(name, draw, dates=False)


def equity(found: Equity, name: str) -> str:
    """The account beside buying and holding, cash, and the band of random policies; log returns in per cent."""

    def draw(axes: Any) -> None:
        if len(found.band_ts) and len(found.band) >= 2:
            at = _days(found.band_ts)
            for edge in range(len(found.band) // 2):
                axes.fill_between(
                    at, found.band[edge] * 100, found.band[-1 - edge] * 100, color=COLOURS["band"], linewidth=0,
                    alpha=0.5, zorder=1, label="random policies" if edge == 0 else None,
                )  # fmt: skip
        axes.axhline(0, color=COLOURS["soft"], linewidth=0.8, zorder=2, label="cash")
        for line, colour, width, label in (
            (found.hold, "ink", 0.8, "buy and hold"),
            (found.account, "accent", 1.4, "account"),
        ):
            ts, values = thin(found.ts, line * 100)
            axes.plot(_days(ts), values, color=COLOURS[colour], linewidth=width, label=label, zorder=3)
        axes.set_ylabel("sum of log returns, %")
        _legend(axes, reverse=True)

    return _figure(name, draw)


def rolling(lines: Sequence[Rolling], events: Sequence[Event], name: str) -> str:
    """Skill over a moving window in per cent, with what happened to the models as vertical lines."""

    def draw(axes: Any) -> None:
        axes.axhline(0, color=COLOURS["soft"], linewidth=0.8, zorder=2)
        seen: list[NDArray[np.float64]] = []
        for line, (colour, dashes) in zip(lines, (("accent", "-"), ("ink", "-"), ("soft", (0, (3, 1)))), strict=False):
            ts, skill = thin(line.ts, line.skill * 100)
            axes.plot(_days(ts), skill, color=COLOURS[colour], linestyle=dashes, linewidth=1.1, zorder=3,
                      label=line.target)  # fmt: skip
            seen.append(skill)
        for kind, (colour, dashes, width) in MARKS.items():
            at = sorted({event.ts for event in events if event.kind == kind})
            for index, moment in enumerate(_days(np.array(at, np.int64))):
                axes.axvline(moment, color=COLOURS[colour], linestyle=dashes, linewidth=width, zorder=1,
                             label=HAPPENED[kind] if index == 0 else None)  # fmt: skip
        values = np.concatenate(seen) if seen else np.empty(0)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = np.quantile(values, (0.01, 0.99))
            room = 0.1 * max(high - low, 1.0)
            axes.set_ylim(min(low, 0) - room, max(high, 0) + room)
        axes.set_ylabel("skill, %")
        _legend(axes)

    return _figure(name, draw)


def thin(
    ts: NDArray[np.int64], values: NDArray[np.float64], most: int = MOST_POINTS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A line of at most `most` points that looks the same: of each piece its first, lowest, highest and last point."""
    if len(ts) <= most:
        return ts, values
    kept = {0, len(ts) - 1}
    for piece in np.array_split(np.arange(len(ts)), max(1, most // 4)):
        finite = piece[np.isfinite(values[piece])]
        kept |= {int(piece[0]), int(piece[-1])}
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
    chosen = np.array(sorted(kept))
    return ts[chosen], values[chosen]


def binned(
    said: NDArray[np.float64], came: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per bin of equally many forecasts: mean forecast, mean of what came, its quartiles; (b,) each, b <= `BINS`."""
    values, which = np.unique(said, return_inverse=True)
    if len(values) <= BINS:
        bins = [np.flatnonzero(which == at) for at in range(len(values))]
    else:
        bins = [piece for piece in np.array_split(np.argsort(said, kind="stable"), BINS) if len(piece)]
    rows = [(said[b].mean(), came[b].mean(), *np.quantile(came[b], (0.25, 0.75))) for b in bins]
    middle, mean, below, above = np.array(rows, np.float64).reshape(-1, 4).T
    return middle, mean, below, above


def _reach(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.005, 0.995))
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.1
    return float(low - room), float(high + room)


def _positions(axes: Any, series: SeriesReport) -> None:
    """A strip along the bottom: where the account is long and short."""
    if not series.signals or not len(series.ts):
        return
    moments = [signal.ts for signal in series.signals] + [int(series.ts[-1])]
    for signal, until in zip(series.signals, moments[1:], strict=True):
        if signal.position and until > signal.ts:
            begin, end = _days(np.array([signal.ts, until], np.int64))
            colour = COLOURS["accent" if signal.position > 0 else "warn"]
            axes.axvspan(begin, end, ymax=0.035, color=colour, linewidth=0, alpha=0.75, zorder=1)


def _legend(axes: Any, *, reverse: bool = False) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, borderaxespad=0.1,
        handlelength=1.4, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip


def _plain_log_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _days(ts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Matplotlib's own time: days since the epoch; given as numbers, so that no date of today is looked up."""
    return ts / (86_400 * 1e9)


def _figure(name: str, draw: Callable[[Any], None], *, dates: bool = True) -> str:
    check_plots()
    import matplotlib
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    settings = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 8,
        "axes.unicode_minus": True,
        "axes.edgecolor": COLOURS["faint"],
        "axes.labelcolor": COLOURS["soft"],
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": COLOURS["ink"],
        "xtick.color": COLOURS["faint"],
        "ytick.color": COLOURS["faint"],
        "xtick.labelcolor": COLOURS["soft"],
        "ytick.labelcolor": COLOURS["soft"],
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.fontsize": 8,
        "path.simplify": True,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        draw(axes)
        if dates:
            locator = AutoDateLocator(minticks=4, maxticks=9)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
            axes.margins(x=0.01)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    return _for_page(out.getvalue(), name)


def _for_page(svg: str, name: str) -> str:
    """Take what matplotlib writes down to an element that can stand in a page beside others."""
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None, "matplotlib writes one"
    body = svg[svg.index(">", box.end()) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    for variable, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: _LONG.sub(r"\1", found[0]), body)
    return f'<svg {box[0]} aria-hidden="true">' + re.sub(r"\n\s*", "\n", body).strip()


#: Decimals beyond a hundredth of a point.
_LONG = re.compile(r"(\d\.\d{2})\d+")
