"""The records on the wire, as pydantic models: ticks, bars, predictions, signals, outcomes, requests, results, dead
letters.

Each is one stream entry of flat text fields: numbers as text, flags as 0/1, vectors as JSON, what is unknown is left
out. `docs/protocol.md` documents every field; a test holds real entries against that page. Times are epoch
nanoseconds, UTC. The hot path writes the same fields without these models (`consumers.outputs`); a test holds both
together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from streams.errors import BadName, BadRecord
from streams.ids import Source
from streams.raw import named
from streams.series import Series, check_symbol


def _from_json(value: object) -> object:
    return orjson.loads(value) if isinstance(value, str | bytes) else value


#: A vector of numbers on the wire: a JSON array; `null` is "not known".
Vector = Annotated[tuple[float | None, ...], BeforeValidator(_from_json)]
Flags = Annotated[tuple[bool, ...], BeforeValidator(_from_json)]
Names = Annotated[tuple[str, ...], BeforeValidator(_from_json)]
#: One vector per row.
Vectors = Annotated[tuple[tuple[float, ...], ...], BeforeValidator(_from_json)]
#: Rows of a table: column -> cell.
Rows = Annotated[tuple[dict[str, str | int | float | bool | None], ...], BeforeValidator(_from_json)]
#: The raw fields of an entry (`streams.raw`).
RawFields = Annotated[dict[str, str] | tuple[str, ...], BeforeValidator(_from_json)]


def number_text(value: float) -> str:
    """A number as the wire has it: the shortest text that reads back as the same double."""
    return repr(float(value))


class Record(BaseModel):
    """Base of the records: frozen, and able to read and write stream fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    #: What the record is called in messages.
    what: ClassVar[str] = "record"

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes] | Mapping[str, str]) -> Self:
        """Read stream fields; unknown fields are passed over, so that newer writers can be read.

        Raises:
            BadRecord: a field is missing or malformed (reason `malformed`).
        """
        try:
            text = {_text(name): _text(value) for name, value in fields.items()}
            return cls.model_validate(text)
        except ValidationError as error:
            problem = error.errors()[0]
            name = ".".join(str(part) for part in problem["loc"])
            raise BadRecord("malformed", f"{cls.what}: field {name}: {problem['msg']}") from None
        except (UnicodeDecodeError, orjson.JSONDecodeError) as error:
            raise BadRecord("malformed", f"{cls.what}: {error}") from None

    def to_fields(self) -> dict[str, str]:
        """Write stream fields, in the order of declaration."""
        return {name: _wire(value) for name in type(self).model_fields if (value := getattr(self, name)) is not None}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _wire(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, tuple | list | dict) and not isinstance(value, Source):
        return orjson.dumps(
            [int(v) if isinstance(v, bool) else v for v in value] if not isinstance(value, dict) else value
        ).decode()
    return str(value)


class Tick(Record):
    """One trade or quote of a symbol."""

    what: ClassVar[str] = "tick"

    symbol: str
    price: float = Field(gt=0)
    size: float = Field(0.0, ge=0)
    ts: int = Field(ge=0, lt=2**63, description="event time, epoch ns")
    bid: float | None = Field(None, gt=0)
    ask: float | None = Field(None, gt=0)
    id: str | None = Field(None, max_length=128, description="the venue's own id of the trade")

    @field_validator("symbol")
    @classmethod
    def _check_symbol(cls, value: str) -> str:
        try:
            return check_symbol(value)
        except BadName as error:
            raise ValueError(str(error)) from None


class Bar(Record):
    """A closed bar of one series; immutable."""

    what: ClassVar[str] = "bar"

    series: str
    bar: int = Field(description="number of the bar in its series, from 0")
    start: int = Field(description="first ns of the bar's interval")
    end: int = Field(description="first ns after the bar's interval")
    open: float
    high: float
    low: float
    close: float
    volume: float
    ticks: int = Field(description="ticks in the bar")
    first: str = Field(description="source of the first tick, in order of arrival")
    last: str = Field(description="source of the last tick, in order of arrival")
    src: str = Field(description="source of the entry that closed the bar")
    release: str | None = Field(None, description="release that was in force at the close")
    values: Vector | None = Field(None, description="forecast labels to be judged, per target of the pipeline")
    naive: Vector | None = Field(None, description="the naive forecasts beside them")
    challengers: Vector | None = Field(None, description="the challengers' forecasts, if there are challengers")


