"""The `red10` command. Its verbs are in `ops.commands`, one module per group of the help."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from ops.commands import data, dead, evaluate, follow, look, model, predict, release, report, run, snapshot, training
from ops.commands.session import WHERE, remember, with_common

app = typer.Typer(
    name="red10",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.callback()(with_common(_root))
run.register(app)
data.register(app)
follow.register(app)
training.register(app)
predict.register(app)
model.register(app)
release.register(app)
snapshot.register(app)
look.register(app)
dead.register(app)
report.register(app)
evaluate.register(app)


def main() -> None:
    """Run the command; exits with its code."""
    try:
        try:
            app(prog_name="red10")
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
