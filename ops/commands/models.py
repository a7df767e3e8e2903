"""Models: `model list|show`, `release list|show`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands.session import MODELS, JsonOption, Session, command

if TYPE_CHECKING:
    import redis

    from modelstore.release import Release
    from modelstore.verdicts import Noted
    from modelstore.version import VersionInfo
    from streams.keys import Keys


def register(app: typer.Typer) -> None:
    """Add the commands."""
    model = typer.Typer(help="Models and their versions.", no_args_is_help=True)
    release = typer.Typer(help="Releases: complete sets of what the aliases point at.", no_args_is_help=True)
    app.add_typer(model, name="model", rich_help_panel=MODELS)
    app.add_typer(release, name="release", rich_help_panel=MODELS)
    command(model, "list")(model_list)
    command(model, "show")(model_show)
    command(release, "list")(release_list)
    command(release, "show")(release_show)


@contextmanager
def _store(session: Session) -> Iterator[tuple[redis.Redis, Keys]]:
    """A client of the models role and the tenant's keys."""
    from streams.clients import connect, translate
    from streams.keys import Keys

    settings, _ = session.load()
    with session.roles(settings, "models") as roles, connect(roles.models_url) as client, translate(roles.models_url):
        yield client, Keys(settings.tenant)


def model_list(
    session: Session,
    prefix: Annotated[str, typer.Argument(help="Only names that begin so, such as SPY:1m/.")] = "",
    *,
    json: JsonOption = False,
) -> None:
    """List models: how many versions, and which one is champion."""
    from modelstore.names import CHAMPION
    from modelstore.releases import Releases
    from modelstore.store import ModelStore
    from ops.commands.times import show_ms

    rows: list[dict[str, Any]] = []
    with _store(session) as (client, keys):
        store, releases = ModelStore(client, keys), Releases(client, keys)
        current = releases.current()
        aliases = releases.get(current.id).aliases if current else {}
        names = store.names(prefix)
        found = store.infos([aliases[name, CHAMPION] for name in names if (name, CHAMPION) in aliases])
        champions = {info.name: info for info in found if info is not None}
        for name, count in zip(names, _version_counts(client, keys, names), strict=True):
            champion = champions.get(name)
            rows.append(
                {
                    "name": name,
                    "versions": count,
                    "champion": champion.number if champion else None,
                    "digest": champion.digest if champion else None,
                    "created": champion.created_ms if champion else None,
                }
            )
    if json:
        session.json(rows)
    elif rows:
        shown = [
            (r["name"], r["versions"], r["champion"], r["digest"] and r["digest"][:12], show_ms(r["created"]))
            for r in rows
        ]
        columns = ("model", "versions", "champion", "digest", "stored (UTC)")
        session.table(columns, shown, right=("versions", "champion"))
    elif prefix:
        session.text(f"No model begins with {prefix!r}. `red10 model list` shows all.")
    else:
        session.text("No models yet. `red10 train SERIES` asks for some; `red10 demo` makes some on real data.")


def _version_counts(client: redis.Redis, keys: Keys, names: Sequence[str]) -> list[int]:
    """How many versions each model has; its hash holds one field more, the last number given."""
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hlen(keys.model(name))
        return [length - 1 for length in pipe.execute()]


def model_show(
    session: Session,
    ref: Annotated[
        str, typer.Argument(help="NAME, NAME@ALIAS, NAME@NUMBER, NAME@sha:DIGEST or DIGEST.", show_default=False)
    ],
    *,
    json: JsonOption = False,
) -> None:
    """Show one version: what it was trained on, how it compares to naive, what was decided about it and why."""
    from modelstore.releases import Releases
    from modelstore.store import ModelStore
    from modelstore.verdicts import Verdicts
    from ops.commands.times import show_ns

    with _store(session) as (client, keys):
        store, releases = ModelStore(client, keys), Releases(client, keys)
        digest = store.resolve(ref)
        info, manifest = store.info(digest), store.manifest(digest)
        current = releases.current()
        aliases = [
            alias for (_, alias), to in (releases.get(current.id).aliases if current else {}).items() if to == digest
        ]
        decided = [
            noted for noted in Verdicts(client, keys).of(info.name) if digest in (noted.note.version, noted.note.over)
        ]
    value = manifest.model_dump(mode="json")
    if json:
        mine = {"digest": digest, "number": info.number, "created": info.created_ms, "aliases": aliases}
        session.json({**mine, "manifest": value, "verdicts": [_verdict(noted) for noted in reversed(decided)]})
        return
    session.table(("", ""), _version_rows(info, aliases, value))
    if decided:
        rows = [
            (show_ns(n.note.at or None), n.note.verdict, n.note.version[:12], n.note.reason) for n in reversed(decided)
        ]
        session.text("")
        session.table(("event time (UTC)", "verdict", "version", "reason"), rows)


