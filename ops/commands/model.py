"""Looking at models and their versions: `model list|show|diff`; the rest of `model` is added from its modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.commands import change, export, find
from ops.commands.session import MODELS, JsonOption, Session, command
from ops.commands.store import RefArgument, open_store

if TYPE_CHECKING:
    import redis

    from modelstore.verdicts import Noted
    from modelstore.version import VersionInfo
    from streams.keys import Keys


def register(app: typer.Typer) -> None:
    """Add the commands."""
    model = typer.Typer(help="Models and their versions.", no_args_is_help=True)
    app.add_typer(model, name="model", rich_help_panel=MODELS)
    command(model, "list")(model_list)
    command(model, "show")(model_show)
    command(model, "diff")(model_diff)
    find.register(model)
    change.register(model)
    export.register(model)


def model_list(
    session: Session,
    prefix: Annotated[str, typer.Argument(help="Only names that begin so, such as SPY:1m/.")] = "",
    *,
    json: JsonOption = False,
) -> None:
    """List models: how many versions, and which one is champion."""
    from modelstore.names import CHAMPION
    from ops.commands.times import show_ms

    rows: list[dict[str, Any]] = []
    with open_store(session) as (store, _):
        aliases, names = store.aliases(), store.names(prefix)
        found = store.infos([aliases[name, CHAMPION] for name in names if (name, CHAMPION) in aliases])
        champions = {info.name: info for info in found if info is not None}
        for name, count in zip(names, _version_counts(store.client, store.keys, names), strict=True):
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


def model_show(session: Session, ref: RefArgument, *, json: JsonOption = False) -> None:
    """Show one version: what it was trained on, how it compares to naive, what was decided about it and why."""
    from modelstore.verdicts import Verdicts
    from ops.commands.times import show_ns

    with open_store(session) as (store, _):
        digest = store.resolve(ref)
        info, manifest = store.info(digest), store.manifest(digest)
        aliases = [alias for (_, alias), to in store.aliases().items() if to == digest]
        tags = store.tags.of([digest])[0]
        decided = [
            noted
            for noted in Verdicts(store.client, store.keys).of(info.name)
            if digest in (noted.note.version, noted.note.over)
        ]
    value = manifest.model_dump(mode="json")
    if json:
        mine = {"digest": digest, "number": info.number, "created": info.created_ms, "aliases": aliases, "tags": tags}
        session.json({**mine, "manifest": value, "verdicts": [_verdict(noted) for noted in reversed(decided)]})
        return
    session.table(("", ""), _version_rows(info, aliases, tags, value))
    if decided:
        rows = [
            (show_ns(n.note.at or None), n.note.verdict, n.note.version[:12], n.note.reason) for n in reversed(decided)
        ]
        session.text("")
        session.table(("event time (UTC)", "verdict", "version", "reason"), rows)


def _verdict(noted: Noted) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(noted.note), "release": noted.release, "created": noted.created_ms}


def _version_rows(
    info: VersionInfo, aliases: list[str], tags: Mapping[str, str], manifest: dict[str, Any]
) -> list[tuple[str, object]]:
    from modelstore.tags import tag_texts
    from ops.commands.times import show_ms, show_ns

    rows: list[tuple[str, object]] = [
        ("model", info.name),
        ("version", info.number),
        ("digest", info.digest),
        ("aliases", ", ".join(sorted(aliases)) or None),
        ("tags", ", ".join(tag_texts(tags)) or None),
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


def model_diff(
    session: Session,
    ref: RefArgument,
    other: Annotated[str, typer.Argument(help="Another version, written the same way.", show_default=False)],
    *,
    json: JsonOption = False,
) -> None:
    """Show what differs between the manifests of two versions: data, parameters, metrics."""
    with open_store(session) as (store, _):
        digests = [store.resolve(text) for text in (ref, other)]
        manifests = [flatten(store.manifest(digest).model_dump(mode="json")) for digest in digests]
    fields = [
        name for name in dict.fromkeys([*manifests[0], *manifests[1]]) if not name.startswith(("golden", "folds"))
    ]
    rows = [
        {"field": name, "first": manifests[0].get(name), "second": manifests[1].get(name)}
        for name in fields
        if manifests[0].get(name) != manifests[1].get(name)
    ]
    if json:
        session.json({"first": digests[0], "second": digests[1], "fields": rows})
    elif digests[0] == digests[1]:
        session.text(f"Both are version {digests[0][:12]}.")
    elif rows:
        shown = [
            (row["field"], *(_value(str(row["field"]).rpartition(".")[2], row[side]) for side in ("first", "second")))
            for row in rows
        ]
        session.table(("field", digests[0][:12], digests[1][:12]), shown)
    else:
        session.text("Their manifests are equal: what differs is in the trees.")


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, the names joined by dots; of a list of names its length is told."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= flatten(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = inner
    return found
