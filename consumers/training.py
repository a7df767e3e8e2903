"""What is to be trained for a batch of requests, on its way from plans to results. Pure: the trainer does what is
decided here.

What becomes of a new version (`alias_changes`): the first of its model serves at once, on probation; any later one of a
series becomes the challenger, and it is for the gate to make it champion. No stream of outcomes judges models of a
table: there the newest version serves. A version that is champion already stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consumers.answers import Answer
from consumers.fit import FitOutcome
from consumers.plans import Plan, TablePlan
from modelstore.names import CHALLENGER, CHAMPION
from modelstore.release import Aliases, AliasKey
from modelstore.verdicts import Note
from modelstore.version import NewVersion
from streams.ids import StreamID
from streams.records import TrainingResult


@dataclass(slots=True)
class Work:
    """One plan of a batch on its way.

    Attributes:
        requests: (entry, the requester's own id) of each request that asks for it.
        bars: bars found.
        digests: versions that are stored.
        models: model's name -> digest of its new version.
        why: what the last request gives as its reason.
        through: end of the last bar that was used, epoch ns.
    """

    plan: Plan | TablePlan
    requests: list[tuple[StreamID, str | None]] = field(default_factory=list)
    bars: int | None = None
    digests: tuple[str, ...] = ()
    models: dict[str, str] = field(default_factory=dict)
    why: str = ""
    through: int | None = None
    status: str = "done"
    reason: str = ""
    seconds: float = 0.0

    def refuse(self, reason: str) -> None:
        """Note that what is asked for cannot be."""
        self.status, self.reason = "refused", reason

    def fail(self, reason: str) -> None:
        """Note that it went wrong."""
        self.status, self.reason = "failed", reason

    def stored(self, versions: Sequence[NewVersion]) -> None:
        """Note at least one version that is in the store now."""
        self.digests = tuple(version.digest for version in versions)
        self.models = {version.manifest.name: version.digest for version in versions}
        self.through = max(version.manifest.trained_through for version in versions)


def join(work: Work, parts: Iterable[FitOutcome]) -> list[NewVersion]:
    """The versions of all parts of a fit, in the order of the plan's targets; what was left out is noted."""
    versions: dict[str, NewVersion] = {}
    skipped: dict[str, str] = {}
    for part in parts:
        skipped |= part.skipped
        versions |= {version.manifest.name: version for version in part.versions}
    if skipped:
        order = list(work.plan.targets) if isinstance(work.plan, Plan) else sorted(skipped)
        left_out = (f"{name} ({skipped[name]})" for name in order if name in skipped)
        work.reason = "not trained: " + "; ".join(left_out)
        work.status = "done" if versions else "refused"
    if isinstance(work.plan, TablePlan):
        return [versions[name] for name in sorted(versions)]
    names = (f"{work.plan.series}/{target}" for target in work.plan.targets)
    return [versions[name] for name in names if name in versions]


@dataclass(frozen=True, slots=True)
class _New:
    """A new version of a model, and the work that made it."""

    digest: str
    work: Work


def alias_changes(works: Iterable[Work], aliases: Aliases) -> tuple[dict[AliasKey, str | None], list[Note]]:
    """What becomes of a batch's versions.

    Args:
        aliases: those in force.

    Returns:
        The change to make, and a verdict for every version whose alias it sets.
    """
    newest = {name: _New(digest, work) for work in works for name, digest in work.models.items()}
    delta: dict[AliasKey, str | None] = {}
    notes: list[Note] = []
    for name, new in newest.items():
        champion, challenger = aliases.get((name, CHAMPION)), aliases.get((name, CHALLENGER))
        if champion == new.digest:
            if challenger == champion:
                delta[name, CHALLENGER] = None
        elif champion is None:
            delta[name, CHAMPION] = new.digest
            if challenger is not None:
                delta[name, CHALLENGER] = None
            notes.append(_note(name, new, "first", None, "the first version of this model: it serves on probation"))
        elif isinstance(new.work.plan, TablePlan):
            delta[name, CHAMPION] = new.digest
            notes.append(_note(name, new, "promoted", champion, "of a table's model the newest version serves"))
        elif challenger != new.digest:
            delta[name, CHALLENGER] = new.digest
            notes.append(_note(name, new, "challenger", champion, "is scored beside the champion"))
    return delta, notes


def _note(name: str, new: _New, verdict: str, over: str | None, reason: str) -> Note:
    asked = f"; trained because: {new.work.why}" if new.work.why else ""
    return Note(name, new.work.through or 0, verdict, new.digest, over, reason + asked)


def results_of(works: Iterable[Work], release: str | None) -> list[Answer]:
    """All results of what was to be trained, in the order of the requests.

    Args:
        release: id of the release in force once the batch's versions have their aliases, if there are any.
    """
    answers: list[Answer] = []
    for work in works:
        answers += [(entry, _result(entry, request_id, work, release)) for entry, request_id in work.requests]
    return sorted(answers, key=lambda answer: answer[0])


def _result(entry: StreamID, request_id: str | None, work: Work, release: str | None) -> TrainingResult:
    return TrainingResult(
        request=str(entry),
        id=request_id,
        series=work.plan.subject,
        status=work.status,
        reason=work.reason,
        bars=work.bars,
        versions=work.digests,
        release=release if work.digests else None,
        trained_through=work.through or None,
        seconds=work.seconds,
    )
