"""What `red10 demo` shows: live progress, the table at the end, and the commands to try next."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from ops.demo import LEASE_MS
from ops.demo_outcome import Outcome, splits_text
from producers.bars import TICKS_PER_BAR
from producers.controls import FLIPS_AT


class _CutText(TextColumn):
    """Text cut to what the other columns leave, which must not be able to shrink (`no_wrap`)."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class LiveDisplay:
    """Progress on a terminal; on anything else, a line per phase when it first begins."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            SpinnerColumn(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=15, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            _CutText("{task.description}", table_column=Column()),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._said: set[str] = set()

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._progress.stop()

    def phase(self, text: str) -> None:
        """What is being done now."""
        if self._live:
            self._progress.update(self._task, description=text)
        elif text not in self._said:
            self._console.print(text, markup=False, style="dim", soft_wrap=True)
        self._said.add(text)

    def advance(self, ticks: int, total: int) -> None:
        """How far the replay is."""
        self._progress.update(self._task, completed=ticks, total=total)

    def say(self, text: str) -> None:
        """A message that stays on the screen."""
        self._console.print(text, markup=False)


def opening(console: Console) -> None:
    """What the demo is about to do."""
    console.print("[bold]Red10 demo[/bold]: ticks in, signals out, on an embedded Redis\n", highlight=False)
    console.print(
        f"Daily bars of five stocks, 2000 to 2013, [bold]replayed as ticks[/bold]: each bar becomes {TICKS_PER_BAR},\n"
        "open, low, high, close (open, high, low, close if it fell). Prices are adjusted for splits:\n"
        f"{splits_text()}.\n",
        highlight=False,
    )
    console.print(
        "With them go two series that are made up: [bold]RANDOM[/bold], in which there is nothing to\n"
        f"find, and [bold]PLANTED[/bold], with a relation that turns round in {FLIPS_AT:%B %Y}.\n",
        highlight=False,
    )


def closing(console: Console, outcome: Outcome) -> None:
    """The table and what it says."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("series", "ticks", "bars", "models", "proven", "trained", "judged", "signals"):
        table.add_column(column, justify="left" if column == "series" else "right")
    for series, count in sorted(outcome.series.items()):
        cells = (getattr(count, name) for name in _TOTALS)
        table.add_row(series, *(f"{cell:,}" for cell in cells))
    total = [sum(getattr(count, name) for count in outcome.series.values()) for name in _TOTALS]
    table.add_section()
    table.add_row("all", *(f"{number:,}" for number in total), style="bold")
    console.print(table)
    for sentence in outcome.headline:
        _say(console, f"[bold]·[/bold] {escape(sentence)}")
    console.print()
    for series, count in sorted(outcome.series.items()):
        if count.refused:
            _say(console, f"[bold]{series}[/bold] has no models: {escape(count.refused)}")
    _say(
        console,
        f"{sum(count.trainings for count in outcome.series.values())} trainings, {outcome.requested} of them asked for "
        f"by the monitor, made {outcome.versions:,} model versions in {outcome.training_s:.1f} s. "
        f"At full speed {outcome.replayed:,} ticks went through in {outcome.replay_s:.1f} s: "
        f"{outcome.replayed / outcome.replay_s:,.0f} ticks/s, waiting included.",
    )
    crash, latency, tiling = outcome.crash, outcome.latency, outcome.tiling
    if crash is not None:
        who = " and ".join(crash.killed)
        _say(
            console,
            f"{who[0].upper()}{who[1:]} were killed (SIGKILL) on the way: back in {crash.back_s:.1f} s with all "
            f"{crash.models} models, {LEASE_MS / 1000:g} s of it for the dead one's lease to run out.",
        )
    if latency is not None:
        _say(
            console,
            f"From tick to signal at {latency.rate:,.0f} ticks/s: p50 {latency.p50_ms:.1f} ms, "
            f"p99 {latency.p99_ms:.1f} ms ({latency.outputs:,} bar closes; predictions and signals come together).",
        )
    _say(
        console,
        f"Recounted from the input: {tiling.ticks:,} ticks, {tiling.dead} set aside, [bold]{tiling.lost} lost, "
        f"{tiling.doubled} counted twice[/bold]. All in {outcome.seconds:.1f} s.\n",
    )
    # On a line of its own: with words beside it it would not fit 80 columns.
    console.print(f"digest of all signals and outcomes\n[bold]{outcome.digest}[/bold]", highlight=False, soft_wrap=True)
    console.print("(the same in every run on the same versions of the libraries)\n", style="dim")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False)


_TOTALS = ("ticks", "bars", "models", "proven", "trainings", "judged", "signals")


def next_commands(tenant: str, data_dir: Path) -> list[tuple[str, str]]:
    """(command, what it shows), as they can be typed where the demo ran."""
    red10 = executable()
    where = f" --tenant {tenant}"
    if data_dir != Path("red10-data"):
        where += f" --data-dir {data_dir}"
    return [
        (f"{red10} report{where}", "the report once more, from what is in Redis"),
        (f"{red10} signals -n 10{where}", "the last signals"),
        (f"{red10} predictions --symbol AAPL -n 3{where}", "what the models said of AAPL"),
        (f"{red10} model show AAPL:1d/close_10{where}", "one of the models"),
        (f"{red10} release list{where}", "what was put in force when"),
        (f"{red10} status{where}", "partitions, lag, releases"),
        (f"{red10} keys AAPL{where}", "lines for redis-cli"),
    ]


def executable() -> str:
    """How `red10` was called: by name if that finds this one, else by its path from here."""
    here = Path(sys.argv[0])
    if here.name != "red10":
        return f"{Path(sys.executable).name} -m red10"
    found = shutil.which("red10")
    if found is not None and Path(found).resolve() == here.resolve():
        return "red10"
    relative = os.path.relpath(here)
    return str(here) if relative.startswith("..") else relative


def print_report(console: Console, report: Path) -> None:
    """Where the report is, on a line of its own, so that it can be copied whole."""
    console.print("The report, with plots: open it in a browser", highlight=False)
    console.print(f"  {report}\n", highlight=False, soft_wrap=True)


def print_next(console: Console, commands: list[tuple[str, str]]) -> None:
    """The commands to try next, each on a line of its own, so that it can be copied whole."""
    console.print("Everything stays and can be looked at:", highlight=False)
    for command, what in commands:
        console.print(f"  [dim]# {what}[/dim]\n  {command}", highlight=False, soft_wrap=True)
