"""`report`: what became of a tenant's forecasts and signals, as a page to look at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import LOOK, JsonOption, Session, command

if TYPE_CHECKING:
    from ops.report_model import Report


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=LOOK)(report)


def report(
    session: Session,
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where the page goes; left out: into the data directory."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page in a browser.")] = False,
    json: JsonOption = False,
) -> None:
    """Judge what the models and signals of a tenant were worth, and write it down as a page.

    One HTML file that needs nothing else: what can be forecast and what cannot, the paper account beside holding and
    luck, what happened to the models and why.
    """
    from ops.outputs import need_tenant
    from ops.report_gather import gather
    from ops.report_html import write_report
    from ops.report_plots import check_plots
    from ops.report_words import headline
    from streams.clients import connect, translate

    check_plots()
    settings, _ = session.load()
    with (
        session.roles(settings, "streams", "models") as roles,
        connect(roles.streams_url) as streams,
        connect(roles.models_url) as models,
    ):
        with translate(roles.streams_url):
            tenant = need_tenant(streams, settings.tenant)
        with translate(roles.models_url):
            # Both are asked in turn below, where it could not be told which one is away.
            models.ping()
        with translate(roles.streams_url):
            found = gather(streams, models, tenant, on_progress=session.say)
    session.say("drawing")
    path = out or settings.data_dir / "red10-report.html"
    write_report(found, path)
    if json:
        session.json(as_json(found, path))
        return
    for sentence in headline(found):
        session.text(sentence)
    session.line(f"\nreport: {path}")
    if not no_open and can_show():
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


def can_show() -> bool:
    """Whether a browser would have a screen to open on."""
    import os
    import sys

    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def as_json(found: Report, path: Path) -> dict[str, object]:
    """The figures of a report, without its curves."""
    from ops.report_model import SeriesReport, colour_map
    from ops.report_words import headline

    families = (found.real, *((one,) for one in found.controls))
    colours = {place: colour for family in families for place, colour in colour_map(family).colours.items()}

    def one(series: SeriesReport) -> dict[str, object]:
        equity = series.equity
        return {
            "series": series.name,
            "kind": series.kind,
            "targets": [asdict(cell) | {"verdict": colours[series.name, cell.target]} for cell in series.cells],
            "paper": [asdict(figures) for figures in equity.figures] if equity is not None else [],
            "luck": equity.percentile if equity is not None else None,
            "events": [asdict(event) for event in series.events],
        }

    return {
        "report": str(path),
        "headline": list(headline(found)),
        "series": [one(series) for series in found.series],
        "controls": [asdict(expected) for expected in found.expectations],
        "facts": {fact.name: fact.value for fact in found.facts},
    }
