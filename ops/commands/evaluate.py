"""Judging: `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import MODELS, JsonOption, Session, command
from producers.errors import BadTable

if TYPE_CHECKING:
    from ops.evaluation import OnProgress
    from ops.report_model import Equity, Report, SeriesReport
    from producers.bars import Bars
    from streams.series import Interval


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=MODELS)(evaluate)


def evaluate(
    session: Session,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Bars: CSV (.csv, .csv.gz) or Parquet.", show_default=False)
    ],
    *,
    symbol: Annotated[
        str | None, typer.Option("--symbol", help="Symbol of all rows, for files without such a column.")
    ] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Put rows in order of time instead of refusing them.")] = False,
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Time zone of stamps that name none.")] = "UTC",
    interval: Annotated[
        str | None, typer.Option("--interval", help="Length of the bars in the files; left out: found.")
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step", min=1, metavar="BARS", help="Train every so many bars; left out: every 250, or 16 times."
        ),
    ] = None,
    controls: Annotated[
        bool,
        typer.Option("--controls", help="Judge two made-up series as well, in one of which there is nothing to find."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where the report goes; left out: into the data directory."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Judge models and signals on history, walking forward.

    Models are trained as a tenant with these settings would do it, on the bars before, every so many bars; their
    forecasts are held against what came and against naive forecasts, the signals against holding, doing nothing and
    luck. Prints tables and writes a report. Needs no Redis.
    """
    from ops.evaluation import evaluate_all, series_of
    from ops.report_evaluation import report_of
    from ops.report_html import write_report
    from producers.controls import planted, random_walk
    from streams.series import Interval

    length = Interval.parse(interval) if interval else None
    tables: list[Bars] = []
    for file in files:
        session.say(f"reading {file}")
        tables.append(_read(file, symbol=symbol, tz=tz, sort=sort, interval=length))
    tables += [random_walk(), planted()] if controls else []
    series = [one for table in tables for one in series_of(table)]
    twice = next((one.name for at, one in enumerate(series) if one.name in [other.name for other in series[:at]]), None)
    if twice is not None:
        raise BadTable(str(files[0]), f"{twice} occurs in more than one table: evaluate one at a time")
    settings, _ = session.load()
    with _progress(session) as on_progress:
        evaluations = list(evaluate_all(series, settings, step=step, on_progress=on_progress))
    names = ", ".join(file.name for file in files)
    report = report_of(evaluations, "Walk through history", f"{names}; trained every so many bars on the bars before")
    path = out or settings.data_dir / "red10-evaluation.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(report, path)
    if json:
        session.json(as_json(report, path))
        return
    for one in report.series:
        _show(session, one)
    for expected in report.expectations:
        holds = {True: "as it must be", False: "NOT as it must be", None: "cannot be told"}[expected.holds]
        session.text(f"{expected.what}: {expected.should}; found: {expected.found}: {holds}")
    session.line(f"report: {path}")


def _read(path: Path, *, symbol: str | None, tz: str, sort: bool, interval: Interval | None) -> Bars:
    from producers.bars import Bars
    from producers.tables import read_table

    table = read_table(path, symbol=symbol, tz=tz, sort=sort, interval=interval)
    if not isinstance(table, Bars):
        raise BadTable(str(path), "holds ticks; evaluate takes bars: open, high, low, close and volume")
    return table


@contextmanager
def _progress(session: Session) -> Iterator[OnProgress]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    console = session.err
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trainings", total=None)

        def show(series: str, done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=series)

        yield show


#: `n` forecasts judged; shares in per cent; the interval covers the skill with 95 %.
COLUMNS = ("target", "n", "skill %", "from", "to", "against", "hits %", "up %", "trees")


def _show(session: Session, series: SeriesReport) -> None:
    from ops.report_words import plain

    def share(value: float | None) -> str | None:
        return None if value is None else plain(100 * value)

    trainings = sum(event.kind == "retrain" for event in series.events)
    session.text(f"\n{series.name}: {len(series.ts)} bars, {trainings} trainings")
    if not any(cell.n for cell in series.cells):
        session.text("too few bars to train on and judge: give a longer history, or set min_rows lower")
        return
    rows = [
        (
            cell.target, cell.n, share(cell.skill), share(cell.low), share(cell.high), cell.naive, share(cell.hits),
            share(cell.up), None if cell.trees is None else f"{cell.trees:.0f}",
        )
        for cell in series.cells
    ]  # fmt: skip
    session.table(COLUMNS, rows, right=[name for name in COLUMNS if name not in ("target", "against")])
    if series.equity is not None:
        _show_account(session, series.equity)


def _show_account(session: Session, equity: Equity) -> None:
    from ops.report_words import gained, percent

    rows = [
        (
            figures.name, gained(figures.total), gained(figures.annual), percent(figures.drawdown),
            percent(figures.exposure), None if figures.turnover is None else f"{figures.turnover:.1f}",
        )
        for figures in equity.figures
    ]  # fmt: skip
    columns = ("on paper", "made", "a year", "drawdown", "in market", "traded a year")
    session.table(columns, rows, right=columns[1:])
    if equity.percentile is not None:
        session.text(
            f"{percent(equity.percentile, 0)} of {equity.policies:,} random policies that are as often in the market "
            "and trade as much made less."
        )


def as_json(report: Report, path: Path) -> dict[str, object]:
    """The figures of a report, without its curves."""
    from dataclasses import asdict

    def one(series: SeriesReport) -> dict[str, object]:
        equity = series.equity
        return {
            "series": series.name,
            "kind": series.kind,
            "bars": len(series.ts),
            "targets": [asdict(cell) for cell in series.cells],
            "paper": [asdict(figures) for figures in equity.figures] if equity is not None else [],
            "luck": equity.percentile if equity is not None else None,
            "events": [asdict(event) for event in series.events],
        }

    expectations: Sequence[object] = [asdict(expected) for expected in report.expectations]
    return {"series": [one(series) for series in report.series], "controls": expectations, "report": str(path)}
