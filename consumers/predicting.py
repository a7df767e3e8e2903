"""Answering prediction requests: rows against a table's model, scored by its packed forest. XGBoost is never imported.

A model is found anew for each request, since aliases move; what is loaded of a version, which never changes, is kept
for the next one. Files are read in training processes, where a hostile one can do no harm to the trainer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from consumers.answers import Answer
from consumers.datasets import Roots
from consumers.fitpool import FitFailure, FitPool, TableRead, TableRows
from consumers.patience import Patience
from consumers.sorting import Question
from modelstore.errors import NotFound
from modelstore.store import ModelStore
from modelstore.table_model import Predicted, TableModel
from modelstore.tabular import BadRows, NoTable
from streams.errors import BadName, Red10Error
from streams.records import PredictionResult

log = logging.getLogger(__name__)

#: Most rows of one request: its answer is one entry.
MAX_ROWS = 10_000
#: Loaded versions that are kept.
KEPT_MODELS = 64

Rows = Sequence[Mapping[str, Any]]


class _Refused(Red10Error):
    """The request asks for what cannot be."""


class Predicting:
    """Answers prediction requests, one after another."""

    def __init__(
        self,
        store: ModelStore,
        pool: FitPool,
        roots: Roots,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put it together; nothing is read yet.

        Args:
            patience: with the models role.
        """
        self._store = store
        self._pool = pool
        self._roots = roots
        self._patience = patience
        self._clock = clock
        self._models: OrderedDict[str, TableModel] = OrderedDict()

    async def answer(self, question: Question) -> Answer:
        """The answer to one request; what goes wrong with it is said in it.

        Raises:
            Stopped: the trainer is to end.
            redis.RedisError: waiting will not help.
        """
        began = self._clock()
        request = question.request
        told: dict[str, Any] = {"request": str(question.entry), "id": request.id, "model": request.model[:200]}
        try:
            rows = request.rows if request.rows is not None else await self._read(request.dataset or "")
            if len(rows) > MAX_ROWS:
                raise _Refused(f"{len(rows)} rows; {MAX_ROWS} at most can be predicted at once")
            model, predicted = await self._patience(lambda: asyncio.to_thread(self._predict, request.model, rows))
            told |= {"status": "done", "version": model.digest} | shown(predicted)
        except (BadName, BadRows, NoTable, NotFound, _Refused) as error:
            told |= {"status": "refused", "reason": str(error)}
        except Red10Error as error:
            log.error("predicting with %s failed: %s", request.model[:200], error)
            told |= {"status": "failed", "reason": str(error)}
        return question.entry, PredictionResult(**told, seconds=self._clock() - began)

    async def _read(self, dataset: str) -> Rows:
        found = await self._pool.fit(TableRead(dataset, self._roots, MAX_ROWS))
        if isinstance(found, TableRows):
            return found.rows
        assert isinstance(found, FitFailure), "what a read gives"
        raise _Refused(found.reason) if found.refused else Red10Error(found.reason)

    def _predict(self, ref: str, rows: Rows) -> tuple[TableModel, Predicted]:
        model = self._model(self._store.resolve(ref))
        return model, model.predict(rows)

    def _model(self, digest: str) -> TableModel:
        model = self._models.pop(digest, None) or TableModel.load(self._store, digest)
        self._models[digest] = model
        while len(self._models) > KEPT_MODELS:
            self._models.popitem(last=False)
        return model


def shown(predicted: Predicted) -> dict[str, Any]:
    """What a result says of predictions, by field."""
    if predicted.labels is None or predicted.probabilities is None:
        assert predicted.values is not None, "numbers, or classes"
        return {"values": tuple(predicted.values.tolist())}
    return {
        "labels": predicted.labels,
        "classes": predicted.classes,
        "probabilities": tuple(map(tuple, predicted.probabilities.tolist())),
    }
