"""What a report says in words: its first sentences, its caveats, and how numbers are written. Pure.

Numbers are written for people: a true minus sign, shares in per cent, dates without a time where bars are days.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from ops.report_model import FALSE_SHARE, Colour, EventKind, Report, SeriesMap, SeriesReport, colour_map

DAY_NS = 86_400 * 1_000_000_000

#: Gains from here on are told as factors.
TENFOLD = math.log(10)

#: What a colour is called.
CALLED: dict[Colour, str] = {
    "predictable": "predictable",
    "naive": "no different from naive",
    "worse": "worse than naive",
    "unknown": "too little to tell",
}
#: Stands beside the colour, so that nothing is told by colour alone.
SIGNS: dict[Colour, str] = {"predictable": "▲", "naive": "", "worse": "▼", "unknown": ""}

#: What an event is called.
HAPPENED: dict[EventKind, str] = {
    "retrain": "trained",
    "drift": "drift noticed",
    "doubt": "found worse than naive",
    "promotion": "promoted",
    "proven": "proven",
    "flip": "flipped",
}

#: True of every report.
CAVEATS = (
    "Paper is not trading. Positions are filled at the next bar's open, in any size, without moving the price; every "
    "change of position pays the cost that the policy assumes. Slippage, borrowing, dividends and taxes are left out.",
    "Predictable is not profitable. Skill is squared error saved against a naive forecast. Who forecasts highs, lows "
    "or volume better than naively knows more of how far prices will move, not of where to. Signals are made from the "
    "close.",
    f"Many tests at once. Colours are corrected for all cells of a map: of the coloured ones {FALSE_SHARE * 100:.0f} % "
    "at most are expected to be so by chance. The intervals are not: each stands for its cell alone, and of many some "
    "miss.",
    "Forecasts of neighbouring bars overlap. Tests and intervals allow for it; a plain t-test on the same numbers "
    "would find skill in noise.",
    "Survivorship. Whoever picks series that still exist today picks winners: buying and holding them looks better "
    "than anybody could have known. It flatters every account that is long.",
    "The past. What was predictable here was so in these years, to these models.",
)


def headline(report: Report) -> tuple[str, ...]:
    """The sentences that a report opens with."""
    found = colour_map(report.real)
    sentences = [*_about_cells(found), *_about_accounts(report.real), *_about_controls(report)]
    return tuple(sentences) or ("Nothing has been judged yet.",)


def _about_cells(found: SeriesMap) -> list[str]:
    if not found.cells:
        return []
    total, better, worse = len(found.cells), found.count("predictable"), found.count("worse")
    same = sum(cell.is_naive for cell in found.cells.values())
    sentences = [
        f"{_count(better)} of {total:,} models {'beats its' if better == 1 else 'beat their'} naive forecast by more "
        f"than chance explains; {_count(worse).lower()} {'does' if worse < 2 else 'do'} worse."
    ]
    if same:
        sentences.append(
            f"{_count(same)} {'is' if same == 1 else 'are'} that naive forecast: training found nothing that held "
            "beyond it, and left the model without trees."
        )
    if better:
        sentences.append(_by_column(found))
    if "close" in found.columns:
        closes = [place for place in found.colours if place[1].startswith("close_")]
        up = sum(found.colours[place] == "predictable" for place in closes)
        if not up:
            sentences.append("The close, from which signals are made, is predictable at no horizon.")
    return sentences


def _by_column(found: SeriesMap) -> str:
    parts = []
    for column in found.columns:
        places = [place for place in found.colours if found.cells[place].column == column]
        up = sum(found.colours[place] == "predictable" for place in places)
        if up:
            parts.append(f"{column} ({up} of {len(places)})")
    return f"What can be forecast: {listed(parts)}."


def _about_accounts(series: Sequence[SeriesReport]) -> list[str]:
    equities = [one.equity for one in series if one.equity is not None and len(one.equity.ts)]
    if not equities:
        return []
    ahead = sum(float(equity.account[-1]) > float(equity.hold[-1]) for equity in equities)
    known = [equity for equity in equities if equity.percentile is not None]
    lucky = sum((equity.percentile or 0) > 0.95 for equity in known)
    many, idle = len(equities), sum(not one.signals for one in series if one.equity is not None)
    sentence = (
        f"On paper, after cost, following the signals made more than buying and holding in {ahead} of {many} series"
    )
    if known:
        sentence += (
            f", and more than 95 % of random policies that trade as much in {lucky} of {len(known)} "
            f"(by luck alone: about one in twenty)"
        )
    quiet = f" In {idle} of {many} no signal was given." if idle else ""
    return [f"{sentence}.{quiet}"]


def _about_controls(report: Report) -> list[str]:
    told = [expected for expected in report.expectations if expected.holds is not None]
    if not told:
        return []
    failed = [expected.what for expected in told if not expected.holds]
    if failed:
        return [f"The controls do NOT all come out as they must, so mistrust the rest: {'; '.join(failed)}."]
    if len(told) < len(report.expectations):
        return ["As far as it can be told yet, the controls come out as they must."]
    return ["The controls come out as they must."]


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _count(number: int) -> str:
    return f"{number:,}" if number else "None"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, `+4.1` or `−0.3`; no sign where it rounds to zero."""
    text = f"{abs(value):,.{digits}f}"
    zero = not text.strip("0.,")
    return text if zero else ("−" if value < 0 else "+") + text


def plain(value: float, digits: int = 1) -> str:
    """A number with a true minus sign where it is negative."""
    return signed(value, digits).removeprefix("+")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in per cent, `4.1 %`; a dash where it is not known."""
    return "–" if share is None or not math.isfinite(share) else f"{plain(share * 100, digits)} %"


def gained(log_return: float | None) -> str:
    """A log return as the gain that it means, `+12.3 %`; a dash where it is not known."""
    if log_return is None or not math.isfinite(log_return):
        return "–"
    return f"{signed(math.expm1(log_return) * 100)} %" if log_return < TENFOLD else f"×{math.exp(log_return):,.0f}"


def chance(p: float) -> str:
    """A probability, `0.003`; small ones as a bound."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def when(ts: int, *, days: bool) -> str:
    """A time in UTC: the day, and the minute unless bars are days."""
    return datetime.fromtimestamp(ts // 1_000_000_000, UTC).strftime("%Y-%m-%d" if days else "%Y-%m-%d %H:%M")


def in_days(ts: NDArray[np.int64]) -> bool:
    """Whether all times are midnights: then the time of day says nothing."""
    return not np.any(ts % DAY_NS)
