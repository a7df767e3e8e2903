"""Carrying models from store to store: `model export`, `model import`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import JsonOption, Session, command
from ops.commands.store import WhyOption, open_store, progress, s3_options, save, whoami

if TYPE_CHECKING:
    from modelstore.imports import Check
    from modelstore.version import Incoming
    from streams.settings import Settings


def register(model: typer.Typer) -> None:
    """Add the commands to `model`."""
    command(model, "export")(model_export)
    command(model, "import")(model_import)


def model_export(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            help="A version, model (its champion), series (its champions); or a release.", show_default=False
        ),
    ],
    target: Annotated[str, typer.Argument(help="A file, or s3://BUCKET/KEY.", show_default=False)],
    *,
    every: Annotated[bool, typer.Option("--all", help="Every version of the model or series.")] = False,
    release: Annotated[
        bool, typer.Option("--release", help="WHAT is a release: its number, digits of its id, or current.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what stands there.")] = False,
    json: JsonOption = False,
) -> None:
    """Write versions to one file or object, checked against their digests.

    `red10 model import` takes it into another store; `load_export` of Python scores it without any store.
    """
    with open_store(session) as (store, settings):
        chosen = store.select_release("" if what == "current" else what) if release else store.select(what, every=every)
        contents = store.export(
            chosen,
            target,
            replace=force,
            s3=s3_options(settings),
            progress=None if json else progress(session, "written"),
        )
    size = sum(member.size for member in contents.members)
    if json:
        digests = [version.digest for version in contents.versions]
        session.json({"kind": contents.kind, "of": contents.of, "target": target, "bytes": size, "versions": digests})
    else:
        session.text(f"{contents.kind} {contents.of}: {len(contents.versions)} versions written to {target}.")


def model_import(
    session: Session,
    source: Annotated[str, typer.Argument(help="A file, or s3://BUCKET/KEY.", show_default=False)],
    *,
    promote: Annotated[bool, typer.Option("--promote", help="Put the release that it holds in force.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="First score golden rows, in child processes; needs XGBoost.")
    ] = False,
    why: WhyOption = "",
    json: JsonOption = False,
) -> None:
    """Store the versions that an export holds and the store lacks. Nothing is overwritten.

    All of it is checked before anything is stored. Stopped, it can be done again. A release is stored, and put in force
    only if asked for; `red10 release promote` does so later.
    """
    with open_store(session, changes=True) as (store, settings):
        found = store.import_from(
            source,
            promote=promote,
            who=whoami(),
            why=why or f"imported from {source}",
            s3=s3_options(settings),
            check=golden_rows(settings) if check else None,
            progress=None if json else progress(session, "checked and stored"),
        )
        save(store)
    if json:
        session.json(
            {
                "kind": found.contents.kind,
                "of": found.contents.of,
                "imported": [info.digest for info in found.stored],
                "skipped": [info.digest for info in found.skipped],
                "release": found.release,
                "number": found.in_force.number if found.in_force is not None else None,
            }
        )
        return
    session.text(f"{len(found.stored)} versions imported, {len(found.skipped)} skipped: they were there.")
    for info in found.skipped[:20]:
        session.line(f"skipped {info.name} version {info.number} ({info.digest[:12]})")
    if len(found.skipped) > 20:
        session.line(f"… and {len(found.skipped) - 20} more (--json names all)")
    if found.in_force is not None:
        session.text(f"Release {found.in_force.number} ({found.in_force.id[:12]}) is in force.")
    elif found.release is not None:
        session.text(f"The release is not in force yet: red10 release promote {found.release[:12]}")


def golden_rows(settings: Settings) -> Check:
    """A check that forest and XGBoost model of each version give what its manifest says: the one of the trainer.

    XGBoost opens the models in child processes with bounds on memory and time: a hostile one ends no other.
    """
    import asyncio

    from consumers.checker import Checker
    from modelstore.errors import BadModel
    from modelstore.manifest import Serving
    from modelstore.version import NewVersion

    checker = Checker(settings.check_memory_mb, settings.check_timeout_s)

    def check(versions: Sequence[Incoming]) -> None:
        whole = [NewVersion(v.manifest, Serving.decode(v.raw.serving), v.raw.forest, v.raw.ubj) for v in versions]
        reason = asyncio.run(checker.check(whole))
        if reason is not None:
            raise BadModel(reason)

    return check
