"""Training: `train`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import MODELS, JsonOption, Session, command
from streams.errors import Red10Error

if TYPE_CHECKING:
    from modelstore.manifest import Manifest
    from ops.embedded import Roles
    from streams.ids import StreamID
    from streams.records import TableRequest, TrainingRequest, TrainingResult


class BadUse(Red10Error):
    """Options that don't go together."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=MODELS)(train)


def train(
    session: Session,
    what: Annotated[
        list[str],
        typer.Argument(metavar="SERIES|FILE...", help="Series, such as SPY:1m, or tables.", show_default=False),
    ],
    *,
    targets: Annotated[
        str | None,
        typer.Option("--targets", metavar="LIST", help="Such as close_5,high_5; of a table columns; left out: all."),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="Use no bar that ends later; left out: all bars.")
    ] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="Name of the table; left out: the file's.")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Post the requests and end.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0, metavar="S", help="Seconds to wait at most.")] = 600.0,
    json: JsonOption = False,
) -> None:
    """Ask for models to be trained, of series or of tables, and wait for the results.

    A trainer does the work: `red10 up` runs one. Of a table (CSV or Parquet) each column becomes the target of a model
    that predicts it from the others. Exit code 2 if a request was refused or failed.
    """
    from consumers.requests import post_requests, wait_results
    from ops.helper_trainer import trainer_if_alone
    from streams.clients import connect, translate
    from streams.tenant import open_tenant

    wanted = _requests(what, targets, as_of, table)
    settings, origins = session.load()
    # The models are looked at only where they are known to be: not on a client that has but the streams' URL.
    both = settings.streams_url is None or settings.models_url is not None
    with (
        session.roles(settings, "streams", *(("models",) if both else ())) as roles,
        connect(roles.streams_url, block_ms=1000) as client,
        translate(roles.streams_url),
    ):
        keys = open_tenant(client, settings, origins).keys
        ids = post_requests(client, keys, wanted)
        posted = {entry: name for entry, name in zip(ids, what, strict=True)}
        if no_wait:
            _show_posted(session, posted, json)
            return
        session.say(f"{len(posted)} training requests posted; waiting for a trainer (Ctrl-C: they stay posted)")
        with trainer_if_alone(roles, origins, session.say):
            results = wait_results(
                client,
                keys,
                posted,
                timeout_s=timeout,
                progress=None if json else lambda r: session.say(_result_line(r)),
            )
        if json:
            session.json([{"request": str(request), **result.model_dump()} for request, result in results.items()])
        else:
            _show_results(session, results.values())
            if both:
                _show_worth(session, results.values(), roles, settings.tenant)
    if any(result.status != "done" for result in results.values()):
        raise typer.Exit(2)


def _requests(
    what: Sequence[str], targets: str | None, as_of: str | None, table: str | None
) -> list[TrainingRequest | TableRequest]:
    import time

    from consumers.datasets import KINDS
    from ops.commands.times import parse_time
    from streams.records import TableRequest, TrainingRequest
    from streams.series import Series

    names = tuple(name.strip() for name in targets.split(",") if name.strip()) if targets else None
    if names == ("all",):
        names = None
    through = parse_time(as_of, time.time_ns()) if as_of else None
    files = [text for text in what if text.lower().endswith(KINDS)]
    if files and as_of:
        raise BadUse(f"--as-of is for series; the rows of {files[0]} have no time")
    if table is not None and len(files) != 1:
        raise BadUse("--table names the table of one file: red10 train iris.csv --table flowers")
    return [
        TableRequest(kind="train_table", dataset=_path_of(text), table=table, targets=names)
        if text in files
        else TrainingRequest(kind="train", series=str(Series.parse(text)), targets=names, as_of=through, id=None)
        for text in what
    ]


def _path_of(text: str) -> str:
    """A file that is here by its whole path; one that only trainers see as it was written."""
    from pathlib import Path

    path = Path(text)
    return str(path.absolute()) if path.exists() else text


def _show_posted(session: Session, posted: Mapping[StreamID, str], json: bool) -> None:
    if json:
        session.json([{"request": str(request), "series": series} for request, series in posted.items()])
        return
    for request, series in posted.items():
        session.line(f"{series}: request {request}")


def _result_line(result: TrainingResult) -> str:
    return f"{result.series}: {result.status}{'; ' + result.reason if result.reason else ''}"


def _show_results(session: Session, results: Iterable[TrainingResult]) -> None:
    rows = [(r.series, r.status, r.bars, len(r.versions), f"{r.seconds:.1f}") for r in results]
    session.table(("series", "status", "bars", "versions", "s"), rows, right=("bars", "versions", "s"))


def _show_worth(session: Session, results: Iterable[TrainingResult], roles: Roles, tenant: str) -> None:
    """What each model of a table is worth on rows that were held out."""
    from modelstore.store import ModelStore
    from streams.clients import connect, translate
    from streams.keys import Keys

    digests = [digest for result in results if ":" not in result.series for digest in result.versions]
    if not digests:
        return
    with connect(roles.models_url) as client, translate(roles.models_url):
        manifests = [ModelStore(client, Keys(tenant)).manifest(digest) for digest in digests]
    session.line("")
    columns = ("model", "on rows held out", "naive", "skill")
    session.table(columns, [_worth(manifest) for manifest in manifests], right=("on rows held out", "naive", "skill"))
    session.say(f"\nPredict with one: red10 predict {manifests[-1].name} {_example(manifests[-1])}")


def _worth(manifest: Manifest) -> tuple[str, str, str, str | None]:
    """A model, its figure on the rows held out, the naive forecast's, and the skill."""
    figures = manifest.metrics
    skill = figures.get("skill")
    kind = "accuracy" if "accuracy" in figures else "rmse"
    mine, naive = figures.get(kind), figures.get(f"naive_{kind}")
    shown = ["-" if value is None else f"{kind} {value:.3g}" for value in (mine, naive)]
    return manifest.name, shown[0], shown[1], None if skill is None else f"{skill:.2f}"


def _example(manifest: Manifest) -> str:
    """The first golden row, as arguments."""
    from shlex import quote

    features = manifest.feature_set
    cells = []
    for name, value in zip(features["columns"], manifest.golden["rows"][0], strict=True):
        known = features["categories"].get(name)
        text = "" if value is None else known[int(value)] if known else f"{value:.6g}"
        cells.append(quote(f"{name}={text}"))
    return " ".join(cells)
