"""Outputs: `signals` and `predictions`, those that exist and those to come.

Without `--since` the newest are shown; `--follow` goes on with what comes. A line per record, so that long listings and
endless ones look alike and can be cut by other tools.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ops.commands.session import DATA, JsonOption, Session, command
from ops.commands.times import parse_time, show_ns

if TYPE_CHECKING:
    from ops.embedded import Roles
    from streams.records import Prediction, Record, Signal
    from streams.settings import Settings
    from streams.tenant import Tenant
    from streams.wanted import Since

OutputKind = Literal["signals", "predictions"]
#: How many are shown without `--since` and `-n`.
NEWEST = 20
#: Most horizons that a line of predictions shows.
SHOWN_HORIZONS = 6

SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="All from this event time on: start, now, 2h, 2024-05-01, epoch."),
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")]
SymbolOption = Annotated[
    list[str] | None, typer.Option("--symbol", "-s", help="Only this symbol or series; may be repeated.")
]
CountOption = Annotated[
    int | None,
    typer.Option("-n", "--count", min=1, help=f"How many, the newest; {NEWEST} unless said otherwise."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, panel=DATA)(signals)
    command(app, panel=DATA)(predictions)


def signals(
    session: Session,
    *,
    since: SinceOption = None,
    follow: FollowOption = False,
    symbol: SymbolOption = None,
    count: CountOption = None,
    json: JsonOption = False,
) -> None:
    """Show signals: changes of target positions.

    With --json one array, or one object per line with --follow.
    """
    _show(session, "signals", since, follow, symbol, count, json)


def predictions(
    session: Session,
    *,
    since: SinceOption = None,
    follow: FollowOption = False,
    symbol: SymbolOption = None,
    count: CountOption = None,
    json: JsonOption = False,
) -> None:
    """Show predictions: forecasts made at each bar's close.

    The table shows the close, as change in percent per horizon in bars; * marks bars that the model was trained on.
    --json has every target: one array, or one object per line with --follow.
    """
    _show(session, "predictions", since, follow, symbol, count, json)


def _show(
    session: Session,
    kind: OutputKind,
    since: str | None,
    follow: bool,
    symbols: list[str] | None,
    count: int | None,
    json: bool,
) -> None:
    from ops.outputs import need_tenant
    from streams.clients import connect, translate

    settings, _ = session.load()
    begin = _since(since)
    with session.roles(settings, "streams") as roles:
        with connect(roles.streams_url) as client, translate(roles.streams_url):
            tenant = need_tenant(client, settings.tenant)
        records = _records(roles, tenant, kind, begin, follow, symbols or None, count)
        if json:
            _print_json(session, records, lines=follow)
        elif not _print_lines(session, kind, tenant, records) and not follow:
            session.text(_nothing(kind, settings, since, symbols))


def _since(text: str | None) -> Since | None:
    import time

    if text is None or text == "start":
        return None if text is None else "start"
    return "now" if text == "now" else parse_time(text, time.time_ns())


def _records(
    roles: Roles,
    tenant: Tenant,
    kind: OutputKind,
    since: Since | None,
    follow: bool,
    symbols: list[str] | None,
    count: int | None,
) -> Iterator[Record]:
    """The newest ones or all since a time, then, if wanted, what comes."""
    from collections import deque

    from ops.outputs import read_tail
    from streams.clients import connect, translate
    from streams.subscribe import Subscriber

    if since is None:
        with connect(roles.streams_url) as client, translate(roles.streams_url):
            tail = read_tail(client, tenant, kind, symbols, count or NEWEST)
        yield from tail.records
        since, count = tail.position, None
        if not follow:
            return
    if count is not None:
        with Subscriber(roles.settings, kind=kind, symbols=symbols, since=since, follow=False) as subscriber:
            yield from deque(subscriber, count)
            since = subscriber.position
        if not follow:
            return
    with Subscriber(roles.settings, kind=kind, symbols=symbols, since=since, follow=follow) as subscriber:
        yield from subscriber


def _print_json(session: Session, records: Iterable[Record], *, lines: bool) -> None:
    """One array, written as it is read, or one object per line."""
    import orjson

    if lines:
        for record in records:
            session.line(orjson.dumps(record.model_dump(mode="json")).decode())
        return
    before = "["
    for record in records:
        session.line(before + orjson.dumps(record.model_dump(mode="json")).decode())
        before = ","
    session.line("[]" if before == "[" else "]")


def _print_lines(session: Session, kind: OutputKind, tenant: Tenant, records: Iterable[Record]) -> bool:
    """Print a line per record, the header before the first; whether there was one."""
    from streams.records import Prediction, Signal

    horizons = tenant.pipeline.horizons[:SHOWN_HORIZONS]
    column = "close" if "close" in tenant.pipeline.columns else tenant.pipeline.columns[0]
    names = [f"{column}_{horizon}" for horizon in horizons]
    header = _signal_header() if kind == "signals" else _prediction_header(column, horizons)
    some = False
    for record in records:
        if not some:
            session.line(header)
            some = True
        if isinstance(record, Signal):
            session.line(signal_line(record))
        elif isinstance(record, Prediction):
            session.line(prediction_line(record, names))
    return some


def _signal_header() -> str:
    return f"{'time (UTC)':<19}  {'series':<13}  side  {'to':>2}  {'price':>10}  {'return':>7}  {'str.':>5}  proven"


def signal_line(signal: Signal) -> str:
    """A signal in 80 columns: time, series, side, new position, price, expected return, strength, proven."""
    return (
        f"{show_ns(signal.ts)}  {signal.series:<13}  {signal.side:<4}  {signal.position:>+2d}  {signal.price:>10.6g}  "
        f"{percent(signal.expected_return):>7}  {signal.strength:>5.1f}  {'yes' if signal.proven else 'no'}"
    )


def _prediction_header(column: str, horizons: Iterable[int]) -> str:
    return f"{'time (UTC)':<19}  {f'series ({column})':<15}" + "".join(f"{f'+{horizon}':>7}" for horizon in horizons)


def prediction_line(prediction: Prediction, names: Iterable[str]) -> str:
    """A prediction in 80 columns: time, series, the forecast change per horizon."""
    values = dict(zip(prediction.targets, prediction.values, strict=True))
    known = dict(zip(prediction.targets, prediction.in_sample, strict=True))
    cells = (percent(values.get(name), "*" if known.get(name) else "") for name in names)
    return f"{show_ns(prediction.ts)}  {prediction.series:<15}" + "".join(f"{cell:>7}" for cell in cells)


def percent(log_ratio: float | None, mark: str = "") -> str:
    """A log ratio as a change in percent; a dash for what is not known."""
    return "-" if log_ratio is None else f"{100 * math.expm1(log_ratio):+.2f}{mark}"


def _nothing(kind: OutputKind, settings: Settings, since: str | None, symbols: list[str] | None) -> str:
    if since is not None or symbols is not None:
        return f"No such {kind} in tenant {settings.tenant}. Without --since and --symbol the newest of all are shown."
    return (
        f"No {kind} in tenant {settings.tenant} yet: they need a worker (`red10 up`), ticks (`red10 publish`, "
        "`red10 replay`) and models (`red10 train`). `red10 status` shows how far that is; `red10 demo` does it all."
    )
