"""Fitting the models of a table: what a training process does. Pure but for reading the one file that it is given.

Each target is a column, predicted from all the others: a column of numbers by regression, a column of text by
classification (two classes: logistic, more: softmax). For each:

1. rows whose target is missing are left out, and a fifth of the rest is held out, by lot from the seed; of each class
   alike;
2. on the rest, cross-validation chooses the number of trees: none, for numbers, if trees don't help;
3. trees are fitted on the rest and judged on what was held out, beside the naive forecast: the mean, or how often each
   class occurs;
4. the trees that are stored are fitted on all rows.

Rows are taken to be independent of each other: for time series use bars and series, which know about time.

XGBoost is imported when a fit begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.datasets import BadDataset, Roots, read_dataset
from consumers.fit import FitOutcome
from consumers.table_file import Table, parse_table
from modelstore.tabular import TableSchema, as_float32
from modelstore.version import NewVersion

#: Rows with a known target that a model needs at least.
MIN_ROWS = 20
#: Most classes of a column that is predicted.
MAX_CLASSES = 100
#: Most different texts of a column that is a feature: more are names, and their numbers mean nothing.
MAX_CATEGORIES = 1000
#: Most characters that the texts of a column have together, each counted once: more are prose. They stand in manifests.
MAX_TEXT = 100_000
#: Share of rows that is held out, and parts of the cross-validation.
HELD_OUT = 0.2
FOLDS = 5
#: Most trees (per class), and rounds without improvement after which no more are tried.
MOST_ROUNDS = 200
PATIENCE = 20
PARAMETERS: dict[str, Any] = {
    "tree_method": "hist",
    "max_bin": 256,
    "max_depth": 3,
    "learning_rate": 0.1,
    "min_child_weight": 1.0,
    "subsample": 0.8,
}

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._\-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TableFit:
    """The models of one table to fit; can be pickled.

    Attributes:
        dataset: the file, as the request names it.
        roots: where it may lie.
        table: name of the table.
        targets: columns to predict; `None` for each.
        part, parts: fit every `parts`-th target, from the `part`-th on.
        seed: of the lot, and of the fits.
    """

    dataset: str
    roots: Roots
    table: str
    targets: tuple[str, ...] | None
    seed: int
    part: int = 0
    parts: int = 1

    @property
    def what(self) -> str:
        """For messages."""
        return self.table


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One target of a table.

    Attributes:
        name: of the model, such as `iris/species`.
        features: float32 (n, F), the rows whose target is known.
        label: float64 (n,), numbers, or codes of the classes.
    """

    name: str
    schema: TableSchema
    features: NDArray[np.float32]
    label: NDArray[np.float64]

    @property
    def classes(self) -> int:
        """How many there are; 0 for a column of numbers."""
        return len(self.schema.classes or ())

    @property
    def outputs(self) -> int:
        """Margins per row."""
        return self.classes if self.classes > 2 else 1

    def booster(self, rows: NDArray[np.int64], seed: int) -> dict[str, Any]:
        """What XGBoost is given to fit these rows. Numbers begin at their mean."""
        if self.classes > 2:
            own: dict[str, Any] = {"objective": "multi:softprob", "num_class": self.classes}
        elif self.classes:
            own = {"objective": "binary:logistic"}
        else:
            own = {"objective": "reg:squarederror", "base_score": float(self.label[rows].mean())}
        return PARAMETERS | own | {"seed": seed, "nthread": 1}


def model_target(column: str) -> str:
    """What a column is called in its model's name: characters that no name has become `_`.

    >>> model_target("sepal length (cm)")
    'sepal_length_cm'
    """
    return _NOT_IN_NAMES.sub("_", column).strip("_.-")[:64]


def fit_table(request: TableFit) -> FitOutcome:
    """Fit models of a table, one thread.

    Raises:
        BadDataset: the file is refused, or has no such column.
        BadModel: a version failed its check.
    """
    from consumers.table_packing import version

    table = parse_table(read_dataset(request.dataset, request.roots))
    columns = [column.name for column in table.columns]
    targets = _targets(request, columns)
    fingerprint = table.fingerprint()
    made: list[NewVersion] = []
    skipped: dict[str, str] = {}
    for target in targets[request.part :: request.parts]:
        problem = _problem(request.table, table, columns.index(target))
        reason = _too_poor(problem)
        if reason is None:
            made.append(version(problem, fingerprint, request.seed))
        else:
            skipped[target] = reason
    return FitOutcome(tuple(made), skipped)


def _targets(request: TableFit, columns: Sequence[str]) -> list[str]:
    if len(columns) < 2:
        raise BadDataset(request.dataset, "one column cannot be predicted from others: it has no others")
    unknown = [name for name in request.targets or () if name not in columns]
    if unknown:
        raise BadDataset(
            request.dataset, f"has no column {', '.join(unknown)[:200]}; it has {', '.join(columns)[:1000]}"
        )
    targets = list(dict.fromkeys(request.targets or columns))
    names: dict[str, str] = {}
    for target in targets:
        name = model_target(target)
        if not name:
            raise BadDataset(
                request.dataset,
                f"column {target!r} has no letter A-Z a-z and no digit, so that no model can be named after it: rename "
                "it, or name other columns as targets",
            )
        if name in names:
            raise BadDataset(
                request.dataset,
                f"columns {names[name]!r} and {target!r} cannot be told apart in names of models: rename one",
            )
        names[name] = target
    return targets


