"""What the models can and cannot do, on real series and on the controls: writes docs/results.md, whatever comes out.

    python -m benchmarks results [--data DIR] [--out FILE] [--step BARS] [--newest BARS]

Judged are the sample's stocks and the two controls, and from DIR, where they are there, the daily and 5-minute bars of
five funds (`FUNDS`; not part of the project). Everything is a function of the data, the settings' defaults and the
versions of the libraries. The defaults were picked from a small sweep on the stocks and on made-up series; nobody had
looked at the funds before.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ops.evaluation import SeriesBars, evaluate_all, series_of
from ops.report_evaluation import report_of
from ops.report_model import Cell, Colour, Report, SeriesReport, colour_map
from ops.report_words import CALLED, CAVEATS, SIGNS, gained, headline, percent, plain, when
from producers.bars import Bars
from producers.controls import planted, random_walk
from producers.sample import load_stocks
from producers.tables import read_table
from streams.settings import Settings, load_settings

#: File -> what it is, and the zone of its stamps.
FUNDS = {
    "etf5_daily_1998_2018.csv.gz": ("Daily bars of five funds", "UTC"),
    "etf5_5min_2025H2.csv.gz": ("5-minute bars of five funds", "America/New_York"),
}

OPENING = """# What was found

Written by `python -m benchmarks results`; not edited by hand. Every series is walked through in time: models are
trained with the default settings on the bars before, every 250 bars or 16 times, and judged on the bars that follow.
*Skill* is the share of squared error that they save against the stricter of two naive forecasts: the one that they
start from, and the kind that turned out best over all of these bars. Below zero is worse than naive. The interval
covers the skill of the one cell with 95 %, overlapping labels allowed for. ▲ {better}, ▼ {worse}:
corrected for the many cells of a map (5 % false ones among the marked). A model without trees *is*
the naive forecast: skill 0. The default settings were picked from a small sweep on the stocks below and on made-up
series, so of the stocks' figures expect a little less; nobody had looked at the funds before."""


@dataclass(frozen=True, slots=True)
class Part:
    """Series that are reported together; their cells are coloured as one family."""

    title: str
    series: tuple[SeriesBars, ...]


def main(arguments: Sequence[str]) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks results", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, help="directory with the funds' bars")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"), help="file to write")
    parser.add_argument("--step", type=int, help="train every so many bars; left out: every 250, or 16 times")
    parser.add_argument("--newest", type=int, help="only so many newest bars of each series, to try it out")
    given = parser.parse_args(arguments)
    settings, _ = load_settings()
    pages = []
    for part in parts(given.data, given.newest):
        begun = time.perf_counter()
        found = evaluate_all(
            part.series,
            settings,
            step=given.step,
            on_progress=lambda series, done, total: print(f"\r{done}/{total} {series:20}", end="", file=sys.stderr),
        )
        report = report_of(list(found), part.title)
        seconds = time.perf_counter() - begun
        print(f"\r{part.title}: {seconds:.0f} s{'':30}", file=sys.stderr)
        pages.append(section(report))
    given.out.write_text(
        "\n".join([*opening(settings, given.newest), *(line for page in pages for line in page)]) + "\n"
    )
    print(given.out)


def parts(data: Path | None, newest: int | None) -> list[Part]:
    """What is judged, in order."""
    tables: dict[str, list[Bars]] = {
        "The controls": [random_walk(), planted()],
        "The sample's stocks, daily bars": list(load_stocks().values()),
    }
    for name, (title, tz) in FUNDS.items():
        if data is not None and (data / name).exists():
            table = read_table(data / name, tz=tz)
            assert isinstance(table, Bars), f"{name} holds bars"
            tables[title] = [table]
    return [
        Part(title, tuple(_newest(one, newest) for table in found for one in series_of(table)))
        for title, found in tables.items()
    ]


def _newest(series: SeriesBars, count: int | None) -> SeriesBars:
    if count is None:
        return series
    return SeriesBars(series.name, series.bars.last(count), series.ends[-count:])


