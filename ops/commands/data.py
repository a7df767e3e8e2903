"""Data: `publish`, `replay`, `signals`, `predictions`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from ops.commands.session import DATA, JsonOption, Session, command
from streams.errors import Red10Error

if TYPE_CHECKING:
    from producers.replay import Progress as OnProgress
    from producers.replay import Replayed
    from streams.columns import Ticks

    #: Replays tables, told of progress and slept with.
    Run: TypeAlias = Callable[[list[Ticks], OnProgress, Callable[[float], None]], Replayed]


class BadUse(Red10Error):
    """Options that don't go together."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, panel=DATA, negative=True)(publish)
    command(app, panel=DATA)(replay)


def publish(
    session: Session,
    symbol: Annotated[str | None, typer.Argument(help="Symbol, such as SPY.", show_default=False)] = None,
    price: Annotated[float | None, typer.Argument(help="Price, above zero.", show_default=False)] = None,
    *,
    size: Annotated[float, typer.Option("--size", help="Size, zero or more.")] = 0.0,
    ts: Annotated[
        str, typer.Option("--ts", metavar="TIME", help="Event time: now, 2024-05-01T14:30:00Z, epoch s or ns.")
    ] = "now",
    bid: Annotated[float | None, typer.Option("--bid", help="Best bid.")] = None,
    ask: Annotated[float | None, typer.Option("--ask", help="Best ask.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="The venue's own id of the trade.")] = None,
    clock: Annotated[
        str | None,
        typer.Option(
            "--clock",
            metavar="TIME",
            help="Instead of a tick: say that nothing earlier will follow, which closes bars of quiet symbols.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Publish one tick, or the clock.

    SYMBOL PRICE publishes a tick and prints the id of its entry.
    """
    import time

    from ops.commands.times import parse_time, show_ns
    from producers.publisher import TickPublisher

    if (clock is None) == (symbol is None or price is None):
        raise BadUse("publish takes SYMBOL and PRICE, or --clock TIME: red10 publish SPY 512.5")
    at = parse_time(ts if clock is None else clock, time.time_ns())
    settings, origins = session.load()
    with (
        session.roles(settings, "streams") as roles,
        TickPublisher(roles.settings, origins=origins) as publisher,
    ):
        if clock is not None:
            publisher.clock(at)
            what: dict[str, object] = {"clock": at, "partitions": publisher.tenant.partitions}
            text = f"clock {show_ns(at)} UTC in {publisher.tenant.partitions} partitions"
        else:
            assert symbol is not None, "checked above"
            assert price is not None, "checked above"
            entry = publisher.publish(symbol, price, size, at, bid, ask, id)
            partition = publisher.tenant.partition_of(symbol)
            what = {"id": str(entry), "symbol": symbol, "partition": partition, "ts": at}
            text = f"{entry} in partition {partition}"
    if json:
        session.json(what)
    else:
        session.line(text)


def replay(
    session: Session,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV (.csv, .csv.gz) or Parquet.", show_default=False)
    ],
    *,
    speed: Annotated[
        str, typer.Option("--speed", metavar="N|max", help="Multiple of real time, or max for as fast as possible.")
    ] = "max",
    symbol: Annotated[
        str | None, typer.Option("--symbol", help="Symbol of all rows, for files without such a column.")
    ] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Put rows in order of time instead of refusing them.")] = False,
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Time zone of stamps that name none.")] = "UTC",
    interval: Annotated[
        str | None, typer.Option("--interval", help="Length of the bars in the files; left out: found.")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="TIME", help="First event time.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Event time to stop before.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Publish under a name: the same command goes on where it stopped, or was killed."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Publish ticks or bars from files, merged by time.

    Each file is checked as a whole first; nothing of it is published if a row is wrong. A bar (open, high, low, close,
    volume) becomes four ticks.
    """
    import time

    from ops.commands.times import parse_time
    from producers.publisher import TickPublisher
    from producers.replay import first_new
    from producers.replay import replay as run
    from producers.tables import load_ticks
    from streams.series import Interval

    twice = next((file for number, file in enumerate(files) if _same(file, files[:number])), None)
    if twice is not None:
        raise BadUse(f"{twice} is named twice, so its ticks would count twice: name it once")
    if name is not None and start is not None:
        raise BadUse(
            f"--start with --name would pass over ticks that were never published: {name} names one sequence, which "
            "the same command goes on with by itself. Leave --start out, or take another name"
        )
    factor = _speed(speed)
    length = Interval.parse(interval) if interval else None
    now = time.time_ns()
    bounds = [None if text is None else parse_time(text, now) for text in (start, until)]
    tables = []
    for file in files:
        session.say(f"reading {file}")
        tables.append(load_ticks(file, symbol=symbol, tz=tz, sort=sort, interval=length))
    settings, origins = session.load()
    with (
        session.roles(settings, "streams") as roles,
        TickPublisher(roles.settings, origins=origins, publisher=name) as publisher,
    ):
        chosen = [table.slice(*bounds) for table in tables]
        paced_from = None
        if name is not None and factor is not None:
            paced_from = first_new(chosen, publisher.positions(), publisher.tenant.partition_of)
        done = _with_progress(
            session,
            chosen,
            lambda tables, on_progress, sleep: run(
                publisher, tables, speed=factor, paced_from=paced_from, on_progress=on_progress, sleep=sleep
            ),
            named=name is not None,
        )
        intervals = publisher.tenant.pipeline.parsed_intervals
        numbering = publisher.numbering
    if json:
        from dataclasses import asdict

        session.json({**asdict(done), "passed_over": numbering.passed_over, "lost": numbering.lost})
        return
    _say_done(session, done, _symbols(tables), intervals[-1].ns, time.time_ns())
    if numbering.passed_over:
        session.say(f"{numbering.passed_over} of them were in the log already, under the name {name}.")
    if numbering.lost or numbering.resets:
        session.say("Redis lost ticks on the way that it had acknowledged (deleted, or restored from an older state).")


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        return float(text.removesuffix("x"))
    except ValueError:
        raise BadUse(f"--speed takes a number above zero or max, not {text!r}: red10 replay --speed 60 FILE") from None


def _same(file: Path, others: list[Path]) -> bool:
    return file.resolve() in [other.resolve() for other in others]


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one breaks off at once."""
    stop = threading.Event()

    def first(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _with_progress(session: Session, tables: list[Ticks], run: Run, *, named: bool) -> Replayed:
    """Run with a progress bar; broken off, say how far it came.

    A Ctrl-C takes effect where all ticks up to some time are in the log and none after it, so that `--start` can go on
    there; a second one takes effect at once.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ops.commands.times import show_ns

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
    console = session.err
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    total = sum(map(len, tables))
    task = progress.add_task("ticks", total=total)
    at: tuple[int, int] | None = None
    whole = False

    def break_off() -> None:
        nonlocal whole
        whole = at is not None
        raise KeyboardInterrupt

    def show(done: int, _total: int, ts: int) -> None:
        nonlocal at
        at = done, ts
        progress.update(task, completed=done, description=f"{show_ns(ts)}")
        if stop.is_set() and done == sum(len(table.slice(None, ts + 1)) for table in tables):
            break_off()

    def sleep(seconds: float) -> None:
        # Ticks of one time are due together, so none of them is missing here.
        if stop.wait(seconds):
            break_off()

    try:
        with _asked_to_stop() as stop, progress:
            return run(tables, show, sleep)
    except KeyboardInterrupt:
        done, ts = at or (0, 0)
        if named:
            session.say(f"Broken off after about {done} of {total} ticks. To go on, repeat the same command")
        elif whole:
            session.say(
                f"Broken off after {done} of {total} ticks, all up to {show_ns(ts)} UTC. "
                f"To go on, repeat the command with --start {ts + 1}"
            )
        else:
            session.say(f"Broken off in the midst of sending: {done} of {total} ticks or some more are in the log.")
        raise


def _symbols(tables: list[Ticks]) -> int:
    return len({name for table in tables for name in table.names})


def _say_done(session: Session, done: Replayed, symbols: int, longest_ns: int, now_ns: int) -> None:
    from ops.commands.times import show_ns

    if done.last_ts is None:
        session.text("0 ticks: no row lies between --start and --until.")
        return
    rate = f", {done.ticks / done.seconds:,.0f} ticks/s" if done.seconds > 0 else ""
    session.text(
        f"{done.ticks} ticks of {symbols} symbols, {show_ns(done.first_ts)} to {show_ns(done.last_ts)} UTC, "
        f"in {done.seconds:.1f} s{rate}"
    )
    end = (done.last_ts // longest_ns + 1) * longest_ns
    # Said before its time, a clock would make all ticks until then too late.
    when = "" if end <= now_ns else f" said after {show_ns(end)} UTC"
    session.say(f"The last bars stay open until later ticks or a clock{when} close them: `red10 publish --clock {end}`")
