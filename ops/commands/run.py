"""Running: `demo`, `up`, `worker`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import RUN, Session, command

if TYPE_CHECKING:
    from ops.snapshot_server import SnapshotServer
    from streams.settings import Settings


class WorkerRole(StrEnum):
    """What a worker does."""

    scorer = "scorer"
    trainer = "trainer"
    monitor = "monitor"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, panel=RUN)(demo)
    command(app, panel=RUN)(up)
    command(app, panel=RUN)(worker)


def demo(session: Session) -> None:
    """Run the whole job once on real data, from ticks to signals.

    Five stocks, 13 years of daily bars; each run uses a tenant of its own, which stays and can be looked at.
    """
    from ops.demo import run
    from ops.demo_view import LiveDisplay, closing, next_commands, opening, print_next, print_report

    settings, origins = session.load()
    opening(session.out)
    try:
        with LiveDisplay(session.err) as display:
            outcome = run(settings, origins, display, display.say)
    except KeyboardInterrupt:
        session.say("Broken off. `red10 demo` begins anew, in a fresh tenant.")
        raise
    closing(session.out, outcome)
    if outcome.report is not None:
        print_report(session.out, outcome.report)
    print_next(session.out, next_commands(outcome.tenant, settings.data_dir))


def up(session: Session) -> None:
    """Run both Redis servers, a scorer, a trainer and a monitor until Ctrl-C."""
    from ops.up import run_up

    settings, origins = session.load()

    def ready(what: list[tuple[str, str]]) -> None:
        session.table(("running", "where"), what)
        session.say(
            "\nIn another terminal: `red10 publish SPY 512.5`, `red10 signals --follow`, `red10 status`. "
            "Ctrl-C stops everything."
        )

    run_up(settings, origins, session.say, ready)
    session.say("Stopped.")


def worker(
    session: Session,
    *,
    role: Annotated[WorkerRole, typer.Option("--role", help="What it does.")] = WorkerRole.scorer,
    start_anew: Annotated[
        bool,
        typer.Option(
            "--start-anew", help="Forget the state of partitions that another configuration computed, and begin again."
        ),
    ] = False,
    lifeline: Annotated[
        bool, typer.Option("--lifeline", hidden=True, help="Stop when standard input closes (used by `up`).")
    ] = False,
) -> None:
    """Run one scorer, trainer or monitor until Ctrl-C; several share the work, one monitor is enough."""
    if role is WorkerRole.scorer:
        # Whatever a start makes is there to stay; `run_scorer` begins to look for garbage when it is done.
        gc.disable()
    settings, origins = session.load()
    with _begun(role, settings, session.say) as snapshot:
        from ops.embedded import kept_running, refuse_snapshot
        from ops.supervise import stop_when_orphaned

        if lifeline:
            stop_when_orphaned()
        if role is not WorkerRole.scorer:
            refuse_snapshot(settings, f"a {role.value}")
        # Under `up` it is `up` that keeps the servers running.
        with (
            session.roles(settings, "streams", "models", snapshot=snapshot) as roles,
            kept_running(() if lifeline else roles.embedded.values(), session.say),
        ):
            from consumers.worker import run_monitor, run_scorer, run_trainer

            if role is WorkerRole.trainer:
                run_trainer(roles.settings, origins)
            elif role is WorkerRole.monitor:
                run_monitor(roles.settings, origins)
            else:
                run_scorer(roles.settings, origins, start_anew=start_anew, models_ready=roles.wait)


@contextmanager
def _begun(role: WorkerRole, settings: Settings, say: Callable[[str], None]) -> Iterator[SnapshotServer | None]:
    """A scorer's models being loaded, if they come from a snapshot: beside what else takes long of a start.

    The scorer waits for them when it needs them, and holds each version against its digest.
    """
    from ops.snapshot_server import SnapshotServer
    from ops.snapshot_source import is_snapshot

    if role is not WorkerRole.scorer or not is_snapshot(settings.models_url):
        yield None
        return
    with SnapshotServer.of(settings, say, in_haste=True) as server:
        yield server.start()