def _problem(table: str, found: Table, at: int) -> Problem:
    target, others = found.columns[at], [number for number in range(len(found.columns)) if number != at]
    ignored = [
        number
        for number in others
        if len(found.columns[number].categories or ()) > MAX_CATEGORIES or _is_prose(found.columns[number].categories)
    ]
    others = [number for number in others if number not in ignored]
    known = np.isfinite(as_float32(found.values[:, at]))
    label = found.values[known, at]
    classes = target.categories
    if classes is not None:
        # All categories occur, and codes count them in order.
        assert len(classes) == 0 or int(label.max()) == len(classes) - 1
    names = tuple(found.columns[number].name for number in ignored)
    schema = TableSchema(tuple(found.columns[number] for number in others), target.name, classes, names)
    features = as_float32(found.values[known][:, others])
    return Problem(f"{table}/{model_target(target.name)}", schema, np.ascontiguousarray(features), label)


def _is_prose(texts: Sequence[str] | None) -> bool:
    return sum(map(len, texts or ())) > MAX_TEXT


def _too_poor(problem: Problem) -> str | None:
    """Why a target cannot be trained, if it cannot."""
    rows = len(problem.label)
    if not problem.schema.columns:
        return f"all other columns hold more than {MAX_CATEGORIES} different texts, or prose"
    if rows < MIN_ROWS:
        return f"{rows} rows with a known value, {MIN_ROWS} needed"
    if problem.schema.classes is None:
        return None
    if problem.classes < 2:
        return "all rows have the same value"
    if problem.classes > MAX_CLASSES:
        return f"{problem.classes} different texts, {MAX_CLASSES} at most can be predicted"
    if _is_prose(problem.schema.classes):
        return f"its different texts have over {MAX_TEXT} characters: prose cannot be predicted"
    return None


def held_out(problem: Problem, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows to train on and those held out, sorted; the same for the same rows and seed.

    Of each class the same share is held out, and at least one row stays.
    """
    lot = np.random.default_rng(seed)
    groups = problem.label if problem.classes else np.zeros(len(problem.label))
    out = []
    for group in np.unique(groups):
        members = lot.permutation(np.flatnonzero(groups == group))
        out.append(members[: int(len(members) * HELD_OUT)])
    test = np.sort(np.concatenate(out))
    return np.setdiff1d(np.arange(len(groups)), test), test


def choose_rounds(problem: Problem, rows: NDArray[np.int64], seed: int) -> int:
    """How many trees these rows speak for, by cross-validation within them."""
    import xgboost

    parts = np.random.default_rng(seed + 1).permutation(len(rows)) % FOLDS
    folds = []
    for part in range(FOLDS):
        train, test = rows[parts != part], rows[parts == part]
        data = xgboost.QuantileDMatrix(problem.features[train], problem.label[train], nthread=1)
        judge = xgboost.DMatrix(problem.features[test], nthread=1)
        # Named as caches, so that each round costs one tree.
        folds.append((xgboost.Booster(problem.booster(train, seed), [data, judge]), data, judge, problem.label[test]))
    naive = [np.full(len(rows[parts == part]), problem.label[rows[parts != part]].mean()) for part in range(FOLDS)]
    best, best_loss = 0, np.inf
    if not problem.classes:
        pairs = zip(naive, folds, strict=True)
        best_loss = float(np.mean(np.concatenate([(mean - fold[3]) ** 2 for mean, fold in pairs])))
    for done in range(MOST_ROUNDS):
        losses = []
        for booster, data, judge, label in folds:
            booster.update(data, done)
            losses.append(loss(problem, booster.predict(judge, output_margin=True), label))
        now = float(np.mean(np.concatenate(losses)))
        if now < best_loss:
            best, best_loss = done + 1, now
        elif done + 1 - best >= PATIENCE:
            break
    return best


def probabilities(problem: Problem, margins: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of the classes, float64 (n, classes), from margins (n,) or (n, classes)."""
    wide = margins.astype(np.float64)
    if problem.outputs == 1:
        wide = np.column_stack((np.zeros(len(wide)), wide.reshape(-1)))
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return found


def loss(problem: Problem, margins: NDArray[np.float32], label: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row: squared error, or minus the logarithm of the probability of what came."""
    if not problem.classes:
        error: NDArray[np.float64] = (margins.astype(np.float64) - label) ** 2
        return error
    came = probabilities(problem, margins)[np.arange(len(label)), label.astype(np.int64)]
    surprise: NDArray[np.float64] = -np.log(np.maximum(came, 1e-15))
    return surprise
