"""From what was decided about a series' models to a change of aliases and the verdicts that explain it. Pure.

A decision is about a champion, or about a champion and its challenger. If others are in force by the time that it is
carried out, it is void: nothing changes. So carrying one out twice does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumers.review import Act, ActKind
from modelstore.names import CHALLENGER, CHAMPION, PROVEN
from modelstore.release import Aliases, AliasKey
from modelstore.verdicts import Note

#: What a decision is called on record.
WORDS: dict[ActKind, str] = {
    "promote": "promoted",
    "prove": "proven",
    "doubt": "doubted",
    "drop": "dropped",
    "drift": "drift",
}


def release_change(series: str, acts: Sequence[Act], aliases: Aliases) -> tuple[dict[AliasKey, str | None], list[Note]]:
    """What decisions on one series change.

    Args:
        acts: in the order in which they were made.
        aliases: those in force.

    Returns:
        The change, and a verdict for each decision that is not void.
    """
    delta: dict[AliasKey, str | None] = {}
    notes: list[Note] = []
    for act in acts:
        name = f"{series}/{act.target}"
        now = {
            alias: delta[name, alias] if (name, alias) in delta else aliases.get((name, alias))
            for alias in (CHAMPION, CHALLENGER, PROVEN)
        }
        change = _change(act, now)
        if change is not None:
            delta |= {(name, alias): digest for alias, digest in change.items()}
            notes.append(note_of(series, act))
    return delta, notes


def _change(act: Act, now: dict[str, str | None]) -> dict[str, str | None] | None:
    """The aliases that one decision sets; `None` if it is void or says what is so already."""
    if now[CHAMPION] != act.champion:
        return None
    proven = now[PROVEN] == act.champion
    if act.kind in ("promote", "drop"):
        if now[CHALLENGER] != act.challenger:
            return None
        if act.kind == "drop":
            return {CHALLENGER: None}
        return {CHAMPION: act.challenger, CHALLENGER: None, PROVEN: None}
    if act.kind == "prove":
        return None if proven else {PROVEN: act.champion}
    return {PROVEN: None} if proven else None


def note_of(series: str, act: Act) -> Note:
    """A decision as it goes on record: about the challenger over the champion, or about the champion."""
    name = f"{series}/{act.target}"
    if act.kind in ("promote", "drop"):
        return Note(name, act.at, WORDS[act.kind], act.challenger or "", act.champion, act.reason)
    return Note(name, act.at, WORDS[act.kind], act.champion, None, act.reason)


def summary(acts: Sequence[Act]) -> str:
    """Decisions in one line, for the history of releases."""
    return "; ".join(f"{act.target} {WORDS[act.kind]}: {act.reason}" for act in acts)
