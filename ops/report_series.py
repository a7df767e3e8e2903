"""One series' part of a report's page, as HTML: what became of it in a sentence, four figures, what happened when.

Each figure stands with its caption, which says in words what the lines and marks are; that is also its alternative
text. Prefixes of ids are given by the page.
"""

from __future__ import annotations

from html import escape

from ops import report_plots as plots
from ops.report_model import Equity, Event, SeriesMap, SeriesReport, Table
from ops.report_tables import data_table
from ops.report_words import HAPPENED, gained, in_days, percent, plain, when

#: Events that are shown without unfolding them.
MOST_OPEN = 12


def section(one: SeriesReport, found: SeriesMap, name: str) -> str:
    """A real series; `found` is the map that colours it, `name` the prefix of its ids."""
    figures = (_price(one, name), _equity(one, name), _forecasts(one, name), _rolling(one, name))
    return (
        f'<h3 id="{name}">{escape(one.name)}</h3>{paragraphs(summary(one, found), *one.notes)}'
        f'<div class="figures">{"".join(figures)}</div>'
        f"{_accounts(one.equity)}{_events(one)}"
    )


def control(one: SeriesReport, name: str) -> str:
    """A made-up series: its sequence of events, skill over time and equity."""
    happened = f"<h4>What happened</h4>{timeline(one, one.events)}" if one.kind == "planted" and one.events else ""
    return (
        f'<h3 id="{name}">{escape(one.name)} <small>synthetic</small></h3>{paragraphs(*one.notes)}{happened}'
        f'<div class="figures">{_rolling(one, name)}{_equity(one, name)}</div>'
        f"{'' if happened else _events(one)}"
    )


def summary(one: SeriesReport, found: SeriesMap) -> str:
    """What became of a series, in a sentence or two."""
    mine = [colour for place, colour in found.colours.items() if place[0] == one.name]
    sentences = []
    if mine:
        sentences.append(f"{mine.count('predictable')} of {len(mine)} models are better than naive.")
    account = one.equity
    if account is not None and len(account.ts):
        made, held = float(account.account[-1]), float(account.hold[-1])
        text = f"The paper account made {gained(made)}, buying and holding {gained(held)}"
        if account.percentile is not None:
            text += f"; {percent(account.percentile, 0)} of {account.policies:,} random policies made less"
        sentences.append(text + ".")
    return " ".join(sentences)


def timeline(one: SeriesReport, events: tuple[Event, ...]) -> str:
    """Events in order of time."""
    days = in_days(one.ts)
    items = "".join(
        f'<li class="{event.kind}"><time>{when(event.ts, days=days)}</time><b>{HAPPENED[event.kind]}</b>'
        f"{': ' + escape(event.text) if event.text else ''}</li>"
        for event in sorted(events, key=lambda event: event.ts)
    )
    return f'<ol class="time">{items}</ol>'


def paragraphs(*texts: str) -> str:
    """Paragraphs of those texts that are not empty."""
    return "".join(f"<p>{escape(text)}</p>" for text in texts if text)


def _events(one: SeriesReport) -> str:
    if not one.events:
        return ""
    shown = timeline(one, one.events)
    opened = " open" if len(one.events) <= MOST_OPEN else ""
    return f"<details{opened}><summary>What happened to its models ({len(one.events)})</summary>{shown}</details>"


def _accounts(account: Equity | None) -> str:
    if account is None or not account.figures:
        return ""
    columns = ("", "gain", "per year", "Sharpe", "deepest loss", "in the market", "units traded a year")
    rows = tuple(
        (
            figures.name,
            gained(figures.total),
            gained(figures.annual),
            "–" if figures.sharpe is None else plain(figures.sharpe, 2),
            percent(figures.drawdown, 0),
            percent(figures.exposure, 0),
            "–" if figures.turnover is None else plain(figures.turnover, 1),
        )
        for figures in account.figures
    )
    return data_table(Table("Accounts, after cost", columns, rows, right=columns[1:]))


def _price(one: SeriesReport, name: str) -> str:
    if not len(one.ts):
        return ""
    buys = sum(signal.side == "buy" for signal in one.signals)
    days = in_days(one.ts)
    text = f"Close from {when(int(one.ts[0]), days=days)} to {when(int(one.ts[-1]), days=days)}"
    if one.signals:
        text += (
            f", with {_counted(buys, 'buy')} (blue, up) and {_counted(len(one.signals) - buys, 'sell')} (orange, "
            "down); the strip below shows when the account was long (blue) or short (orange)."
        )
    else:
        text += "; no signal was given."
    return _figure("Price and signals", text, plots.price(one, f"{name}-price"))


def _forecasts(one: SeriesReport, name: str) -> str:
    found = one.forecasts
    if found is None or not len(found.ts):
        return ""
    text = (
        f"{found.target}: each dot a forecast and what came, each blue mark the mean and middle half of what came in "
        "one tenth of the forecasts. On the dashed line forecasts would be right on average; a level row of marks "
        "means that they say nothing."
    )
    return _figure("Forecast against what came", text, plots.forecasts(found, f"{name}-forecasts"))


def _equity(one: SeriesReport, name: str) -> str:
    found = one.equity
    if found is None or not len(found.ts):
        return ""
    text = (
        f"Bold line: the paper account, {gained(float(found.account[-1]))} in the end; thin line: buying and holding, "
        f"{gained(float(found.hold[-1]))}; level line: cash. The axis is the sum of log returns, after cost."
    )
    if len(found.band_ts) and len(found.quantiles) >= 2:
        low, high = found.quantiles[0], found.quantiles[-1]
        band = f"{percent(low, 0)} to {percent(high, 0)} of {found.policies:,} random policies"
        text += f" Shaded: {band} that are as often in the market and trade as much."
    return _figure("Paper account", text, plots.equity(found, f"{name}-equity"))


def _rolling(one: SeriesReport, name: str) -> str:
    lines = [line for line in one.rolling if len(line.ts)]
    if not lines:
        return ""
    kinds = [HAPPENED[kind] for kind in HAPPENED if any(event.kind == kind for event in one.events)]
    text = (
        f"{', '.join(line.target for line in lines)}: skill against naive over the last {lines[0].window:,} judged "
        "forecasts; above the level line is better than naive."
    )
    if kinds:
        text += f" Vertical lines: {', '.join(kinds)}."
    return _figure("Skill over time", text, plots.rolling(lines, one.events, f"{name}-rolling"))


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _figure(title: str, text: str, svg: str) -> str:
    label = escape(f"{title}. {text}")
    return (
        f'<figure><h4>{escape(title)}</h4><div role="img" aria-label="{label}">{svg}</div>'
        f"<figcaption>{escape(text)}</figcaption></figure>\n"
    )
