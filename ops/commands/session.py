"""What every command shares: the options that say where, the settings, printing, and errors as exit codes.

Results go to standard output, everything else to standard error, so that a pipe carries results only. Exit codes: 0
done, 1 refused (a snapshot that is not sound, a promotion that does not fit), or the reader of the pipe went away, 2 an
error (its message says what to do), 130 Ctrl-C.

Nothing heavy is imported here or at the head of the command modules: `red10 --help` must not wait for it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.errors import Red10Error

if TYPE_CHECKING:
    from rich.console import Console

    from ops.embedded import Roles
    from ops.snapshot_server import SnapshotServer
    from streams.locate import Role
    from streams.settings import Origins, Settings

WHERE = "Where"
RUN = "Run"
DATA = "Data"
MODELS = "Models"
LOOK = "Look"

#: Packages of the project: one of them that lacks a module is broken, and no extra mends that.
OWN = ("red10", "streams", "modelstore", "producers", "consumers", "ops")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

#: Options of `red10` itself and of every command, by setting.
COMMON: dict[str, Any] = {
    "tenant": Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Tenant.", rich_help_panel=WHERE)],
    "data_dir": Annotated[
        str | None,
        typer.Option("--data-dir", metavar="DIR", help="Directory of the embedded Redis.", rich_help_panel=WHERE),
    ],
    "streams_url": Annotated[
        str | None, typer.Option("--streams-url", metavar="URL", help="Redis for streams.", rich_help_panel=WHERE)
    ],
    "models_url": Annotated[
        str | None, typer.Option("--models-url", metavar="URL", help="Redis for models.", rich_help_panel=WHERE)
    ],
    "debug": Annotated[
        bool | None, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=WHERE)
    ],
}


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one command.

    Attributes:
        flags: the options given, by setting; `None` where left out.
    """

    flags: Mapping[str, Any]

    def load(self, **more: Any) -> tuple[Settings, Origins]:
        """Read the settings; `more` are flags of the command itself."""
        from streams.settings import load_settings

        return load_settings(**self.flags, **more)

    @contextmanager
    def roles(self, settings: Settings, *roles: Role, snapshot: SnapshotServer | None = None) -> Iterator[Roles]:
        """The URLs of the roles; embedded servers are attached to or started. `snapshot`: see `open_roles`."""
        from ops.embedded import open_roles

        with open_roles(settings, roles, self.say, snapshot=snapshot) as found:
            yield found

    @property
    def out(self) -> Console:
        """Standard output."""
        from rich.console import Console

        # No emoji: `:b:` may stand in a name.
        return Console(highlight=False, soft_wrap=False, emoji=False)

    @property
    def err(self) -> Console:
        """Standard error."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, emoji=False)

    def say(self, message: str) -> None:
        """Tell people something that is no result."""
        self.err.print(message, markup=False, style="dim")

    def line(self, text: str) -> None:
        """Print one line of result as it is, whatever its length."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """Print sentences as a result, broken into lines between words."""
        self.out.print(text, markup=False)

    def json(self, value: object) -> None:
        """Print a value as one line of JSON."""
        import orjson

        self.line(orjson.dumps(value, default=str).decode())

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Print a table; `None` is shown as a dash. Columns named in `right` hold numbers."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
        self.out.print(table)


@contextmanager
def reporting(debug: bool) -> Iterator[None]:
    """Turn what ends a command into a message and an exit code; typer does so for a reader that went away."""
    try:
        yield
    except Red10Error as error:
        if debug:
            raise
        sys.stdout.flush()
        for text in (str(error), *getattr(error, "__notes__", ())):
            sys.stderr.write(f"red10: {text}\n")
        raise typer.Exit(error.exit_code) from None
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if debug or name in ("", *OWN):
            raise
        sys.stderr.write(f"red10: this needs {name}, which is not installed: pip install 'red10[all]'\n")
        raise typer.Exit(Red10Error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def remember(ctx: typer.Context, given: Mapping[str, Any]) -> None:
    """Keep the common options that stand before the command's name for the command."""
    ctx.obj = dict(given)


def _merge(ctx: typer.Context, given: dict[str, Any]) -> dict[str, Any]:
    """Take the common options out of `given`; those of the command win over those before it."""
    before: dict[str, Any] = ctx.obj or {}
    mine = {name: given.pop(name) for name in COMMON}
    return {name: value if value is not None else before.get(name) for name, value in mine.items()}


def command(
    app: typer.Typer, name: str | None = None, *, panel: str | None = None, negative: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function `(session, …options)` as a command; the common options are added to its own.

    Args:
        negative: take `-1` for an argument and not for an unknown option, so that its own check can answer.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        def run(ctx: typer.Context, **given: Any) -> None:
            flags = _merge(ctx, given)
            debug = bool(flags.pop("debug"))
            with reporting(debug):
                function(Session(flags), **given)

        run.__name__, run.__doc__ = function.__name__, _unwrapped(function)
        settings = {"ignore_unknown_options": True} if negative else None
        app.command(name, rich_help_panel=panel, context_settings=settings)(with_common(run, own=_own(function)))
        return function

    return register


def _unwrapped(function: Callable[..., None]) -> str:
    """A docstring with each paragraph on one line: the terminal breaks lines where it ends, not where the code does."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (inspect.getdoc(function) or "").split("\n\n"))


def _own(function: Callable[..., None]) -> list[inspect.Parameter]:
    """A command function's parameters after the session."""
    return list(inspect.signature(function, eval_str=True).parameters.values())[1:]


def with_common(run: Callable[..., None], own: Sequence[inspect.Parameter] | None = None) -> Callable[..., None]:
    """Give a function that takes `ctx` and `**given` the signature that typer reads: the common options added.

    Args:
        own: the parameters besides `ctx` and the common ones; left out, those that the function names.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    first, *named = inspect.signature(run, eval_str=True).parameters.values()
    mine = own if own is not None else [parameter for parameter in named if parameter.kind is keyword]
    shared = [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in COMMON.items()]
    parameters = [first, *(parameter.replace(kind=keyword) for parameter in mine), *shared]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    return run
