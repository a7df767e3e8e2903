"""What happened to a series' models: from trainings and verdicts to a report's events and tables.

`read_trainings` and `read_verdicts` read; the rest is pure. Trainings are `red10:{T}:requests` with `…:results`,
verdicts `red10:{T}:verdicts:NAME` (`modelstore.verdicts`). What happened to several models of a series at one moment
for one reason is one event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import redis

from modelstore.names import CHALLENGER, CHAMPION, PROVEN, ModelName
from modelstore.release import Aliases
from modelstore.verdicts import Noted, Verdicts
from ops.entries import all_entries
from ops.report_model import Event, EventKind, Table
from ops.report_outcomes import Made
from ops.report_words import DAY_NS, listed, when
from streams.errors import BadRecord
from streams.ids import StreamID
from streams.keys import Keys
from streams.records import TrainingRequest, TrainingResult

#: Verdicts (see `consumers.acts`) that are events. A training makes its own event.
_KINDS: Mapping[str, EventKind] = {
    "promoted": "promotion",
    "proven": "proven",
    "doubted": "doubt",
    "drift": "drift",
}
#: In which order they stand where they come at one moment: what is seen, what is done, what comes of it.
_ORDER: tuple[EventKind, ...] = ("flip", "drift", "doubt", "retrain", "promotion", "proven")
#: Verdicts that go into the table of decisions.
_DECIDED = (*_KINDS, "dropped")
#: Names that an event lists.
MOST_NAMES = 6
#: Most rows of the table of decisions, the newest.
MOST_DECISIONS = 400


@dataclass(frozen=True, slots=True)
class Training:
    """A training that made versions.

    Attributes:
        ts: the event time that it was asked for, or, where that was left open, the end of the last bar used; ns.
        targets: those asked for; empty: all.
        versions: how many were made.
        since: the bars used end after this, ns.
    """

    series: str
    ts: int
    targets: tuple[str, ...]
    versions: int
    why: str
    since: int | None


def read_trainings(client: redis.Redis, keys: Keys) -> list[Training]:
    """The trainings that are on record and made versions, in the order in which they ended.

    Raises:
        redis.RedisError: as the client raises it.
    """
    asked: dict[StreamID, TrainingRequest] = {}
    for entry, fields in all_entries(client, keys.requests):
        try:
            asked[entry] = TrainingRequest.from_fields(fields)
        except BadRecord:
            continue
    found = []
    for _, fields in all_entries(client, keys.results):
        try:
            result = TrainingResult.from_fields(fields)
            request = asked.get(StreamID.parse(result.request))
        except (BadRecord, ValueError):
            continue
        if result.status == "done" and result.versions and result.trained_through is not None:
            asked_for = request or TrainingRequest(series=result.series)
            found.append(
                Training(
                    result.series,
                    asked_for.as_of or result.trained_through,
                    asked_for.targets or (),
                    len(result.versions),
                    asked_for.why or "",
                    asked_for.since,
                )
            )
    return found


def read_verdicts(verdicts: Verdicts, names: Iterable[str]) -> list[Noted]:
    """The verdicts on models, in the order in which they were made.

    Raises:
        redis.RedisError: as the client raises it.
    """
    found = [noted for name in names for noted in verdicts.of(name)]
    return sorted(found, key=lambda noted: (noted.note.at, noted.note.name, noted.created_ms))


def events_of(series: str, trainings: Sequence[Training], noted: Sequence[Noted]) -> tuple[Event, ...]:
    """What happened to the models of a series, in order of event time."""
    events = [_trained(training) for training in trainings if training.series == series]
    groups: dict[tuple[int, EventKind], list[tuple[str, str]]] = {}
    for one in noted:
        name, kind = ModelName.parse(one.note.name), _KINDS.get(one.note.verdict)
        if name.series == series and kind is not None:
            groups.setdefault((one.note.at, kind), []).append((name.target, one.note.reason))
    for (ts, kind), found in groups.items():
        events.append(Event(ts, kind, _told(found), tuple(target for target, _ in found)))
    return tuple(sorted(events, key=lambda event: (event.ts, _ORDER.index(event.kind))))


def _trained(training: Training) -> Event:
    days = training.ts % DAY_NS == 0
    since = f" on the bars since {when(training.since, days=days)}" if training.since is not None else ""
    why = f": {training.why}" if training.why else ""
    count = f"{training.versions} model{'' if training.versions == 1 else 's'}"
    what = _names(training.targets) if training.targets else count
    return Event(training.ts, "retrain", f"{what}{since}{why}", training.targets)


def _told(found: Sequence[tuple[str, str]]) -> str:
    if len(found) == 1:
        return f"{found[0][0]}: {found[0][1]}"
    return _names([target for target, _ in found])


def _names(targets: Sequence[str]) -> str:
    more = len(targets) - MOST_NAMES
    return f"{', '.join(targets[:MOST_NAMES])} and {more} more" if more > 1 else listed(targets)


def models_table(
    series: Iterable[str],
    aliases: Aliases,
    numbers: Mapping[str, int],
    made: Mapping[str, Made],
    noted: Sequence[Noted],
) -> Table:
    """One row per series: how many models it has, and what became of them.

    Args:
        aliases: of the release in force.
        numbers: model's name -> number of its newest version.
        made: digest -> what is known of it.
    """
    rows = []
    for name in series:
        mine = [key for key in aliases if ModelName.parse(key[0]).series == name]
        champions = [aliases[key] for key in mine if key[1] == CHAMPION]
        proven = sum(aliases.get((key[0], PROVEN)) == aliases[key] for key in mine if key[1] == CHAMPION)
        grown = sum(bool(made[digest].trees) for digest in champions if digest in made)
        words = [one.note.verdict for one in noted if ModelName.parse(one.note.name).series == name]
        versions = sum(number for model, number in numbers.items() if ModelName.parse(model).series == name)
        challengers = sum(key[1] == CHALLENGER for key in mine)
        counted = (len(champions), versions, grown, proven, challengers, *(words.count(word) for word in _COUNTED))
        rows.append((name, *(f"{number:,}" for number in counted)))
    columns = ("series", "models", "versions", "with trees", "proven", "challengers", *_COUNTED)
    note = (
        "A champion without trees is its naive forecast: training found nothing that held out of the sample. A "
        "champion is on probation until it is proven. Promoted, dropped, doubted and drift count decisions on record."
    )
    return Table("What is in force", columns, tuple(rows), right=columns[1:], note=note)


_COUNTED = ("promoted", "dropped", "doubted", "drift")


def champions_table(
    series: Sequence[str], aliases: Aliases, made: Mapping[str, Made], through: Mapping[str, int]
) -> Table:
    """One row per champion.

    Args:
        through: digest -> its `trained_through`, ns.
    """
    rows = []
    for (name, alias), digest in sorted(aliases.items()):
        if alias != CHAMPION or ModelName.parse(name).series not in series:
            continue
        known, until = made.get(digest), through.get(digest)
        rows.append(
            (
                name,
                digest[:12],
                "–" if known is None or known.trees is None else f"{known.trees}",
                "–" if known is None else known.naive or "–",
                "–" if until is None else when(until, days=until % DAY_NS == 0),
                "proven" if aliases.get((name, PROVEN)) == digest else "on probation",
            )
        )
    columns = ("model", "version", "trees", "naive", "trained through", "standing")
    return Table("Champions", columns, tuple(rows), right=("trees",))


def decisions_table(noted: Sequence[Noted]) -> Table:
    """What was decided about models, and why, the newest first."""
    decided = [one.note for one in noted if one.note.verdict in _DECIDED][::-1]
    days = all(note.at % DAY_NS == 0 for note in decided)
    rows = tuple(
        (when(note.at, days=days), note.name, note.verdict, note.version[:12], (note.over or "")[:12], note.reason)
        for note in decided[:MOST_DECISIONS]
    )
    left = len(decided) - len(rows)
    note = f"The newest; {left:,} earlier ones are left out." if left else ""
    return Table("Decisions", ("at", "model", "verdict", "version", "over", "reason"), rows, note=note)
