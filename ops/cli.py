"""The `red10` command. Its verbs are in `ops.commands`, one module per group of the help."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from ops.commands.session import WHERE, remember, with_common

#: The modules of `ops.commands` with their verbs, in the order of the help.
PARTS: dict[str, tuple[str, ...]] = {
    "run": ("demo", "up", "worker"),
    "data": ("publish", "replay"),
    "follow": ("signals", "predictions"),
    "training": ("train",),
    "predict": ("predict",),
    "model": ("model",),
    "release": ("release",),
    "snapshot": ("snapshot",),
    "look": ("status", "keys", "config", "tenant"),
    "dead": ("dead",),
    "report": ("report",),
    "evaluate": ("evaluate",),
}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"red10 {version('red10')}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version, rich_help_panel=WHERE),
    ] = False,
    **given: object,
) -> None:
    """Ticks in, signals out: streaming machine learning on Redis.

    New here? `red10 demo` runs the whole job once on real data.
    """
    remember(ctx, given)


_CALLBACK = with_common(_root)


def make_app(*parts: str) -> typer.Typer:
    """The command with some of its parts, or with all of them."""
    app = typer.Typer(
        name="red10",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_CALLBACK)
    for part in parts or PARTS:
        import_module(f"ops.commands.{part}").register(app)
    return app


def part_of(arguments: Sequence[str]) -> tuple[str, ...]:
    """The part that a command line needs, if it begins with a verb; else none, which stands for all.

    To make the whole command takes a tenth of a second, which a worker that is started again can do without.
    """
    return tuple(part for part, verbs in PARTS.items() if arguments and arguments[0] in verbs)


def main() -> None:
    """Run the command; exits with its code."""
    try:
        try:
            make_app(*part_of(sys.argv[1:]))(prog_name="red10")
        finally:
            sys.stdout.flush()
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        # Python tries once more at its end to write what was not written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        where = f" {error.filename!r}" if error.filename else " to its output" if error.errno == errno.ENOSPC else ""
        sys.stderr.write(f"red10: cannot go on reading or writing{where}: {error.strerror or error}\n")
        sys.exit(2)
