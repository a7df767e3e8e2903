"""Releases: `release list|show|diff|promote|rollback`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands.session import MODELS, JsonOption, Session, command
from ops.commands.store import WhyOption, open_store, save, whoami

if TYPE_CHECKING:
    from modelstore.release import Release, ReleaseInfo
    from modelstore.store import ModelStore


def register(app: typer.Typer) -> None:
    """Add the commands."""
    release = typer.Typer(help="Releases: complete sets of what the aliases point at.", no_args_is_help=True)
    app.add_typer(release, name="release", rich_help_panel=MODELS)
    command(release, "list")(release_list)
    command(release, "show")(release_show)
    command(release, "diff")(release_diff)
    command(release, "promote")(release_promote)
    command(release, "rollback")(release_rollback)


def release_list(
    session: Session,
    *,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many, the newest first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the switches of releases, the newest first, and candidates that were never in force."""
    from dataclasses import asdict

    from ops.commands.times import show_ms

    with open_store(session) as (store, _):
        releases = store.releases
        current, history, candidates = releases.current(), releases.history(count), releases.candidates()
    if json:
        number = current.number if current else None
        waiting = [
            {"number": None, "id": release, "created_ms": stored, "in_force": False} for release, stored in candidates
        ]
        session.json([*waiting, *({**asdict(s), "in_force": s.number == number} for s in history)])
        return
    if candidates:
        rows = [(release[:12], show_ms(stored)) for release, stored in candidates[:count]]
        session.table(("candidate", "stored (UTC)"), rows)
        session.text("")
    if history:
        switches = [(s.number, s.id[:12], show_ms(s.created_ms), s.who, s.why, s.snapshot) for s in history]
        columns = ("number", "release", "since (UTC)", "who", "why", "snapshot")
        shown = len(columns) if any(s.snapshot for s in history) else len(columns) - 1
        session.table(columns[:shown], [row[:shown] for row in switches], right=("number",))
    else:
        session.text("No release yet: the first training makes one (`red10 train SERIES`).")


def release_show(
    session: Session,
    release: Annotated[str, typer.Argument(help="Number or beginning of the id; left out: the one in force.")] = "",
    *,
    json: JsonOption = False,
) -> None:
    """Show what the aliases of a release point at."""
    with open_store(session) as (store, _):
        current = store.releases.current()
        found = _release(store, release, current)
        infos = store.infos(sorted(set(found.aliases.values())))
    numbers = {info.digest: info.number for info in infos if info is not None}
    in_force = current is not None and current.id == found.id
    rows = _alias_rows(found, numbers)
    if json:
        session.json({"id": found.id, "in_force": in_force, "aliases": rows})
        return
    session.text(f"release {found.id}{' (in force)' if in_force else ''}: {len(rows)} aliases\n")
    shown = [(row["name"], row["alias"], row["number"], row["digest"][:12]) for row in rows]
    session.table(("model", "alias", "version", "digest"), shown, right=("version",))


def _release(store: ModelStore, text: str, current: ReleaseInfo | None) -> Release:
    """The release that a text means; of an empty one the release in force."""
    from modelstore.errors import NotFound

    if text:
        return store.releases.get(store.releases.find(text))
    if current is None:
        raise NotFound("no release is in force yet: the first training makes one (`red10 train SERIES`)")
    return store.releases.get(current.id)


def _alias_rows(release: Release, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"name": name, "alias": alias, "number": numbers.get(digest), "digest": digest}
        for (name, alias), digest in sorted(release.aliases.items())
    ]


def release_diff(
    session: Session,
    first: Annotated[
        str, typer.Argument(help="Number or beginning of the id; left out: the one before that in force.")
    ] = "",
    second: Annotated[str, typer.Argument(help="Written the same way; left out: the one in force.")] = "",
    *,
    json: JsonOption = False,
) -> None:
    """Show which aliases differ between two releases."""
    from modelstore.release import Aliases, difference

    with open_store(session) as (store, _):
        current = store.releases.current()
        after = _release(store, second, current)
        # Before the first release there was nothing.
        start = first or (current.parent if current is not None and current.parent is not None else "")
        before: Aliases = _release(store, start, current).aliases if start else {}
        changed = difference(before, after.aliases)
        infos = store.infos(sorted({d for key in changed for d in (before.get(key), changed[key]) if d is not None}))
    numbers = {info.digest: info.number for info in infos if info is not None}
    rows = [
        {"name": name, "alias": alias, "before": before.get((name, alias)), "after": digest}
        for (name, alias), digest in sorted(changed.items())
    ]
    if json:
        session.json(rows)
    elif rows:
        shown = [
            (row["name"], row["alias"], _version(row["before"], numbers), _version(row["after"], numbers))
            for row in rows
        ]
        session.table(("model", "alias", "before", "after"), shown)
    else:
        session.text("They are equal.")


def _version(digest: str | None, numbers: Mapping[str, int]) -> str | None:
    """A version for people: its number and the beginning of its digest."""
    if digest is None:
        return None
    return f"{numbers[digest]} ({digest[:12]})" if digest in numbers else f"{digest[:12]} (removed)"


def release_promote(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            help="A version, such as SPY:1m/close_5@challenger; or number or id of a release.", show_default=False
        ),
    ],
    *,
    parent: Annotated[
        str | None,
        typer.Option(
            "--parent", metavar="RELEASE", help="Only if this one is in force; left out: the one that is now."
        ),
    ] = None,
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Make a version champion of its model, or put a release in force as a whole.

    If somebody else puts a release in force at the same time, one of both is told what the other changed, and to look
    again.
    """
    with open_store(session, changes=True) as (store, _):
        expected = store.releases.find(parent) if parent is not None else None
        _tell_and_save(session, store, store.promote(what, who=whoami(), why=why, parent=expected), json)


def release_rollback(
    session: Session,
    release: Annotated[
        str | None, typer.Argument(help="Number or beginning of the id; left out: the one before.", show_default=False)
    ] = None,
    *,
    why: WhyOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be put in force.")] = False,
    json: JsonOption = False,
) -> None:
    """Put an earlier release in force, as a whole and by one switch."""
    with open_store(session, changes=not dry_run) as (store, _):
        if dry_run:
            _plan_rollback(session, store, release, json)
        else:
            _tell_and_save(session, store, store.rollback(release, who=whoami(), why=why or "rollback"), json)


def _plan_rollback(session: Session, store: ModelStore, text: str | None, json: bool) -> None:
    from modelstore.promotion import rollback_target
    from modelstore.release import Aliases, difference

    to = store.releases.find(text) if text is not None else rollback_target(store.releases)
    before: Aliases = store.aliases()
    changed = len(difference(before, store.releases.get(to).aliases))
    if json:
        session.json({"id": to, "changed": changed, "dry_run": True})
    else:
        session.text(f"Release {to[:12]} would be put in force: {changed} aliases would change.")


def _tell_and_save(session: Session, store: ModelStore, info: ReleaseInfo, json: bool) -> None:
    """Tell people at once what scorers follow from now on; the save of a large store takes seconds."""
    from dataclasses import asdict

    if not json:
        session.text(f"Release {info.number} ({info.id[:12]}) is in force.")
    save(store)
    if json:
        session.json(asdict(info))