def opening(settings: Settings, newest: int | None) -> list[str]:
    """How the page begins: what was done, and with what."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("xgboost-cpu", "numpy", "scipy"))
    note = f"\n**A trial on the newest {newest:,} bars of each series, not a result.**" if newest else ""
    return [
        *OPENING.format(better=CALLED["predictable"], worse=CALLED["worse"]).splitlines(),
        note,
        f"{libraries}; Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores. Settings: "
        f"rounds {settings.rounds}, depth {settings.max_depth}, eta {settings.learning_rate}, "
        f"min_child_weight {settings.min_child_weight:g}; policy {settings.policy.partition(':')[2]}.",
        "",
        *(f"- {caveat}" for caveat in CAVEATS),
        "",
    ]  # fmt: skip


def section(report: Report) -> list[str]:
    """The lines of one part of the page."""
    lines = [f"## {report.title}", ""]
    if report.real:
        lines += [*(f"- {sentence}" for sentence in headline(report)), ""]
    lines += _expectations(report)
    groups = [report.real] if report.real else [(one,) for one in report.controls]
    for group in groups:
        colours = colour_map(group)
        for one in group:
            lines += _map(one, colours.colours)
    lines += _hits(report.series) + _accounts(report.series)
    return lines


def _expectations(report: Report) -> list[str]:
    if not report.expectations:
        return []
    called = {True: "yes", False: "**NO**", None: "cannot be told"}
    rows = [
        (expected.what, expected.should, expected.found, called[expected.holds]) for expected in report.expectations
    ]
    return _table(("control", "should be", "was", "as it must be"), rows)


def _map(one: SeriesReport, colours: dict[tuple[str, str], Colour]) -> list[str]:
    """Column × horizon of one series."""
    horizons = sorted({cell.horizon for cell in one.cells})
    days = one.name.endswith(":1d")
    rows = []
    for column in dict.fromkeys(cell.column for cell in one.cells):
        cells = {cell.horizon: cell for cell in one.cells if cell.column == column}
        rows.append(
            (column, *(_cell(cells[at], colours[one.name, cells[at].target]) for at in horizons if at in cells))
        )
    retrained = [event for event in one.events if event.kind == "retrain"]
    span = f"{when(int(one.ts[0]), days=days)} to {when(int(one.ts[-1]), days=days)}" if len(one.ts) else "none"
    title = f"### {one.name}: {len(one.ts):,} bars, {span}, {len(retrained)} trainings"
    return [title, "", *_table(("", *(f"{horizon} bars" for horizon in horizons)), rows)]


def _cell(cell: Cell, colour: Colour) -> str:
    if cell.skill is None:
        return "–"
    sure = "" if cell.low is None or cell.high is None else f" ({_percent(cell.low)} … {_percent(cell.high)})"
    return f"{SIGNS[colour]} {percent(cell.skill)}{sure}<br>{cell.naive}".strip()


def _percent(share: float) -> str:
    return plain(share * 100)


def _hits(series: Sequence[SeriesReport]) -> list[str]:
    """Sign of the close, beside always-up."""
    horizons = sorted({cell.horizon for one in series for cell in one.cells if cell.column == "close"})
    rows = []
    for one in series:
        cells = {cell.horizon: cell for cell in one.cells if cell.column == "close"}
        rows.append(
            (
                one.name,
                *(f"{percent(cells[at].hits)} / {percent(cells[at].up)}" if at in cells else "–" for at in horizons),
            )
        )
    title = "Signs of the close guessed right / by always-up on the same bars (forecasts of exactly 0 left out):"
    return [title, "", *_table(("", *(f"{horizon} bars" for horizon in horizons)), rows)]


def _accounts(series: Sequence[SeriesReport]) -> list[str]:
    """The paper accounts beside what they are held against."""
    rows = []
    for one in series:
        if one.equity is None:
            continue
        own, hold = one.equity.figures[0], one.equity.figures[1]
        band = one.equity.band
        lucky = "–" if not band.size else f"{gained(float(band[0, -1]))} … {gained(float(band[-1, -1]))}"
        rows.append(
            (
                one.name,
                f"{gained(own.total)} ({gained(own.annual)})",
                f"{gained(hold.total)} ({gained(hold.annual)})",
                lucky,
                percent(one.equity.percentile, 0),
                f"{percent(own.drawdown, 0)} / {percent(hold.drawdown, 0)}",
                percent(own.exposure, 0),
                "–" if own.turnover is None else f"{own.turnover:.1f}",
            )
        )
    head = (
        "", "made (a year)", "by holding (a year)", "90 % of random policies", "of them less", "drawdown / holding",
        "in the market", "traded a year",
    )  # fmt: skip
    title = (
        "On paper, after cost; doing nothing makes 0. 1,000 random policies, as often in the market, as many trades:"
    )
    return [title, "", *_table(head, rows)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table and a blank line."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]