class Prediction(Record):
    """What the models of one series said at one bar close, all targets."""

    what: ClassVar[str] = "prediction"

    series: str
    bar: int
    ts: int = Field(description="end of the bar, ns")
    close: float = Field(description="the bar's close, from which levels are reckoned")
    targets: Names = Field(description="names of the targets, in the order of the vectors")
    values: Vector = Field(description="predicted labels: log ratios")
    levels: Vector = Field(description="the same as prices or volumes")
    versions: Names = Field(description="digest of the version behind each value, 12 hex digits")
    in_sample: Flags = Field(description="1 where the version was trained on this bar or a later one")
    release: str
    src: str


class Signal(Record):
    """A change of a series' target position."""

    what: ClassVar[str] = "signal"

    series: str
    ts: int = Field(description="event time: end of the bar that decided, ns")
    bar: int
    side: str = Field(description="buy when the position rises, sell when it falls")
    position: int = Field(ge=-1, le=1, description="target position from the next bar's open on")
    strength: float = Field(description="|expected_return| over cost")
    expected_return: float = Field(description="predicted log return over the horizon")
    cost: float = Field(description="cost of the change of position, as a log return")
    horizon: int = Field(description="bars")
    price: float = Field(description="close at decision; the fill is the next bar's open plus cost")
    valid_until: int = Field(description="ns; after it the forecast behind the signal has run out")
    release: str
    version: str = Field(description="digest of the version behind the expected return, 12 hex digits")
    model_age: int = Field(description="ns from the version's trained_through to ts")
    proven: bool = Field(description="0 while the series' version is on probation")
    in_range: bool = Field(description="1 if every input lay inside the version's training range")
    src: str


class Outcome(Record):
    """What became of forecasts: written at the bar close at which they can be judged, all horizons that end there.

    An error is forecast label minus actual label. Vectors have one element per target. Forecasts for bars that a
    version was trained on are never judged.
    """

    what: ClassVar[str] = "outcome"

    series: str
    bar: int = Field(description="number of the bar that told")
    ts: int = Field(description="end of that bar, ns")
    targets: Names = Field(description="names of the targets judged here")
    actuals: Vector = Field(description="what came, as labels")
    errors: Vector = Field(description="of the champion; null where none was forecast")
    naive_errors: Vector = Field(description="of the champion's naive forecast")
    challenger_errors: Vector = Field(description="of the challenger; null where there was none")
    hits: Vector = Field(description="close only: 1 if the forecast had the sign of what came, 0 if not, else null")
    releases: Names = Field(description="ids of the releases that the forecasts were made with")
    made_by: Annotated[tuple[int, ...], BeforeValidator(_from_json)] = Field(
        description="per target the index of its release in `releases`"
    )
    position: int = Field(ge=-1, le=1, description="paper position held at the bar's close")
    profit: float = Field(description="log return of the paper account over the bar, after cost")
    market: float = Field(description="log return of the close over the bar")
    src: str


class TrainingRequest(Record):
    """Asks for the models of one series to be fitted."""

    what: ClassVar[str] = "training request"

    kind: str = Field("train", pattern="^train$")
    series: str
    targets: Names | None = Field(None, description="some of the pipeline's targets; left out: all")
    as_of: int | None = Field(None, description="use bars that end at or before this, ns; left out: all bars")
    since: int | None = Field(None, description="train on bars that end after this, ns; left out: from the first on")
    why: str | None = Field(None, max_length=200, description="for what reason; kept with the versions made")
    id: str | None = Field(None, max_length=128, description="the requester's own id, returned with the result")

    @field_validator("series")
    @classmethod
    def _check_series(cls, value: str) -> str:
        try:
            return str(Series.parse(value))
        except BadName as error:
            raise ValueError(str(error)) from None


