from __future__ import annotations

from dataclasses import replace

import pytest

from consumers.acts import WORDS, note_of, release_change, summary
from consumers.review import Act, ActKind
from modelstore.release import apply

OLD, NEW, OTHER = (letter * 64 for letter in "abc")
SERIES, NAME = "SPY:1d", "SPY:1d/close_5"
ABOUT_BOTH: tuple[ActKind, ...] = ("promote", "drop")


def act(kind: ActKind) -> Act:
    return Act(kind, "close_5", 7, OLD, NEW if kind in ABOUT_BOTH else None, "because")


def aliases(**digests: str) -> dict[tuple[str, str], str]:
    return {(NAME, alias): digest for alias, digest in digests.items()} | {("X:1d/close_5", "champion"): OTHER}


@pytest.mark.parametrize(
    ("found", "before", "after"),
    [
        (act("promote"), {"champion": OLD, "challenger": NEW, "proven": OLD}, {"champion": NEW}),
        (act("drop"), {"champion": OLD, "challenger": NEW, "proven": OLD}, {"champion": OLD, "proven": OLD}),
        (act("prove"), {"champion": OLD, "challenger": NEW}, {"champion": OLD, "challenger": NEW, "proven": OLD}),
        (act("doubt"), {"champion": OLD, "proven": OLD}, {"champion": OLD}),
        (act("drift"), {"champion": OLD, "proven": OLD, "challenger": NEW}, {"champion": OLD, "challenger": NEW}),
    ],
)
def test_a_decision_sets_its_aliases_with_one_verdict_and_carried_out_twice_does_no_more(
    found: Act, before: dict[str, str], after: dict[str, str]
) -> None:
    delta, notes = release_change(SERIES, [found], aliases(**before))
    assert apply(aliases(**before), delta) == aliases(**after)
    assert notes == [note_of(SERIES, found)]
    assert notes[0].verdict == WORDS[found.kind]
    assert (notes[0].version, notes[0].over) == ((NEW, OLD) if found.kind in ABOUT_BOTH else (OLD, None))
    assert release_change(SERIES, [found], aliases(**after)) == ({}, [])


@pytest.mark.parametrize("kind", list(WORDS))
@pytest.mark.parametrize(
    "now",
    [
        {},
        {"champion": OTHER, "challenger": NEW, "proven": OTHER},
        {"champion": OTHER, "challenger": NEW, "proven": OLD},
        {"champion": NEW, "proven": NEW},
    ],
)
def test_a_decision_about_a_champion_that_is_not_in_force_is_void(kind: ActKind, now: dict[str, str]) -> None:
    assert release_change(SERIES, [act(kind)], aliases(**now)) == ({}, [])


@pytest.mark.parametrize("kind", ABOUT_BOTH)
@pytest.mark.parametrize("now", [{"champion": OLD}, {"champion": OLD, "challenger": OTHER}])
def test_a_decision_about_a_challenger_that_is_not_in_force_is_void(kind: ActKind, now: dict[str, str]) -> None:
    assert release_change(SERIES, [act(kind)], aliases(**now)) == ({}, [])


def test_decisions_build_on_those_before_them() -> None:
    acts = [act("promote"), act("drift"), replace(act("prove"), champion=NEW)]
    delta, notes = release_change(SERIES, acts, aliases(champion=OLD, challenger=NEW, proven=OLD))
    assert apply(aliases(champion=OLD, challenger=NEW, proven=OLD), delta) == aliases(champion=NEW, proven=NEW)
    assert [note.verdict for note in notes] == ["promoted", "proven"], "the old champion's drift is of no matter now"
    assert summary(acts[:2]) == "close_5 promoted: because; close_5 drift: because"
