from __future__ import annotations

from typing import Any

import orjson
import pytest

from consumers import sorting
from consumers.answers import Result
from consumers.plans import TablePlan
from consumers.sorting import Sorted, sort_out
from consumers.training import Work, results_of
from streams.ids import StreamID
from streams.records import PredictionResult, TrainingResult
from streams.settings import Pipeline
from tests.consumers.asking import asked

PIPELINE = Pipeline(intervals=("1d",), columns=("close", "volume"), horizons=(1, 3))
RELEASE = "f" * 64

Fields = dict[bytes, bytes]


def raw(**fields: str) -> Fields:
    return {name.encode(): text.encode() for name, text in fields.items()}


def batch(*requests: Fields) -> list[tuple[StreamID, Fields]]:
    return [(StreamID(9 + number, 0), fields) for number, fields in enumerate(requests)]


def train(**fields: Any) -> Fields:
    return raw(**asked(**fields).to_fields())


def refusal(**fields: str) -> Result:
    found = sort_out(batch(raw(**fields)), PIPELINE)
    assert (found.works, found.questions) == ([], [])
    [(_, result)] = found.refused
    assert result.status == "refused"
    return result


def test_equal_plans_are_one_work_and_stand_where_the_last_of_them_was_asked_for() -> None:
    first, last = (train(series="SPY:1d", as_of=5, id=own) for own in "ab")
    requests = batch(first, train(series="SPY:1d", as_of=6), train(series="QQQ:1d"), last)
    found = sort_out(reversed(requests), PIPELINE)
    assert found.refused == []
    assert [work.plan for work in found.works] == [
        work.plan
        for work in sort_out(batch(train(series="SPY:1d", as_of=6), train(series="QQQ:1d"), last), PIPELINE).works
    ]
    assert [work.plan.subject for work in found.works] == ["SPY:1d", "QQQ:1d", "SPY:1d"]
    assert found.works[-1].requests == [(requests[0][0], "a"), (requests[3][0], "b")]


def test_results_come_in_the_order_of_the_requests_whatever_became_of_them() -> None:
    requests = batch(train(series="SPY:1d"), train(series="QQQ:1d"), train(series="SPY:1d"))
    works = sort_out(requests, PIPELINE).works
    works[0].fail("its process died")
    works[1].digests = ("0" * 64,)
    answers = results_of(works, RELEASE)
    assert [entry for entry, _ in answers] == [entry for entry, _ in requests]
    results = [result for _, result in answers if isinstance(result, TrainingResult)]
    assert [result.request for result in results] == [str(entry) for entry, _ in requests]
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert [result.release for result in results] == [RELEASE, None, RELEASE]


def test_a_request_that_was_deleted_says_so() -> None:
    found: Sorted = sort_out([(StreamID(9, 0), {})], PIPELINE)
    assert found.works == []
    assert "was deleted" in found.refused[0][1].reason


def test_a_table_is_named_after_its_file_unless_the_request_names_it() -> None:
    names = [{"dataset": "flowers/iris.csv.gz"}, {"dataset": "x.parquet", "table": "iris", "targets": '["b","a","b"]'}]
    works = sort_out(batch(*(raw(kind="train_table", **fields) for fields in names)), PIPELINE).works
    assert [work.plan for work in works] == [
        TablePlan("iris", "flowers/iris.csv.gz", None),
        TablePlan("iris", "x.parquet", ("b", "a")),
    ]


@pytest.mark.parametrize("name", ["my data.csv", "../.csv", "SPY:1m.csv", ".csv", "a" * 65 + ".csv"])
def test_a_file_that_cannot_name_a_table_is_refused_with_what_to_do(name: str) -> None:
    found = refusal(kind="train_table", dataset=name)
    assert "give another one as `table` (`red10 train FILE --table NAME`)" in found.reason


def test_what_is_no_request_is_refused_with_what_is_wrong_and_its_id() -> None:
    assert "dataset" in refusal(kind="train_table").reason
    assert "no target is named" in refusal(kind="train_table", dataset="a.csv", targets="[]").reason
    found = refusal(kind="dance", series="SPY:1d", id="x")
    assert (found.id, found.reason) == ("x", "kind is 'dance': it can be train, train_table or predict")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "holds rows, or names a dataset"),
        ({"rows": "[{}]", "dataset": "a.csv"}, "one of the two"),
        ({"rows": "{}"}, "field rows"),
        ({"rows": "[[1]]"}, "field rows"),
        ({"rows": '[{"a":[1]}]'}, "field rows"),
        ({"rows": "[{"}, "prediction request: "),
    ],
)
def test_a_prediction_request_that_is_none_is_answered_where_predictions_are(fields: dict[str, str], said: str) -> None:
    result = refusal(kind="predict", model="iris/species", id="mine", **fields)
    assert isinstance(result, PredictionResult)
    assert (result.model, result.id) == ("iris/species", "mine")
    assert said in result.reason


def test_cells_of_a_prediction_request_stay_what_they_are() -> None:
    rows = [{"a": 1, "b": 1.5, "c": "1", "d": None, "e": True}]
    fields = raw(kind="predict", model="t/x", rows=orjson.dumps(rows).decode())
    [question] = sort_out(batch(fields), PIPELINE).questions
    assert question.request.rows is not None
    assert repr(list(question.request.rows)) == repr(rows)


def test_rows_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "MAX_ROWS_BYTES", 10)
    assert "in several requests" in refusal(kind="predict", model="t/x", rows='[{"a":1234}]').reason


def test_works_do_not_share_what_they_note() -> None:
    works = sort_out(batch(train(series="SPY:1d"), train(series="QQQ:1d")), PIPELINE).works
    works[0].refuse("no")
    assert isinstance(works[1], Work)
    assert works[1].status == "done"