class TableRequest(Record):
    """Asks for the models of a table to be fitted: each target is a column, predicted from the others."""

    what: ClassVar[str] = "table request"

    kind: str = Field(pattern="^train_table$")
    dataset: str = Field(
        min_length=1, max_length=1000, description="CSV or Parquet file below one of the dataset_roots"
    )
    table: str | None = Field(None, description="name of the table; left out: the file's name without its ending")
    targets: Names | None = Field(None, description="columns; left out: each")
    why: str | None = Field(None, max_length=200, description="for what reason; kept with the versions made")
    id: str | None = Field(None, max_length=128, description="the requester's own id, returned with the result")


class PredictionRequest(Record):
    """Asks a table's model about rows."""

    what: ClassVar[str] = "prediction request"

    kind: str = Field(pattern="^predict$")
    model: str = Field(description="a version, such as iris/species or iris/species@3")
    rows: Rows | None = Field(None, description="the rows, objects of column and cell")
    dataset: str | None = Field(None, max_length=1000, description="instead of rows: a file below the dataset_roots")
    id: str | None = Field(None, max_length=128, description="the requester's own id, returned with the result")


class PredictionResult(Record):
    """What a table's model says of the rows of a prediction request."""

    what: ClassVar[str] = "prediction result"

    request: str = Field(description="entry id of the request")
    id: str | None = None
    model: str
    status: str = Field(pattern="^(done|refused|failed)$")
    reason: str = Field("", description="why it was refused or failed, and what to do")
    version: str | None = Field(None, description="digest of the version that was asked")
    values: Vector | None = Field(None, description="of a column of numbers, one per row")
    labels: Names | None = Field(None, description="of a column of text: the likeliest class of each row")
    classes: Names | None = Field(None, description="all classes, in the order of the probabilities")
    probabilities: Vectors | None = Field(None, description="per row one per class")
    seconds: float = Field(0.0, ge=0)


class TrainingResult(Record):
    """What became of a training request."""

    what: ClassVar[str] = "training result"

    request: str = Field(description="entry id of the request")
    id: str | None = None
    series: str
    status: str = Field(pattern="^(done|refused|failed)$")
    reason: str = Field("", description="why it was refused or failed, and what to do")
    bars: int | None = Field(None, description="bars found; of a table: none")
    versions: Names = Field((), description="digests of the versions made")
    release: str | None = Field(None, description="release in force once they were put in place")
    trained_through: int | None = Field(None, description="end of the last bar that was used, ns")
    seconds: float = Field(0.0, ge=0)


class DeadLetter(Record):
    """An input that could not be used: why, and its raw fields."""

    what: ClassVar[str] = "dead letter"

    reason: str = Field(description="one short word, as in the metric's label")
    detail: str
    src: str
    fields: RawFields = Field(description="the raw fields; bytes that are no UTF-8, and backslashes, escaped")

    @property
    def symbol(self) -> str:
        """The symbol that the entry names; empty if it names none."""
        return named(self.fields).get("symbol", "")


class DeadRequest(Record):
    """A request that was given up: its history, and its raw fields."""

    what: ClassVar[str] = "dead request"

    reason: str = Field(description="one short word")
    detail: str
    request: str = Field(description="entry id of the request")
    deliveries: int = Field(description="how often it was delivered to a trainer")
    consumers: Names = Field(description="the trainers that it was delivered to")
    first: int = Field(description="first delivery, ns")
    last: int = Field(description="last delivery, ns")
    last_reason: str | None = Field(None, description="why the last delivery came to nothing")
    fields: RawFields = Field(description="the raw fields, as of a dead letter")


def finite(value: float | None) -> float | None:
    """`None` for what is not a finite number: the wire has no NaN."""
    return value if value is not None and math.isfinite(value) else None
