"""What a batch of requests asks for. Pure.

Equal plans are carried out once, for all the requests that ask for them, and stand in the order of their last request:
of two plans for one model the later one's version counts. Predictions are answered one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from consumers.answers import PREDICT, Answer, without_work
from consumers.plans import Plan, Refusal, TablePlan, decide, decide_table
from consumers.request_queue import Entry
from consumers.training import Work
from streams.errors import BadName, BadRecord
from streams.ids import StreamID
from streams.records import PredictionRequest, TableRequest, TrainingRequest
from streams.settings import Pipeline

#: Most bytes of the rows that one prediction request holds.
MAX_ROWS_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Question:
    """A prediction request."""

    entry: StreamID
    request: PredictionRequest


@dataclass(slots=True)
class Sorted:
    """A batch, sorted out.

    Attributes:
        refused: answers to what is refused at sight.
        works: what is to be trained.
        questions: what is to be predicted.
    """

    refused: list[Answer] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)


def sort_out(batch: Iterable[Entry], pipeline: Pipeline) -> Sorted:
    """Read and judge the requests of a batch."""
    found = Sorted()
    works: dict[Plan | TablePlan, Work] = {}
    for entry, fields in sorted(batch, key=lambda item: item[0]):
        try:
            if fields.get(b"kind") == PREDICT:
                found.questions.append(Question(entry, _question(fields)))
                continue
            request = _training(fields)
            decision = decide_table(request) if isinstance(request, TableRequest) else decide(request, pipeline)
        except (BadRecord, BadName) as error:
            decision = Refusal(str(error))
        if isinstance(decision, Refusal):
            found.refused.append((entry, without_work(entry, fields, "refused", decision.reason)))
            continue
        work = works.pop(decision, None) or Work(decision)
        work.requests.append((entry, request.id))
        work.why = request.why or work.why
        works[decision] = work
    found.works = list(works.values())
    return found


def _training(fields: Mapping[bytes, bytes]) -> TrainingRequest | TableRequest:
    kind = fields.get(b"kind", b"train")
    if fields and kind not in (b"train", b"train_table"):
        asked = kind.decode(errors="replace")[:40]
        raise BadRecord("malformed", f"kind is {asked!r}: it can be train, train_table or predict")
    return (TableRequest if fields.get(b"kind") == b"train_table" else TrainingRequest).from_fields(fields)


def _question(fields: Mapping[bytes, bytes]) -> PredictionRequest:
    if len(fields.get(b"rows", b"")) > MAX_ROWS_BYTES:
        raise BadRecord(
            "malformed", f"rows have more than {MAX_ROWS_BYTES // 2**20} MiB: post them in several requests"
        )
    request = PredictionRequest.from_fields(fields)
    if (request.rows is None) == (request.dataset is None):
        raise BadRecord("malformed", "a prediction request holds rows, or names a dataset: one of the two")
    return request
