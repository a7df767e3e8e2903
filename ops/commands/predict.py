"""Predicting with a table's model: `predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.commands.session import MODELS, JsonOption, Session, command
from streams.errors import Red10Error

if TYPE_CHECKING:
    from modelstore.table_model import Predicted, TableModel

#: Most rows of a file.
MAX_ROWS = 1_000_000
#: Most classes whose probabilities are shown side by side; of more the likeliest three are.
WIDE = 5


class BadInput(Red10Error):
    """Rows that are given in no known way."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, panel=MODELS, negative=True)(predict)


def predict(
    session: Session,
    model: Annotated[
        str, typer.Argument(help="NAME, NAME@ALIAS, NAME@NUMBER or DIGEST, such as iris/species.", show_default=False)
    ],
    rows: Annotated[
        list[str],
        typer.Argument(
            metavar="COLUMN=VALUE...|JSON|FILE", help="One row; JSON; or .csv, .parquet, .json.", show_default=False
        ),
    ],
    *,
    json: JsonOption = False,
) -> None:
    """Predict a column of a table's rows from the others: value, or class and probabilities.

    A value that is left empty (COLUMN=) is missing. Needs no trainer: the model's packed forest is scored here.
    """
    from modelstore.store import ModelStore
    from streams.clients import connect, translate
    from streams.keys import Keys

    wanted = read_rows(rows)
    settings, _ = session.load()
    with session.roles(settings, "models") as roles, connect(roles.models_url) as client, translate(roles.models_url):
        store = ModelStore(client, Keys(settings.tenant))
        loaded = store.table_model(model)
    predicted = loaded.predict(wanted)
    if json:
        session.json({"model": loaded.name, "version": loaded.digest, "predictions": predicted.rows()})
    else:
        _show(session, loaded, predicted)


def read_rows(given: Sequence[str]) -> list[dict[str, object]]:
    """Rows as people write them: `COLUMN=VALUE …` for one, JSON, or a file.

    Raises:
        BadInput: it is none of these, or the file cannot be read.
        BadDataset: a CSV or Parquet file cannot be read.
    """
    from consumers.datasets import KINDS

    if len(given) == 1:
        [text] = given
        if text.lstrip().startswith(("{", "[")):
            return _from_json(text, "the argument")
        if text.lower().endswith((".json", ".jsonl")) and "=" not in text:
            return _from_json_file(Path(text))
        if text.lower().endswith(KINDS) and "=" not in text:
            return _from_table(Path(text))
    cells = [text.partition("=") for text in given]
    wrong = next((name for name, equals, _ in cells if not equals), None)
    if wrong is not None:
        raise BadInput(
            f"{wrong[:80]!r} is no row: write COLUMN=VALUE for each column, JSON, or a .csv, .parquet or .json"
        )
    row: dict[str, object] = {}
    for name, _, value in cells:
        if name.strip() in row:
            raise BadInput(f"{name.strip()[:80]} is given twice; several rows are given as JSON or in a file")
        row[name.strip()] = value
    return [row]


def _from_json(text: str, what: str) -> list[dict[str, object]]:
    import orjson

    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadInput(
            f"{what} is no JSON ({error}): write one object per row, in a list if there are several"
        ) from None
    rows = found if isinstance(found, list) else [found]
    if not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{what} holds no rows: a row is an object of columns and values")
    return rows


def _from_json_file(path: Path) -> list[dict[str, object]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    if path.name.lower().endswith(".jsonl"):
        lines = [line for line in text.splitlines() if line.strip()]
        return [row for number, line in enumerate(lines, 1) for row in _from_json(line, f"{path}, line {number}")]
    return _from_json(text, str(path))


def _from_table(path: Path) -> list[dict[str, object]]:
    from consumers.datasets import MIB, Roots, read_dataset
    from consumers.table_file import parse_rows

    # The user's own file: it may lie anywhere.
    whole = path.resolve()
    if not whole.is_file():
        raise BadInput(f"{path}: there is no such file here")
    return parse_rows(read_dataset(str(whole), Roots((whole.parent,), 1024 * MIB)), MAX_ROWS)


def _show(session: Session, model: TableModel, predicted: Predicted) -> None:
    found = predicted.rows()
    target, classes = model.schema.target, model.schema.classes
    if classes is None:
        rows: list[tuple[object, ...]] = [(at, f"{row['value']:.6g}") for at, row in enumerate(found, 1)]
        session.table(("row", target), rows, right=("row", target))
    elif len(classes) <= WIDE:
        rows = [(at, row["label"], *map(_percent, row["probabilities"].values())) for at, row in enumerate(found, 1)]
        session.table(("row", target, *classes), rows, right=("row", *classes))
    else:
        rows = [(at, row["label"], _likeliest(row["probabilities"])) for at, row in enumerate(found, 1)]
        session.table(("row", target, "likeliest"), rows, right=("row",))
    session.say(f"\n{model.name}, version {model.digest[:12]}")


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _likeliest(probabilities: Mapping[str, float]) -> str:
    best = sorted(probabilities.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {_percent(share)}" for name, share in best)