def _verdict(noted: Noted) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(noted.note), "release": noted.release, "created": noted.created_ms}


def _version_rows(info: VersionInfo, aliases: list[str], manifest: dict[str, Any]) -> list[tuple[str, object]]:
    from ops.commands.times import show_ms, show_ns

    rows: list[tuple[str, object]] = [
        ("model", info.name),
        ("version", info.number),
        ("digest", info.digest),
        ("aliases", ", ".join(sorted(aliases)) or None),
        ("stored (UTC)", show_ms(info.created_ms)),
        ("trained through (UTC)", show_ns(manifest["trained_through"] or None)),
    ]
    for part in ("dataset", "target", "parameters", "metrics", "libraries"):
        rows += [(f"{part}: {name}", _value(name, value)) for name, value in manifest[part].items()]
    features = manifest["feature_set"]
    rows.append(("features", f"{features.get('name')} version {features.get('version')}: {_count(features)} columns"))
    return rows


def _count(features: Mapping[str, Any]) -> int:
    return len(features.get("columns", ()))


def _value(name: str, value: object) -> object:
    """A manifest's value for people: times as times, figures short."""
    from ops.commands.times import show_ns

    if name in ("from", "through") and isinstance(value, int):
        return show_ns(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def release_list(
    session: Session,
    *,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many, the newest first.")] = 20,
    json: JsonOption = False,
) -> None:
    """List the switches of releases, the newest first; the first one is in force."""
    from dataclasses import asdict

    from modelstore.releases import Releases
    from ops.commands.times import show_ms

    with _store(session) as (client, keys):
        releases = Releases(client, keys)
        current, history = releases.current(), releases.history(count)
    if json:
        number = current.number if current else None
        session.json([{**asdict(switch), "in_force": switch.number == number} for switch in history])
    elif history:
        rows = [(s.number, s.id[:12], show_ms(s.created_ms), s.who, s.why) for s in history]
        session.table(("number", "release", "since (UTC)", "who", "why"), rows, right=("number",))
    else:
        session.text("No release yet: the first training makes one (`red10 train SERIES`).")


def release_show(
    session: Session,
    release: Annotated[str, typer.Argument(help="Number or beginning of the id; left out: the one in force.")] = "",
    *,
    json: JsonOption = False,
) -> None:
    """Show what the aliases of a release point at."""
    from modelstore.errors import NotFound
    from modelstore.releases import Releases
    from modelstore.store import ModelStore

    with _store(session) as (client, keys):
        releases = Releases(client, keys)
        current = releases.current()
        if not release and current is None:
            raise NotFound("no release is in force yet: the first training makes one (`red10 train SERIES`)")
        wanted = releases.find(release) if release else (current.id if current else "")
        found = releases.get(wanted)
        infos = ModelStore(client, keys).infos(sorted(set(found.aliases.values())))
    numbers = {info.digest: info.number for info in infos if info is not None}
    in_force = current is not None and current.id == found.id
    rows = _alias_rows(found, numbers)
    if json:
        session.json({"id": found.id, "in_force": in_force, "aliases": rows})
        return
    session.text(f"release {found.id}{' (in force)' if in_force else ''}: {len(rows)} aliases\n")
    shown = [(row["name"], row["alias"], row["number"], row["digest"][:12]) for row in rows]
    session.table(("model", "alias", "version", "digest"), shown, right=("version",))


def _alias_rows(release: Release, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"name": name, "alias": alias, "number": numbers.get(digest), "digest": digest}
        for (name, alias), digest in sorted(release.aliases.items())
    ]
