"""The tables of a report's page, as HTML: the coloured map, all its figures, and tables that come ready made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ops.report_model import Cell, Colour, Expectation, SeriesMap, Table
from ops.report_words import CALLED, SIGNS, chance, percent, plain, signed

#: Rows of a table that is not folded away.
MOST_OPEN = 20


def key(found: SeriesMap) -> str:
    """What the colours mean, with how many cells have each."""
    colours: tuple[Colour, ...] = ("predictable", "naive", "worse", "unknown")
    items = []
    for colour in colours:
        if colour != "unknown" or found.count(colour):
            swatch = f'<span class="{colour}"><b>{SIGNS[colour] or "&nbsp;"}</b></span>'
            items.append(f"<li>{swatch}{CALLED[colour]}: {found.count(colour)}</li>")
    return f'<ul class="key">{"".join(items)}</ul>'


def maps(found: SeriesMap, level: float) -> str:
    """One table per series: a row per column of the bar, a column per horizon."""
    return "".join(_one_map(found, series, level) for series in found.series)


def _one_map(found: SeriesMap, series: str, level: float) -> str:
    head = "".join(f'<th scope="col">{horizon}</th>' for horizon in found.horizons)
    rows = []
    for column in found.columns:
        cells = "".join(_cell(found, (series, f"{column}_{horizon}"), level) for horizon in found.horizons)
        rows.append(f'<tr><th scope="row">{escape(column)}</th>{cells}</tr>')
    corner = '<th scope="col"><small>bars</small></th>'
    return (
        f'<table class="map"><caption>{escape(series)}</caption><thead><tr>{corner}{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>\n"
    )


def _cell(found: SeriesMap, place: tuple[str, str], level: float) -> str:
    cell = found.cells.get(place)
    if cell is None:
        return "<td></td>"
    colour = found.colours[place]
    if cell.skill is None:
        shown = "<b>–</b><small>&nbsp;</small>"
    else:
        sign = f"{SIGNS[colour]} " if SIGNS[colour] else ""
        below = "= naive" if cell.is_naive else "&nbsp;"
        if cell.low is not None and cell.high is not None:
            below = f"{_short(cell.low)} … {_short(cell.high)}"
        shown = f"<b>{sign}{signed(cell.skill * 100)}</b><small>{below}</small>"
    return f'<td class="{colour}" title="{escape(told(place, cell, colour, level))}">{shown}</td>'


def _short(share: float) -> str:
    """An end of an interval, in per cent: short, so that a phone's width is enough."""
    return plain(share * 100, 0 if abs(share) >= 0.0995 else 1)


def told(place: tuple[str, str], cell: Cell, colour: Colour, level: float) -> str:
    """A cell's figures as one line."""
    parts = [f"{place[0]} {place[1]}: {CALLED[colour]}"]
    if cell.skill is not None:
        parts.append(f"skill {signed(cell.skill * 100, 2)} %")
    if cell.low is not None and cell.high is not None:
        parts.append(f"{percent(level, 0)} interval {signed(cell.low * 100, 2)} to {signed(cell.high * 100, 2)} %")
    if cell.p is not None:
        parts.append(f"chance of as much by luck {chance(cell.p)}")
    parts.append(f"{cell.n:,} forecasts judged")
    if cell.naive:
        parts.append(f"naive: {cell.naive}")
    if cell.trees is not None:
        parts.append("no trees: the model is its own naive forecast" if not cell.trees else f"{cell.trees:.0f} trees")
    if cell.hits is not None and cell.up is not None:
        parts.append(f"direction right {percent(cell.hits)}, always-up {percent(cell.up)}")
    return "; ".join(parts)


def all_figures(found: SeriesMap, level: float) -> str:
    """The figures behind the map, folded away."""
    interval = f"{percent(level, 0)} interval"
    numbers = ("skill", interval, "p", "n", "trees", "right", "always-up")
    columns = ("series", "target", "verdict", "skill", interval, "p", "n", "naive", "trees", "right", "always-up")
    rows = [
        (
            place[0],
            place[1],
            CALLED[found.colours[place]],
            "–" if cell.skill is None else f"{signed(cell.skill * 100, 2)} %",
            _interval(cell),
            "–" if cell.p is None else chance(cell.p),
            f"{cell.n:,}",
            cell.naive or "–",
            "–" if cell.trees is None else f"{cell.trees:.0f}",
            percent(cell.hits),
            percent(cell.up),
        )
        for place, cell in found.cells.items()
    ]
    body = _table(columns, rows, numbers)
    note = (
        "<p>p is one-sided: the chance of as much skill or more where there is none. “right” is how often a forecast "
        "of the close had the right sign; always-up is what saying “up” every time would have had on the same bars.</p>"
    )
    return f"<details><summary>All figures of the map</summary>{note}{body}</details>"


def _interval(cell: Cell) -> str:
    if cell.low is None or cell.high is None:
        return "–"
    return f"{signed(cell.low * 100, 2)} to {signed(cell.high * 100, 2)} %"


def expectations(expected: Sequence[Expectation]) -> str:
    """What should be found in the controls, and what was."""
    rows = []
    for one in expected:
        style, word = "soft", "cannot be told yet"
        if one.holds is not None:
            style, word = ("holds", "✓ as it must be") if one.holds else ("fails", "✗ not as it must be")
        cells = f"<td>{escape(one.should)}</td><td>{escape(one.found)}</td>"
        rows.append(f'<tr><th scope="row">{escape(one.what)}</th>{cells}<td class="{style}">{word}</td></tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("control", "should be found", "was found", "verdict"))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<table class="stack">{body}</table>' if rows else ""


def data_table(table: Table) -> str:
    """A table that comes ready made; folded away if it is long."""
    if not table.rows:
        return f"<h4>{escape(table.title)}</h4><p>None.</p>"
    note = f"<p>{escape(table.note)}</p>" if table.note else ""
    body = f"{note}{_table(table.columns, table.rows, table.right)}"
    if len(table.rows) <= MOST_OPEN:
        return f"<h4>{escape(table.title)}</h4>{body}"
    return f"<details><summary>{escape(table.title)} ({len(table.rows):,})</summary>{body}</details>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> str:
    styles = ['class="right"' if column in right else "" for column in columns]
    head = "".join(_tag(f'th scope="col" {style}', column) for column, style in zip(columns, styles, strict=True))
    body = "".join(
        f"<tr>{''.join(_tag(f'td {style}', cell) for cell, style in zip(row, styles, strict=True))}</tr>\n"
        for row in rows
    )
    return _framed(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def _framed(inner: str) -> str:
    """A table that scrolls sideways where it is too wide; reachable by keyboard."""
    return f'<div class="wide" tabindex="0"><table>{inner}</table></div>'


def _tag(opening: str, text: str) -> str:
    return f"<{opening.rstrip()}>{escape(text)}</{opening[:2]}>"
