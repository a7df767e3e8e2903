"""What the commands about models and releases share: the open store, who asks, and progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import Session

if TYPE_CHECKING:
    from modelstore.s3 import S3Options
    from modelstore.store import ModelStore
    from streams.settings import Settings

RefArgument = Annotated[
    str, typer.Argument(help="NAME, NAME@ALIAS, NAME@NUMBER, NAME@sha:DIGEST or DIGEST.", show_default=False)
]
#: How long a command waits for the models Redis to save, s: 100 GB take some minutes.
SAVE_TIMEOUT_S = 900.0

WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="For what reason; kept in the history.")]
KeepReleasesOption = Annotated[
    int | None,
    typer.Option("--keep-releases", min=1, metavar="N", help="How many of the last releases are kept to go back to."),
]


_READ_ONLY = "a snapshot, in which nothing can be changed"


@contextmanager
def open_store(session: Session, *, changes: bool = False, **more: object) -> Iterator[tuple[ModelStore, Settings]]:
    """The store of the tenant, and the settings.

    Args:
        changes: whether the command is to change something.
        more: flags of the command itself.

    Raises:
        ConfigurationError: models come from a snapshot, and the command is none that only reads.
    """
    from redis.exceptions import NoPermissionError

    from modelstore.store import ModelStore
    from ops.snapshot_source import is_snapshot
    from streams.clients import connect, translate
    from streams.errors import ConfigurationError
    from streams.keys import Keys

    settings, _ = session.load(**more)
    if changes and is_snapshot(settings.models_url):
        raise ConfigurationError(f"models_url names {_READ_ONLY}: name a models Redis")
    with session.roles(settings, "models") as roles, connect(roles.models_url) as client, translate(roles.models_url):
        try:
            yield ModelStore(client, Keys(settings.tenant)), settings
        except NoPermissionError as error:
            if not is_snapshot(settings.models_url):
                raise
            raise ConfigurationError(f"models_url names {_READ_ONLY} ({error}): name a models Redis") from error


def save(store: ModelStore) -> None:
    """Wait until what was written is saved: what a command has told must survive a models Redis that is killed.

    Raises:
        SaveFailed: it is done, but not saved.
    """
    from modelstore.saves import SaveBarrier, SaveFailed

    try:
        SaveBarrier(store.client).wait_saved(SAVE_TIMEOUT_S)
    except SaveFailed as error:
        error.add_note("what was asked for is done; it is lost if the models Redis is killed before it can save")
        raise


def s3_options(settings: Settings) -> S3Options:
    """How the settings say that objects are reached."""
    from modelstore.s3 import S3Options

    return S3Options.of(settings)


def whoami() -> str:
    """Who asks, for the history: user and machine."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def progress(session: Session, what: str) -> Callable[[int, int], None] | None:
    """Tell how far long work is, on one line of a terminal; `None` where nobody looks."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            session.err.print(f"{what}: {done:,} of {total:,}", end="\n" if done == total else "\r", style="dim")

    return tell
