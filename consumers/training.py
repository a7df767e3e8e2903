"""One batch of training requests on its way from entries to results. Pure: the trainer does what is decided here.

Equal plans are carried out once, for all the requests that ask for them, and stand in the order of their last request:
of two plans for one model the later one's version counts.

What becomes of a new version (`alias_changes`): the first of its model serves at once, on probation; any later one
becomes the challenger, and it is for the gate to make it champion. A version that is champion already stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consumers.deliveries import Fields
from consumers.fit import FitOutcome
from consumers.plans import Plan, Refusal, decide
from consumers.request_queue import Entry
from modelstore.names import CHALLENGER, CHAMPION
from modelstore.release import Aliases, AliasKey
from modelstore.verdicts import Note
from modelstore.version import NewVersion
from streams.errors import BadName, BadRecord
from streams.ids import StreamID
from streams.records import TrainingRequest, TrainingResult
from streams.settings import Pipeline

Answer = tuple[StreamID, TrainingResult]


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

    plan: Plan
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


def sort_out(batch: Iterable[Entry], pipeline: Pipeline) -> tuple[list[Answer], list[Work]]:
    """Results of what is refused at sight, and the work of the rest."""
    refused: list[Answer] = []
    works: dict[Plan, Work] = {}
    for entry, fields in sorted(batch, key=lambda item: item[0]):
        try:
            request = TrainingRequest.from_fields(fields)
            decision = decide(request, pipeline)
        except (BadRecord, BadName) as error:
            refused.append((entry, _refused(entry, fields, str(error))))
            continue
        if isinstance(decision, Refusal):
            refused.append((entry, _refused(entry, fields, decision.reason)))
            continue
        work = works.pop(decision, None) or Work(decision)
        work.requests.append((entry, request.id))
        work.why = request.why or work.why
        works[decision] = work
    return refused, list(works.values())


def join(work: Work, parts: Iterable[FitOutcome]) -> list[NewVersion]:
    """The versions of all parts of a fit, in the order of the plan's targets; what was left out is noted."""
    versions: dict[str, NewVersion] = {}
    skipped: dict[str, str] = {}
    for part in parts:
        skipped |= part.skipped
        versions |= {version.manifest.name: version for version in part.versions}
    if skipped:
        left_out = (f"{name} ({skipped[name]})" for name in work.plan.targets if name in skipped)
        work.reason = "not trained: " + "; ".join(left_out)
        work.status = "done" if versions else "refused"
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
        elif challenger != new.digest:
            delta[name, CHALLENGER] = new.digest
            notes.append(_note(name, new, "challenger", champion, "is scored beside the champion"))
    return delta, notes


def _note(name: str, new: _New, verdict: str, over: str | None, reason: str) -> Note:
    asked = f"; trained because: {new.work.why}" if new.work.why else ""
    return Note(name, new.work.through or 0, verdict, new.digest, over, reason + asked)


def results_of(refused: Iterable[Answer], works: Iterable[Work], release: str | None) -> list[Answer]:
    """All results of a batch, in the order of the requests.

    Args:
        release: id of the release in force once the batch's versions have their aliases, if there are any.
    """
    answers = list(refused)
    for work in works:
        answers += [(entry, _result(entry, request_id, work, release)) for entry, request_id in work.requests]
    return sorted(answers, key=lambda answer: answer[0])


def _result(entry: StreamID, request_id: str | None, work: Work, release: str | None) -> TrainingResult:
    return TrainingResult(
        request=str(entry),
        id=request_id,
        series=str(work.plan.series),
        status=work.status,
        reason=work.reason,
        bars=work.bars,
        versions=work.digests,
        release=release if work.digests else None,
        trained_through=work.through,
        seconds=work.seconds,
    )


def _refused(entry: StreamID, fields: Fields, reason: str) -> TrainingResult:
    """The result of a request that cannot be read or carried out; what can be read of it is returned."""
    series, request_id = (fields.get(name, b"").decode("utf-8", "replace")[:128] for name in (b"series", b"id"))
    if not fields:
        reason = "the request's entry was deleted before it was carried out: post it again"
    return TrainingResult(
        request=str(entry),
        id=request_id or None,
        series=series,
        status="refused",
        reason=reason,
        bars=None,
        versions=(),
        release=None,
        trained_through=None,
        seconds=0.0,
    )
