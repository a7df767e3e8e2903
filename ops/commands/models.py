"""Models: `train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import MODELS, JsonOption, Session, command

if TYPE_CHECKING:
    from streams.ids import StreamID
    from streams.records import TrainingResult


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=MODELS)(train)


def train(
    session: Session,
    series: Annotated[list[str], typer.Argument(help="Series, such as SPY:1m.", show_default=False)],
    *,
    targets: Annotated[
        str | None, typer.Option("--targets", metavar="LIST", help="Targets, such as close_5,high_5; left out: all.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="Use no bar that ends later; left out: all bars.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Post the requests and end.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="S", help="Seconds to wait at most.")] = 600.0,
    json: JsonOption = False,
) -> None:
    """Ask for models to be trained, and wait for the results.

    A trainer does the work: `red10 up` runs one. Exit code 2 if a request was refused or failed.
    """
    import time

    from consumers.requests import post_requests, wait_results
    from ops.commands.times import parse_time
    from streams.clients import connect, translate
    from streams.records import TrainingRequest
    from streams.series import Series
    from streams.tenant import open_tenant

    names = tuple(name.strip() for name in targets.split(",") if name.strip()) if targets else None
    through = parse_time(as_of, time.time_ns()) if as_of else None
    wanted = [
        TrainingRequest(kind="train", series=str(Series.parse(text)), targets=names, as_of=through, id=None)
        for text in series
    ]
    settings, origins = session.load()
    with (
        session.roles(settings, "streams") as roles,
        connect(roles.streams_url, block_ms=1000) as client,
        translate(roles.streams_url),
    ):
        keys = open_tenant(client, settings, origins).keys
        ids = post_requests(client, keys, wanted)
        posted = {entry: request.series for entry, request in zip(ids, wanted, strict=True)}
        if no_wait:
            _show_posted(session, posted, json)
            return
        session.say(f"{len(posted)} training requests posted; waiting for a trainer (Ctrl-C: they stay posted)")
        results = wait_results(
            client, keys, posted, timeout_s=timeout, progress=None if json else lambda r: session.say(_result_line(r))
        )
    if json:
        session.json([{"request": str(request), **result.model_dump()} for request, result in results.items()])
    else:
        rows = [(r.series, r.status, r.bars, len(r.versions), f"{r.seconds:.1f}") for r in results.values()]
        session.table(("series", "status", "bars", "versions", "s"), rows, right=("bars", "versions", "s"))
    if any(result.status != "done" for result in results.values()):
        raise typer.Exit(2)


def _show_posted(session: Session, posted: Mapping[StreamID, str], json: bool) -> None:
    if json:
        session.json([{"request": str(request), "series": series} for request, series in posted.items()])
        return
    for request, series in posted.items():
        session.line(f"{series}: request {request}")


def _result_line(result: TrainingResult) -> str:
    return f"{result.series}: {result.status}{'; ' + result.reason if result.reason else ''}"
