"""Tables on the request stream: trained by a trainer, asked for predictions, answered once each."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from consumers import predicting
from consumers.datasets import MIB, Roots
from consumers.deliveries import History, How, Taken, give_up
from consumers.fitpool import FitFailure, FitPool, Fitted, Job, TableRead, fit_or_explain
from consumers.requests import Request, post_request, post_requests, wait_results
from consumers.trainer import Trainer, TrainerOptions
from modelstore.names import CHAMPION
from modelstore.releases import Releases
from modelstore.store import ModelStore
from modelstore.verdicts import Verdicts
from streams.clients import connect, connect_async
from streams.ids import StreamID
from streams.keys import Keys
from streams.records import PredictionRequest, PredictionResult, TableRequest, TrainingResult
from streams.settings import Pipeline, load_settings
from streams.tenant import Tenant, open_tenant
from tests.consumers.asking import entries, pending, results, until
from tests.consumers.test_trainer import PARAMETERS, add_bars
from tests.consumers.test_trainer import post as post_series
from tests.servers import Server
from tests.workers import until as wait_until
from tests.workers import workers

IRIS = Path(__file__).parents[2] / "producers" / "data" / "iris.csv"
TENANT = Tenant(Keys("t"), 2, Pipeline(intervals=("1d",), columns=("close", "volume"), horizons=(1, 3)))
KEYS = TENANT.keys
ROW: dict[str, Any] = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}


@pytest.fixture(scope="module")
def pool() -> Iterator[FitPool]:
    shared = FitPool(1)
    yield shared
    shared.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "datasets"
    found.mkdir()
    shutil.copy(IRIS, found)
    return found


@asynccontextmanager
async def open_trainer(server: Server, pool: FitPool, root: Path) -> AsyncIterator[Trainer]:
    options = TrainerOptions(PARAMETERS, max_bars=10_000, processes=1, roots=Roots((root,), MIB))
    async with connect_async(server.url, block_ms=200) as own:
        with connect(server.url) as bars, connect(server.url) as store:
            yield Trainer(
                streams=own, bars=bars, models=store, tenant=TENANT, options=options, consumer="one", pool=pool
            )


def ask(client: redis.Redis, model: str = "iris/species", **fields: Any) -> StreamID:
    return post_request(client, KEYS, PredictionRequest(kind="predict", model=model, **fields))


def table(client: redis.Redis, dataset: str = "iris.csv", **fields: Any) -> StreamID:
    return post_request(client, KEYS, TableRequest(kind="train_table", dataset=dataset, **fields))


async def carry_out(trainer: Trainer) -> None:
    while batch := await trainer.read(1):
        await trainer.handle(batch)


def predictions(client: redis.Redis) -> list[PredictionResult]:
    return [PredictionResult.from_fields(fields) for _, fields in entries(client, KEYS.predictions)]


async def test_a_table_becomes_models_that_answer_rows_and_files(
    server: Server, client: redis.Redis, pool: FitPool, root: Path
) -> None:
    async with open_trainer(server, pool, root) as trainer:
        entry = table(client, id="mine", why="a test")
        await carry_out(trainer)
        [trained] = results(client, KEYS)
        assert (trained.request, trained.id, trained.series) == (str(entry), "mine", "iris")
        assert (trained.status, len(trained.versions), trained.trained_through) == ("done", 5, None)
        first = ask(client, rows=(ROW, {**ROW, "petal_width": None}), id="a")
        ask(client, dataset="iris.csv")
        ask(client, "iris/petal_width@1", rows=({**ROW, "species": "setosa"},))
        await carry_out(trainer)
    store, releases = ModelStore(client, KEYS), Releases(client, KEYS)
    rows, file, width = predictions(client)
    assert (rows.request, rows.id, rows.model, rows.status) == (str(first), "a", "iris/species", "done")
    assert rows.version == store.resolve("iris/species") in trained.versions
    assert rows.labels == ("setosa", "setosa")
    assert rows.classes == ("setosa", "versicolor", "virginica")
    assert rows.probabilities is not None
    assert [round(sum(row), 5) for row in rows.probabilities] == [1, 1]
    assert rows.values is None
    assert file.labels is not None
    assert len(file.labels) == 150
    assert width.values is not None
    assert width.values[0] == pytest.approx(0.2, abs=0.15)
    assert (width.labels, width.probabilities) == (None, None)
    assert pending(client, KEYS) == 0
    current = releases.current()
    assert current is not None
    assert current.id == trained.release
    assert set(releases.get(current.id).aliases) == {
        (f"iris/{name}", CHAMPION) for name in ("sepal_length", "sepal_width", "petal_length", "petal_width", "species")
    }
    [noted] = Verdicts(client, KEYS).of("iris/species")
    assert (noted.note.verdict, noted.note.at) == ("first", 0)
    assert noted.note.reason.endswith("trained because: a test")


async def test_of_a_table_that_has_grown_the_newest_version_answers_and_the_old_one_can_still_be_asked(
    server: Server, client: redis.Redis, pool: FitPool, root: Path
) -> None:
    async with open_trainer(server, pool, root) as trainer:
        table(client, targets=("species",))
        await carry_out(trainer)
        path = root / "iris.csv"
        path.write_text(path.read_text() + "".join("9,9,9,9,giant\n" for _ in range(20)))
        table(client, targets=("species",))
        await carry_out(trainer)
        giant = dict.fromkeys(ROW, 9)
        ask(client, rows=(giant,))
        ask(client, "iris/species@1", rows=(giant,))
        await carry_out(trainer)
    new, old = predictions(client)
    assert new.labels == ("giant",)
    assert old.labels != ("giant",)
    newest, _ = Verdicts(client, KEYS).of("iris/species")
    assert (newest.note.verdict, newest.note.over) == ("promoted", old.version)


async def test_a_request_for_what_cannot_be_is_refused_where_its_requester_waits(
    server: Server, client: redis.Redis, pool: FitPool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "MAX_ROWS", 2)
    (root / "secret.csv").symlink_to("/etc/passwd")
    add_bars(client, "SPY")
    async with open_trainer(server, pool, root) as trainer:
        table(client, targets=("species",))
        post_series(client, "SPY:1d", targets=["close_1"])
        await carry_out(trainer)
        table(client, "../iris.csv")
        table(client, "secret.csv")
        table(client, "iris.csv", targets=("colour",))
        ask(client, rows=({"petal_width": 1},))
        ask(client, rows=(ROW, ROW, ROW))
        ask(client, dataset="iris.csv")
        ask(client, dataset="secret.csv")
        ask(client, "iris/colour", rows=(ROW,))
        ask(client, "iris", rows=(ROW,))
        await carry_out(trainer)
    told = [(found.status, found.reason) for found in results(client, KEYS)][2:]
    assert [status for status, _ in told] == ["refused"] * 3
    assert ["outside" in told[0][1], "outside" in told[1][1], "has no column colour" in told[2][1]] == [True] * 3
    found = [(found.status, found.reason) for found in predictions(client)]
    assert [status for status, _ in found] == ["refused"] * 6
    said = [
        "row 1 lacks sepal_length, sepal_width, petal_length; expected are sepal_length",
        "3 rows; 2 at most",
        "has 150 rows, 2 at most",
        "outside the directories",
        "the store holds no version of iris/colour",
        "refers to no version",
    ]
    assert [text in reason for text, (_, reason) in zip(said, found, strict=True)] == [True] * 6, found
    assert pending(client, KEYS) == 0
    async with open_trainer(server, pool, root) as trainer:
        ask(client, "SPY:1d/close_1", rows=(ROW,))
        await carry_out(trainer)
    last = predictions(client)[-1]
    assert last.status == "refused"
    assert "red10 predictions SPY:1d" in last.reason


def fits_never_end(job: Job) -> Fitted:
    if isinstance(job, TableRead):
        return fit_or_explain(job)
    time.sleep(600)
    return FitFailure("unreachable")


async def test_a_prediction_does_not_wait_for_the_fits_of_its_batch(
    server: Server, client: redis.Redis, pool: FitPool, root: Path
) -> None:
    async with open_trainer(server, pool, root) as trainer:
        table(client, targets=("species",))
        await carry_out(trainer)
    requests: list[Request] = [
        TableRequest(kind="train_table", dataset="iris.csv"),
        PredictionRequest(kind="predict", model="iris/species", rows=(ROW,)),
    ]
    post_requests(client, KEYS, requests)
    slow = FitPool(1, fits_never_end)
    async with open_trainer(server, slow, root) as trainer:
        work = asyncio.create_task(trainer.handle(await trainer.read(1000)))
        await until(lambda: len(predictions(client)) == 1)
        assert pending(client, KEYS) == 1, "the answered one is acknowledged, the other is under way"
        trainer.stop()
        trainer.close()
        await work
    assert predictions(client)[0].labels == ("setosa",)
    assert len(results(client, KEYS)) == 1


def test_a_prediction_request_that_is_given_up_is_answered_where_predictions_are() -> None:
    words = (b"kind", b"predict", b"model", b"iris/species", b"id", b"mine")
    result, letter = give_up(Taken(StreamID(5, 0), How.SPENT, words, History(5, 1, 2, ("a",))))
    assert isinstance(result, PredictionResult)
    assert (result.model, result.id, result.status) == ("iris/species", "mine", "failed")
    assert letter.deliveries == 5
    other, _ = give_up(
        Taken(StreamID(5, 0), How.SPENT, (b"kind", b"train_table", b"dataset", b"a.csv"), letter_history())
    )
    assert isinstance(other, TrainingResult)
    assert other.series == "a.csv"


def letter_history() -> History:
    return History.parse(
        orjson.dumps({"deliveries": 5, "first": 1, "last": 2, "consumers": {}, "reason": "", "noted": 0})
    )


def test_a_trainer_process_answers_predictions_without_ever_loading_xgboost(
    server: Server, client: redis.Redis, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {
        "RED10_STREAMS_URL": server.url,
        "RED10_MODELS_URL": server.url,
        "RED10_DATA_DIR": str(tmp_path / "data"),
        "RED10_DATASET_ROOTS": f"{tmp_path / 'missing'},{root}",
        "RED10_TENANT": "t",
        "RED10_BLOCK_MS": "50",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with workers(env, tmp_path) as crew:
        trainer = crew.start("trainer")
        open_tenant(client, load_settings()[0])
        entry = table(client)
        with connect(server.url, block_ms=1000) as waiting:
            [result] = wait_results(waiting, KEYS, [entry], timeout_s=60).values()
        assert result.status == "done"
        ask(client, dataset="iris.csv")
        wait_until(lambda: predictions(client), "the answer", logs=crew.logs)
        assert trainer.process is not None
        loaded = Path(f"/proc/{trainer.process.pid}/maps").read_text()
        assert re.search(r"libxgboost|pandas|libarrow", loaded) is None
        assert "numpy" in loaded, "the look at what is loaded works"
        assert trainer.stop() == 0
    assert predictions(client)[0].status == "done"
