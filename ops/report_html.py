"""A report as one HTML page that needs nothing else: no script, no request, figures inline.

The page follows light and dark, prints, and fits a phone; what a colour says is said in words or signs too. Every text
that comes from data is escaped. Equal reports make equal bytes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from ops.report_model import FALSE_SHARE, Fact, Report, colour_map
from ops.report_plots import check_plots
from ops.report_series import control, section
from ops.report_tables import all_figures, data_table, expectations, key, maps
from ops.report_words import CAVEATS, headline, percent


def write_report(report: Report, path: Path) -> None:
    """Write the page; what stood there before stays until the new page is whole.

    Raises:
        NoPlots: matplotlib is missing.
        OSError: the file cannot be written.
    """
    page = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(page, "utf-8")
    os.replace(fresh, path)


def render(report: Report) -> str:
    """The page.

    Raises:
        NoPlots: matplotlib is missing.
    """
    check_plots()
    sections = [
        ("map", "What can be forecast", _map(report)),
        ("controls", "The controls", _controls(report)),
        ("series", "Series by series", _series(report)),
        ("models", "Models", "".join(map(data_table, report.models))),
        ("run", "The run", _facts(report.facts)),
        ("caveats", "What this does not say", _list((*report.caveats, *CAVEATS))),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    lead = "".join(f"<p>{escape(sentence)}</p>" for sentence in headline(report))
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(report.title)}</title>",
        f"<style>\n{files('ops').joinpath('report.css').read_text('utf-8')}</style>\n</head>\n<body>",
        f"<header>\n<h1>{escape(report.title)}</h1>",
        f'<p class="subtitle">{escape(report.subtitle)}</p>' if report.subtitle else "",
        f'<div class="lead">{lead}</div>\n<nav aria-label="Contents">{links}</nav>\n</header>\n<main>',
        *(f'<section id="{anchor}">\n<h2>{title}</h2>\n{body}\n</section>' for anchor, title, body in shown),
        "</main>\n<footer>Made by Red10. Times are in UTC, at the end of a bar.</footer>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _map(report: Report) -> str:
    found = colour_map(report.real)
    if not found.cells:
        return ""
    level, share = percent(report.level, 0), percent(FALSE_SHARE, 0)
    said = (
        "<p>Each cell is a model: a column of the bar, some bars ahead. The large number is its skill in per cent, the "
        f"squared error that it saves against the strictest naive forecast; below stands the {level} interval of this "
        f"cell alone. The colour is corrected for the {found.tested:,} cells that could be tested "
        f"(Benjamini–Hochberg): of the coloured ones at most {share} are expected to be so by chance.</p>"
    )
    return f'{said}{key(found)}<div class="maps">{maps(found, report.level)}</div>{all_figures(found, report.level)}'


def _controls(report: Report) -> str:
    if not report.controls:
        return ""
    found = [colour_map((one,)) for one in report.controls]
    return (
        "<p>Synthetic series whose truth is known went the same way as the real ones. In a random walk there is "
        "nothing to be found; in the planted series there is, and how much follows from how it was made. Who finds "
        "something in the first, or nothing in the second, need not be believed about the rest. Colours are corrected "
        "for the cells of each series by itself.</p>"
        f"{expectations(report.expectations)}"
        f'<div class="maps">{"".join(maps(one, report.level) for one in found)}</div>'
        f"{''.join(control(one, f'c{at}') for at, one in enumerate(report.controls))}"
    )


def _series(report: Report) -> str:
    found = colour_map(report.real)
    return "".join(section(one, found, f"r{at}") for at, one in enumerate(report.real))


def _facts(facts: Sequence[Fact]) -> str:
    items = [
        f"<div><dt>{escape(fact.name)}</dt><dd>{escape(fact.value)}"
        f"{f'<small>{escape(fact.note)}</small>' if fact.note else ''}</dd></div>"
        for fact in facts
    ]
    return f'<dl class="facts">{"".join(items)}</dl>' if items else ""


def _list(sentences: Sequence[str]) -> str:
    """Each with its first sentence in bold."""
    items = []
    for text in sentences:
        first, dot, rest = text.partition(". ")
        items.append(
            f"<li><b>{escape(first + dot.rstrip())}</b> {escape(rest)}</li>" if rest else f"<li>{escape(text)}</li>"
        )
    return f"<ul>{''.join(items)}</ul>"
