"""Changing what is said of versions, and removing them: `model tag|alias|rm|prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import JsonOption, Session, command
from ops.commands.store import KeepReleasesOption, RefArgument, WhyOption, open_store, progress, save, whoami

if TYPE_CHECKING:
    from modelstore.store import ModelStore


def register(model: typer.Typer) -> None:
    """Add the commands to `model`."""
    command(model, "tag")(model_tag)
    command(model, "alias")(model_alias)
    command(model, "rm")(model_rm)
    command(model, "prune")(model_prune)


def model_tag(
    session: Session,
    ref: RefArgument,
    tags: Annotated[
        list[str] | None, typer.Argument(help="Words, or KEY=VALUE; none: only show them.", show_default=False)
    ] = None,
    *,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="A word or key to remove; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Put tags on a version, or remove them: deprecated, env=prod. Search finds versions by them."""
    from modelstore.tags import tag_texts

    with open_store(session, changes=bool(tags or remove)) as (store, _):
        digest = store.resolve(ref)
        if tags or remove:
            store.tags.change(digest, tags or (), remove or ())
            save(store)
        found = store.tags.of([digest])[0]
    if json:
        session.json({"digest": digest, "tags": found})
    else:
        session.text(f"{digest[:12]}: {', '.join(tag_texts(found)) or 'no tags'}")


def model_alias(
    session: Session,
    alias: Annotated[str, typer.Argument(help="NAME@ALIAS.", show_default=False)],
    version: Annotated[
        str | None,
        typer.Argument(help="Its number, latest, another alias, or digits of its digest.", show_default=False),
    ] = None,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Point an alias at a version, in a new release. Scorers serve what champion points at."""
    from modelstore.errors import BadQuery
    from modelstore.names import ModelName, check_alias

    text, at, name = alias.rpartition("@")
    if not at or (version is None) == (not remove):
        raise BadQuery("write NAME@ALIAS VERSION, such as SPY:1m/close_5@champion 3; or NAME@ALIAS --remove")
    model = str(ModelName.parse(text))
    check_alias(name)
    with open_store(session, changes=True) as (store, _):
        digest = _version_of(store, model, version) if version is not None else None
        info = store.set_alias(model, name, digest, who=whoami(), why=why)
        save(store)
    if json:
        session.json({"name": model, "alias": name, "digest": digest, "release": info.id, "number": info.number})
    else:
        told = f"points at {digest[:12]}" if digest is not None else "is gone"
        session.text(f"{model}@{name} {told} since release {info.number}.")


def _version_of(store: ModelStore, model: str, text: str) -> str:
    """The digest of a model's version: a reference in full, or what follows the @ of one, or digits of the digest."""
    from modelstore.errors import NotFound
    from modelstore.names import is_prefix

    if "/" in text:
        return store.resolve(text)
    if is_prefix(text) and not text.isdigit():
        try:
            return store.resolve(f"{model}@sha:{text}")
        except NotFound:
            pass
    return store.resolve(f"{model}@{text}")


def model_rm(
    session: Session,
    refs: Annotated[list[str], typer.Argument(help="Versions, such as SPY:1m/close_5@3.", show_default=False)],
    *,
    keep_releases: KeepReleasesOption = None,
    json: JsonOption = False,
) -> None:
    """Remove versions. What an alias of a kept release, or a running import, needs is refused."""
    with open_store(session, changes=True, keep_releases=keep_releases) as (store, settings):
        removed = store.remove(refs, keep_releases=settings.keep_releases)
        save(store)
    if json:
        session.json([{"name": info.name, "number": info.number, "digest": info.digest} for info in removed])
    else:
        for info in removed:
            session.line(f"removed {info.name} version {info.number} ({info.digest[:12]})")


def model_prune(
    session: Session,
    *,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="N", help="Versions of each model that stay at least.")
    ] = None,
    keep_releases: KeepReleasesOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    json: JsonOption = False,
) -> None:
    """Remove old versions: all but the last of each model and what kept releases and running imports need."""
    with open_store(session, changes=not dry_run, keep_versions=keep, keep_releases=keep_releases) as (store, settings):
        found = store.prune(
            settings.keep_versions,
            keep_releases=settings.keep_releases,
            dry_run=dry_run,
            progress=None if json else progress(session, "removed"),
        )
        if not dry_run:
            save(store)
    if json:
        gone = [{"name": name, "digests": list(digests)} for name, digests in found.versions.items()]
        session.json({"dry_run": dry_run, "versions": gone, "releases": found.releases, "pinned": found.pinned})
        return
    if dry_run:
        rows = [(name, len(digests)) for name, digests in sorted(found.versions.items())]
        if rows:
            session.table(("model", "versions"), rows, right=("versions",))
    count = sum(map(len, found.versions.values()))
    verb = "would be removed" if dry_run else "removed"
    session.text(f"{count} versions and {len(found.releases)} releases {verb}.")
    if found.pinned:
        session.text(f"{len(found.pinned)} versions stay because a running import needs them.")
