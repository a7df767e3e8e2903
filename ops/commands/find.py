"""Finding versions: `model search`, and the index that it looks through: `model reindex`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands.session import JsonOption, Session, command
from ops.commands.store import open_store, progress

if TYPE_CHECKING:
    from modelstore.search import Found

#: Metrics that are shown where versions have them.
SHOWN = ("skill", "rounds")


def register(model: typer.Typer) -> None:
    """Add the commands to `model`."""
    command(model, "search")(model_search)
    command(model, "reindex")(model_reindex)


def model_search(
    session: Session,
    *,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Series or table; * and ? stand for any: SPY:*.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", metavar="NAME", help="Target, such as close_*.")] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="WORD, KEY or KEY=VALUE; may be repeated.")
    ] = None,
    where: Annotated[
        str, typer.Option("--where", metavar="TEXT", help="Conditions on metrics: skill > 0.02 and rounds <= 40.")
    ] = "",
    alias: Annotated[str | None, typer.Option("--alias", metavar="NAME", help="Only what it points at.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Stored then or later: 2d (ago), 2024-05-01.")
    ] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TIME", help="Stored earlier than that.")] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="NAME", help="A metric, created or trained_through; the largest first.")
    ] = "created",
    ascending: Annotated[bool, typer.Option("--ascending", help="The smallest first.")] = False,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many at most.")] = 50,
    show: Annotated[
        list[str] | None, typer.Option("--show", metavar="METRIC", help="Show this too; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Search for versions; everything given must hold. Metrics are those that `model show` shows."""
    import time

    from modelstore.search import Query
    from ops.commands.times import parse_time

    now = time.time_ns()
    query = Query(
        dataset=dataset,
        target=target,
        tags=tuple(tags or ()),
        where=where,
        since_ms=parse_time(since, now) // 1_000_000 if since else None,
        before_ms=parse_time(before, now) // 1_000_000 if before else None,
        alias=alias,
        sort=sort,
        ascending=ascending,
        limit=count,
    )
    with open_store(session) as (store, _):
        missing = store.index.missing()
        if missing:
            session.say(f"{missing:,} versions are not indexed yet; that is done first, once")
            store.index.complete(progress=progress(session, "indexed"))
        found = store.search(query, show=(*SHOWN, *(show or ())))
    if json:
        session.json([_row(one) for one in found])
    elif found:
        _show(session, found)
    else:
        session.text("No version fulfils this. `red10 model list` shows what there is.")


def _row(one: Found) -> dict[str, Any]:
    return {
        "name": one.info.name,
        "number": one.info.number,
        "digest": one.info.digest,
        "created": one.info.created_ms,
        "trained_through": one.trained_through_ms,
        "metrics": dict(one.metrics),
    }


def _show(session: Session, found: list[Found]) -> None:
    from ops.commands.times import show_ms

    metrics = list(found[0].metrics)
    rows = [
        (
            one.info.name,
            one.info.number,
            one.info.digest[:12],
            show_ms(one.info.created_ms),
            *(None if value is None else f"{value:.4g}" for value in one.metrics.values()),
        )
        for one in found
    ]
    session.table(("model", "version", "digest", "stored (UTC)", *metrics), rows, right=("version", *metrics))


def model_reindex(
    session: Session,
    *,
    anew: Annotated[bool, typer.Option("--anew", help="Drop the index first and make all of it anew.")] = False,
    json: JsonOption = False,
) -> None:
    """Put versions into the index that it lacks. Search does so by itself; stopped, it goes on where it was."""
    with open_store(session, changes=True) as (store, _):
        added = store.index.complete(anew=anew, progress=None if json else progress(session, "looked at"))
        total = store.count()
    if json:
        session.json({"indexed": added, "versions": total})
    else:
        session.text(f"{added:,} of {total:,} versions were put into the index.")
